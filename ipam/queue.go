package ipam

import "slices"

// queue holds freed numbers, longest free first. Any number can be removed; its place then stays until it comes to the
// head, or until most places are such.
type queue struct {
	// places from head on are in use; the one at head is no stale one.
	places []uint64
	head   int
	// stale says how many of a number's oldest places mean nothing, gone is their sum.
	stale map[uint64]int
	gone  int
}

func (q *queue) len() int { return len(q.places) - q.head - q.gone }

// push puts n, which is not in the queue, to its end.
func (q *queue) push(n uint64) {
	if q.head > len(q.places)/2 {
		q.places = q.places[:copy(q.places, q.places[q.head:])]
		q.head = 0
	}
	if q.gone > q.len()+1024 {
		q.places, q.head, q.gone, q.stale = q.numbers(), 0, 0, nil
	}
	q.places = append(q.places, n)
}

func (q *queue) oldest() (uint64, bool) {
	if q.head == len(q.places) {
		return 0, false
	}
	return q.places[q.head], true
}

// remove takes n, which is in the queue, out of it.
func (q *queue) remove(n uint64) {
	if q.places[q.head] != n {
		if q.stale == nil {
			q.stale = map[uint64]int{}
		}
		q.stale[n]++
		q.gone++
		return
	}
	q.head++
	for q.gone > 0 && q.stale[q.places[q.head]] > 0 {
		q.skip(q.stale, q.places[q.head])
		q.gone--
		q.head++
	}
}

func (q *queue) skip(stale map[uint64]int, n uint64) {
	if stale[n]--; stale[n] == 0 {
		delete(stale, n)
	}
}

// numbers are those in the queue, longest free first.
func (q *queue) numbers() []uint64 {
	stale := make(map[uint64]int, len(q.stale))
	for n, places := range q.stale {
		stale[n] = places
	}
	return slices.DeleteFunc(slices.Clone(q.places[q.head:]), func(n uint64) bool {
		if stale[n] == 0 {
			return false
		}
		q.skip(stale, n)
		return true
	})
}
