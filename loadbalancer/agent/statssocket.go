package agent

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// An HAProxy whose stats socket's file somebody has removed or replaced serves, and cannot be asked nor changed; a restart would cut every
// connection. A reload inherits the socket without its file and brings no file back (seen with 2.6.12). But it knows what it inherits
// by the configuration's words: when these name the same file otherwise, the new worker makes it anew, over what lies there, and nobody
// notices. Only a directory is nothing that it replaces: its reload fails then, and the old worker goes on.

// statsSocket is how haproxy.cfg is to name the stats socket: as it does, but otherwise when nobody is there. answers says that the
// running HAProxy was reached there.
func (a *Agent) statsSocket(ctx context.Context, answers bool) string {
	plain := a.config.Paths.HAProxySocket
	other := filepath.Dir(plain) + "/./" + filepath.Base(plain)
	installed, err := a.host.ReadFile(a.config.Paths.HAProxy)
	named := err == nil && bytes.Contains(installed, []byte("\n  stats socket "+other+" "))
	if named != (!answers && a.socketGone(ctx)) {
		return other
	}
	return plain
}

// socketGone says that HAProxy runs and that nobody, or somebody else, is at its socket. One that hangs takes the question.
func (a *Agent) socketGone(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, silenceLimit)
	defer cancel()
	if found, err := a.readHAProxy(ctx); err == nil && a.isOurs(found) || err != nil && !nobodyThere(err) {
		return false
	}
	running, err := a.alive(a.config.HAProxy)
	return err == nil && running != nil
}

// nobodyThere tells from a failed question at a unix socket that it has no file, or one that nobody listens at.
func nobodyThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// isOurs says whether who answers is a process of our HAProxy, as far as the kernel tells which these are. Another one may have put its
// socket in the place of ours: Debian's configuration names the same.
func (a *Agent) isOurs(running *haproxy.Running) bool {
	master, err := a.alive(a.config.HAProxy)
	if err != nil || master == nil || master.PID == running.PID {
		return true // it runs without a master; or does not run, which is told elsewhere
	}
	workers := a.childrenOf(master)
	return len(workers) == 0 || slices.Contains(workers, strconv.Itoa(running.PID))
}
