package provider

import (
	"fmt"
	"slices"

	"cloud-provider-haproxy/ipam"
)

// marks are the shares of a pool, in percent, that are told when they are reached.
func marks() []int { return []int{100, 90, 75} }

// fullness remembers which mark of every pool and family was told, so that each is told once on the way up, and again
// only after the pool was below it. It is used by one goroutine at a time.
type fullness struct{ told map[ipam.Count]int }

func newFullness() *fullness { return &fullness{told: map[ipam.Count]int{}} }

// look gives the Events that new counts deserve.
func (f *fullness) look(counts []ipam.Count) []warning {
	var events []warning
	told := map[ipam.Count]int{}
	for _, c := range counts {
		key := ipam.Count{Pool: c.Pool, Family: c.Family}
		mark := reached(c)
		if told[key] = mark; mark > f.told[key] {
			events = append(events, describeFullness(c, mark))
		}
	}
	f.told = told // pools that are gone are forgotten
	return events
}

// reached gives the highest mark that a pool has reached; 0: none.
func reached(c ipam.Count) int {
	i := slices.IndexFunc(marks(), func(mark int) bool {
		return c.Size > 0 && float64(c.Used()) >= float64(c.Size)*float64(mark)/100
	})
	if i < 0 {
		return 0
	}
	return marks()[i]
}

func describeFullness(c ipam.Count, mark int) warning {
	shares := fmt.Sprintf("%d of %d: %d assigned, %d releasing, %d reserved, %d quarantined", c.Used(), c.Size, c.Assigned, c.Releasing, c.Reserved, c.Quarantined)
	if mark == 100 {
		return warning{"PoolExhausted", fmt.Sprintf("pool %s has no free %s address (%s): new Services that no other "+
			"pool serves will wait; add a range to it", c.Pool, c.Family, shares)}
	}
	return warning{"PoolFilling", fmt.Sprintf("pool %s: %d %% of the %s addresses are not free any more (%s); add a "+
		"range to it before new Services have to wait", c.Pool, mark, c.Family, shares)}
}
