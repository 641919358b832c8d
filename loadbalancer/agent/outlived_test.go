package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// drainsOf gives a load balancer a drain time of its own.
func drainsOf(name string, seconds int) func(*desired.State) {
	return func(s *desired.State) {
		for i := range s.LoadBalancers {
			if s.LoadBalancers[i].Name == name {
				s.LoadBalancers[i].DrainSeconds = seconds
			}
		}
	}
}

func without(name string) func(*desired.State) {
	return func(s *desired.State) {
		s.LoadBalancers = slices.DeleteFunc(s.LoadBalancers, func(lb desired.LoadBalancer) bool { return lb.Name == name })
	}
}

// apiAt moves the API servers to this port, and the control plane to another one of its VIP.
func apiAt(endpoint string, port uint16) func(*desired.State) {
	return func(s *desired.State) {
		s.ControlPlane.Port = port
		s.ControlPlane.Endpoints = []netip.AddrPort{netip.MustParseAddrPort(endpoint)}
		s.ControlPlane.ExtraPorts = nil
	}
}

// As ss shows them. HAProxy's user is 104.
const (
	ofWeb      = "192.0.2.10:80 198.51.100.7:40000 uid:104 ino:7"
	ofCache    = "192.0.2.10:6379 198.51.100.7:40001 uid:104 ino:8"
	byVIP      = "192.0.2.10:50000 198.51.100.9:443 ino:9"          // root's own, from an address that the kernel chose
	toWorker2  = "10.0.0.2:50001 10.0.2.2:30010 uid:104 ino:10"     // web's
	cacheTo2   = "10.0.0.2:50002 10.0.2.2:37379 uid:104 ino:11"     // cache's
	toWorker1  = "10.0.0.2:50003 10.0.2.1:30010 uid:104 ino:12"     // web's
	toAPI      = "10.0.0.2:50004 10.0.1.9:6443 uid:104 ino:13"      // an API server that is gone
	ofAPI      = "192.0.2.1:6443 198.51.100.7:40002 uid:104 ino:14" // through the control plane's VIP
	ofPeer     = "10.0.0.2:50005 10.0.0.3:7482 uid:104 ino:15"      // stick-tables
	monitoring = "10.0.0.2:50006 10.0.2.2:30010 uid:1000 ino:16"    // somebody else's, to a NodePort
	toAPI1     = "10.0.0.2:50008 10.0.1.1:6443 uid:104 ino:17"      // the API server of the State
	ofJoin     = "192.0.2.1:8132 198.51.100.7:40003 uid:104 ino:18" // through an extra port
	toJoin     = "10.0.0.2:50009 10.0.1.1:18132 uid:104 ino:19"
	check      = "10.0.0.2:50010 10.0.2.2:10256 uid:104 ino:20"        // of HAProxy's own
	toNobody   = "10.0.0.2:50007 10.0.2.2:39999 uid:104 cgroup:/x <->" // of a Service that left long ago
)

// outliving is an agent that watches, with two Services at one VIP.
func outliving(t *testing.T, connections ...string) (*Agent, *machine) {
	t.Helper()
	m := holding(t, outlivedBy(1))
	m.connections = connections
	a := started(t, m)
	watching(t, a.expelUnwelcome)
	time.Sleep(time.Minute) // it has looked, and waits to be told
	return a, m
}

func outlivedBy(sequence uint64, change ...func(*desired.State)) *desired.State {
	return sample(sequence, slices.Concat([]func(*desired.State){service("web", "192.0.2.10", 51), shares("cache", "192.0.2.10", 6379),
		controlPlane, draining(120), drainsOf("web", 60)}, change)...)
}

func follows(t *testing.T, a *Agent, s *desired.State) {
	t.Helper()
	if result, refusal := a.apply(t.Context(), sign(t, s)); refusal != nil || len(result.Faults) > 0 {
		t.Fatalf("%+v, %v", result, refusal)
	}
	synctest.Wait()
}

