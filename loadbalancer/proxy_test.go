package loadbalancer_test

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const proxyMAC = "52:54:00:ff:ff:ff"

// onNetwork has the gateways say that they are on a network.
func (s *site) onNetwork(prefix, router string) {
	for _, g := range s.gateways {
		g.links = []wire.Link{{Interface: "eth0", Prefixes: []netip.Prefix{netip.MustParsePrefix(prefix)}, Routers: addresses(router)}}
	}
}

// toldOfProxies gives what was told of proxies, and forgets what was told.
func (s *site) toldOfProxies() (told []*loadbalancer.ProxyARPError) {
	for _, err := range s.observer.toldOf() {
		if proxy, ok := errors.AsType[*loadbalancer.ProxyARPError](err); ok {
			told = append(told, proxy)
		}
	}
	return told
}

func ranges(t *testing.T, text string) []netipx.IPRange {
	r, err := ipam.ParseRange(text)
	if err != nil {
		t.Fatal(err)
	}
	return []netipx.IPRange{r}
}

func (s *site) quarantined() int {
	state, _ := s.gateways[0].snapshot()
	return len(state.Quarantined)
}

// TestSmallPoolBehindAProxy: what the pool cannot tell, its network can.
func TestSmallPoolBehindAProxy(t *testing.T) {
	for _, pool := range []string{"10.0.0.10", "10.0.0.10-10.0.0.11", "10.0.0.10-10.0.0.12"} {
		t.Run(pool, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newProbedSite(t, pool, "gw1", "gw2")
				s.onNetwork("10.0.0.0/24", "10.0.0.254")
				s.network.setProxy(proxyMAC)
				s.network.has("10.0.0.28", wire.Neighbor{MAC: "52:54:00:00:00:77"}) // a machine that we know nothing of
				c := s.start()
				defer c.stop()
				if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.10" {
					t.Errorf("a has %s", got)
				}
				if told := s.toldOfProxies(); len(told) != 1 || told[0].MAC != proxyMAC || told[0].Family != ipam.IPv4 {
					t.Errorf("told %v", told)
				}
				if s.quarantined() != 0 {
					t.Error("an address is quarantined")
				}
			})
		})
	}
}

// TestTinyNetworkBehindAProxy: who we know of, and addresses that nobody can have, tell nothing by their silence.
func TestTinyNetworkBehindAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.10", "gw1")
		s.onNetwork("10.0.0.8/29", "10.0.0.9")
		s.network.hushed = []string{"10.0.0.8", "10.0.0.9", "10.0.0.14", "10.0.0.15"}
		s.settings.Gateways[0].VRRPAddress = addresses("10.0.0.14")[0]
		s.network.setProxy(proxyMAC)
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		if told := s.toldOfProxies(); len(told) != 1 {
			t.Errorf("told %v", told)
		}
	})
}

// TestSmallPoolOfAStranger: a machine with all addresses of a pool is no proxy, if the rest of the network stays silent.
func TestSmallPoolOfAStranger(t *testing.T) {
	for _, network := range []string{"10.0.0.0/24", "10.0.0.8/29"} {
		t.Run(network, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newProbedSite(t, "10.0.0.10-10.0.0.11", "gw1")
				s.onNetwork(network, "10.0.0.9")
				for _, address := range []string{"10.0.0.10", "10.0.0.11", "10.0.0.12"} {
					s.network.has(address, stranger)
				}
				c := s.start()
				defer c.stop()
				if got, err := c.Ensure(t.Context(), web("a", 80)); !isA[*ipam.ExhaustedError](err) {
					t.Errorf("a: %v, %v", got, err)
				}
				time.Sleep(time.Second)
				if s.quarantined() != 2 {
					t.Errorf("%d addresses are quarantined", s.quarantined())
				}
				if told := s.toldOfProxies(); len(told) != 0 {
					t.Errorf("told %v", told)
				}
			})
		})
	}
}

