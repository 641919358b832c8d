package haproxy

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// anyLoadBalancer draws one with a pool of its own, for all ports or for one, with or without headers and timeouts.
func anyLoadBalancer(t *rapid.T, name string) desired.LoadBalancer {
	check := kubeProxyCheck()
	check.Kind = rapid.SampledFrom([]desired.CheckKind{desired.CheckHTTP, desired.CheckTCP}).Draw(t, "check")
	check.Rise = rapid.IntRange(1, 2).Draw(t, "rise")
	lb := localPolicy(name, "192.0.2.1", check)
	lb.Pool.Algorithm = rapid.SampledFrom([]desired.Algorithm{desired.RoundRobin, desired.RoundRobin, desired.Source}).Draw(t, "algorithm")
	lb.Frontends[1].ProxyProtocol = rapid.SampledFrom([]desired.ProxyProtocol{desired.ProxyNone, desired.ProxyV1, desired.ProxyV2}).Draw(t, "proxy")
	if rapid.Bool().Draw(t, "pods") {
		lb.Frontends[0].Pool = podPool(check)
	}
	if rapid.IntRange(0, 3).Draw(t, "timeouts") == 0 {
		lb.Timeouts = &desired.Timeouts{IdleSeconds: rapid.IntRange(1, 2).Draw(t, "idle")}
	}
	return lb
}

func TestAssignKeepsAndNeverShares(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := testLocal()
		slots, busy := Slots{}, map[string]bool{}
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			s := baseState()
			for _, name := range rapid.SliceOfDistinct(rapid.StringMatching(`[a-h]`), rapid.ID[string]).Draw(t, "services") {
				s.LoadBalancers = append(s.LoadBalancers, anyLoadBalancer(t, name))
			}
			if rapid.IntRange(0, 3).Draw(t, "silent") == 0 {
				busy = map[string]bool{} // HAProxy does not answer
			}
			next, short := Assign(slots, s, func(slot string) bool { return !busy[slot] }, l)
			given := map[string]Tenant{}
			for _, n := range needs(s) {
				slot := next[n.Tenant]
				kind, _ := n.kind()
				if kind.number(slot) == 0 {
					t.Fatalf("%s got %q, no slot of kind %v", n.Tenant, slot, kind)
				}
				if other, ok := given[slot]; ok {
					t.Fatalf("%s and %s share %s", n.Tenant, other, slot)
				}
				given[slot] = n.Tenant
				if old := slots[n.Tenant]; kind.number(old) > 0 && old != slot {
					t.Fatalf("%s was moved from %s to %s", n.Tenant, old, slot)
				}
				if slots[n.Tenant] != slot && slices.Contains(slices.Collect(maps.Values(slots)), slot) {
					t.Fatalf("%s got %s, which was another one's: there is no way back", n.Tenant, slot)
				}
				if slots[n.Tenant] != slot && busy[slot] {
					t.Fatalf("%s got %s, which is not free", n.Tenant, slot)
				}
				if exists := slices.Contains(slots.names(kind, l), slot); exists == slices.Contains(short, n.Tenant) {
					t.Fatalf("short is %v, and %s got %s", short, n.Tenant, slot)
				}
			}
			if len(next) != len(given) {
				t.Fatalf("slots for %d tenants: %v", len(given), next)
			}
			// What was in use drains: it stays busy for this round, or for ever.
			busy = map[string]bool{}
			for _, slot := range slots {
				busy[slot] = rapid.Bool().Draw(t, "drains")
			}
			for _, slot := range next {
				busy[slot] = true
			}
			slots = next
		}
	})
}

