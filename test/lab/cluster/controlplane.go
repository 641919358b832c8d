package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"path"

	"cloud-provider-haproxy/test/lab"
)

// Where the control plane keeps its files on the controller host.
const (
	pkiDir          = "/etc/kubernetes/pki"
	adminKubeconfig = "/etc/kubernetes/admin.conf"
	etcdDir         = "/var/lib/etcd"
	apiPort         = 6443
	serviceIP4      = "10.96.0.1"
	serviceIP6      = "fd00:10:96::1"
)

// writePKI makes every key and certificate and puts them on the controller host. It returns the kubeconfig of a cluster
// administrator.
func (c *Cluster) writePKI() error {
	ca, err := newAuthority()
	if err != nil {
		return err
	}
	c.ca = ca
	host := c.Lab.Controller
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", host.Name}
	addrs := append(host.Addresses(), netip.MustParseAddr(serviceIP4), netip.MustParseAddr(serviceIP6), netip.MustParseAddr("127.0.0.1"))
	serving, err := ca.serving("kube-apiserver", names, append(addrs, c.options.APIServerAddresses...))
	if err != nil {
		return err
	}
	saKey, saPub, err := serviceAccountKeys()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt": ca.pem, "apiserver.crt": serving.certificate, "apiserver.key": serving.key, "sa.key": saKey, "sa.pub": saPub,
	}
	for name, content := range files {
		if err := host.WriteFile(path.Join(pkiDir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// startControlPlane starts etcd, the API server and the controller manager. None of them waits for another: each tries
// again until it is served.
func (c *Cluster) startControlPlane(ctx context.Context) error {
	host := c.Lab.Controller
	if err := c.writeKubeconfig(host, adminKubeconfig, "kubernetes-admin", "system:masters"); err != nil {
		return err
	}
	if err := c.writeKubeconfig(host, "/etc/kubernetes/controller-manager.conf", "system:kube-controller-manager"); err != nil {
		return err
	}
	if err := c.startEtcd(); err != nil {
		return err
	}
	daemons := [][]string{{
		"kube-controller-manager", "--kubeconfig=/etc/kubernetes/controller-manager.conf", "--use-service-account-credentials",
		"--service-account-private-key-file=" + pkiDir + "/sa.key", "--root-ca-file=" + pkiDir + "/ca.crt",
		"--leader-elect=false", "--kube-api-qps=300", "--kube-api-burst=500", "--concurrent-service-endpoint-syncs=20",
	}}
	for _, argv := range daemons {
		if _, err := c.startDaemon(argv); err != nil {
			return err
		}
	}
	return c.StartAPIServer(ctx)
}

func (c *Cluster) startDaemon(argv []string) (*lab.Process, error) {
	name := argv[0]
	argv[0] = path.Join(c.binDir, name)
	process, err := c.Lab.Controller.Start(name, argv...)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return process, nil
}

// StartAPIServer starts the API server and returns when it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	ranges := "fd00:10:96::/112"
	if !c.IPv6Only() {
		ranges = "10.96.0.0/16," + ranges
	}
	c.apiServer, err = c.startDaemon([]string{
		"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379",
		"--advertise-address=" + c.Lab.Controller.Addr().String(), fmt.Sprintf("--secure-port=%d", apiPort),
		"--service-cluster-ip-range=" + ranges,
		"--tls-cert-file=" + pkiDir + "/apiserver.crt", "--tls-private-key-file=" + pkiDir + "/apiserver.key",
		"--client-ca-file=" + pkiDir + "/ca.crt", "--authorization-mode=RBAC",
		// As kubeadm does: without these every component that delegates authentication complains for ever.
		"--requestheader-client-ca-file=" + pkiDir + "/ca.crt", "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + pkiDir + "/sa.pub",
		"--service-account-signing-key-file=" + pkiDir + "/sa.key",
	})
	if err != nil {
		return err
	}
	return c.awaitAPIServer(ctx)
}

func (c *Cluster) awaitAPIServer(ctx context.Context) error {
	return c.WaitFor(ctx, "the API server at "+c.Server()+" to be ready", func(ctx context.Context) error {
		return c.Client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// KillAPIServer ends the API server at once. etcd keeps what it knew; everybody else asks in vain until it is started.
func (c *Cluster) KillAPIServer() error { return c.apiServer.Kill() }