// TestNetworkCannotTell: of a pool of two on a network that nobody knows, a machine that answers for both has both.
func TestNetworkCannotTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.10-10.0.0.11", "gw1")
		s.network.setProxy(proxyMAC)
		c := s.start()
		defer c.stop()
		if _, err := c.Ensure(t.Context(), web("a", 80)); !isA[*ipam.ExhaustedError](err) {
			t.Errorf("a: %v", err)
		}
	})
}

// TestOtherPoolsTellAProxy: their free addresses are surely nobody's.
func TestOtherPoolsTellAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.10", "gw1")
		s.settings.PoolSettings = poolsOf(t, map[string]string{"default": "10.0.0.10", "more": "10.0.0.100-10.0.0.120"})
		away := s.settings.Pools[1]
		away.Name, away.Ranges = "away", ranges(t, "10.9.0.0/24")
		s.settings.Pools = slices.Insert(s.settings.Pools, 1, away)
		s.settings.Unprobed = nil
		s.onNetwork("10.0.0.0/24", "10.0.0.254")
		s.network.setProxy(proxyMAC)
		c := s.start()
		defer c.stop()
		time.Sleep(time.Second)
		s.ensure(c, requesting(web("a", 80), "10.0.0.10"))
		if told := s.toldOfProxies(); len(told) != 1 || told[0].Pool != "default" {
			t.Errorf("told %v", told)
		}
		more := netip.MustParsePrefix("10.0.0.96/27")
		for _, address := range s.network.questions()[1] {
			if !more.Contains(address) {
				t.Errorf("%s was asked for", address)
			}
		}
	})
}

// TestNodeThatAnswersForAllVIPs is no proxy: it answers for none that is free.
func TestNodeThatAnswersForAllVIPs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.10-10.0.0.13", "gw1")
		s.onNetwork("10.0.0.0/24", "10.0.0.254")
		c := s.start()
		defer c.stop()
		for i := range 4 {
			address := s.ensure(c, web(fmt.Sprintf("s%d", i), 80)).Addresses[0]
			s.network.has(address.String(), worker)
		}
		time.Sleep(2 * time.Minute)
		_, _, notices := s.observer.seen()
		if told := s.toldOfProxies(); len(told) != 0 || len(notices) != 4 {
			t.Errorf("told %v, %d notices", told, len(notices))
		}
	})
}

// TestProxyARPEnds: new addresses are asked for again, without anybody's doing.
func TestProxyARPEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1", "gw2")
		s.network.setProxy(proxyMAC)
		c := s.start()
		defer c.stop()
		s.ensure(c, web("a", 80))
		time.Sleep(10 * time.Minute)
		if told := s.toldOfProxies(); len(told) != 1 || told[0].Ended {
			t.Fatalf("told %v", told)
		}
		s.network.setProxy("")
		s.network.has("10.0.0.20", wire.Neighbor{MAC: proxyMAC}) // not all is lost yet
		time.Sleep(3 * time.Minute)
		s.network.has("10.0.0.2", stranger)
		if got := s.ensure(c, web("b", 80)).Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("b has %s, though the proxy still answers", got)
		}
		s.network.has("10.0.0.20")
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.blind = true })
		}
		time.Sleep(3 * time.Minute)
		if told := s.toldOfProxies(); len(told) != 0 {
			t.Errorf("nobody could ask, and told was %v", told)
		}
		for _, g := range s.gateways {
			g.change(func(g *fakeGateway) { g.blind = false })
		}
		time.Sleep(2 * time.Minute)
		told := s.toldOfProxies()
		if len(told) != 1 || !told[0].Ended || !strings.Contains(told[0].Error(), "asked for again") {
			t.Fatalf("told %v", told)
		}
		s.network.has("10.0.0.3", stranger)
		if got := s.ensure(c, web("c", 80)).Addresses[0].String(); got != "10.0.0.4" || s.quarantined() != 1 {
			t.Errorf("c has %s, %d addresses are quarantined", got, s.quarantined())
		}
		s.network.setProxy(proxyMAC)
		s.ensure(c, web("d", 80))
		if told := s.toldOfProxies(); len(told) != 1 || told[0].Ended {
			t.Errorf("when it came again: told %v", told)
		}
	})
}

