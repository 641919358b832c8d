package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
)

const (
	clusterUID = "6d1b5a1e-chaos"
	stateFile  = "/var/lib/gatewayctl/state.json"
)

// state has one Service for each VIP. What it leaves out push takes from the configuration.
func (p *pair) state() *desired.State {
	s := &desired.State{Fence: desired.Fence{ClusterUID: clusterUID}}
	for _, w := range p.Workers {
		s.Nodes = append(s.Nodes, desired.Node{Name: w.Name, Addresses: []netip.Addr{w.Addr4, w.Addr6}})
	}
	for n, address := range p.vips {
		s.LoadBalancers = append(s.LoadBalancers, service(fmt.Sprintf("s%04d", n), address, servicePort))
	}
	return s
}

func service(name string, address netip.Addr, port uint16) desired.LoadBalancer {
	return desired.LoadBalancer{
		Key: desired.Key{Namespace: "default", Name: name}, UID: "uid-" + name, Addresses: []netip.Addr{address},
		Frontends: []desired.Frontend{{Protocol: desired.TCP, Port: port, NodePort: nodePort}},
	}
}

// push sends a State as an operator does, to all gateways or to those that flags name.
func (p *pair) push(ctx context.Context, s *desired.State, flags ...string) error {
	text, err := json.Marshal(s) // JSON is YAML
	if err != nil {
		return err
	}
	const file = "/root/state.yaml"
	if err := p.Controller.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	p.epoch++
	argv := []string{"gatewayctl", "push", "-f", file, "--cloud-config", lab.CloudConfigFile, "--force-epoch", fmt.Sprint(p.epoch)}
	out, err := p.Controller.Run(ctx, append(argv, flags...)...)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// held is the State on a gateway's disk.
func held(g *lab.Host) (*desired.State, error) {
	text, err := g.ReadFile(stateFile)
	if err != nil {
		return nil, err
	}
	var signed desired.Signed
	if err := json.Unmarshal(text, &signed); err != nil {
		return nil, fmt.Errorf("reading %s of %s: %w", stateFile, g.Name, err)
	}
	return desired.Decode(signed.State)
}

// successor is the next State of the same controller, signed with its key.
func (p *pair) successor(s *desired.State, change func(*desired.State)) (*desired.State, desired.Signed, error) {
	next := s.Clone()
	next.Fence.Sequence++
	change(next)
	next.Normalize()
	canonical, err := next.Canonical()
	if err != nil {
		return nil, desired.Signed{}, err
	}
	signed, err := gateway.Sign(p.key, canonical)
	return next, signed, err
}

// apply hands a State to the agent of a gateway; any outcome but success is an error.
func apply(ctx context.Context, g *lab.Host, signed desired.Signed) error {
	reply, err := ask(ctx, g, wire.Request{Verb: wire.VerbApply, Apply: &wire.Apply{Signed: signed}})
	if err != nil {
		return err
	}
	switch r := reply.Result; {
	case r == nil:
		return errors.New("the agent answered something else than apply")
	case r.Outcome != wire.Unchanged && r.Outcome != wire.Runtime && r.Outcome != wire.Reloaded:
		return fmt.Errorf("applying on %s: %s: %.500v", g.Name, r.Outcome, r.Faults)
	}
	return nil
}
