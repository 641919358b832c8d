package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// latePort is where Services answer that a State had not before.
const latePort = 8080

// addLate adds count Services at addresses that are floating already.
func (p *pair) addLate(s *desired.State, from, count int) {
	for n := from; n < from+count; n++ {
		s.LoadBalancers = append(s.LoadBalancers, service(fmt.Sprintf("late%04d", n), p.vips[n%len(p.vips)], latePort+uint16(n/len(p.vips))))
	}
}

// sleepThrough is a gateway that was off while its peer was given fifty States.
func sleepThrough(ctx context.Context, t *trial) error {
	if err := t.struck.PowerOff(); err != nil {
		return err
	}
	state, err := held(t.spared)
	if err != nil {
		return err
	}
	for n := range 50 {
		next, signed, err := t.successor(state, func(s *desired.State) { t.addLate(s, n, 1) })
		if err != nil {
			return err
		}
		if err := apply(ctx, t.spared, signed); err != nil {
			return err
		}
		state = next
	}
	t.newest = state.Fence
	return nil
}

// powerOffInTransaction gives a State to both gateways, one after the other; the second loses its power at a random moment of
// the time that the first one took.
func powerOffInTransaction(ctx context.Context, t *trial) error {
	state, err := held(t.spared)
	if err != nil {
		return err
	}
	next, signed, err := t.successor(state, func(s *desired.State) { t.addLate(s, 0, 100) })
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := apply(ctx, t.spared, signed); err != nil {
		return err
	}
	moment := rand.N(time.Since(begun))
	go func() { _ = apply(ctx, t.struck, signed) }() // nobody is left to answer
	if err := pass(ctx, moment); err != nil {
		return err
	}
	t.newest = next.Fence
	return t.struck.PowerOff()
}

// holdNewest checks that both gateways have the newest State, and takes back what it had more than the first one.
func holdNewest(ctx context.Context, t *trial) error {
	for _, g := range t.Gateways {
		s, err := held(g)
		if err != nil {
			return err
		}
		if s.Fence != t.newest {
			return fmt.Errorf("%s holds %+v, want %+v", g.Name, s.Fence, t.newest)
		}
	}
	return t.push(ctx, t.state())
}

// The directories of a gateway that have to be written for a State.
var written = []string{"/var/lib/gatewayctl", "/etc/haproxy", "/etc/keepalived"}

// fillDisk puts a file system without room under the directories that a State is written to, and pushes one, which must
// be refused.
func fillDisk(ctx context.Context, t *trial) error {
	const disk = "/srv/small"
	var script string
	script = "set -e; mkdir -p " + disk + "; mount -t tmpfs -o size=64m small " + disk + "\n"
	for _, dir := range written {
		script += fmt.Sprintf("mkdir -p %[1]s%[2]s; cp -a %[2]s/. %[1]s%[2]s/; mount --bind %[1]s%[2]s %[2]s\n", disk, dir)
	}
	script += "dd if=/dev/zero of=" + disk + "/filler bs=1k 2>/dev/null || true\n"
	if _, err := t.struck.Run(ctx, "sh", "-c", script); err != nil {
		return err
	}
	more := t.state()
	t.addLate(more, 0, 10)
	if err := t.push(ctx, more, "--gateway", t.struck.Name); err == nil {
		return errors.New("a State was taken with a full disk")
	}
	return nil
}

// emptyDisk makes room, and pushes the State that did not fit.
func emptyDisk(ctx context.Context, t *trial) error {
	if err := run("rm", "/srv/small/filler")(ctx, t); err != nil {
		return err
	}
	more := t.state()
	t.addLate(more, 0, 10)
	if err := t.push(ctx, more); err != nil {
		return err
	}
	if err := t.push(ctx, t.state()); err != nil {
		return err
	}
	var script string
	for _, dir := range written {
		script += fmt.Sprintf("umount %[2]s && cp -a %[1]s%[2]s/. %[2]s/\n", "/srv/small", dir)
	}
	return run("sh", "-c", "set -e\n"+script+"umount /srv/small\n")(ctx, t)
}

// reloads are how often keepalived reads its configuration anew in reloadWithoutProcessor, on both gateways together.
const reloads = 100

// reloadWithoutProcessor adds and takes off a VIP again and again, on gateways of which one has more to compute than it can.
func reloadWithoutProcessor(ctx context.Context, t *trial) error {
	for n := range runtime.NumCPU() {
		if _, err := t.struck.Start(fmt.Sprintf("burner-%d", n), "bash", "-c", "printf burner >/proc/self/comm; while :; do :; done"); err != nil {
			return err
		}
	}
	first, err := held(t.struck)
	if err != nil {
		return err
	}
	extra := t.vips[len(t.vips)-1].Next()
	next := first
	for n := range reloads / len(t.Gateways) {
		var signed desired.Signed
		next, signed, err = t.successor(next, func(s *desired.State) {
			s.VIPs, s.LoadBalancers = slices.Clone(first.VIPs), slices.Clone(first.LoadBalancers)
			if n%2 == 0 {
				s.VIPs = append(s.VIPs, desired.VIP{Address: extra, RouterID: first.Instances[n/2%len(first.Instances)].RouterID})
				s.LoadBalancers = append(s.LoadBalancers, service("extra", extra, servicePort))
			}
		})
		if err != nil {
			return err
		}
		for _, g := range t.Gateways {
			if err := apply(ctx, g, signed); err != nil {
				return err
			}
		}
	}
	return nil
}