// Nothing ends that the State explains, nor what is not HAProxy's, nor the control plane's.
func TestConnectionsThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := []string{ofWeb, ofCache, byVIP, toWorker2, cacheTo2, toWorker1, toAPI, ofAPI, ofPeer, monitoring}
		a, m := outliving(t, all...)
		time.Sleep(time.Hour)
		expectOpen(t, m, "an hour later", all...)
		follows(t, a, outlivedBy(2, node("worker-3", "10.0.2.3")))
		time.Sleep(time.Hour)
		expectOpen(t, m, "with a node more", all...)
	})
}

// Whatever worker of HAProxy has a connection: when its port is gone it ends, in the drain time that its Service had.
func TestConnectionsOfARemovedPortEnd(t *testing.T) {
	for name, drain := range map[string]time.Duration{"web": time.Minute, "cache": 2 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			a, m := outliving(t, ofWeb, ofCache, byVIP)
			follows(t, a, outlivedBy(2, without(name)))
			time.Sleep(drain - 2*time.Second)
			expectOpen(t, m, "before the drain time of "+name, ofWeb, ofCache, byVIP)
			time.Sleep(4 * time.Second)
			stays := ofWeb
			if name == "web" {
				stays = ofCache
			}
			expectOpen(t, m, "after it", stays, byVIP)
			before := m.ran()
			time.Sleep(time.Hour)
			if n := m.ran() - before; n > 2 {
				t.Errorf("%d programs in an hour in which nothing happened", n)
			}
		})
	}
}

// A node that left loses the connections of each Service in that one's drain time, also those of workers that a reload has left
// behind, and of an agent before this one.
func TestConnectionsToADepartedNodeEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, m := outliving(t, toWorker2, cacheTo2, toWorker1, ofPeer, monitoring, toAPI)
		follows(t, a, outlivedBy(2, func(s *desired.State) { s.Nodes = s.Nodes[:1] }))
		restarted := m.clone()
		time.Sleep(58 * time.Second)
		expectOpen(t, m, "before web's drain time", toWorker2, cacheTo2, toWorker1, ofPeer, monitoring, toAPI)
		time.Sleep(4 * time.Second)
		expectOpen(t, m, "after it", cacheTo2, toWorker1, ofPeer, monitoring, toAPI)
		time.Sleep(time.Minute)
		expectOpen(t, m, "after cache's", toWorker1, ofPeer, monitoring, toAPI)
		watching(t, started(t, restarted).expelUnwelcome)
		time.Sleep(2*time.Minute + 2*time.Second)
		expectOpen(t, restarted, "the next agent", toWorker1, ofPeer, monitoring, toAPI)
	})
}

// A node that returns is found to be welcome: when it leaves another time its connections have all of their time again.
func TestConnectionsToAReturningNodeCountAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leaves := func(s *desired.State) { s.Nodes = s.Nodes[:1] }
		a, m := outliving(t, toWorker2, cacheTo2)
		follows(t, a, outlivedBy(2, leaves))
		time.Sleep(5 * time.Second)
		follows(t, a, outlivedBy(3))
		time.Sleep(50 * time.Second)
		follows(t, a, outlivedBy(4, leaves))
		time.Sleep(58 * time.Second)
		expectOpen(t, m, "before web's drain time, counted from the second time", toWorker2, cacheTo2)
		time.Sleep(4 * time.Second)
		expectOpen(t, m, "after it", cacheTo2)
	})
}

// What becomes of the control plane's ports and servers ends no watch; nor does an agent that starts anew where it can know.
func TestWatchesOutliveAChangeOfTheControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		watches := []string{ofAPI, ofJoin, toAPI1, toJoin}
		a, m := outliving(t, append([]string{ofCache}, watches...)...)
		follows(t, a, outlivedBy(2, without("cache"), apiAt("10.0.1.1:7443", 443)))
		restarted := m.clone()
		time.Sleep(time.Hour)
		expectOpen(t, m, "its ports are others", watches...)
		watching(t, started(t, restarted).expelUnwelcome)
		time.Sleep(time.Hour)
		expectOpen(t, restarted, "its ports are others, and so is the agent", watches...)
		follows(t, a, outlivedBy(3, without("cache"), apiAt("10.0.1.2:8443", 443), func(s *desired.State) { s.Nodes = s.Nodes[:1] }))
		time.Sleep(time.Hour)
		expectOpen(t, m, "its server is another one as well", watches...)
	})
}

