package ipam_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"cloud-provider-haproxy/ipam"
)

// claim is one line of what is known after a restart.
type claim struct {
	owner     ipam.Owner
	address   netip.Addr
	sharing   ipam.Sharing
	releasing bool
}

// claims reads one from every three bytes.
func claims(script []byte) (all []claim) {
	for ; len(script) >= 3; script = script[3:] {
		c := claim{
			owner:     ipam.Owner{Namespace: "default", Name: fmt.Sprintf("published%d", script[0]%16)},
			address:   netip.AddrFrom4([4]byte{10, 0, 0, script[1] % 20}), // the pool has 16
			releasing: script[0] >= 192,
		}
		if script[2] >= 64 {
			c.sharing = ipam.Sharing{Key: "k", Ports: tcp(uint16(script[2]%8) + 1)}
		}
		all = append(all, c)
	}
	return all
}

// agrees says whether both can be true at once, in words of what an address is and not of how it is kept.
func (c claim) agrees(d claim) bool {
	both := func(test func(claim) bool) bool { return test(c) && test(d) }
	whole := func(c claim) bool { return c.sharing.Key == "" }
	held := func(c claim) bool { return !c.releasing }
	switch {
	case c.owner == d.owner && c.address == d.address:
		// Held twice, on the same terms, or held and releasing ports of it.
		return both(held) && reflect.DeepEqual(c, d) || both(func(c claim) bool { return c.releasing }) ||
			!both(held) && (c.releasing || !whole(c)) && (d.releasing || !whole(d))
	case c.owner == d.owner:
		return !both(held)
	case c.address == d.address:
		return !whole(c) && !whole(d) && !overlap(c.sharing.Ports, d.sharing.Ports)
	}
	return true
}

// replay makes claims in their order, then allocates for what is pending, and gives who has what.
func replay(t *testing.T, order []claim) (holders [][]ipam.Holder, failed []error) {
	a := newAllocator(t, nil, pool(t, "a", "10.0.0.0/28"))
	var published []claim
	for _, c := range order {
		var err error
		if c.releasing {
			err = a.ClaimReleasing(c.owner, c.address, c.sharing.Ports)
		} else {
			err = a.Claim(c.owner, c.address, c.sharing)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%+v: %w", c, err))
		} else if !c.releasing {
			published = append(published, c)
		}
	}
	releasing := a.Releasing()
	for i := range 20 {
		name := fmt.Sprintf("pending%d", i)
		_, _ = a.Allocate(owner(name), ipam.Request{}) // exhausted some time
	}
	for n := range byte(20) {
		holders = append(holders, a.Holders(netip.AddrFrom4([4]byte{10, 0, 0, n})))
	}
	// From here on pending ones ask for what they like.
	for i := range uint16(20) {
		pending := owner(fmt.Sprintf("rude%d", i))
		_, _ = a.Allocate(pending, ipam.Request{Sharing: sharing("k", i%8+1)})
		_, _ = a.Allocate(pending, ipam.Request{Sharing: sharing("k", i%8+1),
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}})
	}
	for _, c := range published {
		if !slices.Contains(a.Addresses(c.owner), c.address) {
			t.Fatalf("%s lost %s to a pending Service", c.owner, c.address)
		}
	}
	if !slices.EqualFunc(kept(a.Releasing()), releasing, func(x, y ipam.Released) bool { return reflect.DeepEqual(x, y) }) {
		t.Fatalf("releasing were %v, are %v", releasing, a.Releasing())
	}
	single(t, a)
	return holders, failed
}

// kept are those that were there before the pending Services.
func kept(all []ipam.Released) []ipam.Released {
	return slices.DeleteFunc(all, func(r ipam.Released) bool { return r.Owner.Name[:4] == "rude" })
}

// single checks that no port of an address has two owners.
func single(t *testing.T, a *ipam.Allocator) {
	for n := range byte(20) {
		address := netip.AddrFrom4([4]byte{10, 0, 0, n})
		holders := a.Holders(address)
		for i, h := range holders {
			for _, other := range holders[:i] {
				if h.Owner != other.Owner && (len(h.Sharing.Ports) == 0 || len(other.Sharing.Ports) == 0 ||
					overlap(h.Sharing.Ports, other.Sharing.Ports)) {
					t.Fatalf("%s is of %+v and %+v", address, other, h)
				}
			}
		}
	}
}

// FuzzReplay repeats what was published in two orders. Claims that agree are all believed, and everybody has the same
// after both. Of claims that do not agree the earlier one is believed. Nothing pending displaces what was published.
func FuzzReplay(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 1, 0, 2, 2, 0, 200, 3, 0, 4, 17, 0}, uint64(1))                      // alone, one releasing, one outside
	f.Add([]byte{0, 5, 64, 1, 5, 65, 2, 5, 66, 195, 5, 67, 4, 5, 68}, uint64(2))                  // shared, one releasing
	f.Add([]byte{0, 5, 64, 192, 5, 65, 192, 5, 0, 1, 6, 70, 193, 6, 71}, uint64(3))               // held and releasing
	f.Add([]byte{0, 1, 0, 0, 2, 0, 1, 1, 0, 2, 1, 64, 194, 1, 64, 3, 1, 64, 3, 1, 65}, uint64(4)) // they do not agree
	f.Fuzz(func(t *testing.T, script []byte, seed uint64) {
		replayInTwoOrders(t, script[:min(len(script), 120)], seed)
	})
}

// TestReplayInAnyOrder is FuzzReplay with scripts of its own.
func TestReplayInAnyOrder(t *testing.T) {
	for seed := range uint64(1000) {
		random := rand.New(rand.NewPCG(seed, 1))
		script := make([]byte, random.IntN(100))
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		replayInTwoOrders(t, script, seed)
	}
}

func replayInTwoOrders(t *testing.T, script []byte, seed uint64) {
	order := claims(script)
	shuffled := func(all []claim) []claim {
		all = slices.Clone(all)
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		return all
	}
	replay(t, order)
	replay(t, shuffled(order))
	var agreed []claim
	for _, c := range order {
		if !slices.ContainsFunc(agreed, func(d claim) bool { return !c.agrees(d) }) {
			agreed = append(agreed, c)
		}
	}
	first, failed := replay(t, agreed)
	second, failedToo := replay(t, shuffled(agreed))
	if failed = append(failed, failedToo...); failed != nil {
		t.Fatalf("claims that agree were refused: %v", failed)
	}
	for n := range first {
		if !reflect.DeepEqual(first[n], second[n]) {
			t.Fatalf("10.0.0.%d is of %+v in one order and of %+v in another", n, first[n], second[n])
		}
	}
}
