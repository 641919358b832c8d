package loadbalancer_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

var (
	sharedCheck = desired.Check{Kind: desired.CheckTCP, Port: 10250, IntervalMillis: 2000, Rise: 2, Fall: 3}
	localCheck  = desired.Check{Kind: desired.CheckHTTP, Port: 32000, Path: "/healthz", IntervalMillis: 1000, Rise: 1, Fall: 1}
)

// factsOf are those of a Service that is as it says, with these nodes as its servers.
func factsOf(service loadbalancer.Service, nodes ...desired.Server) *loadbalancer.Facts {
	facts := &loadbalancer.Facts{Nodes: desired.Pool{Algorithm: desired.RoundRobin, Check: sharedCheck, Servers: nodes}}
	for _, f := range service.LoadBalancer.Frontends {
		facts.Ports = append(facts.Ports, loadbalancer.PortFacts{Port: desired.Port{Protocol: f.Protocol, Port: f.Port}, Name: f.Name, NodePort: f.NodePort})
	}
	return facts
}

func nodeServer(name, address string) desired.Server {
	return desired.Server{Name: name, Address: netip.MustParseAddr(address), Weight: 1}
}

func podServer(address string) desired.Server {
	return desired.Server{Name: address, Address: netip.MustParseAddr(address), Port: 8080, Weight: 1}
}

// podWeb is web served by pods.
func podWeb(name string, pods ...desired.Server) loadbalancer.Service {
	s := web(name, 80)
	f := &s.LoadBalancer.Frontends[0]
	f.NodePort, f.Pool = 0, &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckNone}, Servers: pods}
	s.Facts = factsOf(s)
	s.Facts.Ports[0].Pods = pods
	return s
}

