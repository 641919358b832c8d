package keepalived

import (
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

var update = flag.Bool("update", false, "write the golden files")

func TestRenderGolden(t *testing.T) {
	for _, c := range []struct {
		name, gateway string
		state         *desired.State
	}{
		{"single", "a", state(1, "10.0.0.0", vipOn("192.0.2.10", "", 1))},
		{"single6", "a", state(1, "2001:db8:0:1::", vipOn("2001:db8::10", "", 1))},
		{"pair-holder", "a", state(2, "10.0.0.0", vipOn("192.0.2.10", "", 1), vipOn("192.0.2.11", "eth1.100", 2),
			vipOn("2001:db8::10", "", 1))},
		{"pair-heir", "b", state(2, "10.0.0.0", vipOn("192.0.2.10", "", 1), vipOn("192.0.2.11", "eth1.100", 2),
			vipOn("2001:db8::10", "", 1))},
		{"pair-empty", "b", state(2, "10.0.0.0")},
		{"pair6", "b", state(2, "2001:db8:0:1::", vipOn("192.0.2.10", "", 1), vipOn("2001:db8::10", "", 2))},
		{"pair-delay", "b", delayed(2)},
		{"single", "a", delayed(1)}, // nobody to leave anything to
		{"names", "a", state(2, "10.0.0.0", vipOn("192.0.2.10", "br-a_0.1@x+y", 1))},
		{"shared-address", "a", shared()},
		{"three", "c", state(3, "10.0.0.0", vipOn("192.0.2.10", "", 6))},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := DebianLocal(c.gateway)
			got, err := Render(c.state, l)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", c.name+".conf")
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("differs from %s (go test -update writes it anew):\n%s", golden, d)
			}
			checkWithDaemon(t, golden)
		})
	}
}

// checkWithDaemon gives a file to the real keepalived.
func checkWithDaemon(t *testing.T, file string) {
	t.Helper()
	needDaemon(t, "keepalived")
	argv := CheckArgv(file)
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if messages := ParseCheck(out); err != nil || len(messages) > 0 {
		t.Errorf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// needDaemon is for a test that runs these programs as root.
func needDaemon(t *testing.T, names ...string) {
	t.Helper()
	lab.RequireRoot(t, "keepalived runs as root only")
	lab.RequirePrograms(t, names...)
}

func TestRenderIsDeterministic(t *testing.T) {
	s := state(3, "10.0.0.0", thousand()...)
	first, err := Render(s, DebianLocal("b"))
	if err != nil {
		t.Fatal(err)
	}
	s.Fence.Sequence++
	second, err := Render(s, DebianLocal("b"))
	if err != nil {
		t.Fatal(err)
	}
	if string(first) != string(second) {
		t.Error("a new fence alone changed keepalived.conf: that would reload keepalived for nothing")
	}
}

func TestRenderRefuses(t *testing.T) {
	pair := func(change func(*desired.State)) *desired.State {
		s := state(2, "10.0.0.0", vipOn("192.0.2.10", "", 1))
		change(s)
		return s
	}
	for _, c := range []struct {
		name  string
		state *desired.State
		want  []string // all of them in the one error
	}{
		{"not our State", pair(func(s *desired.State) { s.Gateways = s.Gateways[1:] }), []string{`no gateway "a"`}},
		{"not an heir", pair(func(s *desired.State) { s.Instances[1].Gateways = []string{"b"} }),
			[]string{"instance 2 does not name gateway a"}},
		{"unknown instance", pair(func(s *desired.State) { s.VIPs[0].RouterID = 9 }),
			[]string{"VIP 192.0.2.10: State has no instance with router ID 9"}},
		{"two families", pair(func(s *desired.State) { s.Gateways[1].VRRPAddress = netip.MustParseAddr("fd00::2") }),
			[]string{"VRRP address fd00::2 of gateway b"}},
		{"unknown heir", pair(func(s *desired.State) { s.Instances[0].Gateways[1] = "z" }), []string{"gateway z"}},
		{"interval", pair(func(s *desired.State) { s.VRRP.AdvertIntervalMillis = 105 }), []string{"105 ms"}},
		{"escape", pair(func(s *desired.State) {
			s.VIPs[0].Interface = "eth0\n}\nnotify /bin/sh"
			s.Gateways[0].Interface = "$IF"
		}), []string{`"eth0\n}\nnotify /bin/sh"`, `"$IF"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := Render(c.state, DebianLocal("a"))
			if err == nil {
				t.Fatalf("accepted:\n%s", out)
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not told by: %v", want, err)
				}
			}
		})
	}
}

// What keeps a stale or dead gateway from taking a VIP (invariant 6) is arithmetic.
// Every standing of a gateway outweighs the order of heirs, so that the worst heir of a better standing beats the first of the
// next one (DESIGN.md invariant 6; a drain).
func TestPriorities(t *testing.T) {
	alive, not := number(t, Alive), number(t, Not)
	standings := []struct {
		what  string
		bonus int
	}{
		{"serving", alive + number(t, Ready)},
		{"drained", alive + number(t, ReadyDrained)},
		{"stale", alive + not},
		{"stale and drained", alive + number(t, NotDrained)},
		{"without HAProxy", not + number(t, Ready)},
		{"drained, without HAProxy", not + number(t, ReadyDrained)},
		{"stale, without HAProxy", not + not},
		{"stale and drained, without HAProxy", not + number(t, NotDrained)},
	}
	for n := 1; n <= 25; n++ {
		var bases []int
		for position := range n {
			p, err := base(position, n)
			if err != nil {
				t.Fatal(err)
			}
			if position > 0 && p >= bases[position-1] {
				t.Errorf("%d gateways: heir %d has priority %d, the one before it %d", n, position, p, bases[position-1])
			}
			bases = append(bases, p)
		}
		first, last := bases[0], bases[n-1]
		for i, s := range standings {
			if low, high := last+s.bonus, first+s.bonus; low < 1 || high > 254 {
				t.Errorf("%d gateways, %s: priorities %d to %d leave VRRP's range", n, s.what, low, high)
			}
			if i > 0 && first+s.bonus >= last+standings[i-1].bonus {
				t.Errorf("%d gateways: the first heir, %s, beats the last one, %s", n, s.what, standings[i-1].what)
			}
		}
	}
	if _, err := base(0, 26); err == nil {
		t.Error("26 gateways were given priorities")
	}
}

func number(t *testing.T, content string) int {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(content))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func BenchmarkRender(b *testing.B) {
	s := state(2, "10.0.0.0", thousand()...)
	for b.Loop() {
		if _, err := Render(s, DebianLocal("a")); err != nil {
			b.Fatal(err)
		}
	}
}
