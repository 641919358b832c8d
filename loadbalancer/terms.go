package loadbalancer

import (
	"net/netip"
	"slices"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// servedTerms are the terms on which the gateways serve the holds of Services. What a Service asks for now is a change of
// them: one that takes from another is refused later (Allocate), and ports that it has no more are on their way back. Who is
// alone at an address has all of it, whatever key it has by now: it may have had other ports on a gateway that is away.
func (m *Manager) servedTerms() map[hold]ipam.Sharing {
	asked := map[desired.Key]string{}
	terms, keys := map[hold]ipam.Sharing{}, map[netip.Addr][]string{}
	for key, entry := range m.services {
		asked[key] = entry.request.Sharing.Key
	}
	for _, replay := range m.replays {
		asked[replay.Key] = replay.Sharing.Key
	}
	for key, lb := range m.goodBy {
		for _, address := range lb.Addresses {
			terms[hold{address, key}] = ipam.Sharing{Key: asked[key], Ports: frontendPorts(lb.Frontends)}
			keys[address] = append(keys[address], asked[key])
		}
	}
	for _, replay := range m.replays {
		for _, address := range replay.Published {
			if h := (hold{address, replay.Key}); terms[h].Ports == nil {
				terms[h] = replay.Sharing
				keys[address] = append(keys[address], asked[replay.Key])
			}
		}
	}
	for _, r := range m.recalled() {
		if len(r.Ports) > 0 {
			keys[r.Address] = append(keys[r.Address], "")
		}
	}
	given := m.givenPorts()
	for h, t := range terms {
		switch all := keys[h.address]; {
		case len(all) == 1:
			terms[h] = ipam.Sharing{}
		case m.goodBy[h.owner] != nil && slices.Contains(m.goodBy[h.owner].Addresses, h.address):
			t.Key = mostOf(all)
			t.Keyless = t.Key == ""
			terms[h] = t
		default: // what it asks for now may be another's, which a gateway serves
			t.Ports = slices.DeleteFunc(slices.Clone(t.Ports), func(p ipam.Port) bool {
				return slices.ContainsFunc(given[h.address], func(g portOf) bool { return g.port == p && g.owner != h.owner })
			})
			for _, g := range given[h.address] {
				if g.owner == h.owner && len(t.Ports) == 0 {
					t.Ports = append(t.Ports, g.port)
				}
			}
			terms[h] = t
		}
	}
	return terms
}

// portOf is one port that a Service has of an address.
type portOf struct {
	owner desired.Key
	port  ipam.Port
}

// givenPorts are the ports that gateways serve by the newest State, or may serve still.
func (m *Manager) givenPorts() map[netip.Addr][]portOf {
	given := map[netip.Addr][]portOf{}
	for key, lb := range m.goodBy {
		for _, address := range lb.Addresses {
			for _, port := range frontendPorts(lb.Frontends) {
				given[address] = append(given[address], portOf{key, port})
			}
		}
	}
	for _, r := range m.recalled() {
		for _, port := range ipamPorts(r.Ports) {
			given[r.Address] = append(given[r.Address], portOf{r.Owner, port})
		}
	}
	return given
}

// mostOf gives the key that most of the Services at one address ask for: they had the same one. None: they have no key any more.
func mostOf(keys []string) (most string) {
	times := map[string]int{}
	for _, key := range keys {
		if key != "" {
			times[key]++
		}
	}
	for key, n := range times {
		if n > times[most] || n == times[most] && key < most {
			most = key
		}
	}
	return most
}
