package neighbor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// Link is one network interface of this machine.
type Link struct {
	Name  string
	Index int
	// MAC is its link-layer address; questions come from it.
	MAC net.HardwareAddr
	// Problem says why nobody can be asked there: it is down, it is no Ethernet. Empty: they can.
	Problem string
	// Prefixes are the networks on the link, host bits zero, sorted; link-local ones and single addresses are left out.
	Prefixes []netip.Prefix
	// LinkLocal is its IPv6 link-local address, which the answers to IPv6 questions go to. Without one (the zero Addr) they
	// go to everybody.
	LinkLocal netip.Addr
}

// AddressArgv lists the machine's links for ReadLinks.
func AddressArgv() []string { return []string{"ip", "-json", "address", "show"} }

// RouteArgvs list the machine's routes of its main table, of both families, for ReadRouters.
func RouteArgvs() [][]string {
	return [][]string{
		{"ip", "-json", "-4", "route", "show", "table", "main"},
		{"ip", "-json", "-6", "route", "show", "table", "main"},
	}
}

// jsonLink is what `ip -json address show` tells of one interface (iproute2, ip/ipaddress.c).
type jsonLink struct {
	Index     int      `json:"ifindex"`
	Name      string   `json:"ifname"`
	Flags     []string `json:"flags"`
	Type      string   `json:"link_type"`
	MAC       string   `json:"address"`
	Addresses []struct {
		Local     netip.Addr `json:"local"`
		Peer      netip.Addr `json:"address"` // of a point-to-point link, whose prefix it is then
		Bits      int        `json:"prefixlen"`
		Tentative bool       `json:"tentative"`
	} `json:"addr_info"`
}

// ReadLinks reads the output of AddressArgv: every link but loopback, sorted by name.
func ReadLinks(output []byte) ([]Link, error) {
	var told []jsonLink
	if err := json.Unmarshal(output, &told); err != nil {
		return nil, fmt.Errorf("reading the links that ip -json told: %w", err)
	}
	var links []Link
	for _, t := range told {
		if slices.Contains(t.Flags, "LOOPBACK") {
			continue
		}
		l := Link{Name: t.Name, Index: t.Index, Problem: t.problem()}
		if mac, err := net.ParseMAC(t.MAC); err == nil { // a tunnel has none, or something else there
			l.MAC = mac
		}
		for _, a := range t.Addresses {
			if a.Local.Is6() && a.Local.IsLinkLocalUnicast() && !a.Tentative {
				l.LinkLocal = cmp.Or(l.LinkLocal, a.Local)
			}
			prefix := netip.PrefixFrom(cmp.Or(a.Peer, a.Local), a.Bits).Masked()
			if prefix.IsValid() && !prefix.IsSingleIP() && !prefix.Addr().IsLinkLocalUnicast() {
				l.Prefixes = append(l.Prefixes, prefix)
			}
		}
		slices.SortFunc(l.Prefixes, netip.Prefix.Compare)
		l.Prefixes = slices.Compact(l.Prefixes)
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b Link) int { return cmp.Compare(a.Name, b.Name) })
	return links, nil
}

// problem says why nobody can be asked on a link.
func (t jsonLink) problem() string {
	switch {
	case !slices.Contains(t.Flags, "UP"):
		return "is down"
	case !slices.Contains(t.Flags, "LOWER_UP"):
		return "has no carrier"
	case t.Type != "ether", slices.Contains(t.Flags, "NOARP"):
		return "is no Ethernet, so there is no neighbor to ask"
	}
	return ""
}

// OnLink says whether an address belongs to a network of the link.
func (l Link) OnLink(address netip.Addr) bool {
	return slices.ContainsFunc(l.Prefixes, func(p netip.Prefix) bool { return p.Contains(address) })
}

// jsonRoute is what `ip -json route show` tells of one route (iproute2, ip/iproute.c).
type jsonRoute struct {
	jsonHop
	Hops []jsonHop `json:"nexthops"` // of a multipath route
}

type jsonHop struct {
	Link    string     `json:"dev"`
	Gateway netip.Addr `json:"gateway"`
	Via     struct {   // a next hop of the other family
		Host netip.Addr `json:"host"`
	} `json:"via"`
}

// ReadRouters reads the outputs of RouteArgvs: the next hops of the routes by link, sorted; link-local ones are left out.
func ReadRouters(outputs ...[]byte) (map[string][]netip.Addr, error) {
	routers := map[string][]netip.Addr{}
	for _, output := range outputs {
		if len(output) == 0 {
			continue // a kernel without the family
		}
		var routes []jsonRoute
		if err := json.Unmarshal(output, &routes); err != nil {
			return nil, fmt.Errorf("reading the routes that ip -json told: %w", err)
		}
		for _, route := range routes {
			for _, hop := range append(route.Hops, route.jsonHop) {
				router := cmp.Or(hop.Gateway, hop.Via.Host)
				if router.IsValid() && !router.IsLinkLocalUnicast() {
					routers[hop.Link] = append(routers[hop.Link], router)
				}
			}
		}
	}
	for link, found := range routers {
		slices.SortFunc(found, netip.Addr.Compare)
		routers[link] = slices.Compact(found)
	}
	return routers, nil
}
