package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// knobbed asks for everything that a map entry says.
func knobbed(affinity int) desired.LoadBalancer {
	lb := web("192.0.2.10")
	lb.AffinitySeconds, lb.ConnectionLimit, lb.SourceRate, lb.Log = affinity, 5, 6, true
	return lb
}

// Whatever times are asked for, the tables are a few known ones, and who asks for another time than theirs sticks for longer.
func TestTimesOfAffinityAreFew(t *testing.T) {
	for asked, want := range map[int]string{1: "affinity-1", 3: "affinity-5", 600: "affinity-600", 601: "affinity-900",
		usualAffinity: "affinity-10800", usualAffinity + 1: "affinity-21600", 86400: "affinity-86400"} {
		if got := affinityOf(asked).Table(); got != want {
			t.Errorf("%d s have the table %s, want %s", asked, got, want)
		}
	}
	s := baseState()
	for i := 1; i <= 86400; i += 43 {
		lb := knobbed(i)
		lb.Name = fmt.Sprintf("web-%05d", i)
		s.LoadBalancers = append(s.LoadBalancers, lb)
	}
	c, err := Render(s, testLocal(), nil)
	if err != nil {
		t.Fatal(err)
	}
	tables := 0
	for section := range parseGeneration(c.Generation) {
		if stays(section) {
			tables++
		}
	}
	if tables != len(affinityTimes())-4 { // nobody asks for 2 to 30 s
		t.Errorf("there are %d tables", tables)
	}
	if fields := strings.Split(c.Entries[0].Value, "|"); !strings.Contains(string(c.File), "backend affinity-"+fields[3]+"\n") {
		t.Errorf("there is no table for the entry %s", c.Entries[0].Value)
	}
}

func TestReloadsForAffinity(t *testing.T) {
	generation := func(change func(*desired.State, *Local)) string {
		s, l := baseState(), testLocal()
		change(s, &l)
		return scenario{"", l, s}.render(t).Generation
	}
	base := generation(func(*desired.State, *Local) {})
	for name, test := range map[string]struct {
		change func(*desired.State, *Local)
		reload bool
	}{
		"all knobs, the usual time": {func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{knobbed(usualAffinity)} }, false},
		"another time, for UDP": {func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{knobbed(600)}
			s.LoadBalancers[0].Frontends[0].Protocol = desired.UDP
		}, false},
		"another time":          {func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{knobbed(600)} }, true},
		"a gateway less":        {func(s *desired.State, _ *Local) { s.Gateways = s.Gateways[:1] }, true},
		"a gateway's address":   {func(s *desired.State, _ *Local) { s.Gateways[1].VRRPAddress = netip.MustParseAddr("10.0.0.9") }, true},
		"another port of peers": {func(_ *desired.State, l *Local) { l.PeersPort++ }, true},
	} {
		if got := generation(test.change) != base; got != test.reload {
			t.Errorf("%s: reload is %t, want %t", name, got, test.reload)
		}
	}
}

func TestPeersAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*desired.State, *Local)
		want   string
	}{
		"another gateway":   {func(_ *desired.State, l *Local) { l.Gateway = "gw9" }, `no gateway "gw9" in State`},
		"no port":           {func(_ *desired.State, l *Local) { l.PeersPort = 0 }, "port for its peers: 0"},
		"a newline in name": {func(s *desired.State, _ *Local) { s.Gateways[1].Name = "gw2\n" }, "gateways[1].name"},
	} {
		s, l := baseState(), testLocal()
		test.change(s, &l)
		if _, err := Render(s, l, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestPeersAddress(t *testing.T) {
	s, l := baseState(), testLocal()
	if got := PeersAddress(s, l); got != netip.MustParseAddrPort("10.0.0.2:7482") {
		t.Errorf("of a pair it is %v", got)
	}
	s.Gateways = s.Gateways[:1]
	if got := PeersAddress(s, l); got != netip.MustParseAddrPort("127.0.0.1:7482") {
		t.Errorf("of a gateway alone it is %v", got)
	}
}

// HAProxy does not start with a link-local address, and `haproxy -c` does not see it.
func TestLinkLocalGatewaysAreNoPeers(t *testing.T) {
	s, l := baseState(), testLocal()
	for i := range s.Gateways {
		s.Gateways[i].VRRPAddress = netip.MustParseAddr(fmt.Sprintf("fe80::%d", i+1))
	}
	got := peers(s, l)
	if want := []peer{{l.Gateway, netip.MustParseAddrPort("127.0.0.1:7482")}}; !slices.Equal(got, want) {
		t.Errorf("peers %v, want %v", got, want)
	}
}
