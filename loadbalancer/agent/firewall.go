package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// firewallQuiet is how long nothing may happen before what happened is looked at: `nft -f` of a site's own file is a flush and
// many additions, and a transaction of ours is events too.
const firewallQuiet = 50 * time.Millisecond

// FirewallEvents sends when anybody, ourselves included, has changed the kernel's nftables, until ctx ends. It tells that,
// not what: many changes may be one event.
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
	go func() {
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
	}()
	return events, nil
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
	for {
		select {
		case <-events:
		case <-ctx.Done():
			return
		}
		settle(ctx, events)
		a.lookAtForeign(ctx)
		if err := a.acquire(ctx); err != nil {
			return
		}
		a.restoreTable(ctx)
		a.release()
	}
}

// settle returns when events have been quiet.
func settle(ctx context.Context, events <-chan struct{}) {
	quiet := time.NewTimer(firewallQuiet)
	defer quiet.Stop()
	for {
		select {
		case <-events:
			quiet.Reset(firewallQuiet)
		case <-quiet.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// restoreTable leads the machine back to the State that is held when our table is not what that needs. The caller holds the
// right to change the machine, so no transaction of ours is half-way.
func (a *Agent) restoreTable(ctx context.Context) {
	want := a.rendered()
	if want == nil {
		return
	}
	table, err := a.readTable(ctx)
	if err != nil {
		a.log.Warn("looking at our nftables table", "error", err)
		return
	}
	if changed := table.Diff(want.table); len(changed) > 0 {
		a.log.Warn("somebody changed our nftables table, restoring it", "changes", changed)
		a.recover(ctx)
	}
}
