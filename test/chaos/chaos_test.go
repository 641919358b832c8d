package main

import (
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/test/lab"
)

// quick are the faults of `make test`; all of them take a minute.
var quick = regexp.MustCompile("^(holder dies|HAProxy killed|handed over|agent killed|table flushed|disk full)$")

// TestQuickFaults does some faults once and asserts what is counted and promised to be none: through a gateway that is not touched
// nothing fails and nothing is cut. It asserts no times, which are the machine's as much as ours; `make chaos` does. Adverts
// are half a second apart, so that no busy machine is taken for a dead one, and clients have the patience to sit that out.
func TestQuickFaults(t *testing.T) {
	lab.Require(t)
	var counted []fault
	for _, f := range pairFaults {
		if quick.MatchString(f.name) {
			f.goal.gap, f.beside.gap = 0, 0
			counted = append(counted, f)
		}
	}
	if len(counted) != 6 {
		t.Errorf("%d faults are quick, want 6", len(counted))
	}
	lines, err := runAll(t.Context(), options{
		out: t.Output(), times: 1, vips: 20, advert: 500 * time.Millisecond, patience: 10 * time.Second,
	}, counted, startPair)
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != len(counted) {
		t.Errorf("%d faults were done, want %d", len(lines), len(counted))
	}
	if err := tell(t.Output(), lines); err != nil {
		t.Error(err)
	}
}

// A goal that is missed is told and makes the command fail; one that is kept is not.
func TestMissedGoalIsTold(t *testing.T) {
	for _, test := range []struct {
		name            string
		goal            goal
		through, beside view
		missed          []string // words of each
	}{
		{"kept", within(time.Second), view{gap: time.Second, failed: 9, short: 9, cut: 50}, view{}, nil},
		{"gap", within(time.Second), view{gap: 1001 * time.Millisecond}, view{}, []string{"no answer for 1.00 s, want at most 1.00 s"}},
		{"failed", goal{}, view{failed: 1}, view{}, []string{"1 new connections failed, want 0"}},
		{"under way", goal{}, view{short: 2}, view{}, []string{"2 short connections were cut"}},
		{"long", goal{gap: time.Second, failed: many}, view{cut: 3}, view{}, []string{"3 long connections were cut"}},
		{"other gateway", within(time.Second), view{}, view{failed: 1, cut: 1}, []string{"other gateway: 1 new", "other gateway: 1 long"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &line{fault: fault{name: "x", goal: test.goal}, trials: []*trial{{}, {through: test.through, beside: test.beside}}}
			var out strings.Builder
			if err := tell(&out, []*line{l}); (err != nil) != (len(test.missed) > 0) {
				t.Errorf("it gave %v", err)
			}
			missed := l.missed()
			if !slices.EqualFunc(missed, test.missed, strings.Contains) {
				t.Errorf("missed %q, want %q", missed, test.missed)
			}
			for _, m := range missed {
				if !strings.Contains(out.String(), m) || !strings.Contains(out.String(), "MISSED") || !strings.Contains(m, "trial 2") {
					t.Errorf("it told:\n%s", &out)
				}
			}
		})
	}
}
