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
}

// missed says what of all trials is worse than promised.
func (l *line) missed() []string {
	var missed []string
	for n, t := range l.trials {
		for _, m := range l.fault.goal.missed(t.through) {
			missed = append(missed, fmt.Sprintf("%s, trial %d: %s (%s)", l.fault.name, n+1, m, t.through.reasons()))
		}
		for _, m := range l.fault.beside.missed(t.beside) {
			missed = append(missed, fmt.Sprintf("%s, trial %d, through the other gateway: %s (%s)", l.fault.name, n+1, m, t.beside.reasons()))
		}
	}
	return missed
}

// printTable prints of each fault the worst that any trial saw, and the middle one of the gaps. The gap through the other gateway
// is the machine's own: so much of the other one may be, too.
func printTable(out io.Writer, lines []*line) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tnew connections\t\tno answer for\t\tlong ones\tthrough the other gateway\t\t\twell\t\t") // the error is Flush's
	fmt.Fprintln(w, "FAULT\tFAILED\tCUT\tAT MOST\tUSUALLY\tCUT\tFAILED\tLONG CUT\tAT MOST\tAFTER\tGOAL\t")
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
		if len(l.missed()) > 0 {
			verdict = "MISSED"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", l.fault.name, worst.failed, worst.short, seconds(worst.gap),
			seconds(gaps[len(gaps)/2]), worst.cut, beside.failed+beside.short, beside.cut, seconds(beside.gap), seconds(healed), l.fault.goal, verdict)
	}
	return w.Flush()
}
