package prepare

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

// ledgerFile remembers what was installed.
const ledgerFile = site.StateDirectory + "/bootstrap.json"

// Followers are what has to happen after a change.
const (
	reloadSSHD   = "reload sshd"
	reloadUnits  = "reload systemd's units"
	restartAgent = "restart the agent"
)

// ledger is what was installed, and what has still to follow.
type ledger struct {
	// Files are the SHA-256 that a file of ours may have; two of them while it is being replaced.
	Files   map[string][]string `json:"files"`
	Pending []string            `json:"pending,omitempty"`
}

func readLedger(m Machine) (*ledger, error) {
	l := &ledger{Files: map[string][]string{}}
	content, err := m.ReadFile(ledgerFile)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(content, l)
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was installed before: %w; remove %s if it is damaged, and give --adopt", err, ledgerFile)
	}
	if l.Files == nil {
		l.Files = map[string][]string{}
	}
	return l, nil
}

func (l *ledger) write(m Machine) error {
	content, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding what is installed: %w", err)
	}
	content = append(content, '\n')
	if before, err := m.ReadFile(ledgerFile); err == nil && bytes.Equal(before, content) {
		return nil
	}
	return m.WriteFile(ledgerFile, content, 0o600, "")
}

// wrote says whether content is what we put there.
func (l *ledger) wrote(path string, content []byte) bool {
	return slices.Contains(l.Files[path], digest(content))
}

// follow remembers that something has to happen.
func (l *ledger) follow(what ...string) {
	for _, w := range what {
		if !slices.Contains(l.Pending, w) {
			l.Pending = append(l.Pending, w)
		}
	}
}

// settle forgets it again.
func (l *ledger) settle(what string) {
	l.Pending = slices.DeleteFunc(l.Pending, func(p string) bool { return p == what })
}

func (l *ledger) pends(what string) bool { return slices.Contains(l.Pending, what) }

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
