package haproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// commit does to a map what changeMap asks HAProxy to do.
func (m mapChange) commit(t rapid.TB, running map[string]string) {
	if m.replace {
		clear(running)
		for _, e := range m.want {
			running[e.Key] = e.Value
		}
		return
	}
	for _, e := range m.put {
		if _, ok := running[e.Key]; ok == m.fresh[e.Key] {
			t.Fatalf("%s is added although it is there, or set although it is not", e.Key)
		}
		running[e.Key] = e.Value
	}
	for _, e := range m.drop {
		delete(running, e.Key)
	}
}

func toEntries(m map[string]string) []Entry {
	var entries []Entry
	for key, value := range m {
		entries = append(entries, Entry{Key: key, Value: value})
	}
	return entries
}

// From any map to any other: after Grow everything wanted is there and nothing was taken away, after Shrink nothing else is.
func TestMapChangeGrowsThenShrinks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		anyMap := rapid.MapOfN(rapid.StringMatching(`[a-z]{1,2}`), rapid.StringMatching(`[xy]`), 0, 300)
		growThenShrink(t, anyMap.Draw(t, "running"), anyMap.Draw(t, "want"))
	})
}

// rapid hardly ever draws two maps that differ enough to be replaced as a whole.
func TestMapReplacementGrowsThenShrinks(t *testing.T) {
	running, want := map[string]string{}, map[string]string{}
	for i := range 3 * bulk {
		if i < 2*bulk {
			running[fmt.Sprint(i)] = "x"
		}
		if i >= bulk {
			want[fmt.Sprint(i)] = "y"
		}
	}
	if change := compareMap("m", toEntries(running), toEntries(want)); !change.replace {
		t.Fatal("the map is not replaced")
	}
	growThenShrink(t, running, want)
}

func growThenShrink(t rapid.TB, running, want map[string]string) {
	t.Helper()
	before := maps.Clone(running)
	change := compareMap("m", toEntries(running), toEntries(want))
	change.grow().commit(t, running)
	for key, value := range want {
		if running[key] != value {
			t.Fatalf("after grow %s is %q, want %q", key, running[key], value)
		}
	}
	for key := range before {
		if _, ok := running[key]; !ok {
			t.Fatalf("grow took %s away", key)
		}
	}
	change.shrink().commit(t, running)
	if !maps.Equal(running, want) {
		t.Fatalf("after shrink there is %v, want %v", running, want)
	}
	if again := compareMap("m", toEntries(running), toEntries(want)); !again.empty() {
		t.Fatalf("nothing differs, yet %+v", again)
	}
}

func TestAssignGivesUp(t *testing.T) {
	s := baseState()
	s.LoadBalancers = []desired.LoadBalancer{localPolicy("a", "192.0.2.1", kubeProxyCheck())}
	slots, short := Assign(nil, s, func(string) bool { return false }, testLocal())
	if len(slots) != 0 || len(short) != 1 {
		t.Errorf("where nothing is ever free, slots are %v and short %v", slots, short)
	}
}

func TestFreeAsksServersConnectionsAndMap(t *testing.T) {
	const slot = "slot-http-roundrobin-1"
	for name, test := range map[string]struct {
		backend *RunningBackend
		value   string
		want    bool
	}{
		"empty":              {&RunningBackend{}, "nodes|1|a/b", true},
		"not running":        {nil, "nodes|1|a/b", true},
		"a server":           {&RunningBackend{Servers: map[string]RunningServer{"a": {}}}, "", false},
		"a connection":       {&RunningBackend{Sessions: 1}, "", false},
		"one in the queue":   {&RunningBackend{Queued: 1}, "", false},
		"a map entry":        {&RunningBackend{}, slot + "|1|a/b", false},
		"another slot's one": {&RunningBackend{}, slot + "0|1|a/b", true},
	} {
		l := testLocal()
		r := &Running{Backends: map[string]*RunningBackend{}, Maps: map[string][]Entry{
			l.ServicesMap: {{Key: "k", Value: test.value}}, l.ChecksMap: {{Key: slot, Value: "/healthz"}}}}
		if test.backend != nil {
			r.Backends[slot] = test.backend
		}
		if got := r.Free(l)(slot); got != test.want {
			t.Errorf("%s: Free is %t", name, got)
		}
	}
}