// A slot that was left is for the one who has left it, as long as nobody else has it and it wants that kind.
func TestAssignLetsTenantsReturn(t *testing.T) {
	s, l := baseState(), testLocal()
	s.LoadBalancers = []desired.LoadBalancer{localPolicy("a", "192.0.2.20", kubeProxyCheck()), localPolicy("b", "192.0.2.21", kubeProxyCheck())}
	all := needs(s)
	a, b, checked := all[0].Tenant, all[1].Tenant, all[0].Tenant
	checked.Check = "http,1,2,3,0"
	const slot1, slot2, slot3 = "slot-http-roundrobin-1", "slot-http-roundrobin-2", "slot-http-roundrobin-3"
	for name, test := range map[string]struct {
		previous Slots
		left     Left
		ofA, ofB string
	}{
		"nobody left":                 {nil, nil, slot3, "slot-http-roundrobin-4"},
		"both return":                 {nil, Left{slot1: b, slot2: a}, slot2, slot1},
		"one returns":                 {nil, Left{slot2: b}, slot3, slot2},
		"with another check":          {nil, Left{slot1: checked}, slot3, "slot-http-roundrobin-4"},
		"another kind":                {nil, Left{"slot-http-leastconn-1": a}, slot3, "slot-http-roundrobin-4"},
		"it did not leave":            {Slots{a: slot2}, Left{slot1: a}, slot2, slot3},
		"somebody else has it":        {Slots{b: slot1}, Left{slot1: a}, slot3, slot1},
		"somebody else is leaving it": {Slots{checked: slot1}, Left{slot1: a}, slot3, "slot-http-roundrobin-4"},
	} {
		busy := map[string]bool{slot1: true, slot2: true}
		slots, _ := test.left.Assign(test.previous, s, func(slot string) bool { return !busy[slot] }, l)
		if slots[a] != test.ofA || slots[b] != test.ofB {
			t.Errorf("%s: a has %s and b %s, want %s and %s", name, slots[a], slots[b], test.ofA, test.ofB)
		}
	}
}

func TestTenants(t *testing.T) {
	udp := desired.Frontend{Protocol: desired.UDP, Port: 53, NodePort: 31053}
	key := desired.Key{Namespace: "edge", Name: "a"}
	for name, test := range map[string]struct {
		change func(*desired.LoadBalancer)
		want   []Tenant
	}{
		"the shared pool":        {func(lb *desired.LoadBalancer) { lb.Pool = nil }, nil},
		"a pool":                 {func(lb *desired.LoadBalancer) {}, []Tenant{{Key: key}}},
		"a pool, datagrams only": {func(lb *desired.LoadBalancer) { lb.Frontends = []desired.Frontend{udp} }, []Tenant{{Key: key}}},
		"one port with a header": {func(lb *desired.LoadBalancer) { lb.Frontends[1].ProxyProtocol = desired.ProxyV2 },
			[]Tenant{{Key: key}, {Key: key, Port: 443, Proxy: desired.ProxyV2}}},
		"headers everywhere": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].ProxyProtocol, lb.Frontends[1].ProxyProtocol = desired.ProxyV1, desired.ProxyV2
		}, []Tenant{{Key: key, Port: 80, Proxy: desired.ProxyV1}, {Key: key, Port: 443, Proxy: desired.ProxyV2}}},
		"pods beside the shared pool": {func(lb *desired.LoadBalancer) { lb.Pool, lb.Frontends[0].Pool = nil, lb.Pool }, []Tenant{{Key: key, Port: 80}}},
		"pods for datagrams": {func(lb *desired.LoadBalancer) {
			lb.Frontends = []desired.Frontend{udp}
			lb.Pool, lb.Frontends[0].Pool = nil, lb.Pool
		}, nil},
	} {
		lb := localPolicy("a", "192.0.2.1", kubeProxyCheck())
		test.change(&lb)
		var got []Tenant
		for _, n := range needs(&desired.State{LoadBalancers: []desired.LoadBalancer{lb}}) {
			n.Check = "" // TestSlotsAreKeptAsJSON and TestOneChangeIsOneCommand have it
			got = append(got, n.Tenant)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: slots are needed for %v, want %v", name, got, test.want)
		}
	}
}

