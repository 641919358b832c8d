package integration

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud-provider-haproxy/test/lab"
)

// testDatagramsNodeDies: flows of a node that dies move within the time of its check, all others stay, and it gets its own back.
func testDatagramsNodeDies(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	flows, before := p.talks(t, 90, dnsTargets()...)
	victim := p.Workers[1]
	begun := time.Now()
	must(t, victim.PowerOff())
	within(t, 10*time.Second, "no flow goes to a dead node", func() error {
		left := 0
		for i, k := range flows {
			if before[i] != victim.Name {
				continue
			}
			if who, _ := k.ask(50 * time.Millisecond); p.Host(who) == nil || who == victim.Name {
				left++
			}
		}
		if left > 0 {
			return fmt.Errorf("%d flows have no answer", left)
		}
		return nil
	})
	t.Logf("a node lost its power: its %d of %d flows moved within %v", tally(before)[victim.Name], len(flows), time.Since(begun).Round(10*time.Millisecond))
	for i, k := range flows {
		who, _ := k.ask(time.Second)
		if before[i] != victim.Name && who != before[i] {
			t.Errorf("a flow of %s went to %s although only %s died", before[i], who, victim.Name)
		}
	}
	must(t, victim.Boot(t.Context()))
	eventually(t, "new flows reach it again", func() error {
		_, by := p.talks(t, 30, dnsTargets()...)
		if tally(by)[victim.Name] == 0 {
			return fmt.Errorf("answered by %v", tally(by))
		}
		return nil
	})
}

// testDatagramsAllUnhealthy: when every node fails the check, all are used.
func testDatagramsAllUnhealthy(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	for _, w := range p.Workers {
		must(t, w.SetHealthy(t.Context(), false))
	}
	eventually(t, "status tells that all nodes are down", func() error {
		for name, s := range p.status(t) {
			if _, found := warning(s, "AllNodesDown"); !found {
				return fmt.Errorf("%s warns %v", name, s.Warnings)
			}
		}
		return nil
	})
	eventually(t, "all nodes serve", func() error {
		if _, by := p.talks(t, 60, dnsTargets()...); len(tally(by)) != 3 || tally(by)["timeout"]+tally(by)["refused"] != 0 {
			return fmt.Errorf("answered by %v", tally(by))
		}
		return nil
	})
}

// chatter asks over each flow all the time, until stop, and tells how many datagrams had no answer and whether a node changed.
func chatter(flows []*talk, by []string) (stop func() (sent, lost, moved int64, longest time.Duration)) {
	var sent, lost, moved atomic.Int64
	gaps := make([]time.Duration, len(flows))
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for i, k := range flows {
		group.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for last := time.Now(); ; {
				who, _ := k.ask(200 * time.Millisecond)
				sent.Add(1)
				switch who {
				case "timeout", "refused":
					lost.Add(1)
				default:
					if who != by[i] {
						moved.Add(1)
					}
					gaps[i] = max(gaps[i], time.Since(last))
					last = time.Now()
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() (int64, int64, int64, time.Duration) {
		cancel()
		group.Wait()
		longest := time.Duration(0)
		for _, g := range gaps {
			longest = max(longest, g)
		}
		return sent.Load(), lost.Load(), moved.Load(), longest
	}
}

// testDatagramsPlannedMove: a gateway hands its addresses over and takes them back, and each flow goes on at its node.
func testDatagramsPlannedMove(t *testing.T, p *pair) {
	drained, heir := p.beginDrain(t)
	p.push(t, p.state(p.Workers, web(), dns()))
	p.awaitDatagrams(t, true)
	flows, by := p.talks(t, 40, dnsTargets()...)
	stopChatter := chatter(flows, by)
	const rounds = 3
	for range rounds {
		eventually(t, "the drain is granted", func() error {
			_, err := p.tryDrain(t, drained, "--reason", "new kernel", "--grace", "2s")
			return err
		})
		must(t, p.onlyAt(t, heir))
		p.undrain(t, drained)
		eventually(t, "the addresses are back", func() error { return p.atHome(t) })
	}
	sent, lost, moved, longest := stopChatter()
	t.Logf("%d drains and undrains: of %d datagrams of 40 flows %d had no answer, longest gap %v, %d answers by another node", rounds, sent, lost, longest.Round(time.Millisecond), moved)
	if moved != 0 {
		t.Errorf("%d answers came from another node than the flow's", moved)
	}
	if lost*50 > sent {
		t.Errorf("%d of %d datagrams had no answer", lost, sent)
	}
}

// testDatagramsStick: with affinity all flows of a client, whatever their ports, go to one worker, and at the other gateway to the
// same one.
func testDatagramsStick(t *testing.T, p *pair) {
	drained, heir := p.beginDrain(t)
	sticky := dns()
	sticky.AffinitySeconds = 3600
	p.push(t, p.state(p.Workers, web(), sticky))
	p.awaitDatagrams(t, true)
	clients := append([]*lab.Host{p.Client, p.Controller}, p.Workers...)
	ask := func(from *lab.Host, target string) (by []string) {
		for range 10 {
			by = append(by, p.askOnce(t, from, target))
		}
		return by
	}
	before := map[string]string{}
	for _, from := range clients {
		for _, target := range dnsTargets() {
			by := ask(from, target)
			if before[from.Name+target] = by[0]; p.Host(by[0]) == nil || tally(by)[by[0]] != len(by) {
				t.Errorf("%s of %s is answered by %v", target, from.Name, tally(by))
			}
		}
	}
	t.Logf("clients are given to %v", before)
	eventually(t, "the drain is granted", func() error {
		_, err := p.tryDrain(t, drained, "--reason", "new kernel", "--grace", "2s")
		return err
	})
	must(t, p.onlyAt(t, heir))
	for _, from := range clients {
		for _, target := range dnsTargets() {
			if by := ask(from, target); tally(by)[before[from.Name+target]] != len(by) {
				t.Errorf("%s of %s was answered by %s, at the other gateway by %v", target, from.Name, before[from.Name+target], tally(by))
			}
		}
	}
	p.undrain(t, drained)
	eventually(t, "the addresses are back", func() error { return p.atHome(t) })
}

// testDatagramsHolderDies: the heir gives each flow to the node that the dead holder had given it to.
func testDatagramsHolderDies(t *testing.T, p *pair) {
	p.beginDatagrams(t, dns())
	holder := p.home(t, web4)
	flows, by := p.talks(t, 40, dnsTargets()...)
	stopChatter := chatter(flows, by)
	must(t, holder.PowerOff())
	eventually(t, "the heir has the addresses", func() error { return p.onlyAt(t, p.other(holder)) })
	for i, k := range flows {
		eventually(t, "the flow goes on", func() error {
			who, _ := k.ask(200 * time.Millisecond)
			if who != by[i] {
				return fmt.Errorf("%s answered, before it was %s", who, by[i])
			}
			return nil
		})
	}
	sent, lost, moved, longest := stopChatter()
	t.Logf("the holder lost its power: of %d datagrams of 40 flows %d had no answer, longest gap %v, %d answers by another node", sent, lost, longest.Round(time.Millisecond), moved)
	if moved != 0 {
		t.Errorf("%d answers came from another node than the flow's", moved)
	}
	must(t, holder.Boot(t.Context()))
	eventually(t, "the addresses are back", func() error { return p.atHome(t) })
}
