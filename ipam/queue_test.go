package ipam

import (
	"slices"
	"testing"

	"go4.org/netipx"

	"pgregory.net/rapid"
)

// TestQueueAgainstList compares with a list, with so many removals from the middle that stale places are cleared away.
func TestQueueAgainstList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, want := queue{}, []uint64(nil)
		size := rapid.Uint64Range(1, 40).Draw(t, "numbers")
		for round := range rapid.IntRange(1, 60).Draw(t, "rounds") {
			for n := range size {
				if !slices.Contains(want, n) {
					q.push(n)
					want = append(want, n)
				}
			}
			for range rapid.IntRange(0, int(size)).Draw(t, "removals") {
				i := rapid.IntRange(0, len(want)-1).Draw(t, "place")
				q.remove(want[i])
				want = slices.Delete(want, i, i+1)
			}
			first, ok := q.oldest()
			if q.len() != len(want) || !slices.Equal(q.numbers(), want) || ok != (len(want) > 0) || ok && first != want[0] {
				t.Fatalf("round %d: %d numbers %v, first %d, %v; want %v", round, q.len(), q.numbers(), first, ok, want)
			}
			if len(q.places) > 2*len(want)+2*1024+int(size) {
				t.Fatalf("%d places for %d numbers", len(q.places), len(want))
			}
		}
	})
}

// TestQueueForgetsStalePlaces removes from behind the head for ever, as requests by name do.
func TestQueueForgetsStalePlaces(t *testing.T) {
	q := queue{}
	q.push(0)
	for range 100_000 {
		q.push(1)
		q.remove(1)
	}
	if len(q.places) > 4096 || len(q.stale) > 1 {
		t.Errorf("%d places, %d stale numbers for one", len(q.places), len(q.stale))
	}
}

// TestEndlessPoolReusesInTime: a /64 never runs out of fresh numbers, and still its memory must not grow with every
// Service that ever was.
func TestEndlessPoolReusesInTime(t *testing.T) {
	r, err := ParseRange("2001:db8::/64")
	if err != nil {
		t.Fatal(err)
	}
	a, err := New([]Pool{{Name: "six", Ranges: []netipx.IPRange{r}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := Owner{"default", "web"}
	first := ""
	for i := range 4 * maxFreed {
		got, err := a.Allocate(o, Request{})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = got[0].String()
		} else if i <= maxFreed && got[0].String() == first {
			t.Fatalf("%s was reused after %d", first, i)
		}
		a.Release(o)
		a.Free(got[0], o)
	}
	if next := a.blocks[0].next; next > maxFreed+2 {
		t.Errorf("%d numbers were taken for one Service at a time", next)
	}
}