func TestSlotsAreKeptAsJSON(t *testing.T) {
	key := desired.Key{Namespace: "edge", Name: "web"}
	slots := Slots{{Key: key}: "slot-http-roundrobin-1", {Key: key, Port: 80, Proxy: desired.ProxyNone}: "slot-tcp-random-2", {Key: key, Port: 443, Proxy: desired.ProxyV2, Check: "http,100,1,2,0"}: "slot-tcp-source-1"}
	text, err := json.Marshal(slots)
	if want := `{"edge/web":"slot-http-roundrobin-1","edge/web:443=v2 http,100,1,2,0":"slot-tcp-source-1","edge/web:80":"slot-tcp-random-2"}`; err != nil || string(text) != want {
		t.Errorf("written as %s (%v), want %s", text, err, want)
	}
	var back Slots
	if err := json.Unmarshal(text, &back); err != nil || !maps.Equal(back, slots) {
		t.Errorf("read as %v (%v)", back, err)
	}
	// What agents wrote that knew no ports.
	if err := json.Unmarshal([]byte(`{"edge/web":"slot-http-roundrobin-7"}`), &back); err != nil || back[Tenant{Key: key}] != "slot-http-roundrobin-7" {
		t.Errorf("the older form was read as %v (%v)", back, err)
	}
	// It is kept, whatever the check: nobody knows better.
	s := baseState()
	s.LoadBalancers = []desired.LoadBalancer{localPolicy("web", "192.0.2.1", kubeProxyCheck())}
	if next, _ := Assign(back, s, func(string) bool { return true }, testLocal()); next.At(key, 0) != "slot-http-roundrobin-7" {
		t.Errorf("from the older form the slots became %v", next)
	}
	for _, wrong := range []string{`{"web":"a"}`, `{"edge/web:http":"a"}`, `{"edge/web:70000":"a"}`} {
		if err := json.Unmarshal([]byte(wrong), &back); err == nil {
			t.Errorf("%s was read as %v", wrong, back)
		}
	}
}

func TestSlotNamesTellTheirKind(t *testing.T) {
	for name, want := range map[string]slotKind{
		"slot-http-roundrobin-1": {check: desired.CheckHTTP, algorithm: desired.RoundRobin},
		"slot-tcp-source-connect250ms-idle3600s-check700ms-12": {check: desired.CheckTCP, algorithm: desired.Source,
			timeouts: desired.Timeouts{ConnectMillis: 250, IdleSeconds: 3600, CheckMillis: 700}},
		"slot-tcp-random-idle1s-3":             {check: desired.CheckTCP, algorithm: desired.Random, timeouts: desired.Timeouts{IdleSeconds: 1}},
		"slot-http-roundrobin-client6-2":       {check: desired.CheckHTTP, algorithm: desired.RoundRobin, client: clientsIPv6},
		"slot-http-leastconn-client4-idle9s-1": {check: desired.CheckHTTP, algorithm: desired.LeastConn, client: clientsIPv4, timeouts: desired.Timeouts{IdleSeconds: 9}},
	} {
		kind, n := parseSlot(name)
		if kind != want || n == 0 || kind.slot(n) != name || kind.number(name) != n {
			t.Errorf("%s was read as slot %d of %v", name, n, kind)
		}
	}
	for _, name := range []string{"nodes", "slot-", "slot-http-roundrobin-0", "slot-http-roundrobin-01", "slot-http-roundrobin-x",
		"slot-http-roundrobin-idle1s", "slot-http-roundrobin-idle01s-1", "slot-http-roundrobin-idle0s-1", "slot-http-roundrobin-idle1s-connect1ms-1", "slot-http-roundrobin-client-1",
		"slot-http-roundrobin-client04-1", "slot-http-roundrobin-idle9s-client4-1"} {
		if kind, n := parseSlot(name); n != 0 {
			t.Errorf("%s was read as slot %d of %v", name, n, kind)
		}
	}
}

