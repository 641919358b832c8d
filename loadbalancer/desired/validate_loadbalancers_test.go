package desired_test

import (
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestValidateLoadBalancers(t *testing.T) {
	lb := func(change func(lb *desired.LoadBalancer)) func(s *desired.State) {
		return func(s *desired.State) { change(&s.LoadBalancers[1]) }
	}
	const owner = "default/local loadBalancers[default/local]"
	runFaultTests(t, []faultTest{
		{"names", lb(func(lb *desired.LoadBalancer) { lb.Key, lb.UID = desired.Key{Namespace: "a\nb", Name: ""}, "{}" }),
			[]string{"a\nb/ loadBalancers[1].namespace: \"a\\nb\" is no DNS label", "a\nb/ loadBalancers[1].name: \"\" is no DNS label", `a` + "\nb/ loadBalancers[1].uid: \"{}\" is no identifier"}},
		{"key twice", lb(func(lb *desired.LoadBalancer) { lb.Name = "api" }), []string{"default/api loadBalancers[default/api]: has the key of another load balancer"}},
		{"no address", lb(func(lb *desired.LoadBalancer) { lb.Addresses = nil }), []string{owner + ".addresses: has 0 IPv4 and 0 IPv6"}},
		{"two of a family", func(s *desired.State) {
			s.VIPs = append(s.VIPs, desired.VIP{Address: addr("192.0.2.12"), RouterID: 51})
			s.LoadBalancers[1].Addresses = append(s.LoadBalancers[1].Addresses, addr("192.0.2.12"))
		}, []string{owner + ".addresses: has 2 IPv4 and 0 IPv6"}},
		{"not floating", lb(func(lb *desired.LoadBalancer) { lb.Addresses[0] = addr("192.0.2.99") }), []string{owner + ".addresses[0]: 192.0.2.99 is not one of the vips"}},
		{"no frontend", lb(func(lb *desired.LoadBalancer) { lb.Frontends = nil }), []string{owner + ".frontends: are missing"}},
		{"frontend", lb(func(lb *desired.LoadBalancer) { lb.Frontends[0] = desired.Frontend{Name: "HTTP", Protocol: "tcp"} }), []string{
			owner + `.frontends[0].name: "HTTP" is no DNS label`, owner + `.frontends[0].protocol: is "tcp"; allowed are TCP, UDP and SCTP`,
			owner + ".frontends[0].port: is 0", owner + ".frontends[0].nodePort: is 0"}},
		{"idle time", lb(func(lb *desired.LoadBalancer) { lb.UDPIdleSeconds = 86401 }), []string{owner + ".udpIdleSeconds: is 86401; allowed are 1 to 86400, or 0"}},
		{"knobs", lb(func(lb *desired.LoadBalancer) {
			lb.AffinitySeconds, lb.DrainSeconds, lb.ConnectionLimit, lb.SourceRate = -1, 86401, -1, 10_000_001
			lb.Timeouts = &desired.Timeouts{ConnectMillis: 49, IdleSeconds: 604_801, CheckMillis: 60_001}
		}), []string{owner + ".affinitySeconds: is -1; allowed are 1 to 86400", owner + ".drainSeconds: is 86401", owner + ".connectionLimit: is -1",
			owner + ".sourceRate: is 10000001", owner + ".timeouts.connectMillis: is 49; allowed are 50 to 60000",
			owner + ".timeouts.idleSeconds: is 604801", owner + ".timeouts.checkMillis: is 60001"}},
		{"without a pool", lb(func(lb *desired.LoadBalancer) { lb.Pool, lb.Frontends[0].ProxyProtocol = nil, desired.ProxyV1 }), []string{
			owner + ".frontends[0].proxyProtocol: is v1; it needs a pool", owner + ".timeouts: are set; they need a pool",
			owner + ".clientSource: is set; it needs a pool"}},
		{"proxy protocol", lb(func(lb *desired.LoadBalancer) {
			lb.Frontends[0].ProxyProtocol, lb.Frontends[1].ProxyProtocol, lb.Frontends[1].Protocol = "v3", desired.ProxyV1, desired.UDP
		}), []string{owner + `.frontends[0].proxyProtocol: is "v3"; allowed are v1 and v2`, owner + ".frontends[1].proxyProtocol: is v1; allowed is it for TCP only"}},
		{"a frontend's own servers", lb(func(lb *desired.LoadBalancer) {
			lb.Pool.Servers[0].Port, lb.Frontends[1].Pool.Servers[0].Port, lb.Frontends[1].Pool.Servers[0].Weight = 80, 0, 0
		}), []string{owner + ".frontends[1].pool.servers[0].weight: is 0", owner + ".frontends[1].nodePort: is 0, and a server of the frontend's pool has no port",
			owner + ".pool.servers[0].port: is 80; only servers of a frontend's own pool have a port"}},
		{"checks of a frontend's own servers", lb(func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool = &desired.Pool{Algorithm: desired.RoundRobin, Check: desired.Check{Kind: desired.CheckTCP, IntervalMillis: 2000, Rise: 2, Fall: 3},
				Servers: []desired.Server{{Name: "a", Address: addr("10.1.0.1"), Port: 8080, Weight: 1}}}
			other := *lb.Frontends[0].Pool
			other.Servers = []desired.Server{{Name: "a", Address: addr("10.1.0.1"), Weight: 1}}
			lb.Frontends[1].Pool, lb.Frontends[1].NodePort = &other, 30000
		}), []string{owner + ".frontends[1].pool.check.port: is 0"}},
		{"port twice", lb(func(lb *desired.LoadBalancer) { lb.Frontends = append(lb.Frontends, lb.Frontends[0]) }),
			[]string{owner + ".frontends[3].port: TCP port 80 of 192.0.2.11 is claimed by default/local and by default/local"}},
		{"pool", lb(func(lb *desired.LoadBalancer) {
			lb.Pool = &desired.Pool{Algorithm: "static-rr", Check: desired.Check{Kind: desired.CheckTCP, IntervalMillis: 100, Rise: 1, Fall: 1}}
		}), []string{owner + `.pool.algorithm: is "static-rr"; allowed are roundrobin, leastconn`, owner + ".pool.check.port: is 0"}},
		{"servers", lb(func(lb *desired.LoadBalancer) {
			lb.Pool.Servers = []desired.Server{
				{Name: "a", Address: addr("10.0.2.1"), Weight: 0}, {Name: "a", Address: addr("192.0.2.11"), Weight: 257},
				{Name: "B", Weight: 1}, {Name: "c", Address: addr("10.0.2.1"), Weight: 1},
			}
		}), []string{
			owner + ".pool.servers[0].weight: is 0; allowed are 1 to 256",
			owner + `.pool.servers[1].name: "a" is the name of an earlier server`, owner + ".pool.servers[1].address: 192.0.2.11 is one of the vips", owner + ".pool.servers[1].weight: is 257",
			owner + `.pool.servers[2].name: "B" is no DNS subdomain`, owner + ".pool.servers[2].address: is missing",
		}},
	})
}
