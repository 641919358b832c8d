package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/cluster"
)

// TestBeforeTheCluster is the first day of a site: bare machines become gateways, are given the control plane before any API server
// runs, a cluster is born behind the address, and its first controller takes the gateways over. A watch and connections that go
// through the address all the while are not cut, and none is refused.
func TestBeforeTheCluster(t *testing.T) {
	l := lab.New(t, lab.Options{Workers: 2, BareGateways: true})
	api := netip.MustParseAddr("192.0.2.250")
	config := strings.Replace(l.CloudConfig(), "nodes:\n", "nodes:\n  cidrs: [192.0.2.0/26, 2001:db8::/112]\n", 1) + fmt.Sprintf("controlPlane: {address: %s, endpoints: [%s], check: {interval: 250ms}}\n", api, l.Controller.Addr4)
	must(t, l.Controller.WriteFile(lab.CloudConfigFile, []byte(config), 0o644))
	bootstrap, err := l.BootstrapArgv()
	must(t, err)
	said, err := l.Controller.Run(t.Context(), append(bootstrap, "--accept-new-host-keys")...)
	must(t, err)
	t.Logf("\n%s", said)
	for _, g := range l.Gateways {
		must(t, g.StartBootstrapped(t.Context()))
	}
	push := []string{"gatewayctl", "push", "--control-plane", "--cloud-config=" + lab.CloudConfigFile}
	said, err = l.Controller.Run(t.Context(), push...)
	must(t, err)
	t.Logf("\n%s", said)
	said, err = l.Controller.Run(t.Context(), push...)
	must(t, err)
	if strings.Count(said, "Unchanged") != 2 {
		t.Errorf("the second push changed something:\n%s", said)
	}

	c, err := cluster.Start(t.Context(), l, cluster.Options{APIServerAddresses: []netip.Addr{api}})
	must(t, err)
	t.Cleanup(c.Stop)
	s := &site{Cluster: c, client: l.Client}
	through := "--server=https://" + target(api, 6443)
	nodes, err := c.Kubectl(t.Context(), through, "get", "nodes", "--no-headers")
	must(t, err)
	if strings.Count(nodes, " Ready ") != 2 {
		t.Errorf("through the address:\n%s", nodes)
	}
	watch, err := l.Controller.Start("watch", c.KubectlArgv(through, "get", "configmaps", "--namespace="+namespace, "--watch-only", "--output=name")...)
	must(t, err)
	s.announces(t, watch, "before")
	asking := s.keepAsking(t, target(api, 6443))

	// Now there is a CA to verify with; and another port, which leads to the API server too.
	config = strings.Replace(config, "interval: 250ms}", "interval: 250ms, caFile: /etc/kubernetes/pki/ca.crt}, endpointsFromNodes: true, extraPorts: [{port: 9345, endpointPort: 6443}]", 1)
	must(t, l.Controller.WriteFile(lab.CloudConfigFile, []byte(config), 0o644))
	said, err = l.Controller.Run(t.Context(), push...)
	must(t, err)
	if strings.Count(said, "Reloaded") != 2 {
		t.Errorf("other checks and ports:\n%s", said)
	}
	for _, g := range l.Gateways {
		s.awaitServerUp(t, g, "control-plane")
		s.awaitServerUp(t, g, "control-plane-9345")
	}
	if nodes, err = c.Kubectl(t.Context(), "--server=https://"+target(api, 9345), "get", "nodes", "--no-headers"); err != nil {
		t.Errorf("through the extra port: %v\n%s", err, nodes)
	}
	before := s.count(t)

	s.start(t)
	must(t, c.RunPods(t.Context(), namespace, app, podPort, workers(l)...))
	s.create(t, service("web"))
	s.reaches(t, target(s.addresses(t, "web")[0], 80))
	s.awaitInSync(t)
	s.followsNodes(t)
	asked, failed := asking()
	t.Logf("while HAProxy was reloaded and the controller claimed the gateways: %d requests to the address, failed %v; on each gateway %+v",
		asked, failed, s.count(t).since(before, len(l.Gateways)))
	if asked < 20 || len(failed) > 0 {
		t.Errorf("%d requests to the address, failed: %v", asked, failed)
	}
	s.announces(t, watch, "after")
	select {
	case <-watch.Done():
		t.Error("the watch through the address was cut")
	default:
	}
	for gateway, fence := range s.fences(t) {
		if !strings.HasPrefix(fence, "epoch 1, ") {
			t.Errorf("%s holds %s, want epoch 1", gateway, fence)
		}
	}
	if _, err := l.Controller.Run(t.Context(), push...); err == nil || !strings.Contains(err.Error(), "belongs to the cluster") {
		t.Errorf("pushed to gateways of a cluster: %v", err)
	}
}

