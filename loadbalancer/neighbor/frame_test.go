package neighbor

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// frame is bytes written as hexadecimal digits.
func frame(t testing.TB, digits ...string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(digits, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestQuestions(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	const ipv6 = "86dd 60000000 %LEN 3aff %SRC ff02 0000 0000 0000 0000 0001 ff12 3456"
	header := func(length, source string) string {
		return strings.NewReplacer("%LEN", length, "%SRC", source).Replace(ipv6)
	}
	for _, test := range []struct {
		name    string
		link    Link
		address string
		want    []byte
	}{
		{"ARP", Link{MAC: mac}, "192.0.2.64", frame(t,
			"ffffffffffff 020000000001 0806",
			"0001 0800 06 04 0001 020000000001 00000000 000000000000 c0000240", strings.Repeat("00", 18))}, // Ethernet's least
		{"from a link-local address", Link{MAC: mac, LinkLocal: netip.MustParseAddr("fe80::1")}, "2001:db8::12:3456", frame(t,
			"3333ff123456 020000000001", header("0020", "fe80 0000 0000 0000 0000 0000 0000 0001"),
			"87 00 e292 00000000 2001 0db8 0000 0000 0000 0000 0012 3456",
			"01 01 020000000001")},
		{"from nobody", Link{MAC: mac}, "2001:db8::12:3456", frame(t,
			"3333ff123456 020000000001", header("0018", "0000 0000 0000 0000 0000 0000 0000 0000"),
			"87 00 e41e 00000000 2001 0db8 0000 0000 0000 0000 0012 3456")},
	} {
		got, err := test.link.question(netip.MustParseAddr(test.address))
		if err != nil || !bytes.Equal(got, test.want) {
			t.Errorf("%s: %v\n%s, want\n%s", test.name, err, hex.Dump(got), hex.Dump(test.want))
		}
	}
}

const (
	toUs = "020000000001 020000000002 "
	arp  = toUs + "0806 0001 0800 06 04 "
	// advertised is a neighbour advertisement as Linux answers a question from a link-local address, up to its checksum.
	advertised = toUs + "86dd 60000000 0020 3aff fe80 0000 0000 0000 0000 0000 0000 0002 fe80 0000 0000 0000 0000 0000 0000 0001 88 00 "
	target     = "60000000 2001 0db8 0000 0000 0000 0000 0012 3456 "
	withOption = "02 01 020000000003"
)

func TestClaims(t *testing.T) {
	for _, test := range []struct {
		name  string
		frame string
		want  string // "" for no claim
	}{
		{"an ARP answer", arp + "0002 020000000003 c0000240 020000000001 00000000", "192.0.2.64 02:00:00:00:00:03"},
		{"padded to Ethernet's least", arp + "0002 020000000003 c0000240 020000000001 00000000" + strings.Repeat("00", 18), "192.0.2.64 02:00:00:00:00:03"},
		{"an ARP announcement", arp + "0001 020000000003 c0000240 000000000000 c0000240", "192.0.2.64 02:00:00:00:00:03"},
		{"somebody else's ARP probe", arp + "0001 020000000003 00000000 000000000000 c0000240", ""},
		{"ARP, cut", arp + "0002 020000000003 c0000240 020000000001 0000", ""},
		{"ARP for another protocol", toUs + "0806 0001 86dd 06 04 0002 020000000003 c0000240 020000000001 00000000", ""},
		{"ARP with long addresses", toUs + "0806 0001 0800 08 04 0002 0200000000030000 c0000240 0200000000010000 00000000", ""},
		{"ARP of lengths that are not there", toUs + "0806 0001 0800 ff ff 0002 020000000003", ""},
		{"an advertisement", advertised + "b47a" + target + withOption, "2001:db8::12:3456 02:00:00:00:00:03"},
		{"its checksum is wrong", advertised + "b47b" + target + withOption, ""},
		{"an advertisement without the option", strings.Replace(advertised, "0020 3aff", "0018 3aff", 1) + "b886" + target, "2001:db8::12:3456 02:00:00:00:00:02"},
		{"through a router", strings.Replace(advertised, "3aff", "3afe", 1) + "b47a" + target + withOption, ""},
		{"with an empty option", advertised + "b67e" + target + "02 00 000000000000", ""},
		{"with another code", strings.Replace(advertised, "88 00", "88 01", 1) + "b479" + target + withOption, ""},
		{"a solicitation", strings.Replace(advertised, "88 00", "87 00", 1) + "b6df" + target + withOption, ""},
		{"IPv4", toUs + "0800 45000014 00000000 40010000 c0000202 c0000201", ""},
		{"nothing", "", ""},
	} {
		got := ""
		if address, mac, ok := claim(frame(t, test.frame)); ok {
			got = address.String() + " " + mac.String()
		}
		if got != test.want {
			t.Errorf("%s: claims %q, want %q", test.name, got, test.want)
		}
	}
}

// Whatever is on the link: no panic, and a claim is of an address and an Ethernet address.
func FuzzClaim(f *testing.F) {
	f.Add(frame(f, arp, "0002 020000000003 c0000240 020000000001 00000000"))
	f.Add(frame(f, advertised, "b47a", target, withOption))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if address, mac, ok := claim(frame); ok && (!address.IsValid() || address.IsUnspecified() && address.Is4() || len(mac) != 6) {
			t.Errorf("claim of %v by %v", address, mac)
		}
	})
}
