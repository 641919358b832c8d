package nftables

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func candidates(n int) []candidate {
	var all []candidate
	for i := range n {
		all = append(all, candidate{name: fmt.Sprintf("worker-%d", i), target: fmt.Sprintf("10.0.%d.%d", i>>8, i&255), weight: 1})
	}
	return sortedByName(all)
}

func share(slots []string) map[string]int {
	counts := map[string]int{}
	for _, a := range slots {
		counts[a]++
	}
	return counts
}

// Shares are equal within one slot, and as the weights are.
func TestSpreadIsEven(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 100, 1000} {
		for address, got := range share(spread(candidates(n), sharedSlots, true)) {
			if got < sharedSlots/n || got > sharedSlots/n+1 {
				t.Errorf("of %d nodes %s has %d of %d slots", n, address, got, sharedSlots)
			}
		}
	}
	heavy := candidates(3)
	heavy[1].weight = 256
	heavy[2].weight = 128
	got := share(spread(heavy, ownSlots, false))
	if h, half, light := got[heavy[1].target], got[heavy[2].target], got[heavy[0].target]; h < 40 || h > 41 || half != 20 || light > 1 {
		t.Errorf("weights 256, 128 and 1 have %d, %d and %d slots", h, half, light)
	}
}

// A node that fails its check gives its own slots away, evenly, and no other slot moves; it gets the same ones back.
func TestSpreadMovesFailedNodesOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := candidates(rapid.IntRange(1, 40).Draw(t, "nodes"))
		before := spread(all, sharedSlots, true)
		fit := 0
		for i := range all {
			all[i].unfit = rapid.Bool().Draw(t, "unfit")
			if !all[i].unfit {
				fit++
			}
		}
		unfit := map[string]bool{}
		for _, c := range all {
			unfit[c.target] = c.unfit && fit > 0
		}
		after := spread(all, sharedSlots, true)
		for slot := range before {
			if unfit[after[slot]] {
				t.Fatalf("slot %d has a failed node", slot)
			}
			if !unfit[before[slot]] && before[slot] != after[slot] {
				t.Fatalf("slot %d moved from a node that is fit", slot)
			}
		}
	})
}

func TestSpreadWithNobodyFit(t *testing.T) {
	all := candidates(3)
	open := spread(all, sharedSlots, true)
	for i := range all {
		all[i].unfit = true
	}
	if got := spread(all, sharedSlots, true); !slices.Equal(got, open) {
		t.Error("with all nodes failing, the shared pool does not use all as before")
	}
	if got := spread(all, ownSlots, false); got != nil {
		t.Errorf("with all nodes failing, a pool of its own has %v", share(got))
	}
	if got := spread(nil, sharedSlots, true); got != nil {
		t.Errorf("without nodes: %v", got)
	}
}

// When a node leaves the State or joins it, few slots but its own move: mod N would move nearly all.
func TestSpreadMovesFewSlots(t *testing.T) {
	for _, c := range []struct{ nodes, most int }{{2, 0}, {3, 60}, {10, 60}, {100, 60}} {
		all := candidates(c.nodes)
		before := spread(all, sharedSlots, true)
		worst := 0
		for gone := range all {
			after := spread(slices.Delete(slices.Clone(all), gone, gone+1), sharedSlots, true)
			moved := 0
			for slot := range before {
				if before[slot] != all[gone].target && before[slot] != after[slot] {
					moved++
				}
			}
			worst = max(worst, moved)
		}
		t.Logf("%d nodes, one leaves: at most %d of %d slots of others move", c.nodes, worst, sharedSlots)
		if worst > c.most {
			t.Errorf("with %d nodes %d slots move, want at most %d", c.nodes, worst, c.most)
		}
	}
}
