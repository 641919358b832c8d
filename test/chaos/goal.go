package main

import (
	"fmt"
	"strings"
	"time"
)

// goal is the worst that a client may see. The zero value is promised to whoever is connected through a gateway that the fault
// does not touch: nothing fails, nothing is cut.
type goal struct {
	// gap is the longest time without an answer; 0: nothing is promised, or no connection may fail.
	gap time.Duration
	// failed, short and cut are how many connections may be lost (see view); many: nothing is promised.
	failed, short, cut int
}

const many = -1

// within is the goal of a gateway that is lost and replaced by the other one: what was under way through it is lost too.
func within(gap time.Duration) goal { return goal{gap: gap, failed: many, short: many, cut: many} }

// missed says what of a view is worse than the goal.
func (g goal) missed(v view) []string {
	var missed []string
	if g.gap != 0 && v.gap > g.gap {
		missed = append(missed, fmt.Sprintf("no answer for %s, want at most %s", seconds(v.gap), seconds(g.gap)))
	}
	for _, count := range []struct {
		of, most int
		what     string
	}{
		{v.failed, g.failed, "new connections failed"},
		{v.short, g.short, "short connections were cut"},
		{v.cut, g.cut, "long connections were cut"},
	} {
		if count.most != many && count.of > count.most {
			missed = append(missed, fmt.Sprintf("%d %s, want %d", count.of, count.what, count.most))
		}
	}
	return missed
}

// String is the goal as the table shows it.
func (g goal) String() string {
	var words []string
	if g.gap != 0 {
		words = append(words, seconds(g.gap))
	}
	if g.failed != many {
		words = append(words, fmt.Sprintf("%d failed", g.failed))
	}
	if g.cut != many {
		words = append(words, fmt.Sprintf("%d cut", g.cut))
	}
	return strings.Join(words, ", ")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
