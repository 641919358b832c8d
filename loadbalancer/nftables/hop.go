package nftables

import (
	"bytes"
	_ "embed"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"text/template"
)

// The second hop. When VIPs move while both gateways live, the packets of connections that the old holder has come to the new
// one, which would reset them. For a while the new one hands on to the old one what is no SYN, has no socket here and was not
// begun here, with its destination untouched; the old one takes in what comes for a VIP that it has no more, and answers the
// client itself. So connections end by themselves, and one that is half-way at the move is none that fails.
//
// A packet that was handed on says so in its DSCP, which no socket looks at: while both gateways have the VIP, for some
// milliseconds, it would go to and fro else. Conntrack tells the first ACK of a client that was answered by a SYN cookie,
// which has no socket either, from a connection of somebody else. It is asked while VIPs move and not for every connection
// all the time, so this is a table of its own, absent otherwise: ip and ip6, since `dup to` an address is not there for inet.
//
// The kernel makes a new IPv6 address local in a queue of its own, which waits for a processor: neighbours have heard of it by then. So
// what comes for a VIP that is not local is judged like the rest, for it may be the new holder that it comes to, and the answers of
// neighbours that were asked in the name of such a VIP are taken in, for they are asked again a second later only.
const (
	hopMark  = 0x2000000
	hopRoute = 7480 // routing table and preference, like HAProxy's port: nobody else's, it is hoped
	hopped   = 63   // of 0 to 63; RFC 2474 leaves it to local use
)

// Hop is what one gateway does of a hand-over.
type Hop struct {
	// VIPs are those that are taken in whether they are here or not.
	VIPs []netip.Addr
	// Before says which gateway's address had a VIP before: what nobody here knows is handed on there.
	Before map[netip.Addr]netip.Addr
}

//go:embed hop.nft.tmpl
var hopText string

var hopTemplate = template.Must(template.New("hop.nft").Parse(hopText))

type hopView struct {
	Family, Type string
	VIPs         []netip.Addr
	Before       []hopPair
	Mark         string
	Hopped       int
}

type hopPair struct{ VIP, Gateway netip.Addr }

// RenderHop gives a script for LoadArgv that replaces the tables of the second hop, whether they exist or not; without VIPs it
// removes them. Same content, same bytes.
func RenderHop(h Hop) ([]byte, error) {
	views := []hopView{{Family: "ip", Type: "ipv4_addr"}, {Family: "ip6", Type: "ipv6_addr"}}
	for i := range views {
		v := &views[i]
		v.Mark, v.Hopped = strconv.FormatInt(hopMark, 16), hopped
		for _, vip := range slices.SortedFunc(slices.Values(h.VIPs), netip.Addr.Compare) {
			if vip.Is4() != (v.Family == "ip") {
				continue
			}
			v.VIPs = append(v.VIPs, vip)
			if g, ok := h.Before[vip]; ok && g.Is4() == vip.Is4() {
				v.Before = append(v.Before, hopPair{vip, g})
			}
		}
	}
	var out bytes.Buffer
	if err := hopTemplate.Execute(&out, views); err != nil {
		return nil, fmt.Errorf("rendering the tables of the second hop: %w", err)
	}
	return out.Bytes(), nil
}

// HopRouteArgvs are the programs that let a marked packet from the segment in although its destination is not here. Each may be
// run again; HopRouteThere tells the failure that means that it was run before. The rule names the interface: without it a
// site whose sockets inherit marks (net.ipv4.tcp_fwmark_accept), or whose source check looks at them, would lose packets.
func HopRouteArgvs(device string) [][]string {
	var all [][]string
	for _, family := range []string{"-4", "-6"} {
		table, mark := strconv.Itoa(hopRoute), fmt.Sprintf("0x%x/0x%x", hopMark, hopMark)
		all = append(all,
			[]string{"ip", family, "route", "replace", "local", "default", "dev", "lo", "table", table},
			[]string{"ip", family, "rule", "add", "iif", device, "fwmark", mark, "lookup", table, "pref", table})
	}
	return all
}

// HopRouteRemovalArgvs are the programs that undo those of HopRouteArgvs, for whatever interfaces they were run. Each takes off one
// rule, or what is in the table, and fails when there is none: it is to be run until it does.
func HopRouteRemovalArgvs() [][]string {
	table := strconv.Itoa(hopRoute)
	var all [][]string
	for _, family := range []string{"-4", "-6"} {
		all = append(all, []string{"ip", family, "rule", "delete", "pref", table}, []string{"ip", family, "route", "delete", "local", "default", "table", table})
	}
	return all
}

// HopRouteThere says whether a program of HopRouteArgvs failed because its work is done already.
func HopRouteThere(stderr []byte) bool { return bytes.Contains(stderr, []byte("File exists")) }
