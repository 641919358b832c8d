package haproxy

import (
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A load balancer of UDP alone, of which the running map knows nothing, moves with its health: from slot to slot, and from the shared
// pool. Who was down there has to pass a check first, and so has everybody of a load balancer that is new.
func TestDatagramsMoveWithTheirHealth(t *testing.T) {
	dns := func(change func(*desired.LoadBalancer)) *desired.State {
		lb := localPolicy("dns", "192.0.2.20", kubeProxyCheck(), serverAt("worker1", "10.0.0.11"), serverAt("worker2", "10.0.0.12"))
		lb.Frontends = []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: 31053}}
		change(&lb)
		s := baseState()
		s.LoadBalancers = []desired.LoadBalancer{lb}
		return s
	}
	pooled := func(lb *desired.LoadBalancer) {}
	shared := func(lb *desired.LoadBalancer) { lb.Pool = nil }
	interval := func(lb *desired.LoadBalancer) { lb.Pool.Check.IntervalMillis = 3_600_000 }
	for name, test := range map[string]struct {
		before, now func(*desired.LoadBalancer)
		former      string // of the slot that is taken now
		tested      []string
	}{
		"another interval":   {pooled, interval, "slot-http-roundrobin-1", []string{"worker2"}},
		"another algorithm":  {pooled, func(lb *desired.LoadBalancer) { lb.Pool.Algorithm = desired.LeastConn }, "slot-http-roundrobin-1", []string{"worker2"}},
		"from the pool":      {shared, pooled, "nodes", []string{"worker2"}},
		"under another name": {func(lb *desired.LoadBalancer) { lb.Name = "old" }, pooled, "", []string{"worker1", "worker2"}},
		"with a port of TCP": {pooled, func(lb *desired.LoadBalancer) {
			lb.Frontends = slices.Insert(lb.Frontends, 0, tcpPort(53, 31053))
			interval(lb)
		}, "slot-http-roundrobin-1", []string{"worker2"}},
		"pods for datagrams":  {func(lb *desired.LoadBalancer) { lb.Frontends[0].Pool = lb.Pool }, interval, "", []string{"worker1", "worker2"}},
		"IPv6, from the pool": {func(lb *desired.LoadBalancer) { lb.Pool, lb.Addresses = nil, addrs("2001:db8::20") }, pooled, "nodes6", []string{"worker1", "worker2"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := testLocal()
			before, now := dns(test.before), dns(test.now)
			slots, _ := Assign(nil, before, func(string) bool { return true }, l)
			c, err := Render(before, l, slots)
			if err != nil {
				t.Fatal(err)
			}
			running := asRunning(c)
			for backend, b := range running.Backends {
				if has, ok := b.Servers["worker2"]; ok && !strings.HasSuffix(backend, openSuffix) {
					has.State = "DOWN"
					b.Servers["worker2"] = has
				}
			}
			next, _ := Assign(slots, now, running.Free(l), l)
			want, err := Render(now, l, next)
			if err != nil {
				t.Fatal(err)
			}
			want.Succeed(before, slots)
			slot := next.At(now.LoadBalancers[0].Key, 0)
			if got := want.Former(slot); got != test.former {
				t.Errorf("%s took over from %q, want %q", slot, got, test.former)
			}
			var tested []string
			for _, line := range Compare(running, want).lines() {
				if name, ok := strings.CutPrefix(line, "add server "+slot+"/"); ok && strings.HasSuffix(line, " health down") {
					tested = append(tested, strings.Fields(name)[0])
				}
			}
			if !slices.Equal(tested, test.tested) {
				t.Errorf("%v begin with a check, want %v", tested, test.tested)
			}
			back, err := Render(before, l, slots) // a transaction was cut: of the State that it was for the slots alone are known
			if err != nil {
				t.Fatal(err)
			}
			if back.Succeed(before, next); test.former != "" && strings.HasPrefix(test.former, slotPrefix) && back.Former(test.former) != slot {
				t.Errorf("on the way back %s takes over from %q, want %q", test.former, back.Former(test.former), slot)
			}
			if want.Succeed(now, next); want.Former(slot) != "" {
				t.Errorf("a slot took over from %s, which is nobody else's", want.Former(slot))
			}
		})
	}
}
