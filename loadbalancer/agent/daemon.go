package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

const (
	// workerLimit is how long a new worker of HAProxy may take; 165 ms were measured, on a loaded machine.
	workerLimit = 15 * time.Second
	// startLimit is how long a daemon may take to write its pid file, or to end. Short, because keepalived ends with
	// exit code 0 when a process of one that was killed is not reaped yet, and must then be started again.
	startLimit = 3 * time.Second
	// settleLimit is how long keepalived may take to add and remove addresses; 60 ms were measured with 1000.
	settleLimit = 10 * time.Second
	// transitionLimit is how long a VRRP transition that we happen to see half-way may last.
	transitionLimit = time.Second
	// pollEvery is how often something that is about to happen is looked for.
	pollEvery = 10 * time.Millisecond
)

// growHAProxy lets HAProxy answer for everything new, by the means that the work needs.
func (a *Agent) growHAProxy(ctx context.Context, w *work, want *rendering) error {
	switch w.haproxy {
	case start:
		return a.newWorker(ctx, a.config.HAProxy.Start, want.config, 0)
	case reload:
		return a.reloadHAProxy(ctx, want)
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

// reloadHAProxy replaces the worker.
func (a *Agent) reloadHAProxy(ctx context.Context, want *rendering) error {
	old := 0
	running, err := a.readHAProxy(ctx)
	if err == nil {
		old = running.PID
		if err := a.saveServersState(ctx); err != nil {
			return err
		}
	}
	return a.newWorker(ctx, a.config.HAProxy.Reload, want.config, old)
}

// saveServersState keeps what is known about the servers' health; without it every server is up at first and a dead one
// gets connections.
func (a *Agent) saveServersState(ctx context.Context) error {
	health, err := a.haproxy.ServersState(ctx)
	if err == nil {
		err = a.host.WriteFile(a.config.Paths.ServerState, health, 0o644)
	}
	if err != nil {
		return fmt.Errorf("saving the servers' health before a reload of HAProxy: %w", err)
	}
	return nil
}

// newWorker runs argv and waits for a worker that tells the wanted generation and is not the old one. What the files
// could not tell it is applied then.
func (a *Agent) newWorker(ctx context.Context, argv []string, want *haproxy.Config, old int) error {
	if _, err := a.host.Run(ctx, argv, nil); err != nil {
		return fmt.Errorf("telling HAProxy to load its configuration: %w", err)
	}
	var running *haproxy.Running
	said := "it does not answer"
	err := poll(ctx, workerLimit, func() (done bool, err error) {
		running, err = a.readHAProxy(ctx)
		switch {
		case err != nil:
			said = err.Error()
		case running.PID == old:
			said = "the old worker answers still"
		case running.Generation != want.Generation:
			said = fmt.Sprintf("its worker has loaded %q", running.Generation)
		default:
			return true, nil
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("waiting for HAProxy's new worker: %w (%s)", err, said)
	}
	diff := haproxy.Compare(running, want)
	if len(diff.Reload) > 0 {
		return fmt.Errorf("HAProxy's new worker needs another reload: %s", strings.Join(diff.Reload, "; "))
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
		if err := a.settle(ctx, transitionLimit, want, before); err == nil {
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
	return a.settle(ctx, settleLimit, want, before)
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
