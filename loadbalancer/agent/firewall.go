package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

const (
	// firewallQuiet is how long nothing may happen before what happened is looked at: a transaction, ours or that of a site's
	// own file, is many events, microseconds apart. With 1000 Services it is a third of the time that a flush costs.
	firewallQuiet = 10 * time.Millisecond
	// Who restores its own table as we do ours, or an nft that reads ours back otherwise than it was written, must not have us load it
	// as fast as we can: after firewallTries with less than firewallCalm between them there is one in firewallPause.
	firewallTries = 5
	firewallCalm  = time.Second
	firewallPause = time.Second
	// firewallPatience bounds the wait for quiet: another program may change its own table all the time.
	firewallPatience = time.Second
)

// FirewallEvents sends when anybody, ourselves included, has changed the kernel's nftables, until ctx ends. It tells that,
// not what: many changes may be one event. The channel is closed when no more will come.
func FirewallEvents(ctx context.Context) (<-chan struct{}, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	address := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}
	if err := unix.Bind(fd, address); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("subscribing to changes of nftables: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "nftables events")
	events := make(chan struct{}, 1)
	context.AfterFunc(ctx, func() { _ = socket.Close() })
	go announce(socket, events)
	return events, nil
}

// announce turns messages into events, until the socket is closed.
func announce(socket io.Reader, events chan<- struct{}) {
	defer close(events)
	message := make([]byte, 64<<10)
	for {
		// ENOBUFS: more happened than the socket holds, which is all that we want to know.
		if _, err := socket.Read(message); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return
		}
		select {
		case events <- struct{}{}:
		default: // one is waiting to be seen
		}
	}
}

// watchFirewall restores our table at once when somebody took it (`nft flush ruleset`, which a reload of Debian's
// nftables.service does), and looks at other people's chains when they change.
func (a *Agent) watchFirewall(ctx context.Context) {
	if a.firewallEvents == nil {
		return
	}
	events, err := a.firewallEvents(ctx)
	if err != nil {
		a.log.Warn("a change of the firewall is noticed at the next transaction only", "error", err)
		return
	}
	restored, last := 0, time.Time{}
	for settle(ctx, events) {
		if time.Since(last) > firewallCalm {
			restored = 0
		}
		if restored >= firewallTries && pause(ctx, firewallPause) != nil {
			return
		}
		if err := a.acquire(ctx); err != nil {
			return
		}
		if a.restoreTable(ctx) {
			restored, last = restored+1, time.Now()
		}
		a.release()
		a.lookAtForeign(ctx)
	}
	if ctx.Err() == nil {
		a.log.Warn("the kernel tells no more changes of the firewall: one is noticed at the next transaction only")
	}
}

// settle waits for an event and then for quiet. It is false when no more events come.
func settle(ctx context.Context, events <-chan struct{}) bool {
	var quiet, late <-chan time.Time
	for {
		select {
		case _, more := <-events:
			if !more {
				return false
			}
			quiet = time.After(firewallQuiet)
			if late == nil {
				late = time.After(firewallPatience)
			}
		case <-quiet:
			return true
		case <-late:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// guard loads our table as it was before a boot took it: keepalived may hold VIPs before the first comparison is done, and
// no daemon of this machine may be reached through one, not for a moment.
func (a *Agent) guard(ctx context.Context) {
	if a.held() == nil {
		return
	}
	output, err := a.host.Run(ctx, nftables.ListArgv(), nil)
	if err == nil || !nftables.Absent(output.Stderr) {
		return // it is there, or the comparison tells why it cannot be read
	}
	script, err := a.host.ReadFile(a.config.Paths.frontFile())
	if err == nil {
		err = a.loadTable(ctx, script)
	}
	if err != nil {
		a.log.Warn("loading the nftables table of before the boot", "error", err)
	}
}

// restoreTable loads our table when it is not what the State that is held needs, and then looks at the rest: a machine that
// forwards for UDP is an open router without it, however long it takes to start an HAProxy that was stopped in the same breath.
// The caller holds the right to change the machine, so no transaction of ours is half-way. It is false when nothing had changed.
func (a *Agent) restoreTable(ctx context.Context) bool {
	want := a.rendered()
	if want == nil {
		a.guard(ctx) // the State that is held cannot be rendered here; what it was before a boot may be there
		return false
	}
	table, err := a.readTable(ctx)
	if err != nil {
		a.log.Warn("looking at our nftables table", "error", err)
		return false
	}
	changed := table.Diff(want.table)
	if len(changed) == 0 {
		return false
	}
	if a.config.Drift != driftReport || !table.Present() {
		a.replaceTable(ctx, changed, want)
	}
	if len(a.faults()) == 0 { // else watchDaemons repairs, which knows how often it may try
		a.recover(ctx)
	}
	return true
}

// replaceTable loads our table, whose bytes were checked when they were committed, and notes what had changed.
func (a *Agent) replaceTable(ctx context.Context, changed []string, want *rendering) {
	ctx, cancel := detached(ctx)
	defer cancel()
	undone := wire.Difference{Changes: few(changed)}
	err := a.loadTable(ctx, want.script())
	if err != nil {
		undone.Problem = err.Error() // the comparison that follows tries again, and tells why it cannot
	}
	if len(a.faults()) == 0 {
		a.noteDifference(undone)
	}
}