// followsNodes: a Node with the control plane's label becomes an API server of the address, and no more without it. None answers there,
// and nobody notices that.
func (s *site) followsNodes(t *testing.T) {
	t.Helper()
	const label = "node-role.kubernetes.io/control-plane"
	first, second := s.Lab.Workers[0], s.Lab.Workers[1]
	for _, step := range []struct {
		worker *lab.Host
		change string
		want   []*lab.Host
	}{{first, label + "=", []*lab.Host{first}}, {second, label + "=", []*lab.Host{first, second}}, {first, label + "-", []*lab.Host{second}}} {
		_, err := s.Kubectl(t.Context(), "label", "node", step.worker.Name, step.change)
		must(t, err)
		for _, g := range s.Lab.Gateways {
			admin := haproxy.NewRuntime(fmt.Sprintf("/proc/%d/root/run/haproxy/admin.sock", g.PID()))
			s.await(t, "the control plane of "+g.Name+" to follow the Nodes", func(ctx context.Context) error {
				running, err := admin.Read(ctx)
				if err != nil {
					return err
				}
				servers := running.Backends["control-plane"].Servers
				if own := servers[s.Lab.Controller.Addr4.String()+"-6443"]; own.State != "UP" {
					return fmt.Errorf("the configured one is %+v", own)
				}
				for _, w := range step.want {
					if servers[w.Addr4.String()+"-6443"].State != "DOWN" {
						return fmt.Errorf("they are %+v", servers)
					}
				}
				if len(servers) != 1+len(step.want) {
					return fmt.Errorf("they are %+v", servers)
				}
				return nil
			})
		}
	}
}

// awaitServerUp waits until a backend's one server has passed its check.
func (s *site) awaitServerUp(t *testing.T, g *lab.Host, backend string) {
	t.Helper()
	worker := haproxy.NewRuntime(fmt.Sprintf("/proc/%d/root/run/haproxy/admin.sock", g.PID()))
	s.await(t, backend+" of "+g.Name+" to have its server up", func(ctx context.Context) error {
		running, err := worker.Read(ctx)
		if err != nil {
			return err
		}
		b := running.Backends[backend]
		if b == nil || len(b.Servers) != 1 {
			return fmt.Errorf("it is %+v", b)
		}
		for _, server := range b.Servers {
			if server.State != "UP" {
				return fmt.Errorf("it is %+v", server)
			}
		}
		return nil
	})
}

// keepAsking asks the API server at an address, on a connection of its own each time, until what it returns is called.
func (s *site) keepAsking(t *testing.T, address string) (stop func() (asked int, failed []error)) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: s.client.Dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // who answers is not the question: kubectl verifies it
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	var asked int
	var failed []error
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; asked++ {
			answer, err := client.Get("https://" + address + "/readyz")
			if err != nil {
				failed = append(failed, err)
			} else {
				answer.Body.Close()
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	stop = func() (int, []error) {
		cancel()
		<-done
		return asked, failed
	}
	t.Cleanup(func() { stop() })
	return stop
}

// announces makes an object and waits until the watch has told of it.
func (s *site) announces(t *testing.T, watch *lab.Process, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	told := make(chan error, 1)
	go func() { told <- watch.AwaitLine(ctx, "configmap/"+name) }()
	// A watch that is still being set up misses what happens before.
	s.await(t, "the watch to tell of "+name, func(ctx context.Context) error {
		if _, err := s.Kubectl(ctx, "delete", "configmap", name, "--ignore-not-found"); err != nil {
			return err
		}
		if _, err := s.Kubectl(ctx, "create", "configmap", name); err != nil {
			return err
		}
		select {
		case err := <-told:
			return err
		case <-time.After(time.Second):
			return errors.New("it is silent")
		}
	})
}
