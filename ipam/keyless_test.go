package ipam_test

import (
	"net/netip"
	"reflect"
	"testing"

	"cloud-provider-haproxy/ipam"
)

func keyless(ports ...uint16) ipam.Sharing { return ipam.Sharing{Keyless: true, Ports: tcp(ports...)} }

// TestKeylessSharers: Services that share an address without a key stay beside each other, whatever they do with their ports
// and keys. Nobody joins them, with whatever key.
func TestKeylessSharers(t *testing.T) {
	shared := addr("192.0.2.1")
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.9"))
	for i, name := range []string{"web", "tls"} {
		if err := a.Claim(owner(name), shared, keyless([]uint16{80, 443}[i])); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Claim(owner("late"), shared, keyless(80)); err == nil || err.Error() != "address 192.0.2.1 cannot be shared with "+
		"Service default/web: it has TCP 80 too; use other ports, and the same sharing key for both (annotation allow-shared-ip), or "+
		"another address" {
		t.Errorf("late: %v", err)
	}
	stays := func(name string, asked ipam.Sharing) {
		t.Helper()
		if got := allocate(t, a, name, ipam.Request{Sharing: asked}); got != shared.String() {
			t.Errorf("%s has %s", name, got)
		}
	}
	refused := func(name string, asked ipam.Sharing, want string) {
		t.Helper()
		_, err := a.Allocate(owner(name), ipam.Request{Addresses: []netip.Addr{shared}, Sharing: asked})
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	stays("web", sharing("", 80))
	stays("web", sharing("")) // as it was
	stays("web", sharing("", 81))
	refused("tls", sharing("", 81), "address 192.0.2.1 cannot be shared with Service default/web: it has TCP 81 too; use other ports, "+
		"and the same sharing key for both (annotation allow-shared-ip), or another address")
	const nobody = "address 192.0.2.1 is held by Service default/"
	for _, asked := range []ipam.Sharing{sharing("", 22), sharing("k", 22), sharing("their former key", 22), keyless(22)} {
		if _, err := a.Allocate(owner("ssh"), ipam.Request{Addresses: []netip.Addr{shared}, Sharing: asked}); kind(err) != "TakenError" {
			t.Errorf("ssh with %+v: %v", asked, err)
		}
		if got := allocate(t, a, "ssh", ipam.Request{Sharing: asked}); got == shared.String() {
			t.Errorf("ssh with %+v got %s", asked, got)
		}
		for _, address := range a.Release(owner("ssh")) {
			a.Free(address, owner("ssh"))
		}
	}
	stays("web", sharing("k", 81))
	refused("ssh", sharing("k", 22), nobody+`tls; that Service has no sharing key, so that it shares with nobody: give it the key "k" `+
		"too, or request another address, or take it from that Service")
	refused("tls", sharing("z", 443), "address 192.0.2.1 cannot be shared with Service default/web: its sharing key is \"k\", not \"z\"; "+
		"use the same key, or another address")
	stays("web", sharing("", 81)) // and back
	stays("web", sharing("k", 81))
	stays("tls", sharing("k", 443))
	stays("ssh", sharing("k", 22)) // they are sharers as any others
	refused("web", sharing("", 81), "address 192.0.2.1 cannot be shared with Service default/tls: the sharing key \"k\" cannot change "+
		"while it is shared with default/tls, default/ssh; keep the key, or request another address")
}

// TestLastKeylessSharer has the address alone, as if it had never shared it.
func TestLastKeylessSharer(t *testing.T) {
	shared := addr("192.0.2.1")
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1"))
	for name, port := range map[string]uint16{"web": 80, "tls": 443} {
		_ = a.Claim(owner(name), shared, keyless(port))
	}
	a.Release(owner("tls"))
	allocate(t, a, "web", ipam.Request{Sharing: sharing("", 80)})
	if got := a.Releasing(); len(got) != 1 || !reflect.DeepEqual(got[0].Ports, tcp(443)) {
		t.Errorf("releasing %v", got)
	}
	// Until then its port is no part of an address that web has alone.
	allocate(t, a, "tls", ipam.Request{Sharing: sharing("", 443)})
	a.Release(owner("tls"))
	a.Free(shared, owner("tls"))
	allocate(t, a, "web", ipam.Request{Sharing: sharing("", 80)})
	if got := a.Holders(shared); !reflect.DeepEqual(got, []ipam.Holder{{Owner: owner("web")}}) {
		t.Errorf("holders %+v", got)
	}
}

// TestKeylessSharersAreKept: an address that waits for all who shared it is theirs again, one after the other.
func TestKeylessSharersAreKept(t *testing.T) {
	a := newAllocator(t, nil, pool(t, "a", "192.0.2.1-192.0.2.9"))
	reservations := append(reserved("192.0.2.5", "web"), reserved("192.0.2.5", "tls")...)
	a.SetReserved(reservations)
	allocate(t, a, "web", ipam.Request{Sharing: sharing("", 80)})
	a.SetReserved(reservations[1:])
	for name, port := range map[string]uint16{"web": 80, "tls": 443} {
		if got := allocate(t, a, name, ipam.Request{Sharing: sharing("", port)}); got != "192.0.2.5" {
			t.Errorf("%s has %s", name, got)
		}
	}
	if got := allocate(t, a, "other", ipam.Request{Sharing: sharing("", 22)}); got == "192.0.2.5" {
		t.Error("another one joined")
	}
}
