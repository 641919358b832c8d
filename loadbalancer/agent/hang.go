package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

const (
	// hangLimit is how long HAProxy may be silent, without a process of it that computes, until it is ended and started anew. Another
	// gateway has the VIPs by then; one that is alone serves nobody. A reload does not help: the worker that hangs never closes its
	// listeners, and the kernel would go on to give it a part of the connections. HAProxy's own watchdog ends one that computes.
	hangLimit = 15 * time.Second
	// hangQuestions is how many questions in a row it has left unanswered then: an agent that did not run itself has asked fewer.
	hangQuestions = 10
	// hangAgain is the least time between two such ends.
	hangAgain = time.Minute
	// endLimit bounds the program that ends HAProxy.
	endLimit = 10 * time.Second
)

// silence is since when HAProxy has not answered, how often it was asked, and since when its newest worker has not computed anything.
type silence struct {
	since, still, ended time.Time
	spent               string
	questions           int
	// replaced is a worker that hangs and that a reload is to replace; "": none.
	replaced string
	// unanswered says that it has been silent since it answered last.
	unanswered bool
}

// heard notes whether HAProxy answers, or is heard of at all, and ends one that hangs for too long: whose newest worker, which alone listens, has not used
// a processor in all that time, not even to serve. What it has served is lost either way.
func (a *Agent) heard(ctx context.Context, s *silence, answers, refuses bool) {
	if answers && s.unanswered {
		a.endReplaced(ctx, s.replaced)
		s.unanswered, s.replaced = false, ""
	}
	if answers || refuses { // as between two workers
		s.since, s.questions = time.Time{}, 0
		a.setHanging("")
		return
	}
	s.unanswered = true
	now, workers := time.Now(), a.workerStats()
	newest := newestOf(workers)
	if s.since.IsZero() {
		s.since, s.still = now, now
	}
	if spent := a.spent(newest); spent != s.spent {
		s.still, s.spent = now, spent
	}
	s.questions++
	silent := now.Sub(s.since)
	if silent < hangLimit || s.questions < hangQuestions || now.Sub(s.ended) < hangAgain {
		return
	}
	master, err := a.alive(a.config.HAProxy)
	if err != nil || master == nil {
		return // it does not run, which is told and repaired elsewhere
	}
	what := fmt.Sprintf("HAProxy (process %d) runs and has not answered for %s", master.PID, silent.Round(time.Second))
	switch {
	case a.held() == nil || a.config.Drift == driftReport:
		a.setHanging(what + "; look whether somebody stopped it (`systemctl status haproxy`), else run: systemctl kill --signal=KILL haproxy")
	case now.Sub(s.still) < hangLimit:
		a.setHanging(what + "; it computes, and its own watchdog ends one that does so for ever; if this stays, run: systemctl kill --signal=KILL haproxy")
	default:
		s.ended = now
		alone := !slices.ContainsFunc(workers, func(w workerStat) bool { return w.pid != newest.pid && w.works() })
		a.endHung(ctx, s, master, newest, alone, what)
	}
}

// endHung ends an HAProxy that hangs. A worker that is not alone is replaced first, once: older ones serve connections of before a reload,
// and the end of the newest would be theirs (HAProxy's exit-on-failure), but not of one that was replaced.
func (a *Agent) endHung(ctx context.Context, s *silence, master *process, newest workerStat, alone bool, what string) {
	if !alone && s.replaced == "" {
		s.replaced = newest.pid
		what += ": its worker " + newest.pid + ", beside older ones that serve"
		a.setHanging(what + "; a reload replaces it")
		a.noteDifference(wire.Difference{Changes: []string{"reload HAProxy: " + what}})
		a.setFault(errors.New(what))
		return
	}
	if err := a.endHAProxy(ctx, master); err != nil {
		a.setHanging(fmt.Sprintf("%s, and cannot be ended: %v; run: systemctl kill --signal=KILL haproxy; if it does not go, restart the machine", what, err))
		a.log.Error("ending an HAProxy that hangs", "error", err)
		return
	}
	a.noteDifference(wire.Difference{Changes: []string{"restart HAProxy: " + what}})
	a.setFault(errors.New(what + ", and was ended"))
}

// endReplaced ends the worker that hung, when HAProxy answers again because another one has taken its place: it never closes its
// listeners, and the kernel goes on to give it a part of the connections. Whoever reloaded, and however soon: one that was stopped is
// known by that.
func (a *Agent) endReplaced(ctx context.Context, replaced string) {
	workers := a.workerStats()
	newest := newestOf(workers)
	for _, w := range workers {
		if w.pid == newest.pid || w.pid != replaced && !w.isStopped() {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, endLimit)
		defer cancel()
		if _, err := a.host.Run(ctx, []string{"kill", "-KILL", w.pid}, nil); err != nil {
			a.log.Error("ending a worker of HAProxy that hangs and was replaced", "process", w.pid, "error", err)
		}
	}
}

// endHAProxy ends all processes of HAProxy at once: a worker's end is that of its master, and of the others with it.
func (a *Agent) endHAProxy(ctx context.Context, master *process) error {
	ctx, cancel := context.WithTimeout(ctx, endLimit)
	defer cancel()
	argv := a.config.HAProxy.Kill
	if len(argv) == 0 {
		argv = slices.Concat([]string{"kill", "-KILL", strconv.Itoa(master.PID)}, a.childrenOf(master))
	}
	_, err := a.host.Run(ctx, argv, nil)
	return err
}

// spent is the processor time of workers: with all their threads in clock ticks (utime and stime of proc(5)), and of the first
// thread in nanoseconds, where the kernel keeps schedstat.
func (a *Agent) spent(workers ...workerStat) string {
	var all strings.Builder
	for _, w := range workers {
		if len(w.fields) > 12 {
			first, _ := a.host.ReadFile("/proc/" + w.pid + "/schedstat")
			fmt.Fprintf(&all, "%s:%s+%s %s ", w.pid, w.fields[11], w.fields[12], first)
		}
	}
	return all.String()
}

func (a *Agent) setHanging(message string) {
	a.mu.Lock()
	news := message != "" && a.hanging == ""
	a.hanging = message
	a.mu.Unlock()
	if news {
		a.log.Warn(message)
	}
}
