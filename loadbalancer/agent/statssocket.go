package agent

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
)

// An HAProxy whose stats socket's file somebody has removed serves, and cannot be asked nor changed; a restart would cut every
// connection. A reload inherits the socket without its file and brings no file back (seen with 2.6.12). But it knows what it inherits
// by the configuration's words: when these name the same file otherwise, the new worker makes it anew, and nobody notices.

// statsSocket is how haproxy.cfg is to name the stats socket: as it does, but otherwise when the file is gone. answers says that the
// running HAProxy was reached there.
func (a *Agent) statsSocket(answers bool) string {
	plain := a.config.Paths.HAProxySocket
	other := filepath.Dir(plain) + "/./" + filepath.Base(plain)
	installed, err := a.host.ReadFile(a.config.Paths.HAProxy)
	named := err == nil && bytes.Contains(installed, []byte("\n  stats socket "+other+" "))
	if named != (!answers && a.socketGone()) {
		return other
	}
	return plain
}

// socketGone says that HAProxy runs and that its socket has no file.
func (a *Agent) socketGone() bool {
	// A socket cannot be read: any other error says that there is something.
	if _, err := a.host.ReadFile(a.config.Paths.HAProxySocket); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	running, err := a.alive(a.config.HAProxy)
	return err == nil && running != nil
}
