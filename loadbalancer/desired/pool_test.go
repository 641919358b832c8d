package desired_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestActiveServers(t *testing.T) {
	ready, backup := desired.Server{Name: "ready", Weight: 1}, desired.Server{Name: "backup", Weight: 1, Backup: true}
	drains := desired.Server{Name: "drains", Weight: 1, Drains: true}
	for name, test := range map[string]struct{ servers, want []desired.Server }{
		"nobody":          {nil, nil},
		"ready first":     {[]desired.Server{backup, drains, ready}, []desired.Server{ready}},
		"backups only":    {[]desired.Server{backup, drains}, []desired.Server{backup}},
		"all are leaving": {[]desired.Server{drains}, nil},
	} {
		pool := desired.Pool{Servers: test.servers}
		if got := pool.Active(); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestTargets(t *testing.T) {
	s := valid()
	shared, own := &s.LoadBalancers[0], &s.LoadBalancers[1]
	own.Pool.Servers = own.Pool.Servers[2:] // a backup, and one that drains
	for _, test := range []struct {
		lb      *desired.LoadBalancer
		address string
		want    bool
	}{
		{shared, "10.0.2.1", true}, {shared, "2001:db8:2::1", true}, {shared, "10.0.2.3", false},
		{own, "10.0.2.1", false}, {own, "10.0.2.3", true}, {own, "10.0.2.4", true},
	} {
		if got := s.Targets(test.lb, addr(test.address)); got != test.want {
			t.Errorf("%s to %s: got %v", test.lb.Key, test.address, got)
		}
	}
}

func TestDrainTime(t *testing.T) {
	for seconds, want := range map[int]time.Duration{0: 5 * time.Minute, 1: time.Second, 86400: 24 * time.Hour} {
		if got := (&desired.State{DrainSeconds: seconds}).DrainTime(); got != want {
			t.Errorf("%d: got %s", seconds, got)
		}
	}
	for _, seconds := range []int{-1, 86401} {
		s := valid()
		s.DrainSeconds = seconds
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "drainSeconds: is ") {
			t.Errorf("%d: %v", seconds, err)
		}
	}
}

func TestAServerIsBackupOrDrains(t *testing.T) {
	s := valid()
	s.LoadBalancers[1].Pool.Servers[2].Drains = true
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "loadBalancers[default/local].pool.servers[2].drains") {
		t.Error(err)
	}
}

// A pool of all nodes is rendered as one that names them, by family; what was sent stays as it is.
func TestExpanded(t *testing.T) {
	first, second := desired.Server{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1}, desired.Server{Name: "worker-2.example.net", Address: addr("10.0.2.2"), Weight: 1}
	six := desired.Server{Name: "worker-1", Address: addr("2001:db8:2::1"), Weight: 1}
	for family, want := range map[int][]desired.Server{0: {first, second}, 4: {first, second}, 6: {six}} {
		s := valid()
		lb := &s.LoadBalancers[0]
		lb.Pool = &desired.Pool{Algorithm: desired.LeastConn, Check: desired.Check{Kind: desired.CheckNone}, AllNodes: true, Family: family}
		lb.Frontends[0].Pool = &desired.Pool{Algorithm: desired.Source, Check: desired.Check{Kind: desired.CheckNone}, AllNodes: true, Family: family}
		before := s.Clone()
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		e := s.Expanded()
		for _, pool := range e.LoadBalancers[0].Pools() {
			if !slices.Equal(pool.Servers, want) || pool.AllNodes || pool.Family != 0 {
				t.Errorf("family %d: %+v", family, pool)
			}
		}
		if err := e.Validate(); err != nil {
			t.Errorf("family %d: %v", family, err)
		}
		if string(canonical(t, before)) != string(canonical(t, s)) {
			t.Error("the State itself was written")
		}
	}
	plain := valid()
	plain.LoadBalancers = plain.LoadBalancers[:1]
	if plain.Expanded() != plain {
		t.Error("without such a pool there is another State")
	}
}

