package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestParseFlow(t *testing.T) {
	got, err := parseFlow("udp      17 29 src=2001:db8::3 dst=2001:db8::1:1 sport=40000 dport=53 [UNREPLIED] src=2001:db8::21 dst=2001:db8::1:1 sport=30053 dport=40000 mark=0 use=1", desired.UDP)
	want := flow{desired.UDP, netip.MustParseAddrPort("[2001:db8::3]:40000"), netip.MustParseAddrPort("[2001:db8::1:1]:53"), netip.MustParseAddrPort("[2001:db8::21]:30053"), true}
	if err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, line := range []string{"", "udp 17 29", "udp src=x dst=10.0.0.1 sport=1 dport=2 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2",
		"udp src=10.0.0.2 dst=10.0.0.1 sport=1 dport=70000 src=10.0.0.1 dst=10.0.0.2 sport=1 dport=2"} {
		if f, err := parseFlow(line, desired.UDP); err == nil {
			t.Errorf("%q was read as %+v", line, f)
		}
	}
}

// A node with flows of many Services dies: they are ended in one walk through conntrack's table, those of other nodes stay, and so does
// what somebody else sends to that node, at the price of a walk for each NodePort.
func TestADeadNodesFlowsEndInFewWalks(t *testing.T) {
	const services = 50
	for name, test := range map[string]struct {
		other []string
		walks int
	}{"all of it": {nil, 1}, "somebody else's stays": {[]string{foreignFlow}, services}} {
		synctest.Test(t, func(t *testing.T) {
			var change []func(*desired.State)
			var alive, dead []string
			for n := range services {
				vip, port := fmt.Sprintf("192.0.2.%d", 10+n), uint16(30100+n)
				change = append(change, service(fmt.Sprint("dns-", n), vip, 51), func(s *desired.State) {
					s.LoadBalancers[n].Frontends = []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: port}}
				})
				for client := range 3 {
					from := fmt.Sprintf("198.51.100.%d", client)
					alive = append(alive, tracked(from, vip, "10.0.2.2", int(port)))
					dead = append(dead, tracked(from, vip, "10.0.2.1", int(port)))
				}
			}
			m := holding(t, sample(1, change...))
			a := started(t, m)
			alive = append(alive, test.other...)
			m.tracked = slices.Concat(dead, alive)
			watching(t, a.followFlows)
			time.Sleep(2 * flowsEvery)
			m.setServer("nodes", "worker-1", "DOWN")
			time.Sleep(2 * flowsEvery)
			synctest.Wait()
			if got := m.flows(); !slices.Equal(got, alive) {
				t.Errorf("%s: conntrack has %d flows, want %d", name, len(got), len(alive))
			}
			m.meanwhile(func() {
				if m.walked != test.walks {
					t.Errorf("%s: %d walks, want %d", name, m.walked, test.walks)
				}
			})
		})
	}
}

// A client that may go on again in time keeps its flow, and has all of its time when it may not another time. A State in between that
// leaves it out as well neither hurries nor delays.
func TestReadmittedFlowsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := func(sequence uint64, prefixes ...string) *desired.State {
			return sample(sequence, service("dns", "192.0.2.10", 51), datagrams("dns"), draining(300), drainsOf("dns", 60), admitting("dns", prefixes...))
		}
		m := holding(t, state(1))
		a := started(t, m)
		enemy := tracked("198.51.100.66", "192.0.2.10", "10.0.2.2", 30053)
		m.tracked = []string{enemy}
		watching(t, a.followFlows)
		follows(t, a, state(2, "!198.51.100.66/32"))
		time.Sleep(50 * time.Second)
		follows(t, a, state(3))
		time.Sleep(5 * time.Second)
		follows(t, a, state(4, "!198.51.100.66/32"))
		time.Sleep(50 * time.Second)
		follows(t, a, state(5, "!198.51.100.0/24"))
		time.Sleep(9 * time.Second)
		if got := m.flows(); !slices.Equal(got, []string{enemy}) {
			t.Errorf("before the drain time, counted from the second time, conntrack has %q", got)
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if got := m.flows(); len(got) != 0 {
			t.Errorf("after it conntrack has %q", got)
		}
	})
}

// Where conntrack's table is so large that each walk takes long, health is followed in between; what has waited for its drain time does
// not wait once more.
func TestSlowWalksHoldNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns"), draining(60)))
		a := started(t, m)
		for n := range 9 {
			m.tracked = append(m.tracked, tracked("198.51.100.7", "192.0.2.10", fmt.Sprintf("10.0.3.%d", n), 30053))
		}
		var looks atomic.Int64
		m.strike = func(_ int, operation string) strike {
			switch {
			case strings.HasPrefix(operation, "run conntrack -D"):
				time.Sleep(cullLimit / 2)
			case operation == "haproxy show servers state":
				looks.Add(1)
			}
			return passes
		}
		watching(t, a.followFlows)
		time.Sleep(60 * time.Second)
		synctest.Wait()
		if got := len(m.flows()); got != 9 {
			t.Fatalf("before the drain time conntrack has %d flows", got)
		}
		before := looks.Load()
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if got := len(m.flows()); got != 0 || looks.Load()-before < 5 {
			t.Errorf("conntrack has %d flows, and health was looked at %d times", got, looks.Load()-before)
		}
	})
}
