package ipam

import (
	"fmt"
	"testing"

	"go4.org/netipx"
	"pgregory.net/rapid"
)

// TestOwnersOfFewHashes has many owners of few hashes, at the end of the table too, so that searches run past others and
// around the end, and compares with a map.
func TestOwnersOfFewHashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o, want := newOwners(), map[Owner]bool{}
		t.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				seen := 0
				o.all(func(r *record) {
					if seen++; !want[r.owner] {
						t.Fatalf("%s is there", r.owner)
					}
				})
				if seen != len(want) {
					t.Fatalf("%d owners, want %d", seen, len(want))
				}
			},
			"turn": func(t *rapid.T) {
				i := rapid.Uint32Range(0, 199).Draw(t, "owner")
				owner, hash := Owner{Namespace: "n", Name: fmt.Sprint(i)}, i%8-4
				r := o.get(owner, hash)
				if (r != nil) != want[owner] || r != nil && r.owner != owner {
					t.Fatalf("get(%s) = %+v", owner, r)
				}
				if r != nil {
					o.delete(r, hash)
					delete(want, owner)
				} else if want[owner] = true; o.add(owner, hash) != o.get(owner, hash) {
					t.Fatalf("%s was added and is not found", owner)
				}
			},
		})
	})
}

// TestRefusalLeavesNothing: an owner that got nothing costs nothing.
func TestRefusalLeavesNothing(t *testing.T) {
	r, err := ParseRange("192.0.2.1")
	if err != nil {
		t.Fatal(err)
	}
	a, err := New([]Pool{{Name: "a", Ranges: []netipx.IPRange{r}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Allocate(Owner{"default", "web"}, Request{Families: []Family{IPv4, IPv6}}); err == nil {
		t.Error("got an IPv6 address")
	}
	if a.owners.used != 0 {
		t.Errorf("a refusal left %d records", a.owners.used)
	}
	if a.ClaimReleasing(Owner{"default", "web"}, r.From(), nil) != nil || !a.Free(r.From(), Owner{"default", "web"}) {
		t.Error("claimed as releasing and not freed")
	}
	if a.owners.used != 0 {
		t.Errorf("Free left %d records", a.owners.used)
	}
}
