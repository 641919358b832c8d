package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/test/lab"
)

// timing are the knobs that say how long something may take.
func (u *turned) timing() []knob {
	return []knob{
		{key: "cloud-provider-haproxy/timeout-connect", reloads: true, steps: []step{
			{value: "200ms", shows: func(t *testing.T) { u.triesFor(t, "timeout connect 200ms", 150*time.Millisecond, 900*time.Millisecond) }},
			{value: "2s", shows: func(t *testing.T) {
				u.triesFor(t, "timeout connect 2000ms", 1900*time.Millisecond, 3500*time.Millisecond)
			}},
			{shows: func(t *testing.T) { u.triesFor(t, "", 900*time.Millisecond, 1800*time.Millisecond) }}, // the default, a second
		}},
		{key: "cloud-provider-haproxy/timeout-idle", reloads: true, steps: []step{
			{value: "1s", shows: u.endsIdle},
			{value: "1h", shows: func(t *testing.T) {
				u.awaitConfigured(t, "timeout tunnel 3600s")
				u.keepsIdle(t)
				u.remembers(t, 1801, 3600)
			}},
			{shows: func(t *testing.T) {
				u.awaitMapped(t, "nodes|")
				u.keepsIdle(t)
				u.remembers(t, 20, 120) // the kernel's: 30 seconds, 120 for flows that go on
			}},
		}},
		{key: "cloud-provider-haproxy/drain-timeout", beside: map[string]string{selectorAnnotation: "kubernetes.io/hostname"}, steps: []step{
			{value: "1s", shows: func(t *testing.T) { u.drains(t, true) }},
			{value: "1h", shows: func(t *testing.T) { u.drains(t, false) }},
			{shows: func(t *testing.T) { u.drains(t, false) }}, // the default, five minutes
		}},
	}
}

const selectorAnnotation = prefix + "node-selector"

// quiet is longer than the short times of the steps, and shorter than the long ones.
const quiet = 3 * time.Second

// triesFor has one node lose what comes to the Service's NodePort, unanswered. Every connection comes about all the same, at
// another node; those that tried this one first have waited for so long.
func (u *turned) triesFor(t *testing.T, configured string, least, most time.Duration) {
	t.Helper()
	if configured != "" {
		u.awaitConfigured(t, configured)
	} else {
		u.awaitMapped(t, "nodes|")
	}
	deaf := u.Lab.Workers[2]
	defer u.closes(t, deaf, int(u.original.Spec.Ports[0].NodePort), "prerouting", "drop")()
	u.await(t, fmt.Sprintf("a node to be tried for %v to %v", least, most), func(context.Context) error {
		for range 20 {
			m, err := u.meet(u.client, u.at)
			switch {
			case err != nil:
				t.Errorf("a connection failed: %v", err)
				return nil
			case m.took >= least && m.took <= most:
				return nil
			case m.took > 100*time.Millisecond:
				return fmt.Errorf("one took %v", m.took)
			}
		}
		return fmt.Errorf("none of 20 tried %s first", deaf.Name)
	})
}

// closes has a machine drop or reject what comes to one of its ports, until open is called.
func (s *site) closes(t *testing.T, h *lab.Host, port int, hook, verdict string) (open func()) {
	t.Helper()
	s.run(t, h, "nft", fmt.Sprintf("add table inet closed; add chain inet closed c { type filter hook %s priority -400; }; "+
		"add rule inet closed c tcp dport %d %s", hook, port, verdict))
	return func() { s.run(t, h, "nft", "delete table inet closed") }
}

