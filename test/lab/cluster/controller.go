package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cloud-provider-haproxy/test/lab"
)

const (
	controllerName = "haproxy-cloud-controller-manager"
	// ControllerKubeconfig has a token of the manifest's ServiceAccount and of nobody else.
	ControllerKubeconfig = "/etc/kubernetes/" + controllerName + ".conf"
	// controllerPort is --secure-port's default, of /healthz and /metrics.
	controllerPort = "10258"
)

// InstallController does what a site does once: it applies manifests/controller without the Deployment (the lab has no
// container runtime), and gives the ServiceAccount's token to the controller host.
func (c *Cluster) InstallController(ctx context.Context) error {
	program := c.Lab.Program(controllerName)
	// As in make build, so that Kubernetes' packages are compiled once and not twice.
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/"+controllerName)
	build.Dir, build.Env = c.module, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", controllerName, err, out)
	}
	m, err := readManifest(filepath.Join(c.module, "manifests", "controller"))
	if err != nil {
		return err
	}
	if _, err := c.KubectlInput(ctx, m.objects, "apply", "-f", "-"); err != nil {
		return fmt.Errorf("apply manifests/controller: %w", err)
	}
	if err := c.WriteTokenKubeconfig(ctx, ControllerKubeconfig, m.namespace, m.serviceAccount); err != nil {
		return err
	}
	c.controller = append([]string{program}, m.args...)
	return nil
}

// ControllerArgv is the controller's command line: what the manifest's container has, with the files of this host, then
// flags. A later flag wins. It needs InstallController.
func (c *Cluster) ControllerArgv(flags ...string) []string {
	argv := append([]string{}, c.controller...)
	// Inside a Pod all three come from the ServiceAccount's volume.
	for _, flag := range []string{"--kubeconfig=", "--authentication-kubeconfig=", "--authorization-kubeconfig="} {
		argv = append(argv, flag+ControllerKubeconfig)
	}
	argv = append(argv, "--cloud-config="+lab.CloudConfigFile)
	return append(argv, flags...)
}

// StartController starts the controller on the controller host and returns when it answers /healthz, which it does before it
// leads. The first call installs it.
func (c *Cluster) StartController(ctx context.Context, flags ...string) (*lab.Process, error) {
	if c.controller == nil {
		if err := c.InstallController(ctx); err != nil {
			return nil, err
		}
	}
	port := controllerPort
	for _, flag := range flags {
		if value, isPort := strings.CutPrefix(flag, "--secure-port="); isPort {
			port = value
		}
	}
	process, err := c.Lab.Controller.Start(controllerName, c.ControllerArgv(flags...)...)
	if err != nil {
		return nil, err
	}
	return process, c.WaitFor(ctx, controllerName+" to answer /healthz", func(ctx context.Context) error {
		select {
		case <-process.Done():
			said, _ := process.Output()
			return &endedError{what: controllerName, said: said}
		default:
			return c.healthy(ctx, net.JoinHostPort("127.0.0.1", port))
		}
	})
}

// healthy asks a daemon of the controller host for /healthz.
func (c *Cluster) healthy(ctx context.Context, address string) error {
	_, err := c.get(ctx, "https://"+address+"/healthz", "")
	return err
}

// ControllerMetrics asks the controller for /metrics as the bearer of a token, or as nobody when it is empty. A refusal is a
// *RefusedError.
func (c *Cluster) ControllerMetrics(ctx context.Context, token string) (string, error) {
	return c.get(ctx, "https://"+net.JoinHostPort(c.Lab.Controller.Addr().String(), controllerPort)+"/metrics", token)
}

// RefusedError is an answer of a daemon's HTTPS port that is not 200.
type RefusedError struct {
	URL    string
	Status int
	Said   string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s answers %d %s: %s", e.URL, e.Status, http.StatusText(e.Status), e.Said)
}

// get asks a daemon of the controller host, from there. Its certificate is one that it made for itself.
func (c *Cluster) get(ctx context.Context, url, token string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Transport: &http.Transport{
		DialContext: c.Lab.Controller.Dial, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	reply, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer reply.Body.Close()
	said, err := io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode != http.StatusOK {
		err = &RefusedError{url, reply.StatusCode, string(said)}
	}
	return string(said), err
}

// endedError ends a wait: what is waited for is dead.
type endedError struct {
	what string
	said []byte
}

func (e *endedError) Error() string { return fmt.Sprintf("%s ended:\n%s", e.what, e.said) }
