package prepare

import (
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
var daemonFiles = [...]struct{ pkg, path string }{
	{"haproxy", "/etc/haproxy/haproxy.cfg"},
	{"keepalived", "/etc/keepalived/keepalived.conf"},
}

// checkForeign finds a HAProxy or keepalived that serves something else: a configuration that is neither ours nor the
// distribution's own.
func (p *preparer) checkForeign(ctx context.Context) []Finding {
	if p.plan.Adopt {
		return nil
	}
	var found []Finding
	for _, f := range daemonFiles {
		content, err := p.machine.ReadFile(f.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			found = append(found, Finding{Problem: err.Error()})
		case strings.HasPrefix(string(content), ours):
		case !p.shipped(ctx, f.pkg, f.path, content):
			found = append(found, Finding{Problem: f.path + " was written by somebody: this machine may serve something else, which the first State would end",
				Remedy: "take another machine; or give --adopt, and the agent keeps it as " + f.path + ".before-gatewayctl"})
		}
	}
	// RHEL's unit reads this directory beside haproxy.cfg.
	const more = "/etc/haproxy/conf.d"
	if p.facts.Family == site.RedHat && exists(p.machine, more) {
		output, err := p.machine.Run(ctx, []string{"find", more, "-name", "*.cfg"}, nil)
		if files := strings.Fields(string(output.Stdout)); err == nil && len(files) > 0 {
			found = append(found, Finding{Problem: "HAProxy also reads " + strings.Join(files, ", ") + ", which is not ours", Remedy: "remove it, or take another machine"})
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

// keep makes a copy of what somebody else wrote, unless there is one: the first is the one that is wanted back.
func (p *preparer) keep(path string, content []byte) error {
	if exists(p.machine, path+kept) {
		return nil
	}
	if err := p.machine.WriteFile(path+kept, content, 0o600, ""); err != nil {
		return fmt.Errorf("keeping a copy of %s: %w", path, err)
	}
	return nil
}
