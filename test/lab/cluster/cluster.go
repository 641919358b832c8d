package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"cloud-provider-haproxy/test/lab"
)

// Options are what differs between clusters of the lab.
type Options struct {
	// APIServerAddresses are further addresses that the API server's certificate is valid for (the control plane's VIP).
	APIServerAddresses []netip.Addr
	// External makes every Node wait for our controller, as kubelets with --cloud-provider=external do.
	External bool
	Log      *slog.Logger
}

// Cluster is a running control plane with one Node for each worker of the lab.
type Cluster struct {
	Lab *lab.Lab
	// Client is a cluster administrator's, dialling from inside the controller host.
	Client kubernetes.Interface

	options    Options
	module     string   // directory of our Go module
	binDir     string   // of the control plane's programs
	controller []string // our controller's program and the arguments of its manifest, once installed
	apiServer  *lab.Process
	etcd       *lab.Process
	ca         *authority
	cancel     context.CancelFunc
	kubelet    chan error
}

// Start starts a cluster on a lab and returns when its API server is ready, its Nodes are Ready and every worker's
// kube-proxy answers its health check. It ends with the lab, or earlier by Stop.
func Start(ctx context.Context, l *lab.Lab, options Options) (*Cluster, error) {
	if options.Log == nil {
		options.Log = slog.Default()
	}
	module, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	binDir, err := programs(ctx, module)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Lab: l, options: options, module: module, binDir: binDir, kubelet: make(chan error, 1)}
	if err := c.writePKI(); err != nil {
		return nil, fmt.Errorf("write the cluster's keys: %w", err)
	}
	if c.Client, err = c.newClient(); err != nil {
		return nil, err
	}
	if err := c.startControlPlane(ctx); err != nil {
		return nil, err
	}
	if err := c.startNodes(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// Stop ends what runs in this process; the daemons end with the lab's hosts.
func (c *Cluster) Stop() {
	if c.cancel != nil {
		c.cancel()
		<-c.kubelet
		c.cancel = nil
	}
}

// IPv6Only says that no machine, Pod or Service has an IPv4 address.
func (c *Cluster) IPv6Only() bool { return !c.Lab.Controller.Addr4.IsValid() }

// Server is the API server's URL on its own host; the control plane's VIP is another way to it.
func (c *Cluster) Server() string {
	return fmt.Sprintf("https://%s", netip.AddrPortFrom(c.Lab.Controller.Addr(), apiPort))
}

// newClient is an administrator's client whose connections are made inside the controller host.
func (c *Cluster) newClient() (kubernetes.Interface, error) {
	admin, err := c.ca.client("kubernetes-admin", "system:masters")
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(&rest.Config{
		Host: c.Server(), Dial: c.Lab.Controller.Dial, QPS: 500, Burst: 1000,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.ca.pem, CertData: admin.certificate, KeyData: admin.key},
	})
}

// writeKubeconfig gives a host a kubeconfig for a user with a client certificate.
func (c *Cluster) writeKubeconfig(host *lab.Host, file, user string, groups ...string) error {
	certificate, err := c.ca.client(user, groups...)
	if err != nil {
		return err
	}
	content, err := c.ca.kubeconfig(c.Server(), clientcmdapi.AuthInfo{
		ClientCertificateData: certificate.certificate, ClientKeyData: certificate.key,
	})
	if err != nil {
		return err
	}
	return host.WriteFile(file, content, 0o600)
}

// WriteTokenKubeconfig gives the controller host a kubeconfig with a token of a ServiceAccount, as a Pod would have.
func (c *Cluster) WriteTokenKubeconfig(ctx context.Context, file, namespace, serviceAccount string) error {
	token, err := c.Kubectl(ctx, "create", "token", "--duration=24h", "-n", namespace, serviceAccount)
	if err != nil {
		return err
	}
	content, err := c.ca.kubeconfig(c.Server(), clientcmdapi.AuthInfo{Token: strings.TrimSpace(token)})
	if err != nil {
		return err
	}
	return c.Lab.Controller.WriteFile(file, content, 0o600)
}

// Kubectl runs kubectl as an administrator on the controller host and returns what it printed.
func (c *Cluster) Kubectl(ctx context.Context, args ...string) (string, error) {
	return c.KubectlInput(ctx, "", args...)
}

// KubectlInput is Kubectl with standard input, for apply -f -.
func (c *Cluster) KubectlInput(ctx context.Context, input string, args ...string) (string, error) {
	cmd := c.Lab.Controller.Command(ctx, c.KubectlArgv(args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// KubectlArgv is the command line of an administrator on the controller host, with the kubectl of the cluster's version.
func (c *Cluster) KubectlArgv(args ...string) []string {
	return append([]string{path.Join(c.binDir, "kubectl"), "--kubeconfig=" + adminKubeconfig}, args...)
}

// File reads a file of the checkout by its path below the module's root.
func (c *Cluster) File(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(c.module, name))
}

// WaitFor tries until it works, ctx ends or a minute has passed; the last error is told.
func (c *Cluster) WaitFor(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		attempt, done := context.WithTimeout(ctx, attemptLimit)
		err := try(attempt)
		done()
		if err == nil {
			return nil
		}
		if ended := new(endedError); errors.As(err, &ended) {
			return err
		}
		if deadline, _ := ctx.Deadline(); last == nil || time.Until(deadline) > attemptLimit {
			last = err // later ones may tell of nothing but the deadline
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, last)
		case <-tick.C:
		}
	}
}

// attemptLimit bounds one attempt of WaitFor.
const attemptLimit = 8 * time.Second

// ready tells whether a Node's condition Ready is true.
func ready(node *corev1.Node) bool {
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}
