package ipam_test

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"cloud-provider-haproxy/ipam"
)

func sharing(key string, ports ...uint16) ipam.Sharing {
	s := ipam.Sharing{Key: key}
	for _, n := range ports {
		s.Ports = append(s.Ports, ipam.Port{Protocol: "TCP", Number: n})
	}
	return s
}

func tcp(ports ...uint16) []ipam.Port { return sharing("", ports...).Ports }

func TestSharersGetTheOldestAddressWithTheirPortsFree(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.9"), pool(t, "b", "198.51.100.1-198.51.100.9"))
	for _, c := range []struct {
		name  string
		share ipam.Sharing
		pools []string
		want  string
	}{
		{"web", sharing("k", 80, 443), nil, "192.0.2.1"},
		{"web2", sharing("k", 80), nil, "192.0.2.2"},
		{"mail", sharing("k", 25), nil, "192.0.2.1"},
		{"other key", sharing("z", 26), nil, "192.0.2.3"},
		{"no key", sharing("", 26), nil, "192.0.2.4"},
		{"no ports", sharing("k"), nil, "192.0.2.5"},
		{"udp", ipam.Sharing{Key: "k", Ports: []ipam.Port{{Protocol: "UDP", Number: 80}}}, nil, "192.0.2.1"},
		{"more", sharing("k", 443), nil, "192.0.2.2"},
		{"pinned", sharing("k", 1), []string{"b"}, "198.51.100.1"},
	} {
		if got := allocate(t, a, c.name, ipam.Request{Sharing: c.share, Pools: c.pools}); got != c.want {
			t.Errorf("%s = %s, want %s", c.name, got, c.want)
		}
	}
	if got := a.Counts()[0].Assigned; got != 5 {
		t.Errorf("%d assigned, want a shared address to count once: 5", got)
	}
}

func TestSharingStaysInTheNamespaceUnlessThePoolAllowsMore(t *testing.T) {
	p := pool(t, "a", "192.0.2.1-192.0.2.2")
	for _, across := range []bool{false, true} {
		p.ShareAcrossNamespaces = across
		a := newAllocator(t, nil, p)
		allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 80)})
		got, err := a.Allocate(ipam.Owner{Namespace: "mail", Name: "smtp"}, ipam.Request{Sharing: sharing("k", 25)})
		if err != nil || (got[0] == addr("192.0.2.1")) != across {
			t.Errorf("across namespaces %v: %v, %v", across, got, err)
		}
	}
}

func TestSharingRefusals(t *testing.T) {
	web := addr("192.0.2.1")
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.9"))
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 80)})
	allocate(t, a, "ftp", ipam.Request{Sharing: sharing("k", 21)})
	allocate(t, a, "mail", ipam.Request{Sharing: sharing("k", 25, 26)})
	allocate(t, a, "mail", ipam.Request{Sharing: sharing("k", 25)})
	allocate(t, a, "alone", ipam.Request{})
	for _, c := range []struct {
		name    string
		owner   ipam.Owner
		request ipam.Request
		want    error
		text    string
	}{
		{"port taken", owner("new"), ipam.Request{Addresses: []netip.Addr{web}, Sharing: sharing("k", 79, 80)}, new(ipam.SharingError),
			"address 192.0.2.1 cannot be shared with Service default/web: it has TCP 80 too; use other ports, or another address"},
		{"port returning", owner("new"), ipam.Request{Addresses: []netip.Addr{web}, Sharing: sharing("k", 26)}, new(ipam.SharingError),
			"cannot be shared with Service default/mail: its TCP 26 is still on the way back, for a gateway that is away may serve it; " +
				"bring back the gateways"},
		{"other key", owner("new"), ipam.Request{Addresses: []netip.Addr{web}, Sharing: sharing("z", 1)}, new(ipam.SharingError),
			`its sharing key is "k", not "z"; use the same key, or another address`},
		{"other namespace", ipam.Owner{Namespace: "mail", Name: "new"}, ipam.Request{Addresses: []netip.Addr{web},
			Sharing: sharing("k", 1)}, new(ipam.SharingError), "it is of another namespace, and the pool does not share addresses across"},
		{"no key", owner("new"), ipam.Request{Addresses: []netip.Addr{web}}, new(ipam.TakenError),
			`is held by Service default/web; to share it, use that Service's sharing key, "k", and other ports, or request another address, or`},
		{"holder without key", owner("new"), ipam.Request{Addresses: []netip.Addr{addr("192.0.2.2")}, Sharing: sharing("k", 1)},
			new(ipam.TakenError), "address 192.0.2.2 is held by Service default/alone; that Service has no sharing key, so that it " +
				`shares with nobody: give it the key "k" too, or request another address, or take it from that Service`},
		{"a holder takes another's port", owner("ftp"), ipam.Request{Sharing: sharing("k", 21, 25)}, new(ipam.SharingError),
			"cannot be shared with Service default/mail: it has TCP 25 too"},
		{"a holder takes another's former port", owner("ftp"), ipam.Request{Sharing: sharing("k", 21, 26)}, new(ipam.SharingError),
			"its TCP 26 is still on the way back"},
		{"a holder changes the key", owner("ftp"), ipam.Request{Sharing: sharing("z", 21)}, new(ipam.SharingError),
			`the sharing key "k" cannot change while it is shared with default/web, default/mail; keep the key, or request another`},
		{"a holder drops the key", owner("ftp"), ipam.Request{}, new(ipam.SharingError), `the sharing key "k" cannot change`},
	} {
		before := a.Holders(web)
		_, err := a.Allocate(c.owner, c.request)
		if reflect.TypeOf(err) != reflect.TypeOf(c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %T %v; want %T with %q", c.name, err, err, c.want, c.text)
		}
		if !reflect.DeepEqual(a.Holders(web), before) {
			t.Errorf("%s: the refusal changed %v to %v", c.name, before, a.Holders(web))
		}
	}
	a.Release(owner("web"))
	a.Release(owner("mail"))
	if _, err := a.Allocate(owner("ftp"), ipam.Request{}); err == nil || !strings.Contains(err.Error(),
		"its TCP 80 is still on the way back, so that the sharing key must stay") {
		t.Errorf("the key goes while others' ports are on their way back: %v", err)
	}
}

