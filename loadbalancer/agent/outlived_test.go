package agent

import (
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

// As ss shows them. HAProxy's user is 104.
const (
	ofWeb      = "192.0.2.10:80 198.51.100.7:40000 uid:104 ino:7"
	ofCache    = "192.0.2.10:6379 198.51.100.7:40001 uid:104 ino:8"
	byVIP      = "192.0.2.10:50000 198.51.100.9:443 ino:9"             // root's own, from an address that the kernel chose
	toWorker2  = "10.0.0.2:50001 10.0.2.2:30010 uid:104 ino:10"        // web's
	cacheTo2   = "10.0.0.2:50002 10.0.2.2:37379 uid:104 ino:11"        // cache's
	toWorker1  = "10.0.0.2:50003 10.0.2.1:30010 uid:104 ino:12"        // web's
	toAPI      = "10.0.0.2:50004 10.0.1.9:6443 uid:104 ino:13"         // an API server that is gone
	ofAPI      = "192.0.2.1:6443 198.51.100.7:40002 uid:104 ino:14"    // through the control plane's VIP
	ofPeer     = "10.0.0.2:50005 10.0.0.3:7482 uid:104 ino:15"         // stick-tables
	monitoring = "10.0.0.2:50006 10.0.2.2:30010 uid:1000 ino:16"       // somebody else's, to a NodePort
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
			before := m.counted()
			time.Sleep(time.Hour)
			if n := m.counted() - before; n > 2 {
				t.Errorf("%d operations in an hour in which nothing happened", n)
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
