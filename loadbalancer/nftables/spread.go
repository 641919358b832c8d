package nftables

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// How many slots the hash of a flow chooses from: primes, as Maglev's filling needs. They stand in the rules, so that a change
// of one moves flows wherever another gateway still has the old. Few, because each slot is an element that is loaded and read
// back; with 100 nodes a node of the shared pool has 10 or 11.
const (
	sharedSlots = 1021
	ownSlots    = 61
)

// Unfit are the servers that get no new flows, by name: those whose check HAProxy on this gateway finds failing.
type Unfit struct {
	// Nodes4 and Nodes6 are nodes of the shared pool, at their address of the family. All of them: all are used (fail open).
	Nodes4, Nodes6 map[string]bool
	// Servers are those of load balancers with a Pool. All of them: backups serve, and without any the load balancer refuses
	// (fail closed).
	Servers map[desired.Key]map[string]bool
	// Servers6 are those at their IPv6 addresses where they see their clients' addresses: an answer comes back, or not, by family.
	Servers6 map[desired.Key]map[string]bool
}

// Of are the servers of a load balancer that get no new flows at a VIP.
func (u Unfit) Of(lb *desired.LoadBalancer, vip netip.Addr) map[string]bool {
	if lb.ClientSource && vip.Is6() {
		return u.Servers6[lb.Key]
	}
	return u.Servers[lb.Key]
}

// candidate may be given slots.
type candidate struct {
	name   string
	target string // as nft prints it: an address, and a port where slots have one
	weight int
	unfit  bool
}

// spread gives each slot a candidate's target. It depends on the candidates alone, so that it is the same on all gateways that
// find the same ones fit, and a slot of a fit one stays with it whatever becomes of the others' fitness.
func spread(all []candidate, slots int, failsOpen bool) []string {
	var fit []candidate
	for _, c := range all {
		if !c.unfit {
			fit = append(fit, c)
		}
	}
	if len(fit) == 0 && failsOpen {
		fit = all
	}
	if len(fit) == 0 {
		return nil
	}
	owners, targets := fill(all, slots), make([]string, slots)
	instead := owners
	if len(fit) < len(all) {
		instead = fill(fit, slots)
	}
	for slot, owner := range owners {
		if len(fit) < len(all) && all[owner].unfit {
			targets[slot] = fit[instead[slot]].target
			continue
		}
		targets[slot] = all[owner].target
	}
	return targets
}

// fill is Maglev's (Eisenbud et al., NSDI 2016, section 3.4): each candidate has an order of all slots of its own, and they take
// turns at taking the next one that is free. Shares are equal within one slot, or as the weights are, and when a candidate
// comes or goes few slots but its own change hands. It gives the number of the candidate by slot.
func fill(all []candidate, slots int) []int {
	type turn struct{ next, skip, credit int }
	turns, heaviest := make([]turn, len(all)), 1
	for i, c := range all {
		sum := sha256.Sum256([]byte(c.name))
		turns[i].next = int(binary.BigEndian.Uint32(sum[0:]) % uint32(slots))
		turns[i].skip = int(binary.BigEndian.Uint32(sum[4:])%uint32(slots-1)) + 1
		heaviest = max(heaviest, c.weight)
	}
	owners := make([]int, slots)
	for i := range owners {
		owners[i] = -1
	}
	for taken := 0; ; {
		for i := range turns {
			t := &turns[i]
			if t.credit += all[i].weight; t.credit < heaviest {
				continue
			}
			t.credit -= heaviest
			for owners[t.next] >= 0 {
				t.next = (t.next + t.skip) % slots
			}
			owners[t.next] = i
			if taken++; taken == slots {
				return owners
			}
		}
	}
}
