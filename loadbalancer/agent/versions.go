package agent

import (
	"context"
	"regexp"
)

// versions are those of the programs that are installed; empty when one cannot be asked.
type versions struct{ haproxy, keepalived, nftables string }

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)*`)

// readVersions asks the programs. It is done anew before a repair: an upgrade of a package needs no restart of the agent.
func (a *Agent) readVersions(ctx context.Context) {
	ask := func(argv ...string) string {
		output, err := a.host.Run(ctx, argv, nil)
		if err != nil {
			a.log.Warn("asking a program for its version", "error", err)
			return ""
		}
		// keepalived tells it on stderr.
		return string(versionNumber.Find(append(output.Stdout, output.Stderr...)))
	}
	v := versions{
		haproxy:    ask(a.config.HAProxy.Program, "-v"),
		keepalived: ask(a.config.Keepalived.Program, "-v"),
		nftables:   ask("nft", "--version"),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.versions = v
}

func (a *Agent) programs() versions {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.versions
}
