package cluster

import (
	"context"
	"net/netip"
	"time"

	"cloud-provider-haproxy/test/lab"
)

// machine is a lab host as the kubelet's stand-in sees it.
type machine struct {
	host *lab.Host
	// backend is the path of the lab's backend program, the same on every host.
	backend string
}

func (m machine) Run(ctx context.Context, argv ...string) error {
	_, err := m.host.Run(ctx, argv...)
	return err
}

// StartPod returns when the pod listens everywhere.
func (m machine) StartPod(name string, listen []netip.AddrPort) (kill func() error, err error) {
	argv := []string{m.backend, "-name", name}
	for _, addr := range listen {
		argv = append(argv, "-listen", addr.String())
	}
	process, err := m.host.Start("pod-"+name, argv...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return process.Kill, process.AwaitLine(ctx, "ready")
}
