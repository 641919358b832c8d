package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
)

// startSegment makes the namespace of the bridge. Each host is plugged in by a veth pair: eth0 in the host, a port named
// like the host on the bridge.
func (l *Lab) startSegment(ctx context.Context) error {
	holder, err := l.hold(ctx, "segment", 0, syscall.CLONE_NEWNS|syscall.CLONE_NEWNET, "segment", l.dir)
	if err != nil {
		return err
	}
	l.segment = holder
	return l.onSegment(ctx,
		"link add segment type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n"+
			"link set segment up\n", "ip", "-batch", "-")
}

func (l *Lab) onSegment(ctx context.Context, input string, argv ...string) error {
	_, err := run(l.enter(ctx, l.segment.pid(), argv...), "segment", argv, input)
	return err
}

// plug connects a booted host: its addresses are usable at once (no duplicate address detection), its card keeps its MAC over
// a power cut, as a real one does.
func (h *Host) plug(ctx context.Context) error {
	pid := h.PID()
	script := fmt.Sprintf("link add name %[1]s type veth peer name eth0 address %[2]s netns %[3]d\nlink set %[1]s master segment\n", h.Name, h.mac, pid)
	if !h.isCutOff() {
		script += fmt.Sprintf("link set %s up\n", h.Name)
	}
	if err := h.lab.onSegment(ctx, script, "ip", "-batch", "-"); err != nil {
		return err
	}
	for _, key := range []string{"all", "default", "eth0"} {
		if err := h.WriteSysctl("net/ipv6/conf/"+key+"/accept_dad", "0"); err != nil {
			return err
		}
	}
	script = "link set lo up\n"
	if h.Addr4.IsValid() {
		script += fmt.Sprintf("address add %s/24 dev eth0\n", h.Addr4)
	}
	script += fmt.Sprintf("address add %s/64 dev eth0 nodad\nlink set eth0 up\n", h.Addr6)
	_, err := h.RunInput(ctx, script, "ip", "-batch", "-")
	return err
}

// WriteSysctl sets a kernel variable of the host's network namespace; key with slashes or dots.
func (h *Host) WriteSysctl(key, value string) error {
	return h.writeProc("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), value)
}

// CutOff pulls the host's network cable; Reconnect puts it back. Nothing on the host is told but the loss of the carrier.
func (h *Host) CutOff(ctx context.Context) error { return h.cable(ctx, true) }

// Reconnect undoes CutOff.
func (h *Host) Reconnect(ctx context.Context) error { return h.cable(ctx, false) }

func (h *Host) cable(ctx context.Context, cutOff bool) error {
	h.mu.Lock()
	h.cutOff = cutOff
	h.mu.Unlock()
	if h.PID() == 0 {
		return nil // Boot heeds it
	}
	state := "up"
	if cutOff {
		state = "down"
	}
	return h.lab.onSegment(ctx, "", "ip", "link", "set", h.Name, state)
}

func (h *Host) isCutOff() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cutOff
}

// Cut drops everything between two hosts on the bridge, in both directions, without either noticing its link; Mend undoes it.
func (l *Lab) Cut(ctx context.Context, a, b *Host) error { return l.setCut(ctx, a, b, true) }

// Mend undoes Cut.
func (l *Lab) Mend(ctx context.Context, a, b *Host) error { return l.setCut(ctx, a, b, false) }

func (l *Lab) setCut(ctx context.Context, a, b *Host, cut bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, pair := range [][2]string{{a.Name, b.Name}, {b.Name, a.Name}} {
		if cut {
			l.cuts[pair] = true
		} else {
			delete(l.cuts, pair)
		}
	}
	var rules strings.Builder
	rules.WriteString("table bridge cuts\ndelete table bridge cuts\ntable bridge cuts { chain forward { type filter hook forward priority 0; policy accept;\n")
	pairs := slices.SortedFunc(maps.Keys(l.cuts), func(x, y [2]string) int { return slices.Compare(x[:], y[:]) })
	for _, pair := range pairs {
		fmt.Fprintf(&rules, "iifname %q oifname %q drop\n", pair[0], pair[1])
	}
	rules.WriteString("}\n}\n")
	return l.onSegment(ctx, rules.String(), "nft", "-f", "-")
}

// notOurs tells a kernel variable that this kernel does not have, or that only the machine's own namespace may set.
func notOurs(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)
}
