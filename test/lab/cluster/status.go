package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
)

// GatewayStatus is one gateway in the answer of `gatewayctl status -o json`.
type GatewayStatus struct {
	Gateway   string       `json:"gateway"`
	Reachable bool         `json:"reachable"`
	InSync    bool         `json:"inSync"`
	Drift     []string     `json:"drift"`
	Error     string       `json:"error"`
	Remedy    string       `json:"remedy"`
	Status    *wire.Status `json:"status"`
}

// Status asks as a person does: `gatewayctl status` on the controller host, in its form for programs. That it ends with 1
// when a gateway is away or out of sync is no error here.
func (c *Cluster) Status(ctx context.Context) ([]GatewayStatus, error) {
	out, err := c.Lab.Controller.Run(ctx, "gatewayctl", "status", "--cloud-config", lab.CloudConfigFile, "-o", "json")
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1 && out != "") {
		return nil, err
	}
	var all []GatewayStatus
	if err := json.Unmarshal([]byte(out), &all); err != nil {
		return nil, fmt.Errorf("read the answer of gatewayctl status: %w\n%s", err, out)
	}
	return all, nil
}

// InSync is nil when every gateway is reachable and runs the newest State.
func (c *Cluster) InSync(ctx context.Context) error {
	all, err := c.Status(ctx)
	if err != nil {
		return err
	}
	var faults []error
	for _, g := range all {
		switch {
		case !g.Reachable:
			faults = append(faults, fmt.Errorf("%s cannot be asked: %s", g.Gateway, g.Error))
		case !g.InSync:
			faults = append(faults, fmt.Errorf("%s is out of sync: %v", g.Gateway, g.Drift))
		}
	}
	return errors.Join(faults...)
}

// Holders are the gateways that have the address now, as their kernels say; a gateway that is off has none.
func (c *Cluster) Holders(ctx context.Context, address netip.Addr) ([]*lab.Host, error) {
	var holders []*lab.Host
	for _, gateway := range c.Lab.Gateways {
		if gateway.PID() == 0 {
			continue
		}
		out, err := gateway.Run(ctx, "ip", "-o", "address", "show", "to", address.String())
		if err != nil {
			return nil, err
		}
		if out != "" {
			holders = append(holders, gateway)
		}
	}
	return holders, nil
}

// Holder is the one gateway that has the address. None and two are errors.
func (c *Cluster) Holder(ctx context.Context, address netip.Addr) (*lab.Host, error) {
	holders, err := c.Holders(ctx, address)
	if err != nil {
		return nil, err
	}
	if len(holders) != 1 {
		return nil, fmt.Errorf("%d gateways hold %s, want 1", len(holders), address)
	}
	return holders[0], nil
}

// SettledHolder waits until one gateway has had the address for a second: after a gateway was told its first State, or is back,
// addresses move to where they belong.
func (c *Cluster) SettledHolder(ctx context.Context, address netip.Addr) (*lab.Host, error) {
	var holder *lab.Host
	var since time.Time
	err := c.WaitFor(ctx, address.String()+" to stay on one gateway", func(ctx context.Context) error {
		now, err := c.Holder(ctx, address)
		switch {
		case err != nil:
			holder = nil
			return err
		case now != holder:
			holder, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return fmt.Errorf("%s has had it for %v", holder.Name, time.Since(since))
		}
		return nil
	})
	return holder, err
}
