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
	// hangAgain is the least time between two such ends.
	hangAgain = time.Minute
	// endLimit bounds the program that ends HAProxy.
	endLimit = 10 * time.Second
)

// silence is since when HAProxy has not answered, and what its workers had computed then.
type silence struct {
	since, ended time.Time
	spent        string
}

// heard notes whether HAProxy was heard of, and ends one that hangs for too long: whose processes have not used a processor in
// all that time, not even to serve. What it has served is lost either way.
func (a *Agent) heard(ctx context.Context, s *silence, heard bool) {
	now := time.Now()
	switch {
	case heard:
		s.since = time.Time{}
		a.setHanging("")
		return
	case s.since.IsZero():
		s.since, s.spent = now, a.spent()
	}
	silent := now.Sub(s.since)
	if silent < hangLimit || now.Sub(s.ended) < hangAgain {
		return
	}
	master, err := a.alive(a.config.HAProxy)
	if err != nil || master == nil || a.spent() != s.spent {
		return // it does not run, which is told and repaired elsewhere, or is at work
	}
	what := fmt.Sprintf("HAProxy (process %d) runs and has not answered for %s", master.PID, silent.Round(time.Second))
	if a.held() == nil || a.config.Drift == driftReport {
		a.setHanging(what + "; look whether somebody stopped it (`systemctl status haproxy`), else run: systemctl kill --signal=KILL haproxy")
		return
	}
	s.ended = now
	if err := a.endHAProxy(ctx, master); err != nil {
		a.setHanging(fmt.Sprintf("%s, and cannot be ended: %v; run: systemctl kill --signal=KILL haproxy; if it does not go, restart the machine", what, err))
		a.log.Error("ending an HAProxy that hangs", "error", err)
		return
	}
	a.noteDifference(wire.Difference{Changes: []string{"restart HAProxy: " + what}})
	a.setFault(errors.New(what + ", and was ended"))
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

// spent is the processor time of each worker: with all its threads in clock ticks (utime and stime of proc(5)), and of its first
// thread in nanoseconds, where the kernel keeps schedstat.
func (a *Agent) spent() string {
	var all strings.Builder
	for _, w := range a.workerStats() {
		if len(w.fields) > 12 {
			first, _ := a.host.ReadFile("/proc/" + w.pid + "/schedstat")
			fmt.Fprintf(&all, "%s:%s+%s %s ", w.pid, w.fields[11], w.fields[12], first)
		}
	}
	return all.String()
}

func (a *Agent) setHanging(message string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if message != "" && a.hanging == "" {
		a.log.Warn(message)
	}
	a.hanging = message
}