func TestFactsOf(t *testing.T) {
	a, b := nodeServer("a", "192.0.2.21"), nodeServer("b", "192.0.2.22")
	one, two := podServer("10.1.0.1"), podServer("10.1.0.2")
	leaving := one
	leaving.Drains = true
	form := func(change ...func(*desired.LoadBalancer)) desired.LoadBalancer {
		lb := web("web", 80).LoadBalancer
		for _, c := range change {
			c(&lb)
		}
		return lb
	}
	pool := func(servers ...desired.Server) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.LeastConn, Check: sharedCheck, Servers: servers}
		}
	}
	local := func(servers ...desired.Server) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.LeastConn, Local: true, Check: localCheck, Servers: servers}
			lb.Pool.Check.IntervalMillis = 500
		}
	}
	all := func(lb *desired.LoadBalancer) {
		lb.Pool = &desired.Pool{Algorithm: desired.LeastConn, Check: sharedCheck, AllNodes: true, Family: 4}
	}
	checked := func(port uint16) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) { lb.Pool.Check.Port = port }
	}
	nodePort := func(port uint16) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) { lb.Frontends[0].NodePort = port }
	}
	pods := func(servers ...desired.Server) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) {
			lb.Frontends[0].NodePort = 0
			lb.Frontends[0].Pool = &desired.Pool{Algorithm: desired.Source, Check: desired.Check{Kind: desired.CheckTCP, IntervalMillis: 2000, Rise: 2, Fall: 3}, Servers: servers}
		}
	}
	shut := func(servers ...desired.Server) func(*desired.LoadBalancer) {
		return func(lb *desired.LoadBalancer) {
			pods(servers...)(lb)
			lb.Frontends[0].Pool.Algorithm, lb.Frontends[0].Pool.Check = desired.RoundRobin, desired.Check{Kind: desired.CheckNone}
		}
	}
	type facts = loadbalancer.Facts
	for _, test := range []struct {
		name       string
		form, want desired.LoadBalancer
		change     func(*facts) // of a Service at port 80, NodePort 30080, of nodes a and b
	}{
		{"nothing is new to the shared pool", form(), form(), nil},
		{"nor to one of its own", form(pool(a, b)), form(pool(a, b)), nil},
		{"nor to pods", form(pods(one, two)), form(pods(one, two)), func(f *facts) { f.Ports[0].NodePort, f.Ports[0].Pods = 0, []desired.Server{one, two} }},
		{"nodes came and went", form(pool(b, nodeServer("c", "192.0.2.23"))), form(pool(a, b)), nil},
		{"all nodes", form(pool(a)), form(all), func(f *facts) { f.Nodes.AllNodes, f.Nodes.Family, f.Nodes.Servers = true, 4, nil }},
		{"which nodes cannot be read", form(pool(b, nodeServer("c", "192.0.2.23"))), form(pool(b)), func(f *facts) { f.Unchosen = true }},
		{"nor can they, and all served", form(all), form(all), func(f *facts) { f.Unchosen = true }},
		{"a NodePort moved", form(), form(nodePort(31000)), func(f *facts) { f.Ports[0].NodePort = 31000 }},
		{"and is what is checked", form(pool(a, b), checked(30080)), form(pool(a, b), checked(31000), nodePort(31000)), func(f *facts) { f.Ports[0].NodePort = 31000 }},
		{"the port moved, by its name", form(), form(nodePort(31000)), func(f *facts) { f.Ports[0].Port.Port, f.Ports[0].NodePort = 8080, 31000 }},
		{"another port has the NodePort", form(), form(), func(f *facts) { f.Ports[0].Port.Port, f.Ports[0].Name = 8080, "other" }},
		{"nobody has the NodePort", form(), form(shut()), func(f *facts) { f.Ports[0].Port.Port, f.Ports[0].Name, f.Ports[0].NodePort = 8080, "other", 31000 }},
		{"no nodePort any more", form(), form(shut()), func(f *facts) { f.Ports[0].NodePort = 0 }},
		{"no nodePort any more, but pods", form(), form(shut(one)), func(f *facts) { f.Ports[0].NodePort, f.Ports[0].Pods = 0, []desired.Server{one} }},
		{"policy Local", form(), form(func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: desired.RoundRobin, Local: true, Check: localCheck, Servers: []desired.Server{a}}
		}), func(f *facts) { f.Nodes.Local, f.Nodes.Check, f.Nodes.Servers = true, localCheck, []desired.Server{a} }},
		{"policy Local with knobs", form(all), form(local(a), func(lb *desired.LoadBalancer) { lb.Pool.Check.IntervalMillis = 1000 }),
			func(f *facts) { f.Nodes.Local, f.Nodes.Check, f.Nodes.Servers = true, localCheck, []desired.Server{a} }},
		{"policy Cluster", form(local(a)), form(pool(a, b)), nil},
		{"another healthCheckNodePort", form(local(a)), form(local(a, b), checked(32001)), func(f *facts) {
			f.Nodes.Local, f.Nodes.Check = true, localCheck
			f.Nodes.Check.Port = 32001
		}},
		{"pods came and went", form(pods(one)), form(pods(two)), func(f *facts) { f.Ports[0].NodePort, f.Ports[0].Pods = 0, []desired.Server{two} }},
		{"a pod leaves", form(pods(one)), form(pods(leaving)), func(f *facts) { f.Ports[0].NodePort, f.Ports[0].Pods = 0, []desired.Server{leaving} }},
		{"pods of a port that has a nodePort now", form(pods(one)), form(pods(two)), func(f *facts) { f.Ports[0].Pods = []desired.Server{two} }},
		{"no networks of pods any more", form(pods(one)), form(pods()), func(f *facts) { f.Ports[0].NodePort = 0 }},
		{"pods of a port that is gone", form(pods(one, two)), form(pods(two)), func(f *facts) {
			f.Ports[0].Port.Port, f.Ports[0].Name, f.Ports[0].Pods = 8080, "other", []desired.Server{two, podServer("10.1.0.3")}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := factsOf(web("web", 80), a, b)
			if test.change != nil {
				test.change(f)
			}
			before := test.form.Clone()
			got := f.Of(test.form)
			if diff := cmp.Diff(test.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if again := f.Of(got); !cmp.Equal(got, again, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
				t.Errorf("the second time it is %+v", again)
			}
			if !cmp.Equal(before, test.form, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
				t.Error("what it was given was written")
			}
		})
	}
}

// servesPods fails unless the gateways have these pods behind a Service's first port.
func (s *site) servesPods(when, name string, want ...desired.Server) {
	s.t.Helper()
	time.Sleep(time.Second)
	for _, g := range s.gateways {
		lb := g.serves(name)
		if lb == nil || lb.Frontends[0].Pool == nil {
			s.t.Errorf("%s: %s serves %+v", when, g.name, lb)
		} else if got := lb.Frontends[0].Pool.Servers; !slices.Equal(got, want) {
			s.t.Errorf("%s: %s has %v, want %v", when, g.name, got, want)
		}
	}
}