func TestCompareReloadsForeignConfiguration(t *testing.T) {
	c := scenarios()[0].render(t)
	diff := Compare(&Running{}, c)
	if !slices.Equal(diff.Reload, []string{"haproxy runs a configuration that is not ours"}) {
		t.Errorf("the reasons are %q", diff.Reload)
	}
	diff = Compare(&Running{Generation: strings.Replace(c.Generation, "backend-counters:", "peers-old:", 1)}, c)
	if !slices.Contains(diff.Reload, "backend-counters is new") || !slices.Contains(diff.Reload, "peers-old is gone") {
		t.Errorf("the reasons are %q", diff.Reload)
	}
}

// A server that comes, comes back or moves must pass a check before it gets a connection, the order is all there is; but when no
// other one serves it is up until the check says otherwise.
func TestServerCommandsAskTheCheckFirst(t *testing.T) {
	want := Server{Name: "a", Addr: netip.MustParseAddr("fd00::1"), Weight: 1, Check: kubeProxyCheck()}
	runs := RunningServer{Name: "a", Addr: want.Addr, CheckPort: want.Check.Port, Weight: 1, Checked: true, Checking: true}
	moved, away, open := runs, runs, runs
	moved.Addr = netip.MustParseAddr("10.0.0.1")
	away.maint, away.Checking = true, false
	open.maint, open.Checked, open.Checking, open.CheckPort = true, false, false, 0
	for name, test := range map[string]struct {
		running map[string]RunningServer
		server  Server
		command string
	}{
		"new": {nil, want, "add server nodes/a [fd00::1] weight 1 check port 10256 inter 2000 rise 2 fall 3;enable health nodes/a;enable server nodes/a;set server nodes/a health down"},
		"moved": {map[string]RunningServer{"a": moved}, want,
			"set server nodes/a state maint;set server nodes/a addr fd00::1\nset server nodes/a state ready;set server nodes/a health down"},
		"back":            {map[string]RunningServer{"a": away}, want, "set server nodes/a state ready;enable health nodes/a;set server nodes/a health down"},
		"back, unchecked": {map[string]RunningServer{"a": open}, want.unchecked(), "set server nodes/a state ready"},
		"as it should be": {map[string]RunningServer{"a": runs}, want, ""},
	} {
		up, other := runs, want
		up.Name, up.State, other.Name = "other", "UP", "other"
		alone := map[string]RunningServer{"gone": {Name: "gone", State: "UP"}}
		beside := map[string]RunningServer{"other": up}
		maps.Copy(alone, test.running)
		maps.Copy(beside, test.running)
		for _, when := range []struct {
			running map[string]RunningServer
			want    []Server
			command string
		}{
			{beside, []Server{test.server, other}, test.command},
			{alone, []Server{test.server}, strings.TrimSuffix(test.command, ";set server nodes/a health down")},
		} {
			var d Diff
			d.backend(membership{name: "nodes", running: &RunningBackend{Servers: when.running}, want: when.want})
			got := ""
			if len(d.add) > 0 {
				got = strings.TrimSuffix(d.add[0].line+"\n"+d.add[0].then, "\n")
			}
			if got != when.command || len(d.add) > 1 {
				t.Errorf("%s: got %q, want %q", name, got, when.command)
			}
		}
	}
}

// A server that only its successor can replace waits for its last connection, and is no difference until then.
func TestServerToBeMadeAnewWaitsForItsConnections(t *testing.T) {
	want := Server{Name: "a", Addr: netip.MustParseAddr("10.0.0.1"), Weight: 1, Check: kubeProxyCheck()}
	unchecked := RunningServer{Name: "a", Addr: want.Addr, Weight: 1, maint: true, Sessions: 1}
	var waits, goes Diff
	waits.server("nodes/a", unchecked, want, untried)
	if !waits.Empty() || !slices.Equal(waits.Deferred, []string{"nodes/a"}) {
		t.Errorf("with a connection: deferred %q, commands %v", waits.Deferred, waits.add)
	}
	unchecked.Sessions = 0
	goes.server("nodes/a", unchecked, want, untried)
	if len(goes.add) != 1 || goes.add[0].then != addServer("nodes", want, untried) || goes.Deferred != nil {
		t.Errorf("without one: deferred %q, commands %v", goes.Deferred, goes.add)
	}
	if len(goes.Changes) != 1 || len(goes.Unasked()) != 0 {
		t.Errorf("changes %q, of which nobody asked for %q: want one that was asked for", goes.Changes, goes.Unasked())
	}
}

// A server whose last connection ended was taken out before: that it goes is no difference that somebody made. One that
// somebody put in is.
func TestUnasked(t *testing.T) {
	var d Diff
	d.removal("nodes/left", RunningServer{Name: "left", maint: true}, false)
	d.removal("nodes/put-in", RunningServer{Name: "put-in"}, false)
	if got := d.Unasked(); len(d.Changes) != 2 || len(got) != 1 || !strings.Contains(got[0], "nodes/put-in") {
		t.Errorf("of %q nobody asked for %q", d.Changes, got)
	}
}

