package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

const (
	// workerLimit is how long a new worker of HAProxy may take, over all tries; 165 ms were measured.
	workerLimit = 15 * time.Second
	reloadTries = 5
	// wrongWorkers is how many new workers may have loaded something else, or not be there to be asked. One may come from a reload before
	// ours, in which the signal of ours was lost; more mean that another reload would only leave another old worker behind.
	wrongWorkers = 2
	// startLimit is how long a daemon may take to write its pid file, or to end. Short, because keepalived ends with
	// exit code 0 when a process of one that was killed is not reaped yet, and must then be started again.
	startLimit = 3 * time.Second
	// settleLimit is how long keepalived may take to add and remove addresses; 60 ms were measured with 1000.
	settleLimit = 10 * time.Second
	// transitionLimit is the least time that a VRRP transition has which we happen to see half-way (transitionTime).
	transitionLimit = time.Second
	// pollEvery is how often something that is about to happen is looked for.
	pollEvery = 10 * time.Millisecond
)

// growHAProxy lets HAProxy answer for everything new, by the means that the work needs.
func (a *Agent) growHAProxy(ctx context.Context, w *work, want *rendering) error {
	switch w.haproxy {
	case start:
		if err := a.startWorker(ctx, want.config); err != nil {
			return err
		}
		return a.complete(ctx, want.config)
	case reload:
		if err := a.reloadHAProxy(ctx, want.config.Inherit, loads(want.config)); err != nil {
			return err
		}
		return a.complete(ctx, want.config)
	}
	if err := a.haproxy.Apply(ctx, w.diff.Grow()); err != nil {
		return fmt.Errorf("updating HAProxy: %w", err)
	}
	return nil
}

func (a *Agent) shrinkHAProxy(ctx context.Context, w *work) error {
	if w.haproxy != nothing {
		return nil // the new worker has read everything from its files
	}
	if err := a.haproxy.Apply(ctx, w.diff.Shrink()); err != nil {
		return fmt.Errorf("updating HAProxy: %w", err)
	}
	return nil
}

// reloadHAProxy replaces the worker, and keeps what the old one knows about the servers, as far as the new one may inherit it. What was
// kept is for this reload alone: with a later one, of somebody else's, it would be another day's.
func (a *Agent) reloadHAProxy(ctx context.Context, inherit func(state []byte) ([]byte, error), accept acceptance) error {
	running, err := a.readHAProxy(ctx)
	if err != nil || !a.isOurs(running) {
		return a.reloadWorker(ctx, 0, accept) // it hangs or has another socket; the files say enough
	}
	if err := a.saveServersState(ctx, inherit); err != nil {
		return err
	}
	err = a.reloadWorker(ctx, running.PID, replaces(running.PID, accept))
	a.forgetServersState()
	return err
}

// forgetServersState has every start of HAProxy that is not our reload, now or at a boot, find no health of another day. A crash in a
// reload, and the release before this one, leave some behind.
func (a *Agent) forgetServersState() {
	if err := a.host.Remove(a.config.Paths.ServerState); err != nil {
		a.log.Warn("removing the servers' health, which was saved for a reload", "error", err)
	}
}

// saveServersState keeps what is known about the servers' health; without it every server is up at first and a dead one
// gets connections.
func (a *Agent) saveServersState(ctx context.Context, inherit func(state []byte) ([]byte, error)) error {
	health, err := a.haproxy.ServersState(ctx)
	if err == nil {
		health, err = inherit(health)
	}
	if err == nil {
		err = a.host.WriteFile(a.config.Paths.ServerState, health, 0o640)
	}
	if err != nil {
		return fmt.Errorf("saving the servers' health before a reload of HAProxy: %w", err)
	}
	return nil
}

// startWorker starts HAProxy and waits for its worker.
func (a *Agent) startWorker(ctx context.Context, want *haproxy.Config) error {
	a.forgetServersState()
	if _, err := a.host.Run(ctx, a.config.HAProxy.Start, nil); err != nil {
		return fmt.Errorf("starting HAProxy: %w", err)
	}
	return a.awaitWorker(ctx, workerLimit, loads(want))
}

