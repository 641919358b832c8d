package integration

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// testDatagramsChangeSlot: a Service of UDP alone goes from the shared pool to a slot, and on to others, whose checks take hours to pass
// (rise 2): all the while new flows are answered, and those that began before stay at their node.
func testDatagramsChangeSlot(t *testing.T, p *pair) {
	p.begin(t)
	udp := dns()
	udp.Frontends = udp.Frontends[1:]
	p.push(t, p.state(p.Workers, web(), udp))
	p.awaitDatagrams(t, true)
	flows, by := p.talks(t, 20, dnsTargets()...)
	stopChatter := chatter(flows, by)
	ctx, cancel := context.WithCancel(t.Context())
	begun := map[string]int{}
	var asked atomic.Int64
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			conn, err := p.Client.Dial(ctx, "udp", dnsTargets()[n%2])
			if err != nil {
				continue // it ends
			}
			who, _ := (&talk{conn: conn}).ask(time.Second)
			_ = conn.Close()
			begun[who]++
			asked.Add(1)
			<-tick.C
		}
	})
	pool := &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 3600_000, Rise: 2, Fall: 2}}
	for _, w := range p.Workers {
		pool.Servers = append(pool.Servers, desired.Server{Name: w.Name, Address: w.Addr4, Weight: 1})
	}
	for _, change := range []func(){func() {}, func() { pool.Check.IntervalMillis /= 2 }, func() { pool.Algorithm = desired.LeastConn }, func() { pool.Check.Fall = 3 }} {
		change()
		next := *pool
		udp.Pool = &next
		p.push(t, p.state(p.Workers, web(), udp))
		first := asked.Load()
		eventually(t, "a hundred flows begin, while the nodes' health is looked at twice", func() error {
			if n := asked.Load() - first; n < 100 {
				return fmt.Errorf("%d began", n)
			}
			return nil
		})
	}
	udp.Pool = nil
	p.push(t, p.state(p.Workers, web(), udp))
	cancel()
	group.Wait()
	sent, lost, moved, longest := stopChatter()
	t.Logf("five moves: new flows were answered by %v; of %d datagrams of 20 flows %d had no answer, longest gap %v, %d answers by another node",
		begun, sent, lost, longest.Round(time.Millisecond), moved)
	if begun["refused"]+begun["timeout"] > 0 || len(begun) != len(p.Workers) {
		t.Errorf("new flows were answered by %v", begun)
	}
	if moved != 0 {
		t.Errorf("%d answers came from another node than the flow's", moved)
	}
	if lost*50 > sent {
		t.Errorf("%d of %d datagrams had no answer", lost, sent)
	}
}
