package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/test/lab"
)

const (
	servicePort = 80
	nodePort    = 30080
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
	// homes says which gateway holds which VIPs while both are well, in the order of keepalived's configuration.
	homes map[*lab.Host][]netip.Addr

	site     *site         // who commands them; nil: we do
	patience time.Duration // of clients
	key      ssh.Signer    // the controller's
	epoch    uint64        // of the newest State that was pushed
}

// startPair makes a lab, gives its gateways a State and returns when both serve.
func startPair(ctx context.Context, o options) (_ *pair, err error) {
	l, err := lab.Start(ctx, lab.Options{Workers: 2, NodePorts: []uint16{nodePort}, Logs: o.logs})
	if err != nil {
		return nil, err
	}
	p := &pair{Lab: l, patience: o.patience}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	for address := vipNetwork.Addr().Next(); len(p.vips) < o.vips; address = address.Next() {
		p.vips = append(p.vips, address)
	}
	config := strings.Replace(l.CloudConfig(), "advertInterval: 100ms", "advertInterval: "+o.advert.String(), 1)
	config = strings.Replace(config, "addresses: [", "addresses: ["+vipNetwork.String()+", ", 1)
	if err := l.Controller.WriteFile(lab.CloudConfigFile, []byte(config), 0o644); err != nil {
		return nil, err
	}
	if _, err := l.Client.Run(ctx, "ip", "route", "add", vipNetwork.String(), "dev", "eth0"); err != nil {
		return nil, err
	}
	if err := reusePorts(ctx, l.Client); err != nil {
		return nil, err
	}
	for _, g := range l.Gateways {
		if err := g.WriteFile(lab.LimitsFile, []byte(limits), 0o644); err != nil {
			return nil, err
		}
	}
	key, err := l.Controller.ReadFile(lab.KeyFile)
	if err != nil {
		return nil, err
	}
	if p.key, err = ssh.ParsePrivateKey(key); err != nil {
		return nil, err
	}
	if err := p.push(ctx, p.state()); err != nil {
		return nil, err
	}
	return p, p.learn()
}

// reusePorts gives a client so few ports that it comes again from each within seconds: whatever a gateway, or its kernel,
// still remembers of an earlier connection from there must not harm the next.
func reusePorts(ctx context.Context, client *lab.Host) error {
	_, err := client.Run(ctx, "sysctl", "--quiet", "--write", "net.ipv4.ip_local_port_range=40000 42999", "net.ipv4.tcp_tw_reuse=1")
	return err
}

// learn reads from the State that the gateways hold which VIPs there are and where each is at home.
func (p *pair) learn() error {
	state, err := held(p.Gateways[0])
	if err != nil {
		return err
	}
	holders := map[int]*lab.Host{}
	for _, i := range state.Instances {
		holders[i.RouterID] = p.Host(i.Gateways[0])
	}
	p.vips, p.homes = nil, map[*lab.Host][]netip.Addr{}
	for _, vip := range state.VIPs {
		home := holders[vip.RouterID]
		p.vips = append(p.vips, vip.Address)
		p.homes[home] = append(p.homes[home], vip.Address)
	}
	for _, g := range p.Gateways {
		if len(p.homes[g]) == 0 {
			return fmt.Errorf("%d VIPs are too few: none is at home on %s", len(p.vips), g.Name)
		}
	}
	return nil
}

// watched is the VIP of a gateway that the client looks at: the last one that keepalived moves.
func (p *pair) watched(g *lab.Host) string {
	return netip.AddrPortFrom(p.homes[g][len(p.homes[g])-1], servicePort).String()
}

func (p *pair) other(than *lab.Host) *lab.Host {
	return p.Gateways[1-slices.Index(p.Gateways, than)]
}

// close ends the lab and all that runs in it.
func (p *pair) close() error {
	if p.site != nil && p.site.Cluster != nil {
		p.site.Stop()
	}
	return p.Close()
}