func TestSlotCountKeepsASpareFifth(t *testing.T) {
	kind, l := slotKinds()[0], DebianLocal()
	for highest, want := range map[int]int{0: 50, 1: 50, 40: 50, 41: 100, 90: 100, 91: 150} {
		slots := Slots{Tenant{Key: desired.Key{Name: "tcp"}}: "slot-tcp-roundrobin-900"}
		if highest > 0 {
			slots[Tenant{Key: desired.Key{Name: "a"}}] = kind.slot(highest)
		}
		if got := len(slots.names(kind, l)); got != want {
			t.Errorf("with slot %d taken there are %d slots, want %d", highest, got, want)
		}
	}
	rare, own := slotKind{check: desired.CheckTCP, algorithm: desired.Source}, slotKind{check: desired.CheckTCP, algorithm: desired.Source, timeouts: desired.Timeouts{IdleSeconds: 9}}
	slots := Slots{{Port: 1}: rare.slot(9), {Port: 2}: own.slot(4), {Port: 3}: own.slot(11)}
	if got := len(slots.names(rare, l)); got != 20 {
		t.Errorf("with slot 9 of a rare kind taken there are %d slots, want 20", got)
	}
	if got := slots.names(own, l); !slices.Equal(got, []string{own.slot(4), own.slot(11)}) {
		t.Errorf("slots with timeouts are %v, want those that are taken", got)
	}
}

// What the name of a slot tells is no part of the Generation: slots with timeouts come by a reload and go without one.
func TestTimeoutsAreNoPartOfTheGeneration(t *testing.T) {
	s, l := baseState(), testLocal()
	lb := localPolicy("a", "192.0.2.1", kubeProxyCheck())
	s.LoadBalancers = []desired.LoadBalancer{lb}
	plain := scenario{"", l, s}.render(t)
	s.LoadBalancers[0].Timeouts = &desired.Timeouts{ConnectMillis: 100, IdleSeconds: 5, CheckMillis: 300}
	slots, short := Assign(nil, s, func(string) bool { return true }, l)
	c, err := Render(s, l, slots)
	if err != nil || len(short) != 1 {
		t.Fatalf("short of slots are %v (%v)", short, err)
	}
	if c.Generation != plain.Generation {
		t.Errorf("the generation changed from %s to %s", plain.Generation, c.Generation)
	}
	if edited := strings.Replace(string(c.File), "timeout tunnel 5s", "timeout tunnel 6s", 1); GenerationOf([]byte(edited)) == c.Generation {
		t.Error("an edit of the timeout is not seen")
	}
}

// An agent that lost its record finds every tenant with its check in haproxy.cfg: who serves datagrams alone, who has no server.
func TestSlotsAreFoundInTheFile(t *testing.T) {
	s, l := baseState(), testLocal()
	datagrams, proxied := localPolicy("dns", "192.0.2.21", kubeProxyCheck(), serverAt("worker1", "10.0.0.11")), localPolicy("web", "192.0.2.22", kubeProxyCheck())
	datagrams.Frontends = []desired.Frontend{{Protocol: desired.UDP, Port: 53, NodePort: 31053}}
	proxied.Frontends[1].ProxyProtocol = desired.ProxyV2
	s.LoadBalancers = []desired.LoadBalancer{datagrams, proxied, web("192.0.2.10")}
	s.LoadBalancers[1].Timeouts = &desired.Timeouts{IdleSeconds: 9}
	slots, _ := Assign(nil, s, func(string) bool { return true }, l)
	c, err := Render(s, l, slots)
	if err != nil {
		t.Fatal(err)
	}
	if got := SlotsIn(c.File); len(got) != 3 || !maps.Equal(got, slots) {
		t.Errorf("found %v, want %v", got, slots)
	}
	// As agents wrote it that did not tell the check, and as somebody else wrote it.
	old := "backend nodes # edge/a\nbackend slot-http-roundrobin-1 # edge/a\nbackend slot-tcp-random-2\n" +
		"backend slot-tcp-random-3 # nobody\nbackend slot-x-1 # edge/b\n  backend slot-http-roundrobin-2 # edge/c"
	want := Slots{{Key: desired.Key{Namespace: "edge", Name: "a"}}: "slot-http-roundrobin-1"}
	if got := SlotsIn([]byte(old)); !maps.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
	if got := SlotsIn(nil); len(got) != 0 {
		t.Errorf("found %v in nothing", got)
	}
}

