package ipam_test

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"cloud-provider-haproxy/ipam"
)

func reserved(pairs ...string) (all []ipam.Reservation) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, ipam.Reservation{Address: addr(pairs[i]), Owner: owner(pairs[i+1])})
	}
	return all
}

func TestReservedAddressWaitsForItsOwner(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.3"), pool(t, "b", "198.51.100.1"))
	a.SetReserved(reserved("192.0.2.1", "web", "198.51.100.1", "mail", "203.0.113.1", "gone pool"))
	for _, c := range []struct {
		name    string
		request ipam.Request
		want    string
	}{
		{"other", ipam.Request{}, "192.0.2.2"},
		{"web", ipam.Request{}, "192.0.2.1"},
		{"mail", ipam.Request{Pools: []string{"a"}}, "198.51.100.1"},
		{"mail", ipam.Request{Pools: []string{"a"}, Moves: true}, "198.51.100.1"},
		{"gone pool", ipam.Request{}, "192.0.2.3"},
	} {
		if got := allocate(t, a, c.name, c.request); got != c.want {
			t.Errorf("%s = %s, want %s", c.name, got, c.want)
		}
	}
	a.Release(owner("web"))
	a.Free(addr("192.0.2.1"), owner("web"))
	want := ipam.Count{Pool: "a", Family: ipam.IPv4, Size: 3, Assigned: 2, Reserved: 1}
	if got := a.Counts()[0]; got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	_, err := a.Allocate(owner("new"), ipam.Request{Addresses: []netip.Addr{addr("192.0.2.1")}})
	var refused *ipam.ReservedError
	if !errors.As(err, &refused) || err.Error() != "address 192.0.2.1 is reserved for Service default/web; request another "+
		"address, or remove that reservation" {
		t.Errorf("requested: %v", err)
	}
	_, err = a.Allocate(owner("new"), ipam.Request{Pools: []string{"a"}, Note: `pool "b" is for namespace mail`})
	if err == nil || err.Error() != `no IPv4 address is free (pool "a" has 3 addresses: 2 assigned, 1 reserved); add a range to a pool `+
		`or delete a Service; pool "b" is for namespace mail` {
		t.Errorf("exhausted: %v", err)
	}
	a.SetReserved(nil)
	if got := allocate(t, a, "new", ipam.Request{}); got != "192.0.2.1" {
		t.Errorf("after the reservation = %s", got)
	}
}

// TestReservedForSharers: two Services that shared an address and were both kept come back to it, and nobody takes the
// ports of the one that is still expected.
func TestReservedForSharers(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.9"), pool(t, "b", "198.51.100.1"))
	a.SetReserved(reserved("192.0.2.1", "mail", "192.0.2.1", "web"))
	asks := ipam.Request{Addresses: []netip.Addr{addr("192.0.2.1")}, Sharing: sharing("k", 25)}
	for _, c := range []struct {
		name    string
		request ipam.Request
		want    string
	}{
		{"web", ipam.Request{Sharing: sharing("k", 80)}, "192.0.2.1"},
		{"early", ipam.Request{Sharing: sharing("k", 25)}, "192.0.2.2"},
		{"mail", ipam.Request{Sharing: sharing("k", 25)}, "192.0.2.1"},
		{"late", ipam.Request{Sharing: sharing("k", 99)}, "192.0.2.1"},
		{"late by name", ipam.Request{Addresses: asks.Addresses, Sharing: sharing("k", 98)}, "192.0.2.1"},
		{"same ports", ipam.Request{Sharing: sharing("k", 25, 80), Pools: []string{"a"}}, "192.0.2.3"},
		{"of another pool", ipam.Request{Sharing: sharing("k", 97), Pools: []string{"b"}}, "198.51.100.1"},
	} {
		if c.name == "mail" {
			if _, err := a.Allocate(owner("early by name"), asks); kind(err) != "ReservedError" || !strings.Contains(err.Error(), "default/mail") {
				t.Errorf("somebody takes mail's port before it is back: %v", err)
			}
		}
		if got := allocate(t, a, c.name, c.request); got != c.want {
			t.Errorf("%s = %s, want %s", c.name, got, c.want)
		}
	}
	foreign := ipam.Owner{Namespace: "other", Name: "foreign"}
	asks.Sharing = sharing("k", 7)
	if _, err := a.Allocate(foreign, asks); kind(err) != "SharingError" {
		t.Errorf("another namespace: %v", err)
	}
	// Who joined stays and keeps its port when the others go, and who is expected comes back beside it.
	for _, name := range []string{"web", "mail"} {
		a.Release(owner(name))
		a.Free(addr("192.0.2.1"), owner(name))
	}
	for _, name := range []string{"late", "web"} {
		if got := allocate(t, a, name, ipam.Request{Sharing: sharing("k", map[string]uint16{"late": 99, "web": 80}[name])}); got != "192.0.2.1" {
			t.Errorf("%s = %s afterwards", name, got)
		}
	}
}

