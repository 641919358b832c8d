package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
)

const (
	clusterUID  = "6d1b5a1e-chaos"
	servicePort = 80
	nodePort    = 30080
	sshPort     = 22
	firstRouter = 200
)

// vipNetwork has room for thousands of VIPs (RFC 2544). It is on the lab's link for whoever has the route.
var vipNetwork = netip.MustParsePrefix("198.18.0.0/15")

// limits allow what our States have.
var limits = `vipPrefixes: [` + vipNetwork.String() + `]
serverPrefixes: [192.0.2.0/26, "2001:db8::/112"]
interfaces: [eth0]
routerIDs: [200-209]
`

// pair is two gateways with VIPs of their own each, and whoever commands them.
type pair struct {
	*lab.Lab
	vips []netip.Addr
	// homes says which gateway holds which VIP while both are well, in the order of keepalived's configuration.
	homes map[*lab.Host][]netip.Addr

	clients map[*lab.Host]*gateway.Client
	key     ssh.Signer
	epoch   uint64 // of the newest State that was pushed
}

// startPair makes a lab, gives its gateways a State and returns when both serve.
func startPair(ctx context.Context, o options) (_ *pair, err error) {
	l, err := lab.Start(ctx, lab.Options{Workers: 2, NodePorts: []uint16{nodePort}, Logs: o.logs})
	if err != nil {
		return nil, err
	}
	p := &pair{Lab: l, clients: map[*lab.Host]*gateway.Client{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if err := p.choose(o.vips); err != nil {
		return nil, err
	}
	config := strings.Replace(l.CloudConfig(), "advertInterval: 100ms", "advertInterval: "+o.advert.String(), 1)
	config = strings.Replace(config, "addresses: [", "addresses: ["+vipNetwork.String()+", ", 1)
	if err := l.Controller.WriteFile(lab.CloudConfigFile, []byte(config), 0o644); err != nil {
		return nil, err
	}
	if _, err := l.Client.Run(ctx, "ip", "route", "add", vipNetwork.String(), "dev", "eth0"); err != nil {
		return nil, err
	}
	for _, g := range l.Gateways {
		if err := g.WriteFile(lab.LimitsFile, []byte(limits), 0o644); err != nil {
			return nil, err
		}
	}
	if err := p.connect(); err != nil {
		return nil, err
	}
	if err := p.push(ctx, p.state()); err != nil {
		return nil, err
	}
	return p, p.settle(ctx)
}

// choose gives the pair its VIPs, and each gateway those that the product will give it.
func (p *pair) choose(count int) error {
	var gateways []desired.Gateway
	for _, g := range p.Gateways {
		gateways = append(gateways, desired.Gateway{Name: g.Name})
	}
	instances, err := desired.Instances(gateways, firstRouter)
	if err != nil {
		return err
	}
	holders := map[int]*lab.Host{}
	for _, i := range instances {
		holders[i.RouterID] = p.Host(i.Gateways[0])
	}
	p.homes = map[*lab.Host][]netip.Addr{}
	for address := vipNetwork.Addr().Next(); len(p.vips) < count; address = address.Next() {
		p.vips = append(p.vips, address)
		home := holders[desired.Spread(address, instances)]
		p.homes[home] = append(p.homes[home], address)
	}
	for _, g := range p.Gateways {
		if len(p.homes[g]) == 0 {
			return fmt.Errorf("%d VIPs are too few: none is at home on %s", count, g.Name)
		}
	}
	return nil
}

// watched is the VIP of a gateway that the client looks at: the last one that keepalived moves.
func (p *pair) watched(g *lab.Host) string {
	return netip.AddrPortFrom(p.homes[g][len(p.homes[g])-1], servicePort).String()
}

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

// connect makes clients with the controller's key, which dial from its host.
func (p *pair) connect() error {
	text, err := p.Controller.ReadFile(lab.KeyFile)
	if err != nil {
		return err
	}
	if p.key, err = ssh.ParsePrivateKey(text); err != nil {
		return err
	}
	known, err := p.Controller.ReadFile(lab.KnownHostsFile)
	if err != nil {
		return err
	}
	file := filepath.Join(p.Dir(), "known_hosts")
	if err := os.WriteFile(file, known, 0o600); err != nil {
		return err
	}
	hosts, err := gateway.LoadKnownHosts(file)
	if err != nil {
		return err
	}
	for _, g := range p.Gateways {
		p.clients[g], err = gateway.New(gateway.Config{
			Name: g.Name, Address: netip.AddrPortFrom(g.Addr4, sshPort).String(), User: "gatewayctl", Signers: []ssh.Signer{p.key},
			KnownHosts: hosts, Dial: p.Controller.Dial,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) close() error {
	var faults []error
	for _, c := range p.clients {
		faults = append(faults, c.Close())
	}
	return errors.Join(append(faults, p.Close())...)
}

func (p *pair) other(than *lab.Host) *lab.Host {
	return p.Gateways[1-slices.Index(p.Gateways, than)]
}

// settle waits until both gateways are as they should be: in sync, current, and with the VIPs that are at home there.
func (p *pair) settle(ctx context.Context) error {
	return eventually(ctx, settleLimit, "both gateways to be well", func(ctx context.Context) error {
		for _, g := range p.Gateways {
			s, err := p.clients[g].Status(ctx)
			if err != nil {
				return err
			}
			if problem := p.unwell(g, s); problem != "" {
				return fmt.Errorf("%s %s", g.Name, problem)
			}
		}
		return nil
	})
}

func (p *pair) unwell(g *lab.Host, s *wire.Status) string {
	switch {
	case !s.InSync:
		return fmt.Sprintf("is not in sync: %v", s.Drift)
	case !s.Current:
		return "is not confirmed current"
	case !s.KeepalivedUp || s.HAProxyUp.IsZero():
		return "lacks a daemon"
	case s.Drain != nil:
		return "is drained"
	case !slices.Equal(s.Held, p.homes[g]):
		return fmt.Sprintf("holds %d VIPs, not the %d that are at home there", len(s.Held), len(p.homes[g]))
	case slices.ContainsFunc(s.Peers, func(peer wire.PeerStatus) bool { return !peer.Answers }):
		return "gets no answer from its peer"
	}
	for _, n := range s.Nodes {
		if n.State != "UP" {
			return fmt.Sprintf("finds node %s %s", n.Name, n.State)
		}
	}
	return ""
}

const (
	settleLimit  = time.Minute
	attemptLimit = 5 * time.Second
	askEvery     = 50 * time.Millisecond
)

// eventually tries until it works, ctx ends or the limit is over.
func eventually(ctx context.Context, limit time.Duration, what string, try func(context.Context) error) error {
	deadline := time.Now().Add(limit)
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptLimit)
		err := try(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("waiting %v for %s: %w", limit, what, err)
		}
		if err := pass(ctx, askEvery); err != nil {
			return err
		}
	}
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