// reloadWorker reloads HAProxy and waits for a worker that is accepted; old is the one that answers now, 0 when none does.
// A SIGUSR2 that comes while the master is still busy with the one before is lost (seen with 2.6.12), and 2.6 gives no
// verdict, so it is told again.
func (a *Agent) reloadWorker(ctx context.Context, old int, accept acceptance) error {
	wrong := 0
	for try := 1; ; try++ {
		if _, err := a.host.Run(ctx, a.config.HAProxy.Reload, nil); err != nil {
			return fmt.Errorf("reloading HAProxy: %w", err)
		}
		err := a.awaitWorker(ctx, workerLimit/reloadTries, accept)
		if err == nil || try == reloadTries || ctx.Err() != nil {
			return err
		}
		running, unread := a.readHAProxy(ctx)
		if unread != nil || running.PID != old {
			if wrong++; wrong == wrongWorkers {
				return err
			}
		}
		if unread == nil {
			old = running.PID
		}
		a.log.Warn("HAProxy has no new worker, reloading once more", "error", err)
	}
}

// acceptance says why HAProxy's answer does not come from the worker that is waited for; "" when it does.
type acceptance func(*haproxy.Running, error) (why string)

// loads accepts a worker that has loaded want.
func loads(want *haproxy.Config) acceptance {
	return func(running *haproxy.Running, err error) string {
		switch {
		case err != nil:
			return err.Error()
		case running.Generation != want.Generation:
			return fmt.Sprintf("its worker has loaded %q, not %s; does CONFIG in /etc/default/haproxy name another file?",
				running.Generation, want.Local.ConfigFile)
		}
		return ""
	}
}

// replaces accepts any worker but the old one, as accept does.
func replaces(old int, accept acceptance) acceptance {
	return func(running *haproxy.Running, err error) string {
		if err == nil && running.PID == old {
			return "the old worker answers still"
		}
		return accept(running, err)
	}
}

func (a *Agent) awaitWorker(ctx context.Context, limit time.Duration, accept acceptance) error {
	why := ""
	err := poll(ctx, limit, func() (done bool, err error) {
		why = accept(a.readHAProxy(ctx))
		return why == "", nil
	})
	if err != nil {
		return fmt.Errorf("waiting for HAProxy's new worker: %w (%s)", err, why)
	}
	return nil
}

// waitForOldWorker waits a moment for a worker that was replaced: it shares the stats socket with its successor until it has been
// told to stop, and answers there although the successor has answered before (seen with 2.6.12 on a busy machine).
func (a *Agent) waitForOldWorker(ctx context.Context) error { return pause(ctx, readAgain) }

// complete applies at run time what the files could not tell a new worker.
func (a *Agent) complete(ctx context.Context, want *haproxy.Config) error {
	var diff haproxy.Diff
	for try := 1; ; try++ {
		running, err := a.readHAProxy(ctx)
		if err != nil {
			return fmt.Errorf("reading from HAProxy's new worker: %w", err)
		}
		if diff = haproxy.Compare(running, want); len(diff.Reload) == 0 {
			break
		}
		if try == verifyTries || a.waitForOldWorker(ctx) != nil {
			return fmt.Errorf("HAProxy's new worker needs another reload: %s", strings.Join(diff.Reload, "; "))
		}
	}
	if err := a.haproxy.Apply(ctx, diff); err != nil {
		return fmt.Errorf("updating HAProxy's new worker: %w", err)
	}
	return nil
}

// loadTable replaces our nftables table in one transaction of the kernel.
func (a *Agent) loadTable(ctx context.Context, script []byte) error {
	if _, err := a.host.Run(ctx, nftables.LoadArgv(), script); err != nil {
		return fmt.Errorf("loading our nftables table: %w", err)
	}
	return nil
}