func TestWrongPoolsOfAllNodes(t *testing.T) {
	server := []desired.Server{{Name: "worker-1", Address: addr("10.0.2.1"), Weight: 1}}
	for want, pool := range map[string]desired.Pool{
		"pool.allNodes: is set, and the pool has servers of its own": {AllNodes: true, Servers: server},
		"or is local":                             {AllNodes: true, Local: true},
		"pool.family: is set without allNodes":    {Family: 4, Servers: server},
		"pool.family: is 5; allowed are 4 and 6,": {AllNodes: true, Family: 5},
	} {
		s := valid()
		pool.Algorithm, pool.Check.Kind = desired.RoundRobin, desired.CheckNone
		s.LoadBalancers[1].Pool = &pool
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	s := valid()
	s.LoadBalancers[1].Frontends[2].NodePort = 0
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "frontends[2].nodePort: is 0, and a server of the frontend's pool has no port") {
		t.Error(err)
	}
}

// What HAProxy has of a load balancer alone: a slot of its own, one for each TCP port with other servers or a header, and these twice
// where clients of two families are seen.
func TestOwnServers(t *testing.T) {
	nodes := make([]desired.Node, 5)
	of := func(n int) *desired.Pool { return &desired.Pool{Servers: make([]desired.Server, n)} }
	all := &desired.Pool{AllNodes: true}
	tcp := func(port uint16, proxy desired.ProxyProtocol, pool *desired.Pool) desired.Frontend {
		return desired.Frontend{Protocol: desired.TCP, Port: port, ProxyProtocol: proxy, Pool: pool}
	}
	udp := func(port uint16, pool *desired.Pool) desired.Frontend {
		return desired.Frontend{Protocol: desired.UDP, Port: port, Pool: pool}
	}
	two := []string{"192.0.2.10", "2001:db8::10"}
	for name, test := range map[string]struct {
		pool      *desired.Pool
		frontends []desired.Frontend
		client    bool
		addresses []string
		slots     []int // of each frontend: a port, 0 for the load balancer's, -1 for none
		want      int
	}{
		"shared":                       {nil, []desired.Frontend{tcp(80, "", nil), udp(53, nil)}, false, two, []int{-1, -1}, 0},
		"once for all ports":           {all, []desired.Frontend{tcp(80, "", nil), tcp(443, "", nil), udp(53, nil)}, false, two, []int{0, 0, 0}, 5},
		"datagrams ask for its checks": {of(3), []desired.Frontend{udp(53, nil)}, false, two, []int{0}, 3},
		"a header at one port":         {of(3), []desired.Frontend{tcp(80, desired.ProxyV2, nil), tcp(443, "", nil)}, false, two, []int{80, 0}, 6},
		"a header at all of them":      {all, []desired.Frontend{tcp(80, desired.ProxyV2, nil), tcp(443, desired.ProxyV1, nil)}, false, two, []int{80, 443}, 10},
		"pods of each port":            {nil, []desired.Frontend{tcp(80, "", of(2)), tcp(443, "", of(4)), udp(53, of(7))}, false, two, []int{80, 443, -1}, 6},
		"clients of both families":     {all, []desired.Frontend{tcp(80, "", nil), tcp(443, "", nil)}, true, two, []int{0, 0}, 10},
		"clients of one":               {all, []desired.Frontend{tcp(80, "", nil)}, true, two[1:], []int{0}, 5},
	} {
		lb := desired.LoadBalancer{Pool: test.pool, Frontends: test.frontends, ClientSource: test.client}
		for _, a := range test.addresses {
			lb.Addresses = append(lb.Addresses, addr(a))
		}
		for i, f := range lb.Frontends {
			port, ok := lb.SlotOf(f)
			if got := int(port); ok && got != test.slots[i] || !ok && test.slots[i] != -1 {
				t.Errorf("%s: port %d is served by slot %d (%t)", name, f.Port, got, ok)
			}
		}
		if got := lb.OwnServers(nodes); got != test.want {
			t.Errorf("%s: %d servers, want %d", name, got, test.want)
		}
	}
}
