package keepalived

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeld(t *testing.T) {
	s := state(2, "10.0.0.0", vipOn("192.0.2.10", "", 1), vipOn("192.0.2.9", "eth1", 1), vipOn("192.0.2.11", "", 2),
		vipOn("2001:db8::10", "", 1), vipOn("2001:db8::11", "", 1), vipOn("2001:db8::12", "eth7", 2))
	address := netip.MustParseAddr
	own := `{"family":"inet","local":"10.0.0.1","prefixlen":24}`
	for _, c := range []struct {
		name, eth0, eth1 string
		want             Holding
	}{
		{"nothing", own, "", Holding{Source: true}},
		{"its own", own + `,{"local":"169.254.1.1"},{"local":"192.0.2.10","prefixlen":32},{"local":"2001:db8::10","prefixlen":128,"deprecated":true}`,
			`{"local":"192.0.2.9","prefixlen":32}`,
			Holding{VIPs: []netip.Addr{address("192.0.2.9"), address("192.0.2.10"), address("2001:db8::10")}, RouterIDs: []int{1}, Source: true,
				Places: []Place{{address("192.0.2.9"), "eth1", 32}, {address("192.0.2.10"), "eth0", 32}, {address("2001:db8::10"), "eth0", 128}}}},
		{"twice", own + `,{"local":"192.0.2.10","prefixlen":32},{"local":"192.0.2.10","prefixlen":24}`, "",
			Holding{VIPs: []netip.Addr{address("192.0.2.10")}, Source: true,
				Places: []Place{{address("192.0.2.10"), "eth0", 32}, {address("192.0.2.10"), "eth0", 24}}}},
		{"both anchors", own + `,{"local":"169.254.2.1"},{"local":"169.254.1.1"}`, "", Holding{RouterIDs: []int{1, 2}, Source: true}},
		{"a stranger put it there", own, `{"local":"192.0.2.11"}`,
			Holding{Source: true, Misplaced: []Place{{Address: address("192.0.2.11"), Interface: "eth1"}}}},
		{"not usable yet", own + `,{"local":"2001:db8::10","tentative":true},{"local":"2001:db8::11","tentative":true,"dadfailed":true}`, "",
			Holding{Source: true}},
		{"no address of its own", `{"local":"198.51.100.1"}`, "", Holding{}},
		{"link without an address", `{}`, "", Holding{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.want.Missing = []string{"eth7"}
			got, err := Held([]byte(`[{"ifname":"eth0","addr_info":[`+c.eth0+`]},{"ifname":"eth1","addr_info":[`+c.eth1+`]}]`),
				s, DebianLocal("a"))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestHeldRefuses(t *testing.T) {
	for _, c := range []struct{ gateway, addresses, want string }{
		{"a", `Device "eth0" does not exist.`, "ip -json"},
		{"a", `[{"addr_info":[{"local":"x"}]}]`, "ip -json"},
		{"z", `[]`, `no gateway "z"`},
	} {
		if _, err := Held([]byte(c.addresses), state(2, "10.0.0.0"), DebianLocal(c.gateway)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.addresses, err)
		}
	}
}

func TestOwn(t *testing.T) {
	s := state(2, "10.0.0.0", vipOn("192.0.2.10", "", 1), vipOn("2001:db8::10", "", 1))
	address := netip.MustParseAddr
	for name, c := range map[string]struct {
		eth0 string
		want []netip.Addr
	}{
		"one family":    {`{"local":"10.0.0.1"},{"local":"192.0.2.10"},{"local":"169.254.1.1"}`, []netip.Addr{address("10.0.0.1")}},
		"both":          {`{"local":"10.0.0.1"},{"local":"fe80::1"},{"local":"2001:db8::10"},{"local":"2001:db8::1"}`, []netip.Addr{address("10.0.0.1"), address("2001:db8::1")}},
		"not usable":    {`{"local":"2001:db8::1","tentative":true},{"local":"2001:db8::2","dadfailed":true}`, []netip.Addr{address("10.0.0.1")}},
		"one is plenty": {`{"local":"2001:db8::2"},{"local":"2001:db8::1"}`, []netip.Addr{address("10.0.0.1"), address("2001:db8::2")}},
	} {
		got, device, err := Own([]byte(`[{"ifname":"eth1","addr_info":[{"local":"2001:db8::7"}]},{"ifname":"eth0","addr_info":[`+c.eth0+`]}]`), s, DebianLocal("a"))
		if err != nil || device != "eth0" || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v on %q, %v; want %v", name, got, device, err, c.want)
		}
	}
	for _, bad := range []struct{ gateway, addresses string }{{"a", "Device"}, {"z", "[]"}} {
		if _, _, err := Own([]byte(bad.addresses), s, DebianLocal(bad.gateway)); err == nil {
			t.Errorf("%+v is no fault", bad)
		}
	}
}
