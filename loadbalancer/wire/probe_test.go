package wire_test

import (
	"net/netip"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/wire"
)

func TestProbeFaults(t *testing.T) {
	for _, test := range []struct {
		name    string
		address string // "" is the zero Addr
		on      string
		want    string // "" for no fault
	}{
		{"IPv4", "192.0.2.70", "", ""},
		{"IPv6 on an interface", "2001:db8::70", "bond0.5@x", ""},
		{"unique local", "fd00::1", "eth0", ""},
		{"link-local", "169.254.1.1", "", ""}, // of no network of any link, which is an answer
		{"nothing", "", "", "targets[0].address: is missing"},
		{"a zone", "fe80::1%eth0", "", "targets[0].address: fe80::1%eth0 has a zone; name the interface beside it"},
		{"disguised", "::ffff:192.0.2.70", "", "targets[0].address: ::ffff:192.0.2.70 is an IPv4 address in disguise; write 192.0.2.70"},
		{"everybody", "0.0.0.0", "", "targets[0].address: 0.0.0.0 is no address of one machine"},
		{"everybody, IPv6", "::", "", "targets[0].address: :: is no address of one machine"},
		{"broadcast", "255.255.255.255", "", "targets[0].address: 255.255.255.255 is no address of one machine"},
		{"multicast", "224.0.0.18", "", "targets[0].address: 224.0.0.18 is no address of one machine"},
		{"multicast, IPv6", "ff02::1", "", "targets[0].address: ff02::1 is no address of one machine"},
		{"oneself", "127.0.0.1", "", "targets[0].address: 127.0.0.1 is no address of one machine"},
		{"a path", "192.0.2.70", "../eth0", `targets[0].interface: "../eth0" is no name of a network interface`},
		{"a long name", "192.0.2.70", "sixteen-letters0", `targets[0].interface: "sixteen-letters0" is no name of a network interface`},
		{"the longest name", "192.0.2.70", "fifteen-letters", ""},
		{"a space", "192.0.2.70", "eth 0", `targets[0].interface: "eth 0" is no name of a network interface`},
		{"a directory", "192.0.2.70", "..", `targets[0].interface: ".." is no name of a network interface`},
		{"no ASCII", "192.0.2.70", "ethé", `targets[0].interface: "ethé" is no name of a network interface`},
	} {
		target := wire.ProbeTarget{Interface: test.on}
		if test.address != "" {
			target.Address = netip.MustParseAddr(test.address)
		}
		var got []string
		for _, f := range (&wire.Probe{Targets: []wire.ProbeTarget{target}}).Faults() {
			got = append(got, f.Field+": "+f.Message)
		}
		if strings.Join(got, "; ") != test.want {
			t.Errorf("%s: faults %q, want %q", test.name, got, test.want)
		}
	}
}

// All faults are told at once, each with its place; too many targets are not looked at.
func TestProbeFaultsTogether(t *testing.T) {
	good, bad := wire.ProbeTarget{Address: netip.MustParseAddr("192.0.2.70")}, wire.ProbeTarget{Interface: "/"}
	faults := (&wire.Probe{Targets: []wire.ProbeTarget{good, bad, good, bad}}).Faults()
	var fields []string
	for _, f := range faults {
		fields = append(fields, f.Field)
	}
	if got, want := strings.Join(fields, " "), "targets[1].address targets[1].interface targets[3].address targets[3].interface"; got != want {
		t.Errorf("faults of %s, want %s", got, want)
	}
	most := &wire.Probe{Targets: make([]wire.ProbeTarget, wire.MaxProbeTargets)}
	for n := range most.Targets {
		most.Targets[n] = good
	}
	if faults := most.Faults(); len(faults) != 0 {
		t.Errorf("%d targets: %v", len(most.Targets), faults)
	}
	most.Targets = append(most.Targets, bad)
	if faults := most.Faults(); len(faults) != 1 || faults[0].Message != "1025 addresses are more than the 1024 of one probe" {
		t.Errorf("%d targets: %v", len(most.Targets), faults)
	}
	if faults := new(wire.Probe).Faults(); len(faults) != 0 {
		t.Errorf("nothing to ask: %v", faults)
	}
}
