package prepare

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

// ours is how the files begin that the agent writes (templates of packages haproxy and keepalived).
const ours = "# Written by gatewayctl"

// daemonFiles are what the agent overwrites with its first State.
func daemonFiles() []daemonFile {
	return []daemonFile{{"haproxy", "/etc/haproxy/haproxy.cfg"}, {"keepalived", "/etc/keepalived/keepalived.conf"}}
}

type daemonFile struct{ pkg, path string }

// checkForeign finds a HAProxy or keepalived that serves something else: a configuration that is neither ours nor the
// distribution's own.
func (p *preparer) checkForeign(ctx context.Context) []Finding {
	var found []Finding
	for _, f := range daemonFiles() {
		if p.plan.Adopt {
			break
		}
		content, err := p.machine.ReadFile(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			found = append(found, Finding{Problem: err.Error()})
		case strings.HasPrefix(string(content), ours):
		case !p.shipped(ctx, f.pkg, f.path, content):
			found = append(found, Finding{Problem: f.path + " was written by somebody: this machine may serve something else, which the first State would end",
				Remedy: "take another machine; or give --adopt for this gateway alone, by its name: the daemon does not start with it any more, and the agent keeps it as " + f.path + kept})
		}
	}
	// RHEL's unit reads this directory beside haproxy.cfg.
	const more = "/etc/haproxy/conf.d"
	if p.facts.Family == site.RedHat && exists(p.machine, more) {
		output, err := p.machine.Run(ctx, []string{"find", more, "-name", "*.cfg"}, nil)
		if files := strings.Fields(string(output.Stdout)); err == nil && len(files) > 0 {
			found = append(found, Finding{Problem: "HAProxy also reads " + strings.Join(files, ", ") + ", which is not ours", Remedy: "remove it, or take another machine: --adopt does not cure that"})
		}
	}
	return found
}

// shipped says whether a file is as the distribution's package brought it. Nothing else can tell a default from what a person wrote.
func (p *preparer) shipped(ctx context.Context, pkg, path string, content []byte) bool {
	for _, d := range p.shippedDigests(ctx, pkg, path) {
		sum := md5.Sum(content)
		if d == hex.EncodeToString(sum[:]) || d == digest(content) {
			return true
		}
	}
	return false
}

// shippedDigests are what the package manager knows of a file: dpkg an MD5 (deb-conffiles), rpm what its database was made
// with, SHA-256 today. Empty: nothing.
func (p *preparer) shippedDigests(ctx context.Context, pkg, path string) []string {
	argv, field := []string{"dpkg-query", "--show", "--showformat=${Conffiles}\n", pkg}, 1
	if p.facts.Family == site.RedHat {
		argv, field = []string{"rpm", "--query", "--dump", pkg}, 3 // path size mtime digest mode owner ...
	}
	output, err := p.machine.Run(ctx, argv, nil)
	if err != nil {
		return nil // then the file is taken for somebody's: nothing is lost by asking
	}
	var digests []string
	for line := range strings.Lines(string(output.Stdout)) {
		if fields := strings.Fields(line); len(fields) > field && fields[0] == path {
			digests = append(digests, fields[field])
		}
	}
	return digests
}

// kept is put behind the name of a file that --adopt overwrites.
const kept = ".before-gatewayctl"

// keep makes a copy of what somebody else wrote, and tells its name. No copy of before is lost.
func (p *preparer) keep(path string, content []byte) error {
	last, name := p.copies(path)
	if before, err := p.machine.ReadFile(last); last != "" && err == nil && bytes.Equal(before, content) {
		return nil // a run that was cut kept it
	}
	if err := p.machine.WriteFile(name, content, 0o600, ""); err != nil {
		return fmt.Errorf("keeping a copy of %s: %w", path, err)
	}
	p.note("what was in %s before is kept as %s", path, name)
	return nil
}

// copies are the names of the newest copy of a file, empty when there is none, and of the next one.
func (p *preparer) copies(path string) (last, next string) {
	next = path + kept
	for n := 1; exists(p.machine, next); n++ {
		last, next = next, fmt.Sprintf("%s%s.%d", path, kept, n)
	}
	return last, next
}