// Whoever gets no slot would refuse everybody, so it is a fault, and its own.
func TestNoSlotIsLeft(t *testing.T) {
	s, l := baseState(), testLocal()
	s.LoadBalancers = []desired.LoadBalancer{localPolicy("a", "192.0.2.20", kubeProxyCheck()), localPolicy("b", "192.0.2.21", kubeProxyCheck()), web("192.0.2.10")}
	before := Slots{}
	for _, n := range needs(s)[1:] {
		before[n.Tenant] = "slot-http-roundrobin-1"
	}
	slots, short := Assign(before, s, func(string) bool { return false }, l)
	_, err := Render(s, l, slots)
	var faults desired.Faults
	if !errors.As(err, &faults) || len(faults) != 1 || *faults[0].Owner != s.LoadBalancers[0].Key || len(short) != 1 {
		t.Errorf("got %v, short are %v, want a fault of edge/a alone", err, short)
	}
}

func TestWhichChecksHaveAHeader(t *testing.T) {
	at := func(port uint16) desired.Check {
		return desired.Check{Kind: desired.CheckTCP, Port: port, IntervalMillis: 100, Rise: 1, Fall: 1}
	}
	for name, test := range map[string]struct {
		change func(*desired.LoadBalancer)
		want   map[uint16]bool // by the tenant's port
	}{
		"kube-proxy's port": {func(lb *desired.LoadBalancer) { lb.Pool.Check = at(10256) }, map[uint16]bool{0: false, 443: false}},
		"the first port's, both have a header": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].ProxyProtocol, lb.Pool.Check = desired.ProxyV2, at(30080)
		}, map[uint16]bool{80: true, 443: true}},
		"the first port's, which has none": {func(lb *desired.LoadBalancer) { lb.Pool.Check = at(30080) }, map[uint16]bool{0: false, 443: false}},
		"the port with a header":           {func(lb *desired.LoadBalancer) { lb.Pool.Check = at(30443) }, map[uint16]bool{0: true, 443: true}},
		"UDP with the number of a header's port": {func(lb *desired.LoadBalancer) {
			lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.UDP, Port: 443, NodePort: 30443})
			lb.Pool.Check = at(30443)
		}, map[uint16]bool{0: true, 443: true}},
		"no check": {func(lb *desired.LoadBalancer) { lb.Pool.Check = desired.Check{Kind: desired.CheckNone} }, map[uint16]bool{0: false, 443: false}},
		"pods, each at its own": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool, lb.Frontends[1].Pool = podPool(at(0), podAt("a", "10.1.0.1", 8080)), podPool(at(0), podAt("a", "10.1.0.1", 8443))
		}, map[uint16]bool{80: false, 443: true}},
		"pods, both at the one with a header": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool, lb.Frontends[1].Pool = podPool(at(8443), podAt("a", "10.1.0.1", 8080)), podPool(at(8443), podAt("a", "10.1.0.1", 8443))
		}, map[uint16]bool{80: true, 443: true}},
		"pods, both at the one without": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool, lb.Frontends[1].Pool = podPool(at(8080), podAt("a", "10.1.0.1", 8080)), podPool(at(8080), podAt("a", "10.1.0.1", 8443))
		}, map[uint16]bool{80: false, 443: false}},
		"pods at a port that is a NodePort": {func(lb *desired.LoadBalancer) {
			lb.Frontends[0].Pool = podPool(at(30443), podAt("a", "10.1.0.1", 8080))
			lb.Pool.Check = at(10256)
		}, map[uint16]bool{80: false, 443: false}},
	} {
		lb := localPolicy("a", "192.0.2.1", at(1), serverAt("worker1", "10.0.0.11"))
		lb.Frontends[1].ProxyProtocol = desired.ProxyV2
		test.change(&lb)
		got := map[uint16]bool{}
		for _, n := range needs(&desired.State{LoadBalancers: []desired.LoadBalancer{lb}}) {
			got[n.Port] = strings.HasSuffix(n.Check, ",proxy")
			for _, s := range n.servers() {
				if strings.HasSuffix(s.words(), " check-send-proxy") != got[n.Port] {
					t.Errorf("%s: %s has %q", name, n.Tenant, s.words())
				}
			}
		}
		if !maps.Equal(got, test.want) {
			t.Errorf("%s: headers of checks are %v, want %v", name, got, test.want)
		}
	}
}