// turnKeepalived lets keepalived load its configuration and waits until the VIPs are where they have to be.
func (a *Agent) turnKeepalived(ctx context.Context, w *work, want *rendering, before *desired.State) error {
	told := w.keepalived
	if told == nothing && len(w.vips) > 0 {
		if err := a.settleStrays(ctx, transitionTime(want.revision.state), w, want, before); err == nil {
			return nil
		}
		told = reload
	}
	if told == nothing {
		return nil
	}
	// What keepalived has read is not known from here on: a crash before the next note of it leads to one more reload.
	if err := a.host.Remove(a.config.Paths.loadedFile()); err != nil {
		return fmt.Errorf("forgetting what keepalived has loaded: %w", err)
	}
	switch told {
	case start:
		if _, err := a.host.Run(ctx, a.config.Keepalived.Start, nil); err != nil {
			return fmt.Errorf("starting keepalived: %w", err)
		}
	case reload:
		if _, err := a.host.Run(ctx, a.config.Keepalived.Reload, nil); err != nil {
			return fmt.Errorf("reloading keepalived: %w", err)
		}
	}
	var running *process
	err := poll(ctx, startLimit, func() (done bool, err error) {
		running, err = a.alive(a.config.Keepalived)
		return running != nil, err
	})
	if err != nil {
		return fmt.Errorf("waiting for keepalived: %w", err)
	}
	if err := a.writeLoaded(running, want.content(a.config.Paths.Keepalived)); err != nil {
		return err
	}
	return a.settleStrays(ctx, settleLimit, w, want, before)
}

// transitionTime is how long a VRRP transition may last before VIPs count as being where they should not: an instance that is new
// waits for three adverts and its skew before it is MASTER (RFC 9568 section 6.1, Active_Down_Interval).
func transitionTime(s *desired.State) time.Duration {
	return min(settleLimit, max(transitionLimit, 4*time.Duration(s.VRRP.AdvertIntervalMillis)*time.Millisecond))
}

// settleStrays waits until the VIPs are where they have to be, and helps those that keepalived leaves where they are.
func (a *Agent) settleStrays(ctx context.Context, limit time.Duration, w *work, want *rendering, before *desired.State) error {
	if err := a.settle(ctx, transitionTime(want.revision.state), want, before); err == nil {
		return nil
	}
	if err := a.removeStrays(ctx, w, want.revision.state, before); err != nil {
		return err
	}
	return a.settle(ctx, limit, want, before)
}

// removeStrays takes off VIPs that stand on their interface although this gateway is not their MASTER. Whoever put them there,
// a person or a keepalived that was killed: the one that runs knows nothing of them and leaves them, and two machines answer.
func (a *Agent) removeStrays(ctx context.Context, w *work, want, before *desired.State) error {
	addresses, err := a.readAddresses(ctx)
	if err != nil {
		return err
	}
	if w.vips, err = a.unsettled(addresses, want, before); err != nil {
		return err
	}
	w.astray = true
	strays, err := a.strays(addresses, want, before)
	if err != nil {
		return err
	}
	for _, s := range strays {
		argv := []string{"ip", "address", "delete", netip.PrefixFrom(s.Address, s.Bits).String(), "dev", s.Interface}
		if _, err := a.host.Run(ctx, argv, nil); err != nil { // keepalived may have done it just now; who waits for it sees
			a.log.Warn("taking off a VIP that this gateway should not hold", "vip", s.Address, "error", err)
		}
	}
	return nil
}

// settle waits until the VIPs are where they have to be.
func (a *Agent) settle(ctx context.Context, limit time.Duration, want *rendering, before *desired.State) error {
	var left []string
	err := poll(ctx, limit, func() (done bool, err error) {
		addresses, err := a.readAddresses(ctx)
		if err != nil {
			return false, err
		}
		left, err = a.unsettled(addresses, want.revision.state, before)
		return len(left) == 0, err
	})
	if err != nil {
		return fmt.Errorf("waiting for keepalived: %w (%s)", err, strings.Join(left, "; "))
	}
	return nil
}

var errLate = errors.New("it took too long")

// poll asks again and again until done, an error, the limit or the end of ctx.
func poll(ctx context.Context, limit time.Duration, ask func() (done bool, err error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errLate)
	defer cancel()
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		done, err := ask()
		if done || err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