// HAProxy's own checks are nobody's connections: the loop rests although there are always some.
func TestChecksHaveNotToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checked := func(s *desired.State) {
			s.NodeCheck = desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 2000, Rise: 2, Fall: 3}
		}
		a, m := outliving(t, check)
		follows(t, a, outlivedBy(2, checked, without("cache")))
		time.Sleep(5 * time.Minute)
		before := m.counted()
		time.Sleep(time.Hour)
		if n := m.counted() - before; n > 0 {
			t.Errorf("%d operations in an hour in which nothing happened", n)
		}
		expectOpen(t, m, "an hour later", check)
	})
}

// The drain time of a load balancer that left is not that of the next one with its NodePort.
func TestFormerDrainTimeIsNobodyElses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := func(s *desired.State) {
			service("next", "192.0.2.12", 51)(s)
			s.LoadBalancers[len(s.LoadBalancers)-1].Frontends[0].NodePort = 30010 // web's
		}
		a, m := outliving(t, toWorker2)
		follows(t, a, outlivedBy(2, without("web")))
		follows(t, a, outlivedBy(3, without("web"), next))
		follows(t, a, outlivedBy(4, without("web")))
		time.Sleep(118 * time.Second)
		expectOpen(t, m, "after web's drain time, before the State's", toWorker2)
		time.Sleep(4 * time.Second)
		expectOpen(t, m, "after the State's")
	})
}

// Who HAProxy's user is, its worker tells: a site may have it elsewhere than in /etc/passwd.
func TestHAProxyUserIsItsWorkers(t *testing.T) {
	for status, want := range map[string]string{
		"Name:\thaproxy\nUid:\t998\t998\t998\t998\n": "uid:998",
		"Name:\thaproxy\nUid:\t0\t0\t0\t0\n":         "", // ss shows no uid for root's
		"":                                           "",
	} {
		m := holding(t, outlivedBy(1))
		m.files[fmt.Sprintf("/proc/%d/status", m.haproxy.pid)] = status
		if got := started(t, m).haproxyUser(); got != want {
			t.Errorf("with status %q it is %q, want %q", status, got, want)
		}
	}
}

// A pod that left its Service, while the node and the Service stay.
func TestConnectionsToADepartedServerEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := local("web", "10.0.2.1", "10.0.2.2")
		m := holding(t, outlivedBy(1, own))
		m.connections = []string{toWorker1, toWorker2, cacheTo2, toNobody}
		a := started(t, m)
		watching(t, a.expelUnwelcome)
		time.Sleep(time.Minute)
		follows(t, a, outlivedBy(2, local("web", "10.0.2.1")))
		time.Sleep(62 * time.Second)
		expectOpen(t, m, "after web's drain time, and the State's for what nobody knows", toWorker1, cacheTo2)
	})
}

// HAProxy's own servers go by the same times: a slot by its load balancer's, the shared pool by the longest.
func TestDepartedGoByTheirLoadBalancersTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const other = "10.0.2.9"
		web := service("web", "192.0.2.10", 51)
		m := holding(t, sample(1, web, ownPool(desired.Server{Name: "other", Address: addr(other), Weight: 1}), draining(300), drainsOf("web", 60),
			service("db", "192.0.2.11", 51), drainsOf("db", 600)))
		a := started(t, m)
		watching(t, a.endDeparted)
		time.Sleep(10 * time.Second)
		follows(t, a, sample(2, service("db", "192.0.2.11", 51), draining(300), drainsOf("db", 600)))
		m.leaves(slot1+"/other", other)
		m.leaves("nodes/worker-9", other)
		a.setLeftover()
		time.Sleep(70 * time.Second)
		expectDeparted(t, m, "after web's drain time", "nodes/worker-9")
		time.Sleep(500 * time.Second)
		expectDeparted(t, m, "before db's", "nodes/worker-9")
		time.Sleep(40 * time.Second)
		expectDeparted(t, m, "after db's")
	})
}
