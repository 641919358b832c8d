package desired

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// maxRouterID is the largest virtual_router_id (RFC 9568 section 5.2.3: one byte, 0 is not used).
const maxRouterID = 255

// Instances gives one Instance for each ordered pair (holder, first heir) of the gateways, one for a single gateway,
// with router IDs from first upward. Further heirs follow in the order of names. Error when 255 is passed.
//
// The pairs are counted by their later member, so that a gateway whose name sorts last can be added without changing
// the router ID of a pair that was there before.
func Instances(gateways []Gateway, first int) ([]Instance, error) {
	names := make([]string, 0, len(gateways))
	for _, g := range gateways {
		names = append(names, g.Name)
	}
	slices.Sort(names)
	count := len(names) * (len(names) - 1)
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("make VRRP instances: no gateway")
	case len(slices.Compact(slices.Clone(names))) != len(names):
		return nil, fmt.Errorf("make VRRP instances: two gateways have the same name: %q", names)
	case len(names) == 1:
		count = 1
	}
	if last := first + count - 1; first < 1 || last > maxRouterID {
		return nil, fmt.Errorf("make VRRP instances: %d gateways need %d router IDs, %d to %d; allowed are 1 to %d: "+
			"choose another first router ID or fewer gateways", len(names), count, first, last, maxRouterID)
	}
	if len(names) == 1 {
		return []Instance{{RouterID: first, Gateways: names}}, nil
	}
	instances := make([]Instance, 0, count)
	add := func(holder, heir int) {
		instances = append(instances, Instance{
			RouterID: first + len(instances),
			Gateways: succession(names, holder, heir),
		})
	}
	for later := 1; later < len(names); later++ {
		for earlier := range later {
			add(earlier, later)
		}
		for earlier := range later {
			add(later, earlier)
		}
	}
	return instances, nil
}

// succession lists holder, heir, then all others in the order of names.
func succession(names []string, holder, heir int) []string {
	heirs := make([]string, 0, len(names))
	heirs = append(heirs, names[holder], names[heir])
	for i, name := range names {
		if i != holder && i != heir {
			heirs = append(heirs, name)
		}
	}
	return heirs
}

// Spread chooses the Instance that moves a VIP and returns its RouterID; 0 when there is no Instance.
//
// It is rendezvous hashing (highest random weight): every gateway draws a lot for the address, the first 8 bytes of
// SHA-256 over the 16 bytes of the address and the gateway's name; the highest lot holds the VIP, the second highest is
// its first heir. So each pair gets an equal share, the choice depends on no other VIP and on no router ID, a gateway
// that is added takes its share from all others and moves nothing else, and when one is removed its VIPs go where
// keepalived has put them already: to their first heir. The hash is part of the State's meaning: it must give the same
// answer in every release, or an upgrade would move addresses.
func Spread(address netip.Addr, instances []Instance) int {
	if len(instances) == 0 {
		return 0
	}
	lots := make(map[string]uint64)
	for _, instance := range instances {
		for _, name := range contenders(instance) {
			if _, drawn := lots[name]; !drawn {
				lots[name] = lot(address, name)
			}
		}
	}
	best := slices.MaxFunc(instances, func(a, b Instance) int {
		return cmp.Or(
			slices.CompareFunc(contenders(a), contenders(b), func(x, y string) int { return cmp.Compare(lots[x], lots[y]) }),
			// Only when two lots are equal: the smaller router ID.
			cmp.Compare(b.RouterID, a.RouterID),
		)
	})
	return best.RouterID
}

// contenders are the holder and the first heir of an instance.
func contenders(i Instance) []string { return i.Gateways[:min(2, len(i.Gateways))] }

func lot(address netip.Addr, gateway string) uint64 {
	bytes := address.As16()
	sum := sha256.Sum256(append(bytes[:], gateway...))
	return binary.BigEndian.Uint64(sum[:8])
}
