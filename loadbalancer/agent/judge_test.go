package agent

import (
	"net/netip"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// Where a flow of default/dns may be, whose UDP 53 has servers of its own.
func TestFlowJudge(t *testing.T) {
	key := desired.Key{Namespace: "default", Name: "dns"}
	node := func(n string, change func(*desired.Server)) desired.Server {
		s := desired.Server{Name: "worker-" + n, Address: addr("10.0.2." + n), Weight: 1}
		if change != nil {
			change(&s)
		}
		return s
	}
	pod := func(address string, port uint16) desired.Server {
		return desired.Server{Name: address, Address: addr(address), Port: port, Weight: 1}
	}
	drains := func(s *desired.Server) { s.Drains = true }
	backup := func(s *desired.Server) { s.Backup = true }
	own := func(servers ...desired.Server) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) { lb.Pool = &desired.Pool{Servers: servers} }
	}
	localTo := func(servers ...desired.Server) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) { lb.Pool = &desired.Pool{Servers: servers, Local: true} }
	}
	pods := func(servers ...desired.Server) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) {
			f := &lb.Frontends[len(lb.Frontends)-1]
			f.NodePort, f.Pool = 0, &desired.Pool{Servers: servers}
		}
	}
	up := health{"slot": {"worker-1": "UP", "worker-2": "UP"}}
	for _, c := range []struct {
		name   string
		change func(*desired.LoadBalancer)
		health health
		target string
		denied bool
		want   flowVerdict
	}{
		{"a node that is up", own(node("1", nil)), up, "10.0.2.1:30053", false, stays},
		{"a node that fails", own(node("1", nil), node("2", nil)), health{"slot": {"worker-1": "DOWN", "worker-2": "UP"}}, "10.0.2.1:30053", false, lost},
		{"one taken out by hand", own(node("1", nil)), health{"slot": {"worker-1": "MAINT"}}, "10.0.2.1:30053", false, departs},
		{"one that drains", own(node("1", drains), node("2", nil)), health{"slot": {"worker-2": "UP"}}, "10.0.2.1:30053", false, stays},
		{"one that drains and is still there", own(node("1", drains), node("2", nil)), health{"slot": {"worker-1": "DOWN", "worker-2": "UP"}}, "10.0.2.1:30053", false, stays},
		{"a backup", own(node("1", backup), node("2", nil)), health{"slot": {"worker-1_backup": "NOCHECK", "worker-2": "UP"}}, "10.0.2.1:30053", false, stays},
		{"one that is no server", own(node("2", nil)), up, "10.0.2.1:30053", false, departs},
		{"one without an endpoint, of a Local one", localTo(node("2", nil)), up, "10.0.2.1:30053", false, lost},
		{"one that was excluded, of a Local one", localTo(node("2", nil)), up, "10.0.2.99:30053", false, departs},
		{"a NodePort of yesterday", own(node("1", nil)), up, "10.0.2.1:30054", false, lost},
		{"a pod", pods(pod("10.1.0.1", 5353), pod("10.1.0.2", 5454)), nil, "10.1.0.1:5353", false, stays},
		{"a pod that HAProxy does not know", pods(pod("10.1.0.1", 5353)), up, "10.1.0.1:5353", false, stays},
		{"another pod's port", pods(pod("10.1.0.1", 5353), pod("10.1.0.2", 5454)), nil, "10.1.0.1:5454", false, lost},
		{"a pod that is gone", pods(pod("10.1.0.2", 5454)), nil, "10.1.0.1:5353", false, lost},
		{"a pod that is gone, of a client that may not go on", pods(pod("10.1.0.2", 5454)), nil, "10.1.0.1:5353", true, lost},
		{"a client that may not go on", pods(pod("10.1.0.1", 5353)), nil, "10.1.0.1:5353", true, departs},
		{"a node, now that there are pods", pods(pod("10.1.0.1", 5353)), nil, "10.0.2.1:30053", false, lost},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sample(1, service("dns", "192.0.2.10", 51), datagrams("dns"))
			c.change(&s.LoadBalancers[0])
			if c.denied {
				s.LoadBalancers[0].DenySources = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
			}
			judge := newFlowJudge(&rendering{revision: &revision{state: s}, slots: haproxy.Slots{{Key: key}: "slot"}}, c.health)
			f := flow{protocol: desired.UDP, client: netip.MustParseAddrPort("198.51.100.7:40000"), vip: netip.MustParseAddrPort("192.0.2.10:53"),
				node: netip.MustParseAddrPort(c.target), ours: true}
			if got := judge.of(f); got != c.want {
				t.Errorf("judged %d, want %d", got, c.want)
			}
		})
	}
}

// A load balancer's own drain time is that of its flows.
func TestFlowPatience(t *testing.T) {
	s := sample(1, service("dns", "192.0.2.10", 51), datagrams("dns"), draining(90))
	f := flow{protocol: desired.UDP, vip: netip.MustParseAddrPort("192.0.2.10:53")}
	for seconds, want := range map[int]time.Duration{0: 90 * time.Second, 5: 5 * time.Second} {
		s.LoadBalancers[0].DrainSeconds = seconds
		if got := newFlowJudge(&rendering{revision: &revision{state: s}}, nil).patience(f, departs); got != want {
			t.Errorf("with %d seconds of its own a flow lives on for %s", seconds, got)
		}
	}
}

// The last server, a backup, gets flows although HAProxy has it by another name and checks it not.
func TestBackupsAreFit(t *testing.T) {
	s := sample(1, service("dns", "192.0.2.10", 51), datagrams("dns"))
	key := s.LoadBalancers[0].Key
	s.LoadBalancers[0].Pool = &desired.Pool{Servers: []desired.Server{
		{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1, Backup: true}, {Name: "worker-2", Address: addr("10.0.2.2"), Weight: 1}}}
	known := health{"slot": {"worker-1_backup": "NOCHECK", "worker-2": "DOWN"}}
	unfit := known.unfit(s, haproxy.Slots{{Key: key}: "slot"}).Servers[key]
	if unfit["worker-1"] || !unfit["worker-2"] {
		t.Errorf("unfit are %v", unfit)
	}
}
