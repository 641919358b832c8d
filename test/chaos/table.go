package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

// line is one fault with all its trials.
type line struct {
	fault  fault
	trials []*trial
	missed []string
}

// judge finds what of all trials is worse than promised.
func (l *line) judge() {
	for n, t := range l.trials {
		for _, m := range l.fault.goal.missed(t.through) {
			l.missed = append(l.missed, fmt.Sprintf("trial %d: %s (%s)", n+1, m, t.through.reasons()))
		}
		for _, m := range l.fault.beside.missed(t.beside) {
			l.missed = append(l.missed, fmt.Sprintf("trial %d, through the other gateway: %s (%s)", n+1, m, t.beside.reasons()))
		}
	}
}

// print writes the table: of each fault the worst that any trial saw, and the middle one of the gaps.
func printTable(out io.Writer, lines []*line) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tFAILED\tGAP\tMIDDLE\tSLOWEST\tCUT\tFAILED\tCUT\tHEALED\tGOAL\t")
	for _, l := range lines {
		var worst, beside view
		var gaps []time.Duration
		var healed time.Duration
		for _, t := range l.trials {
			worst, beside = worst.worse(t.through), beside.worse(t.beside)
			gaps = append(gaps, t.through.gap)
			healed = max(healed, t.healed)
		}
		slices.Sort(gaps)
		verdict := "kept"
		if len(l.missed) > 0 {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", l.fault.name, worst.failed, seconds(worst.gap),
			seconds(gaps[len(gaps)/2]), seconds(worst.slowest), worst.cut, beside.failed, beside.cut, seconds(healed), l.fault.goal, verdict)
	}
	return w.Flush()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
