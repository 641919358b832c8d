package cluster

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"path"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
)

// kubeProxyHealthPort is kube-proxy's --healthz-bind-address port.
const kubeProxyHealthPort = 10256

// podPrefixes are the pod addresses of the i-th worker, counted from 0.
func podPrefixes(i int) (v4, v6 netip.Prefix) {
	return netip.MustParsePrefix(fmt.Sprintf("10.244.%d.0/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00:10:244:%d::/64", i+1))
}

// startNodes makes every worker of the lab a Node: routes to the other workers' pods, kube-proxy, and the stand-in for
// the kubelet.
func (c *Cluster) startNodes(ctx context.Context) error {
	kubelet := &Kubelet{client: c.Client, workers: map[string]*worker{}, pods: map[string]*runningPod{}, log: c.options.Log}
	for i, host := range c.Lab.Workers {
		v4, v6 := podPrefixes(i)
		pods := []netip.Prefix{v4, v6}
		if c.IPv6Only() {
			pods = pods[1:]
		}
		kubelet.workers[host.Name] = &worker{
			machine: c.machine(host), pods: pods,
			node: newNode(host.Name, host.Addresses(), c.options.External),
		}
		if err := c.startNode(ctx, host); err != nil {
			return fmt.Errorf("make %s a node: %w", host.Name, err)
		}
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	go func() { c.kubelet <- kubelet.Run(running) }()
	return c.WaitFor(ctx, "every node to be Ready and served by kube-proxy", c.nodesReady)
}

func (c *Cluster) machine(host *lab.Host) machine {
	return machine{host: host, backend: c.Lab.Program("backend")}
}

// startNode gives one worker its routes, sysctls and kube-proxy.
func (c *Cluster) startNode(ctx context.Context, host *lab.Host) error {
	m := c.machine(host)
	argvs := [][]string{{"sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"}}
	for i, other := range c.Lab.Workers {
		v4, v6 := podPrefixes(i)
		if other != host {
			argvs = append(argvs, []string{"ip", "-6", "route", "replace", v6.String(), "via", other.Addr6.String()})
		}
		if other != host && !c.IPv6Only() {
			argvs = append(argvs, []string{"ip", "route", "replace", v4.String(), "via", other.Addr4.String()})
		}
	}
	for _, argv := range argvs {
		if err := m.Run(ctx, argv...); err != nil {
			return err
		}
	}
	if err := c.writeKubeconfig(host, proxyKubeconfig, "system:kube-proxy"); err != nil {
		return err
	}
	return c.StartKubeProxy(host)
}

const proxyKubeconfig = "/etc/kubernetes/kube-proxy.conf"

// StartKubeProxy starts a worker's kube-proxy again, as its DaemonSet does when it ends (it ends when its Node is deleted).
func (c *Cluster) StartKubeProxy(host *lab.Host) error {
	_, err := host.Start("kube-proxy", path.Join(c.binDir, "kube-proxy"), "--kubeconfig="+proxyKubeconfig, "--proxy-mode=nftables",
		"--hostname-override="+host.Name, "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s")
	return err
}

// nodesReady is nil when the API shows every Node as Ready and every kube-proxy answers its health check.
func (c *Cluster) nodesReady(ctx context.Context) error {
	for _, host := range c.Lab.Workers {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, host.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !ready(node) {
			return fmt.Errorf("node %s is not Ready", host.Name)
		}
		if err := kubeProxyHealthy(ctx, host); err != nil {
			return fmt.Errorf("kube-proxy of %s: %w", host.Name, err)
		}
	}
	return nil
}

func kubeProxyHealthy(ctx context.Context, host *lab.Host) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/healthz", kubeProxyHealthPort), nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DialContext: host.Dial, DisableKeepAlives: true}}
	reply, err := client.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("/healthz answers %s", reply.Status)
	}
	return nil
}