func TestQuarantine(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.2"))
	allocate(t, a, "web", ipam.Request{})
	a.SetQuarantined(map[netip.Addr]string{addr("192.0.2.1"): "00:00:5e:00:53:01", addr("192.0.2.2"): "00:00:5e:00:53:02"})
	if got := allocate(t, a, "web", ipam.Request{}); got != "192.0.2.1" {
		t.Errorf("web went from a quarantined address to %s", got)
	}
	_, err := a.Allocate(owner("new"), ipam.Request{Addresses: []netip.Addr{addr("192.0.2.2")}})
	var refused *ipam.QuarantinedError
	if !errors.As(err, &refused) || err.Error() != "address 192.0.2.2 is quarantined: 00:00:5e:00:53:02, which is no gateway, "+
		"answered for it on the network; request another one" {
		t.Errorf("requested: %v", err)
	}
	_, err = a.Allocate(owner("new"), ipam.Request{})
	if err == nil || !strings.Contains(err.Error(), `pool "a" has 2 addresses: 1 assigned, 1 quarantined because somebody else on the network answers for it`) {
		t.Errorf("exhausted: %v", err)
	}
	a.SetQuarantined(map[netip.Addr]string{addr("192.0.2.1"): "00:00:5e:00:53:01"})
	if got := allocate(t, a, "new", ipam.Request{}); got != "192.0.2.2" {
		t.Errorf("new = %s, want what is quarantined no more", got)
	}
}

// TestEveryMarkHolds: an address is free only when the last of its marks is gone, and the dearest one counts.
func TestEveryMarkHolds(t *testing.T) {
	one := map[netip.Addr]string{addr("192.0.2.1"): "why"}
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
	count := func(when string, want ipam.Count) {
		t.Helper()
		want.Pool, want.Family = "a", ipam.IPv4
		if got := a.Counts()[0]; got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	a.SetReserved(reserved("192.0.2.1", "web"))
	count("reserved", ipam.Count{Size: 1, Reserved: 1})
	a.SetQuarantined(one)
	count("and quarantined", ipam.Count{Size: 1, Quarantined: 1})
	a.SetExcluded(one)
	count("and excluded", ipam.Count{})
	a.SetQuarantined(nil)
	a.SetReserved(nil)
	if _, err := a.Allocate(owner("web"), ipam.Request{}); err == nil {
		t.Error("an excluded address was given away")
	}
	a.SetExcluded(nil)
	if got := allocate(t, a, "web", ipam.Request{}); got != "192.0.2.1" {
		t.Errorf("web = %s", got)
	}
	a.SetExcluded(one)
	count("excluded while assigned", ipam.Count{Size: 1, Assigned: 1})
	a.Release(owner("web"))
	count("excluded while releasing", ipam.Count{Size: 1, Releasing: 1})
	a.Free(addr("192.0.2.1"), owner("web"))
	count("excluded and not in use any more", ipam.Count{})
}

func TestWithdrawnAddressIsFreeAtOnce(t *testing.T) {
	only := addr("192.0.2.1")
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
	allocate(t, a, "web", ipam.Request{})
	if a.Withdraw(owner("other"), only) || !a.Withdraw(owner("web"), only) || a.Has(owner("web"), only) {
		t.Error("Withdraw of another's and of its own")
	}
	if got := allocate(t, a, "other", ipam.Request{}); got != "192.0.2.1" {
		t.Errorf("other = %s", got)
	}
	// What a gateway may still serve is not free by being taken back and withdrawn.
	a.Release(owner("other"))
	allocate(t, a, "other", ipam.Request{})
	if !a.Withdraw(owner("other"), only) || len(a.Releasing()) != 1 {
		t.Errorf("releasing %v after Withdraw of what came back", a.Releasing())
	}
	_, err := a.Allocate(owner("web"), ipam.Request{})
	if err == nil || !strings.HasPrefix(err.Error(), `no IPv4 address is free (pool "a" has 1 address: 0 assigned, 1 releasing until `) {
		t.Errorf("it was given away, or: %v", err)
	}
}

func TestWithdrawOfOneSharer(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 80)})
	allocate(t, a, "mail", ipam.Request{Sharing: sharing("k", 25)})
	a.Withdraw(owner("mail"), addr("192.0.2.1"))
	want := []ipam.Holder{{Owner: owner("web"), Sharing: sharing("k", 80)}}
	if got := a.Holders(addr("192.0.2.1")); !reflect.DeepEqual(got, want) {
		t.Errorf("holders %v, want %v", got, want)
	}
	allocate(t, a, "other", ipam.Request{Sharing: sharing("k", 25)})
}

// TestReservedSharersComeBack: who shared an address that waits for it comes back also when its pool shares none across
// namespaces any more. Nobody else joins.
func TestReservedSharersComeBack(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.9"))
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 80)})
	theirs, third := ipam.Owner{Namespace: "theirs", Name: "mail"}, ipam.Owner{Namespace: "third", Name: "dns"}
	a.SetReserved([]ipam.Reservation{{Address: addr("192.0.2.1"), Owner: theirs}})
	for who, want := range map[ipam.Owner]netip.Addr{theirs: addr("192.0.2.1"), third: addr("192.0.2.2")} {
		got, err := a.Allocate(who, ipam.Request{Sharing: sharing("k", map[ipam.Owner]uint16{theirs: 25, third: 53}[who])})
		if err != nil || got[0] != want {
			t.Errorf("%s has %v, %v, want %s", who, got, err, want)
		}
	}
}
