package agent

import (
	"context"
	"errors"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	// lookEvery is how often HAProxy is asked for a sign of life, silenceLimit how long it may think about it.
	lookEvery    = 50 * time.Millisecond
	silenceLimit = 250 * time.Millisecond
	// An HAProxy that did not answer is asked secondTries times more and has secondLimit each time: on a machine without a free
	// processor it was perhaps we who slept. What all this comes to is how long a gateway whose HAProxy hangs keeps its VIPs.
	secondLimit = 100 * time.Millisecond
	secondTries = 3
	// One that is silent and computes, or would if it were given a processor, is asked busyTries times more (2 s altogether): under
	// a full load the VIPs would go to and fro. Tries are counted, not time, since we may wait for a processor too. It can sleep
	// whenever we look, as its answer came while we waited: so what it has computed since counts. HAProxy's own watchdog ends one
	// that computes for ever.
	busyTries = 15
	// One that refuses the question is asked again after lookAgain, and is dead when it refused deadAfter times: while one worker
	// replaces another, a single question can meet the socket of the one that goes.
	lookAgain = 10 * time.Millisecond
	deadAfter = 3
	// leaveFor is how long a gateway whose HAProxy is dead says that it leaves: the time for every instance to say goodbye
	// and to take off hundreds of addresses. Then it may hold again what nobody else does.
	leaveFor = 500 * time.Millisecond
)

// watchHAProxy tells keepalived, by the track file, whether HAProxy answers. It needs no right to change the machine:
// nobody else writes that file. When another gateway is fit to take over, this one leaves at once (10 to 40 ms) instead of being
// outbid after three adverts, during which it would serve nobody. So it does when one becomes fit later: that one may be waiting
// until it may preempt (VRRP.PreemptDelaySeconds), whatever this one bids.
func (a *Agent) watchHAProxy(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	path := a.config.Paths.aliveFile()
	told, found, err := a.readTrack(path)
	if err != nil || !found {
		told = -1 // no value of ours: it is written
	}
	var left time.Time
	var silent silence
	hadHeir := false // when HAProxy did not answer the last time
	for {
		value := 0
		answers, refuses := a.askForLife(ctx)
		heir := !answers && a.hasHeir()
		switch {
		case ctx.Err() != nil:
			return // silence means nothing now
		case answers:
			value = aliveWeight
		case told == leaveWeight && time.Since(left) < leaveFor:
			value = leaveWeight
		case heir && (told == aliveWeight || !hadHeir):
			value, left = leaveWeight, time.Now()
		}
		hadHeir = heir
		if value != told {
			if err := a.writeTrack(path, value); err != nil {
				a.log.Error("telling keepalived about HAProxy", "error", err)
			} else {
				told = value
				a.log.Info("told keepalived about HAProxy", "alive", value > 0, "leaving", value == leaveWeight)
			}
		}
		a.heard(ctx, &silent, answers, refuses)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// askForLife asks HAProxy for a sign of life, and asks again when there is none. One that refuses the question is not silent: its
// socket is gone, or it is.
func (a *Agent) askForLife(ctx context.Context) (answers, refuses bool) {
	answers, late := a.ping(ctx, silenceLimit)
	for refused := 1; !answers && !late && refused < deadAfter; refused++ {
		if pause(ctx, lookAgain) != nil {
			return false, false
		}
		answers, late = a.ping(ctx, silenceLimit)
	}
	if !late {
		return answers, !answers
	}
	spent := a.spent(a.workerStats()...)
	for again := 0; late && again < secondTries; again++ {
		answers, late = a.ping(ctx, secondLimit)
	}
	for again := 0; late && ctx.Err() == nil && again < busyTries && a.computes(spent); again++ {
		spent = a.spent(a.workerStats()...)
		answers, late = a.ping(ctx, secondLimit)
	}
	return answers, !answers && !late
}

// computes is true when a worker of HAProxy runs, waits for a processor or the disk, or has run since it had spent what is given, and
// false when all were stopped or sleep.
func (a *Agent) computes(spent string) bool {
	workers := a.workerStats()
	return a.spent(workers...) != spent || slices.ContainsFunc(workers, func(w workerStat) bool {
		return len(w.fields) > 0 && (w.fields[0] == "R" || w.fields[0] == "D")
	})
}

// ping says late when nothing was heard within the limit. A queue of questions that is full (EAGAIN) is silence too, and is waited
// for as long.
func (a *Agent) ping(ctx context.Context, limit time.Duration) (answered, late bool) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := a.haproxy.Ping(ctx)
	if errors.Is(err, syscall.EAGAIN) {
		<-ctx.Done()
	}
	return err == nil, err != nil && (ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded))
}

// hasHeir is true when a peer could take over all that we hold, as far as it said when it was asked last.
func (a *Agent) hasHeir() bool {
	held := a.held()
	return held != nil && a.peers.unfit(held.state.Fence) == nil
}
