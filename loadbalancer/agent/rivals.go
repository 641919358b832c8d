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
// somebody's, so it is told and not ended.

// lookAtRivals finds who else listens on HAProxy's ports.
func (a *Agent) lookAtRivals(ctx context.Context) {
	master, err := a.alive(a.config.HAProxy)
	if err != nil || master == nil {
		a.setRivals(nil, false)
		return
	}
	ours := append(a.childrenOf(master), strconv.Itoa(master.PID))
	var rivals []string
	shared := false
	for _, port := range []int{a.config.ServicesPort, a.config.ControlPlanePort} {
		argv := []string{"ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes", fmt.Sprintf("sport = :%d", port)}
		output, err := a.host.Run(ctx, argv, nil)
		if err != nil {
			a.log.Warn("asking who listens on a port", "port", port, "error", err)
			return
		}
		for _, pid := range listenerPIDs(output.Stdout) {
			if !slices.Contains(ours, pid) {
				rivals = append(rivals, pid)
			}
		}
		shared = shared || sharesPort(output.Stdout)
	}
	// ss names the processes of others only with a right that the agent does without; then all that are called haproxy are asked for.
	if shared && len(rivals) == 0 {
		output, err := a.host.Run(ctx, []string{"pidof", "haproxy"}, nil)
		if err != nil {
			a.log.Debug("asking which processes are HAProxy's", "error", err)
		}
		for _, pid := range strings.Fields(string(output.Stdout)) {
			if !slices.Contains(ours, pid) {
				rivals = append(rivals, pid)
			}
		}
	}
	slices.Sort(rivals)
	a.setRivals(slices.Compact(rivals), shared)
}

// listenerPIDs reads users:(("haproxy",pid=35,fd=6)) behind the sockets.
func listenerPIDs(said []byte) (pids []string) {
	for _, part := range strings.Split(string(said), ",pid=")[1:] {
		pid, _, _ := strings.Cut(part, ",")
		pids = append(pids, pid)
	}
	return pids
}

// sharesPort says whether two sockets listen at one address: HAProxy has one for each.
func sharesPort(said []byte) bool {
	at := map[string]bool{}
	for line := range strings.Lines(string(said)) {
		words := strings.Fields(line)
		if len(words) < 4 {
			continue
		}
		if at[words[3]] {
			return true
		}
		at[words[3]] = true
	}
	return false
}

// setRivals remembers them for status. While one worker replaces another both listen for a moment, so they count when they are seen
// twice in a row.
func (a *Agent) setRivals(pids []string, shared bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	again := a.shared
	a.shared, a.rivals = shared || len(pids) > 0, nil
	if !again || !a.shared {
		return
	}
	who, remedy := "another process", fmt.Sprintf("`ss -ltnp sport = :%d`, as root, tells which one it is: end it", a.config.ServicesPort)
	if len(pids) > 0 {
		who, remedy = "process "+strings.Join(pids, ", "), "see with `systemctl status "+pids[0]+"` who started it, and run: kill "+strings.Join(pids, " ")
	}
	a.rivals = []wire.Warning{{Reason: "SecondHAProxy", Message: fmt.Sprintf("%s listens on the ports of this gateway's HAProxy as well, so the kernel gives it "+
		"a part of all connections, and it serves them by another configuration; %s", who, remedy)}}
}