// A pod that is gone leaves what is served although the gateways refuse whatever else there is to say, at once and after a restart;
// what they refuse is not tried again and again.
func TestPodsLeaveARefusedForm(t *testing.T) {
	for _, spec := range []string{"good", "faulty", "good, and the gateway names nobody", "faulty, and the gateway names nobody"} {
		t.Run(spec, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
				one, two, foreign := podServer("10.1.0.1"), podServer("10.1.0.2"), podServer("10.9.0.1")
				for _, g := range s.gateways {
					g.judge = refusing(foreign.Address, !strings.Contains(spec, "nobody"))
				}
				c := s.start()
				first := podWeb("pods", one, two)
				address := s.ensure(c, first).Addresses
				if !c.HasPods(key("pods")) || c.HasPods(key("stranger")) {
					t.Error("who is served by pods is not known")
				}
				if strings.HasPrefix(spec, "faulty") {
					s.refuse(c, "pods", nil)
				}
				offered := func() (n int) {
					for _, g := range s.gateways {
						_, applies := g.snapshot()
						n += len(applies)
					}
					return n
				}
				before := offered()
				c.Refill(key("pods"), podWeb("pods", two, foreign).Facts)
				s.servesPods("one went, a foreign one came", "pods", two)
				if n := offered() - before; n != 3 && !strings.Contains(spec, "nobody") {
					t.Errorf("%d times a gateway was offered a State, want a refusal and two that are taken", n)
				}
				c.Refill(key("pods"), podWeb("pods", foreign).Facts)
				s.servesPods("the other went", "pods")
				_, applies := s.gateways[0].snapshot()
				time.Sleep(10 * time.Minute)
				if _, after := s.gateways[0].snapshot(); len(after) > len(applies)+12 {
					t.Errorf("%d States in ten minutes in which nothing happened", len(after)-len(applies))
				}
				c.Refill(key("pods"), podWeb("pods", one).Facts)
				s.servesPods("the foreign one went", "pods", one)
				_ = c.stop()

				r := loadbalancer.Replay{Key: key("pods"), UID: "uid-pods", Published: address, Facts: podWeb("pods", two, foreign).Facts}
				c = s.start(r)
				defer c.stop()
				s.servesPods("after a restart", "pods")
				c.Refill(key("pods"), podWeb("pods", two).Facts)
				s.servesPods("mended", "pods", two)
			})
		})
	}
}

// refusing has a gateway refuse a State with a server at this address, and perhaps name the load balancer.
func refusing(address netip.Addr, names bool) func(*desired.State) (*wire.Result, error) {
	return func(s *desired.State) (*wire.Result, error) {
		var faults []wire.Fault
		for _, lb := range s.LoadBalancers {
			for _, pool := range lb.Pools() {
				if slices.ContainsFunc(pool.Servers, func(server desired.Server) bool { return server.Address == address }) {
					faults = append(faults, wire.Fault{Message: "a server is outside the limits"})
					if names {
						faults[len(faults)-1].LoadBalancer = &lb.Key
					}
				}
			}
		}
		if len(faults) == 0 {
			return nil, nil
		}
		return nil, &wire.Refusal{Code: wire.CodeLimits, Message: "outside the limits", Faults: faults}
	}
}

// What is so in the cluster holds for the last good form of a Service whose newest one is refused by a gateway, or pends.
func TestFactsHoldWhileAnotherFormIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, "10.0.0.0/24", "gw1", "gw2")
		for _, g := range s.gateways {
			g.judge = naming
		}
		c := s.start()
		defer c.stop()
		first := web("web", 80)
		first.Facts = factsOf(first)
		s.ensure(c, first)
		bad := web("web", badPort)
		bad.LoadBalancer.Frontends[0].Name = "http"
		bad.Facts = factsOf(bad)
		bad.Facts.Ports[0].NodePort = 31000
		if _, err := c.Ensure(t.Context(), bad); !isA[*loadbalancer.ServiceFaultError](err) {
			t.Fatal(err)
		}
		if f := s.gateways[1].serves("web").Frontends[0]; f.Port != 80 || f.NodePort != 31000 {
			t.Errorf("served as %+v", f)
		}
		rounds, _, _ := s.observer.seen()
		next := factsOf(bad)
		next.Ports[0].NodePort = 31001
		c.Refill(key("web"), next)
		time.Sleep(time.Second)
		if f := s.gateways[1].serves("web").Frontends[0]; f.Port != 80 || f.NodePort != 31001 {
			t.Errorf("served as %+v", f)
		}
		same := factsOf(bad)
		same.Ports[0].NodePort = 31001
		c.Refill(key("web"), same)
		time.Sleep(time.Second)
		if after, _, _ := s.observer.seen(); len(after) != len(rounds)+1 {
			t.Errorf("%d rounds for one change", len(after)-len(rounds))
		}
	})
}
