package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// DNAT needs a kernel that forwards. That stands in no file of sysctl.d, which would make every gateway a router from its boot
// on, before there is a table that says for whom, and also where no Service needs it. The agent turns forwarding on when a State
// with UDP or SCTP runs, behind our chain forward, which drops what is no flow of a Service. A machine that forwards already
// when the agent has not turned it on is a router on purpose: there our chain drops nothing.

// forwardingFiles are where the kernel shows whether it forwards, IPv4 and IPv6.
func forwardingFiles() [2]string {
	return [2]string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"}
}

// forwardingMark tells, as long as the machine runs, that the agent turned forwarding on.
func (p Paths) forwardingMark(i int) string {
	return filepath.Join(filepath.Dir(p.Track), [2]string{"forwards4", "forwards6"}[i])
}

// noticeRouting finds out whether the machine is a router on purpose.
func (a *Agent) noticeRouting(ctx context.Context) error {
	now := a.routesNow()
	for i := range now {
		forwards, err := a.forwards(i)
		if err != nil {
			return err
		}
		if !forwards || now[i] {
			continue
		}
		_, err = a.host.ReadFile(a.config.Paths.forwardingMark(i))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("reading who turned forwarding on: %w", err)
		}
		now[i] = err != nil
	}
	if now == a.routesNow() {
		return nil
	}
	a.log.Info("this machine is a router: our table leaves alone what it forwards", "ipv4", now[0], "ipv6", now[1])
	return a.refront(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.routes, a.rules = now, nil
	})
}

func (a *Agent) routesNow() [2]bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.routes
}

// forwards reads what the kernel does. One without the family does not.
func (a *Agent) forwards(i int) (bool, error) {
	text, err := a.host.ReadFile(forwardingFiles()[i])
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("reading whether the kernel forwards: %w", err)
	}
	value := strings.TrimSpace(string(text))
	return err == nil && value != "" && value != "0", nil
}

// forward lets the kernel forward in the families that need it, once our table runs.
func (a *Agent) forward(ctx context.Context) error {
	current := a.rendered()
	if current == nil || len(a.faults()) > 0 {
		return nil
	}
	var faults []error
	for i, needed := range datagramFamilies(current.revision.state) {
		if forwards, err := a.forwards(i); !needed || forwards || err != nil {
			faults = append(faults, err)
			continue
		}
		faults = append(faults, a.startForwarding(ctx, i, current.revision.state))
	}
	return errors.Join(faults...)
}

// startForwarding notes first that it was us, so that our table never takes the machine for a router because of it.
func (a *Agent) startForwarding(ctx context.Context, i int, s *desired.State) error {
	if err := a.host.WriteFile(a.config.Paths.forwardingMark(i), []byte("gatewayctl turned forwarding on\n"), 0o644); err != nil {
		return fmt.Errorf("noting that forwarding is ours: %w", err)
	}
	var settings []string
	if i == 0 {
		// A redirect tells a client of our segment to ask the node itself; the kernel also takes one from the errors that the
		// client may get, and so a refused port would look like a silent one.
		for _, device := range append([]string{"all"}, a.devices(s)...) {
			settings = append(settings, "net/ipv4/conf/"+device+"/send_redirects=0")
		}
		settings = append(settings, "net/ipv4/ip_forward=1")
	} else {
		advertised, err := a.learnsRouters(ctx)
		if err != nil {
			return err
		}
		settings = append(advertised, "net/ipv6/conf/all/forwarding=1")
	}
	if _, err := a.host.Run(ctx, append([]string{"sysctl", "--quiet", "--write"}, settings...), nil); err != nil {
		return fmt.Errorf("setting %s: %w", strings.Join(settings, ", "), err)
	}
	a.log.Info("let the kernel forward for UDP and SCTP", "settings", settings)
	return nil
}

// learnsRouters keeps a machine's router: one that forwards heeds no router advertisements unless accept_ra is 2.
func (a *Agent) learnsRouters(ctx context.Context) (settings []string, err error) {
	output, err := a.host.Run(ctx, []string{"sysctl", "--all", "--pattern", `^net\.ipv6\.conf\.[^.]+\.accept_ra$`}, nil)
	if err != nil {
		return nil, fmt.Errorf("reading who heeds router advertisements: %w", err)
	}
	for line := range strings.Lines(string(output.Stdout)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok && value == "1" {
			settings = append(settings, name+"=2")
		}
	}
	return settings, nil
}

// devices are the interfaces of this gateway that VIPs are on.
func (a *Agent) devices(s *desired.State) []string {
	var all []string
	for _, g := range s.Gateways {
		if g.Name == a.config.Gateway {
			all = append(all, g.Interface)
		}
	}
	for _, v := range s.VIPs {
		if v.Interface != "" {
			all = append(all, v.Interface)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// datagramFamilies says whether a VIP of IPv4, and of IPv6, has a port of UDP or SCTP.
func datagramFamilies(s *desired.State) (needed [2]bool) {
	for _, lb := range s.LoadBalancers {
		if !hasDatagrams(lb) {
			continue
		}
		needed[0] = needed[0] || slices.ContainsFunc(lb.Addresses, netip.Addr.Is4)
		needed[1] = needed[1] || slices.ContainsFunc(lb.Addresses, netip.Addr.Is6)
	}
	return needed
}
