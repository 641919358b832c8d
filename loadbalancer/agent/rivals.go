package agent

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// An HAProxy that was started by hand, or that a restart has left behind, can listen on the same ports as ours (SO_REUSEPORT). The
// kernel gives it a part of all connections, without a word to anybody, and it serves them by a configuration of its own. It may be
// somebody's, so it is told and not ended. (Its connections are, where the State has no place for them: outlived.go.)

// lookAtRivals finds who else listens on HAProxy's ports.
func (a *Agent) lookAtRivals(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	master, err := a.alive(a.config.HAProxy)
	if err != nil || master == nil {
		a.setRivals("", "")
		return
	}
	ours := append(a.childrenOf(master), strconv.Itoa(master.PID))
	strangers := func(pids []string) []string {
		pids = slices.DeleteFunc(pids, func(pid string) bool { return slices.Contains(ours, pid) })
		slices.Sort(pids)
		return slices.Compact(pids)
	}
	var named []string
	unnamed := false
	for _, port := range []int{a.config.ServicesPort, a.config.ControlPlanePort} {
		argv := []string{"ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes", fmt.Sprintf("sport = :%d", port)}
		output, err := a.host.Run(ctx, argv, nil)
		if err != nil {
			a.log.Warn("asking who listens on a port", "port", port, "error", err)
			return
		}
		named = append(named, listenerPIDs(output.Stdout)...)
		unnamed = unnamed || sharesUnnamed(output.Stdout)
	}
	if named = strangers(named); len(named) > 0 {
		a.setRivals("process "+strings.Join(named, ", "),
			"see with `systemctl status "+named[0]+"` who started it, and run: kill "+strings.Join(named, " "))
		return
	}
	if !unnamed {
		a.setRivals("", "")
		return
	}
	// ss names the processes of others only with a right that the agent does without; then all that are called haproxy are asked for.
	// Ours may have several sockets at one address, one for each of its thread groups, and is no rival of its own.
	whose := fmt.Sprintf("`ss -ltnp sport = :%d`, as root, tells which one it is: end it if it is no gateway's", a.config.ServicesPort)
	output, err := a.host.Run(ctx, []string{"pidof", "haproxy"}, nil)
	if err != nil {
		a.setRivals("another process", whose)
		return
	}
	if others := strangers(strings.Fields(string(output.Stdout))); len(others) > 0 {
		a.setRivals("perhaps one of the other processes called haproxy ("+strings.Join(others, ", ")+")", whose)
		return
	}
	a.setRivals("", "")
}

// listenerPIDs reads users:(("haproxy",pid=35,fd=6)) behind the sockets.
func listenerPIDs(said []byte) (pids []string) {
	for _, part := range strings.Split(string(said), ",pid=")[1:] {
		pid, _, _ := strings.Cut(part, ",")
		pids = append(pids, pid)
	}
	return pids
}

// sharesUnnamed says whether two sockets listen at one address, and ss does not tell whose one of them is.
func sharesUnnamed(said []byte) bool {
	sockets, unnamed := map[string]int{}, map[string]bool{}
	for line := range strings.Lines(string(said)) {
		words := strings.Fields(line)
		if len(words) < 4 {
			continue
		}
		at := words[3]
		sockets[at]++
		unnamed[at] = unnamed[at] || !strings.Contains(line, ",pid=")
		if sockets[at] > 1 && unnamed[at] {
			return true
		}
	}
	return false
}

// setRivals remembers them for status; who is empty when there are none. While one worker replaces another both listen for a moment,
// so they count when they are seen twice in a row.
func (a *Agent) setRivals(who, remedy string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := a.shared
	a.shared, a.rivals = who != "", nil
	if !again || !a.shared {
		return
	}
	a.rivals = []wire.Warning{{Reason: "SecondHAProxy", Message: fmt.Sprintf("%s listens on the ports of this gateway's HAProxy as well, so the kernel gives it "+
		"a part of all connections, and it serves them by another configuration; %s", who, remedy)}}
}