func TestReserveIsAQuarterAtMost(t *testing.T) {
	l := Local{Reserve: 1000}
	for global, want := range map[int]int{40: 30, 4000: 3000, 20000: 19000} {
		if got := l.servicesMaxConn(global); got != want {
			t.Errorf("of %d connections the Services may hold %d, want %d", global, got, want)
		}
	}
}

// large is 5000 Services of one port on 100 nodes, a tenth of them with a Pool.
func large(tb testing.TB) (*desired.State, Local, Slots) {
	tb.Helper()
	s, l := baseState(), DebianLocal()
	s.Nodes = nil
	for i := range 100 {
		s.Nodes = append(s.Nodes, desired.Node{Name: fmt.Sprintf("worker-%03d", i), Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})}})
	}
	for i := range 5000 {
		lb := web(fmt.Sprintf("198.18.%d.%d", i/250, i%250))
		lb.Name = fmt.Sprintf("web-%d", i)
		if i%10 == 0 {
			local := localPolicy(lb.Name, lb.Addresses[0].String(), kubeProxyCheck())
			local.Frontends = lb.Frontends
			for _, node := range s.Nodes[i%90 : i%90+10] {
				local.Pool.Servers = append(local.Pool.Servers, desired.Server{Name: node.Name, Address: node.Addresses[0], Weight: 1})
			}
			lb = local
		}
		s.LoadBalancers = append(s.LoadBalancers, lb)
	}
	slots, _ := Assign(nil, s, func(string) bool { return true }, l)
	return s, l, slots
}

// asRunning is what a HAProxy says that runs c.
func asRunning(c *Config) *Running {
	r := &Running{Generation: c.Generation, MaxConn: 10000, ServicesMaxConn: c.Local.servicesMaxConn(10000),
		Backends: map[string]*RunningBackend{}, Maps: map[string][]Entry{c.Local.ServicesMap: c.Entries, c.Local.ChecksMap: c.Checks}}
	for name, servers := range c.Servers {
		for _, s := range servers {
			state := "NOCHECK"
			if s.checked() {
				state = "UP"
			}
			r.backend(name).Servers[s.Name] = RunningServer{Name: s.Name, State: state, Addr: s.Addr, Port: s.Port, CheckPort: s.Check.Port,
				Weight: s.Weight, Checked: s.checked(), Checking: s.checked()}
		}
		r.backend(name)
	}
	return r
}

func BenchmarkRender(b *testing.B) {
	s, l, slots := large(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Render(s, l, slots); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCompare(b *testing.B) {
	s, l, slots := large(b)
	c, err := Render(s, l, slots)
	if err != nil {
		b.Fatal(err)
	}
	running := asRunning(c)
	b.ReportAllocs()
	for b.Loop() {
		if diff := Compare(running, c); !diff.Empty() {
			b.Fatalf("nothing differs, yet %d changes: %q", len(diff.Changes), diff.Changes[:1])
		}
	}
}

// A table that nobody uses any more may stay; one that is new may not wait. Sticks of one slot more or less are no reason.
func TestCompareTablesOfAffinity(t *testing.T) {
	generation := func(seconds ...int) string {
		s := baseState()
		for i, n := range seconds {
			lb := knobbed(n)
			lb.Name = fmt.Sprintf("web-%d", i)
			s.LoadBalancers = append(s.LoadBalancers, lb)
		}
		c, err := Render(s, testLocal(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c.Generation
	}
	for name, test := range map[string]struct {
		running, want []int
		reload        []string
	}{
		"the usual":       {nil, []int{usualAffinity, usualAffinity}, nil},
		"a new one":       {nil, []int{600}, []string{"affinity of 600 s is new"}},
		"two new ones":    {[]int{60}, []int{60, 600, 601, 602}, []string{"affinity of 600 s is new", "affinity of 900 s is new"}},
		"one gone":        {[]int{60, 600}, []int{600}, nil},
		"one for another": {[]int{60}, []int{600}, []string{"affinity of 600 s is new"}},
		"the same":        {[]int{60, 600}, []int{600, 60}, nil},
		"all gone":        {[]int{60, 600}, nil, nil},
	} {
		var d Diff
		d.reload(&Running{Generation: generation(test.running...)}, &Config{Generation: generation(test.want...)})
		if !slices.Equal(d.Reload, test.reload) {
			t.Errorf("%s: the reasons are %q, want %q", name, d.Reload, test.reload)
		}
	}
}