// TestProxyOfOneFamily: the other family's addresses are looked for all the same.
func TestProxyOfOneFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		s.settings.Pools[0].Ranges = append(s.settings.Pools[0].Ranges, ranges(t, "2001:db8::1-2001:db8::20")...)
		s.network.setProxy(proxyMAC)
		c := s.start()
		defer c.stop()
		s.network.has("2001:db8::2", stranger)
		for i, want := range []string{"2001:db8::1", "2001:db8::3"} {
			service := web(fmt.Sprintf("s%d", i), 80)
			service.Request.Families = []ipam.Family{ipam.IPv4, ipam.IPv6}
			if got := s.ensure(c, service).Addresses; got[1].String() != want {
				t.Errorf("%s has %v, want %s", service.LoadBalancer.Key, got, want)
			}
		}
		if told := s.toldOfProxies(); len(told) != 1 || told[0].Family != ipam.IPv4 {
			t.Errorf("told %v", told)
		}
	})
}

// TestGatewayThatCannotAsk: that it says so at once is no answer.
func TestGatewayThatCannotAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1", "gw2")
		s.gateway("gw1").blind = true
		s.network.has("10.0.0.1", stranger)
		c := s.start()
		defer c.stop()
		if got := s.ensure(c, web("a", 80)).Addresses[0].String(); got != "10.0.0.2" {
			t.Errorf("a has %s: gw2 was not heard", got)
		}
		s.gateway("gw2").change(func(g *fakeGateway) { g.dead, g.hanging = true, true })
		started := time.Now()
		s.ensure(c, web("b", 80))
		if took := time.Since(started); took > 3500*time.Millisecond {
			t.Errorf("b waited %v", took)
		}
	})
}

// TestSlowerGatewayKeepsItsConnection: a call that is broken off costs it.
func TestSlowerGatewayKeepsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1", "gw2")
		s.gateway("gw1").looks = 3 * time.Second
		c := s.start()
		defer c.stop()
		started := time.Now()
		s.ensure(c, web("a", 80))
		if took := time.Since(started); took > time.Second {
			t.Errorf("a waited %v", took)
		}
		time.Sleep(10 * time.Second)
		s.gateway("gw1").change(func(g *fakeGateway) {
			if g.broken > 0 {
				t.Errorf("%d calls were broken off", g.broken)
			}
		})
	})
}

// TestQuarantineInAFullPool: a machine that still has all addresses that it had is no proxy.
func TestQuarantineInAFullPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.8", "gw1")
		for i := range 3 {
			s.network.has(fmt.Sprintf("10.0.0.%d", i+1), stranger)
		}
		c := s.start()
		defer c.stop()
		for i := range 5 {
			s.ensure(c, web(fmt.Sprintf("s%d", i), 80))
		}
		time.Sleep(25 * time.Minute)
		if told := s.toldOfProxies(); len(told) != 0 || s.quarantined() != 3 {
			t.Errorf("told %v, %d addresses are quarantined", told, s.quarantined())
		}
	})
}

// TestSilenceInTheSameQuestion: a machine with many addresses is no proxy when the one beside is nobody's.
func TestSilenceInTheSameQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newProbedSite(t, "10.0.0.1-10.0.0.20", "gw1")
		for _, address := range []string{"10.0.0.2", "10.0.0.17", "10.0.0.18", "10.0.0.19", "10.0.0.20"} {
			s.network.has(address, stranger)
		}
		c := s.start()
		defer c.stop()
		time.Sleep(time.Second)
		var group sync.WaitGroup
		group.Go(func() { s.ensure(c, web("a", 80)) })
		time.Sleep(100 * time.Millisecond) // the next two are asked for together, after this one
		group.Go(func() { s.ensure(c, web("b", 80)) })
		group.Go(func() { s.ensure(c, web("c", 80)) })
		group.Wait()
		time.Sleep(time.Second)
		if told := s.toldOfProxies(); len(told) != 0 || s.quarantined() != 1 {
			t.Errorf("told %v, %d addresses are quarantined", told, s.quarantined())
		}
	})
}
