package neighbor

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// What iproute2 6.1 told, shortened: loopback, a card with VIPs of keepalived, one without carrier, one that is off, a
// tunnel, a point-to-point link.
const told = `[
{"ifindex":1,"ifname":"lo","flags":["LOOPBACK","UP","LOWER_UP"],"link_type":"loopback","address":"00:00:00:00:00:00",
 "addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8,"scope":"host"},{"family":"inet6","local":"::1","prefixlen":128}]},
{"ifindex":7,"ifname":"eth0","flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],"link_type":"ether","address":"02:00:00:00:00:0B",
 "addr_info":[{"family":"inet","local":"192.0.2.11","prefixlen":24,"broadcast":"192.0.2.255","scope":"global"},
  {"family":"inet","local":"169.254.200.1","prefixlen":16,"scope":"global"},
  {"family":"inet","local":"192.0.2.64","prefixlen":32,"scope":"global"},
  {"family":"inet","local":"192.0.2.12","prefixlen":24,"secondary":true},
  {"family":"inet6","local":"2001:db8::b","prefixlen":64,"scope":"global"},
  {"family":"inet6","local":"2001:db8::1:1","prefixlen":128,"deprecated":true,"scope":"global"},
  {"family":"inet6","local":"fe80::b","prefixlen":64,"scope":"link"}]},
{"ifindex":3,"ifname":"eth1","flags":["NO-CARRIER","BROADCAST","MULTICAST","UP"],"link_type":"ether","address":"02:00:00:00:00:0c",
 "addr_info":[{"family":"inet","local":"10.0.0.1","prefixlen":8},
  {"family":"inet6","local":"fe80::c","prefixlen":64,"scope":"link","tentative":true}]},
{"ifindex":4,"ifname":"eth2","flags":["BROADCAST","MULTICAST"],"link_type":"ether","address":"02:00:00:00:00:0d","addr_info":[]},
{"ifindex":5,"ifname":"sit1","flags":["POINTOPOINT","NOARP","UP","LOWER_UP"],"link_type":"sit","address":"192.0.2.11","addr_info":[]},
{"ifindex":6,"ifname":"ppp0","flags":["POINTOPOINT","NOARP","UP","LOWER_UP"],"link_type":"ppp",
 "addr_info":[{"family":"inet","local":"198.51.100.1","address":"203.0.113.1","prefixlen":24}]},
{}
]`

func TestReadLinks(t *testing.T) {
	links, err := ReadLinks([]byte(told))
	if err != nil {
		t.Fatal(err)
	}
	const noEthernet = "is no Ethernet, so there is no neighbor to ask"
	want := []Link{
		{Problem: "is down"}, // nothing is known of it
		{Name: "eth0", Index: 7, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x0b}, Prefixes: prefixes("192.0.2.0/24", "2001:db8::/64"), LinkLocal: netip.MustParseAddr("fe80::b")},
		{Name: "eth1", Index: 3, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x0c}, Problem: "has no carrier", Prefixes: prefixes("10.0.0.0/8")},
		{Name: "eth2", Index: 4, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0x0d}, Problem: "is down"},
		{Name: "ppp0", Index: 6, Problem: noEthernet, Prefixes: prefixes("203.0.113.0/24")},
		{Name: "sit1", Index: 5, Problem: noEthernet},
	}
	if diff := cmp.Diff(want, links, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("links (-want +got):\n%s", diff)
	}
}

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestOnLink(t *testing.T) {
	link := Link{Prefixes: prefixes("192.0.2.0/24", "2001:db8::/64")}
	for address, want := range map[string]bool{
		"192.0.2.0": true, "192.0.2.255": true, "192.0.3.0": false, "2001:db8::ffff": true, "2001:db8:0:1::": false,
	} {
		if got := link.OnLink(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: on link %t, want %t", address, got, want)
		}
	}
}

func TestReadRouters(t *testing.T) {
	routers, err := ReadRouters([]byte(`[
{"dst":"default","gateway":"192.0.2.254","dev":"eth0","protocol":"static","flags":[]},
{"dst":"192.0.2.0/24","dev":"eth0","protocol":"kernel","scope":"link","prefsrc":"192.0.2.11","flags":[]},
{"dst":"10.9.0.0/16","nexthops":[{"gateway":"192.0.2.9","dev":"eth0","weight":1},{"gateway":"10.0.0.9","dev":"eth1","weight":1}],"flags":[]},
{"dst":"10.8.0.0/16","gateway":"192.0.2.254","dev":"eth0","flags":[]},
{"dst":"10.7.0.0/16","via":{"family":"inet6","host":"2001:db8::7"},"dev":"eth0","flags":[]},
{"type":"unreachable","dst":"10.6.0.0/16","dev":"lo","flags":[]}]`),
		[]byte(`[{"dst":"default","gateway":"fe80::1","dev":"eth0","metric":1024},{"dst":"2001:db8:5::/48","gateway":"2001:db8::5","dev":"eth0"}]`),
		nil)
	want := map[string][]netip.Addr{
		"eth0": {netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("192.0.2.254"), netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("2001:db8::7")},
		"eth1": {netip.MustParseAddr("10.0.0.9")},
	}
	if diff := cmp.Diff(want, routers, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("%v; routers (-want +got):\n%s", err, diff)
	}
}

func TestUnreadable(t *testing.T) {
	if _, err := ReadLinks([]byte("Object \"adress\" is unknown")); err == nil {
		t.Error("what is no JSON was read as links")
	}
	if _, err := ReadRouters([]byte("[]"), []byte("Error")); err == nil {
		t.Error("what is no JSON was read as routes")
	}
}