func TestPortsOfASharedAddressComeBackOneByOne(t *testing.T) {
	web := addr("192.0.2.1")
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 80, 443)})
	allocate(t, a, "mail", ipam.Request{Sharing: sharing("k", 25)})
	releasing := func(when string, want ...ipam.Released) {
		t.Helper()
		if got := a.Releasing(); len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: releasing %v, want %v", when, got, want)
		}
	}
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 80)})
	releasing("443 given up", ipam.Released{Address: web, Owner: owner("web"), Ports: tcp(443)})
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 443)})
	releasing("443 taken back for 80", ipam.Released{Address: web, Owner: owner("web"), Ports: tcp(80)})
	a.Release(owner("web"))
	releasing("released", ipam.Released{Address: web, Owner: owner("web"), Ports: tcp(80, 443)})
	var taken *ipam.SharingError
	if _, err := a.Allocate(owner("mail"), ipam.Request{Sharing: sharing("k", 25, 443)}); !errors.As(err, &taken) {
		t.Errorf("a sharer got a port on its way back: %v", err)
	}
	if !a.Free(web, owner("web")) || a.Free(web, owner("mail")) {
		t.Error("Free of web's ports and of mail's")
	}
	releasing("freed")
	allocate(t, a, "mail", ipam.Request{Sharing: sharing("k", 25, 443)})
	a.Release(owner("mail"))
	releasing("the last one goes", ipam.Released{Address: web, Owner: owner("mail")})
	if c := a.Counts()[0]; c.Assigned != 0 || c.Releasing != 1 {
		t.Errorf("counts %+v", c)
	}
}

// TestAKeyOnWhatWasAlone: nobody told the allocator which ports a Service without a key has, so all may be served still.
func TestAKeyOnWhatWasAlone(t *testing.T) {
	web := addr("192.0.2.1")
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.2"))
	allocate(t, a, "web", ipam.Request{})
	allocate(t, a, "web", ipam.Request{Sharing: sharing("k", 443)})
	want := []ipam.Released{{Address: web, Owner: owner("web")}}
	if got := a.Releasing(); !reflect.DeepEqual(got, want) {
		t.Errorf("releasing %v, want %v", got, want)
	}
	if got := allocate(t, a, "mail", ipam.Request{Sharing: sharing("k", 80)}); got != "192.0.2.2" {
		t.Errorf("another Service joined at %s", got)
	}
	if c := a.Counts()[0]; c.Assigned != 2 || c.Releasing != 0 {
		t.Errorf("counts %+v", c)
	}
	a.Free(web, owner("web"))
	if got := allocate(t, a, "ftp", ipam.Request{Sharing: sharing("k", 80)}); got != "192.0.2.1" {
		t.Errorf("after Free another Service joined at %s", got)
	}
}

func TestClaimsOfSharedAddresses(t *testing.T) {
	for _, c := range []struct {
		name  string
		claim func(a *ipam.Allocator) error
		fault string
	}{
		{"same key", func(a *ipam.Allocator) error { return a.Claim(owner("b"), addr("192.0.2.1"), sharing("k", 81)) }, ""},
		{"same port", func(a *ipam.Allocator) error { return a.Claim(owner("b"), addr("192.0.2.1"), sharing("k", 80)) }, "it has TCP 80 too"},
		{"no key", func(a *ipam.Allocator) error { return a.Claim(owner("b"), addr("192.0.2.1"), ipam.Sharing{}) }, "is held by Service default/a"},
		{"outside, same key", func(a *ipam.Allocator) error {
			return errors.Join(a.Claim(owner("b"), addr("203.0.113.1"), sharing("k", 80)),
				a.Claim(owner("c"), addr("203.0.113.1"), sharing("k", 81)))
		}, ""},
		{"another's releasing ports", func(a *ipam.Allocator) error {
			return a.ClaimReleasing(owner("b"), addr("192.0.2.1"), tcp(81))
		}, ""},
		{"its own releasing ports", func(a *ipam.Allocator) error {
			return a.ClaimReleasing(owner("a"), addr("192.0.2.1"), tcp(80, 81))
		}, ""},
		{"held ports as another's releasing ones", func(a *ipam.Allocator) error {
			return a.ClaimReleasing(owner("b"), addr("192.0.2.1"), tcp(80, 81))
		}, "is held by Service default/a"},
		{"all of it as another's", func(a *ipam.Allocator) error {
			return a.ClaimReleasing(owner("b"), addr("192.0.2.1"), nil)
		}, "is held by Service default/a"},
	} {
		a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
		if err := a.Claim(owner("a"), addr("192.0.2.1"), sharing("k", 80)); err != nil {
			t.Fatal(err)
		}
		err := c.claim(a)
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s: %v, want %q", c.name, err, c.fault)
		}
	}
}