// endsIdle: a connection that is silent ends, one that is not lives on.
func (u *turned) endsIdle(t *testing.T) {
	u.awaitConfigured(t, "timeout tunnel 1s")
	u.await(t, "a silent connection to end", func(context.Context) error {
		silent, err := u.keep(u.at)
		if err != nil {
			return err
		}
		defer silent.Close()
		talking, err := u.keep(u.at)
		if err != nil {
			return err
		}
		defer talking.Close()
		done, stop := make(chan error, 1), make(chan struct{})
		go func() {
			tick := time.NewTicker(250 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					done <- nil
					return
				case <-tick.C:
					if err := talking.says(); err != nil {
						done <- err
						return
					}
				}
			}
		}()
		after, err := silent.ends(quiet)
		close(stop)
		if talked := <-done; talked != nil {
			t.Errorf("a connection on which something is said every quarter of a second: %v", talked)
		}
		if err == nil && after < 800*time.Millisecond {
			err = fmt.Errorf("it ended after %v", after)
		}
		return err
	})
	u.remembers(t, 1, 15) // the shortest time that a gateway has
}

// remembers asks the gateway that holds the address how many seconds it will remember a new flow of UDP that was answered.
func (u *turned) remembers(t *testing.T, least, most int) {
	t.Helper()
	address := netip.MustParseAddrPort(u.at).Addr()
	u.await(t, fmt.Sprintf("a flow of UDP to be remembered for %d to %d seconds", least, most), func(ctx context.Context) error {
		conn, err := u.client.Dial(ctx, "udp", target(address, 53))
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := exchange(conn); err != nil {
			return err
		}
		holder, err := u.Holder(ctx, address)
		if err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(conn.LocalAddr().String())
		if err != nil {
			return err
		}
		flow, err := holder.Run(ctx, "conntrack", "-L", "-p", "udp", "--orig-dst", address.String(), "--orig-port-src", port)
		if err != nil {
			return err
		}
		var seconds int
		if _, err := fmt.Sscanf(flow, "udp 17 %d ", &seconds); err != nil || seconds < least-1 || seconds > most {
			return fmt.Errorf("it is %q", flow)
		}
		return nil
	})
}

// keepsIdle: a connection that is silent lives on.
func (u *turned) keepsIdle(t *testing.T) {
	t.Helper()
	u.await(t, "a silent connection to live on", func(context.Context) error {
		silent, err := u.keep(u.at)
		if err != nil {
			return err
		}
		defer silent.Close()
		if after, err := silent.ends(quiet); err == nil {
			return fmt.Errorf("it was ended after %v", after)
		}
		return silent.says()
	})
}

// drains takes one node out by the Service's choice of nodes: the connections that it has end, or live, and others live.
func (u *turned) drains(t *testing.T, end bool) {
	t.Helper()
	u.awaitMapped(t, "slot-")
	u.await(t, "all nodes to serve", func(context.Context) error { return u.reachesNodes(workers(u.Lab)...) })
	all, err := u.keepMany(u.at, 9)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer all.close()
	must(t, err)
	leaver := u.Lab.Workers[2].Name
	theirs, others := all.by(leaver)
	if len(theirs) == 0 {
		t.Fatalf("nine connections are %v", all.nodes())
	}
	chosen := func(how string) {
		u.change(t, u.name, func(svc *corev1.Service) { svc.Annotations[selectorAnnotation] = how })
	}
	leaves := func() {
		u.await(t, "no new connection to come by way of "+leaver, func(context.Context) error {
			return u.reachesNodes(u.Lab.Workers[0].Name, u.Lab.Workers[1].Name)
		})
	}
	patience := quiet
	if end {
		patience = 30 * time.Second
	} else {
		others = all
	}
	defer chosen("kubernetes.io/hostname")
	chosen("kubernetes.io/hostname!=" + leaver)
	if !end {
		leaves()
	}
	for _, l := range theirs {
		waiting.Go(func() {
			after, err := l.ends(patience)
			t.Logf("a connection to a node that was left out: ended %t, after %v", err == nil, after.Round(time.Millisecond))
			if (err == nil) != end || end && after < 800*time.Millisecond {
				t.Errorf("a connection to a node that was left out ended after %v, %v; want it ended: %t", after, err, end)
			}
		})
	}
	leaves()
	waiting.Wait()
	for _, l := range others {
		if err := l.says(); err != nil {
			t.Errorf("a connection by way of %s: %v", l.node, err)
		}
	}
}
