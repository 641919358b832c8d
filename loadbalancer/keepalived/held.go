package keepalived

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// AddressArgv lists the machine's addresses for Held.
func AddressArgv() []string { return []string{"ip", "-json", "address", "show"} }

// Holding is what one machine holds.
type Holding struct {
	// VIPs are those of State.VIPs that are here, usable and on the interface where they belong, sorted.
	VIPs []netip.Addr
	// Places are where the VIPs are, in their order.
	Places []Place
	// RouterIDs are the instances whose anchor is here: this machine is their MASTER. Ascending.
	RouterIDs []int
	// Source says that the gateway's VRRPAddress is usable on its Interface. A keepalived that is started while it is not
	// (IPv6: still tentative) stays in FAULT for ever, with track_src_ip and vrrp_startup_delay too; a reload heals it.
	Source bool
	// Misplaced are VIPs that are here, but on an interface where keepalived did not put them: told, never counted as held.
	Misplaced []Place
	// Missing are interfaces that State names and this machine lacks: keepalived keeps every instance with a VIP on one in
	// state FAULT, and its -t does not see it because of dynamic_interfaces.
	Missing []string
}

// Place is an address on an interface, with the length of the prefix that it was given there.
type Place struct {
	Address   netip.Addr
	Interface string
	Bits      int
}

// link is what `ip -json address show` tells of one interface (iproute2, ip/ipaddress.c).
type link struct {
	Name      string `json:"ifname"`
	Addresses []struct {
		Local     netip.Addr `json:"local"`
		Bits      int        `json:"prefixlen"`
		Tentative bool       `json:"tentative"`
		DADFailed bool       `json:"dadfailed"`
	} `json:"addr_info"`
}

// Held reads the output of AddressArgv.
func Held(addresses []byte, s *desired.State, l Local) (Holding, error) {
	var links []link
	if err := json.Unmarshal(addresses, &links); err != nil {
		return Holding{}, fmt.Errorf("reading the addresses that ip -json told: %w", err)
	}
	self, err := s.Gateway(l.Gateway)
	if err != nil {
		return Holding{}, fmt.Errorf("finding held VIPs: %w", err)
	}
	present := map[string]bool{}
	held := map[netip.Addr][]Place{}
	for _, i := range links {
		present[i.Name] = true
		for _, a := range i.Addresses {
			if !a.Tentative && !a.DADFailed {
				held[a.Local] = append(held[a.Local], Place{Address: a.Local, Interface: i.Name, Bits: a.Bits})
			}
		}
	}
	on := func(address netip.Addr, name string) bool {
		return slices.ContainsFunc(held[address], func(p Place) bool { return p.Interface == name })
	}
	h := Holding{Source: on(self.VRRPAddress, self.Interface)}
	wanted := map[string]bool{self.Interface: true}
	for _, v := range s.VIPs {
		belongs := v.Interface
		if belongs == "" {
			belongs = self.Interface
		}
		wanted[belongs] = true
		for _, place := range held[v.Address] {
			if place.Interface == belongs {
				h.Places = append(h.Places, place)
			} else {
				h.Misplaced = append(h.Misplaced, place)
			}
		}
	}
	for _, i := range s.Instances {
		if on(Anchor(i.RouterID, self.VRRPAddress.Is4()), self.Interface) {
			h.RouterIDs = append(h.RouterIDs, i.RouterID)
		}
	}
	for name := range wanted {
		if !present[name] {
			h.Missing = append(h.Missing, name)
		}
	}
	slices.SortFunc(h.Places, func(a, b Place) int { return a.Address.Compare(b.Address) })
	for _, p := range h.Places {
		if n := len(h.VIPs); n == 0 || h.VIPs[n-1] != p.Address {
			h.VIPs = append(h.VIPs, p.Address)
		}
	}
	slices.Sort(h.RouterIDs)
	slices.Sort(h.Missing)
	return h, nil
}

// Here reads the output of AddressArgv: every address of the machine, with an interface that has it.
func Here(addresses []byte) (map[netip.Addr]string, error) {
	var links []link
	if err := json.Unmarshal(addresses, &links); err != nil {
		return nil, fmt.Errorf("reading the addresses that ip -json told: %w", err)
	}
	here := map[netip.Addr]string{}
	for _, i := range links {
		for _, a := range i.Addresses {
			here[a.Local] = i.Name
		}
	}
	return here, nil
}

// HeldVIPs is Held's VIPs.
func HeldVIPs(addresses []byte, s *desired.State, l Local) ([]netip.Addr, error) {
	h, err := Held(addresses, s, l)
	return h.VIPs, err
}

// Own reads from the output of AddressArgv where the gateway itself is reached on its Interface: at VRRPAddress, and in the
// other family at its first usable address that is neither a VIP nor of the link alone.
func Own(addresses []byte, s *desired.State, l Local) (own []netip.Addr, device string, err error) {
	var links []link
	if err := json.Unmarshal(addresses, &links); err != nil {
		return nil, "", fmt.Errorf("reading the addresses that ip -json told: %w", err)
	}
	self, err := s.Gateway(l.Gateway)
	if err != nil {
		return nil, "", fmt.Errorf("finding this gateway's addresses: %w", err)
	}
	own = []netip.Addr{self.VRRPAddress}
	floats := func(a netip.Addr) bool {
		return slices.ContainsFunc(s.VIPs, func(v desired.VIP) bool { return v.Address == a })
	}
	for _, i := range links {
		for _, a := range i.Addresses {
			usable := !a.Tentative && !a.DADFailed && !a.Local.IsLinkLocalUnicast() && !floats(a.Local)
			if i.Name == self.Interface && len(own) == 1 && usable && a.Local.Is4() != self.VRRPAddress.Is4() {
				own = append(own, a.Local)
			}
		}
	}
	return own, self.Interface, nil
}
