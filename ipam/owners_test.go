package ipam

import (
	"hash/maphash"
	"testing"
)

// TestOwnersOfOneHash puts three records into one chain, as a collision of 64 bits would, and takes each away.
func TestOwnersOfOneHash(t *testing.T) {
	for gone := range 3 {
		o := newOwners()
		all := make([]*record, 3)
		for i := range all {
			all[i] = &record{owner: Owner{Namespace: "n", Name: string(rune('a' + i))}}
		}
		// The chain stands under the hash of the one that goes, which is the one that delete looks for.
		all[0].next, all[1].next = all[1], all[2]
		o.records[maphash.Comparable(o.seed, all[gone].owner)] = all[0]
		o.delete(all[gone])
		if o.get(all[gone].owner) != nil {
			t.Errorf("record %d is still there", gone)
		}
		left := 0
		for _, r := range o.records {
			for ; r != nil; r = r.next {
				left++
			}
		}
		if left != 2 {
			t.Errorf("%d records are left after %d went, want 2", left, gone)
		}
	}
}
