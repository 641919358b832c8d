package nftables

import (
	"bytes"
	"net/netip"
	"strconv"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A load balancer with ClientSource has HAProxy connect to its servers from the client's address, and UDP and SCTP go there without
// a translation of their source. What comes back is for an address that is not this machine's. Flows of UDP and SCTP conntrack knows.
// An answer to HAProxy is found by its socket (`socket transparent`), marked, and led in by a routing rule for that mark; no
// packet else has it: a stranger's that looks like one has no socket. VIPs are left alone, so that one that went to another
// gateway is not served here. ICMP is looked up by what it quotes: without it path MTU would not be learnt.
const (
	sourceMark  = 0x4000000
	sourceRoute = 7482 // routing table and preference, beside those of the second hop
	sourceCheck = 7481 // preference of what comes before
)

// ClientSource says whether this machine's owner allows it. Then the rules are there, whether the State needs them or not.
func (l Local) ClientSource() bool { return len(l.ClientSourceProbes) > 0 }

// SourceMark is what the template shows.
func (content) SourceMark() string { return "0x" + strconv.FormatInt(sourceMark, 16) }

// keepsClients says whether a load balancer can be served at a VIP: one that is to keep its clients' addresses only where they may be
// kept, and where it can be proven that answers come back.
func (l Local) keepsClients(lb *desired.LoadBalancer, vip netip.Addr) bool {
	_, allowed := desired.OfFamily(l.ClientSourceProbes, desired.FamilyOf(vip))
	return !lb.ClientSource || allowed
}

// nodesAsClients are the nodes' own addresses: what a node answers to another one goes there without any router, and to itself nowhere.
// They are refused where servers see their clients.
func nodesAsClients(s *desired.State) (all []netip.Prefix) {
	for _, n := range s.Nodes {
		for _, a := range n.Addresses {
			all = append(all, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return all
}

// newDirect makes the sets of ports whose servers see the client.
func newDirect(s *desired.State, l Local) byFamily {
	direct := newByFamily("direct", doorType, "ports of UDP and SCTP whose servers see the client's address")
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		for _, f := range lb.Frontends {
			for _, vip := range lb.Addresses {
				if lb.ClientSource && f.Protocol != desired.TCP && l.keepsClients(lb, vip) {
					direct.add(vip, element(vip, f.Protocol, f.Port))
				}
			}
		}
	}
	return direct
}

// ClientSourceArgvs are the programs that lead in what is marked, and give this machine the addresses that its servers are checked
// from. The first rule is for the question where a marked packet comes from (net.ipv4.conf.*.src_valid_mark, which wg-quick sets): the
// second would say that a node is this machine. Each may be run again; ClientSourceThere tells the failure that means that it was run before. The address is of scope host, or
// deprecated, so that nothing else is ever sent from it.
func ClientSourceArgvs(probes []netip.Addr) [][]string {
	var all [][]string
	for _, probe := range probes {
		family, more := "-4", []string{"scope", "host"}
		if probe.Is6() {
			family, more = "-6", []string{"nodad", "preferred_lft", "0"}
		}
		table, mark := strconv.Itoa(sourceRoute), content{}.SourceMark()
		all = append(all,
			[]string{"ip", family, "route", "replace", "local", "default", "dev", "lo", "table", table},
			[]string{"ip", family, "rule", "add", "iif", "lo", "fwmark", mark + "/" + mark, "lookup", "main", "pref", strconv.Itoa(sourceCheck)},
			[]string{"ip", family, "rule", "add", "fwmark", mark + "/" + mark, "lookup", table, "pref", table},
			append([]string{"ip", family, "address", "replace", single(probe), "dev", "lo"}, more...))
	}
	return all
}

// ClientSourceRemovalArgvs undo those of ClientSourceArgvs for these addresses. Each fails when there is nothing to undo.
func ClientSourceRemovalArgvs(probes []netip.Addr) [][]string {
	table := strconv.Itoa(sourceRoute)
	var all [][]string
	for _, probe := range probes {
		family := "-4"
		if probe.Is6() {
			family = "-6"
		}
		all = append(all,
			[]string{"ip", family, "address", "delete", single(probe), "dev", "lo"},
			[]string{"ip", family, "rule", "delete", "pref", table},
			[]string{"ip", family, "rule", "delete", "pref", strconv.Itoa(sourceCheck)},
			[]string{"ip", family, "route", "delete", "local", "default", "table", table})
	}
	return all
}

func single(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// ClientSourceThere says whether a program of ClientSourceArgvs failed because its work is done already.
func ClientSourceThere(stderr []byte) bool { return bytes.Contains(stderr, []byte("File exists")) }
