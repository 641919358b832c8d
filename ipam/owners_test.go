package ipam

import "testing"

// TestOwnersOfOneHash puts three records into one chain, as a collision of 64 bits would, and takes each away.
func TestOwnersOfOneHash(t *testing.T) {
	const hash = 7
	for gone := range 3 {
		o := newOwners()
		all := make([]Owner, 3)
		for i := range all {
			all[i] = Owner{Namespace: "n", Name: string(rune('a' + i))}
			o.add(all[i], hash)
		}
		o.delete(o.get(all[gone], hash), hash)
		for i, owner := range all {
			if got := o.get(owner, hash); (got == nil) != (i == gone) || got != nil && got.owner != owner {
				t.Errorf("record %d went: record %d is %+v", gone, i, got)
			}
		}
		if again := o.add(all[gone], hash); o.get(all[gone], hash) != again {
			t.Errorf("record %d came back and is not found", gone)
		}
	}
}
