package prepare

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Parts are what a plan is carried out with.
type Parts struct {
	Machine Machine
	Links   Links
	// Self reads the program that runs.
	Self func() ([]byte, error)
	// Lock keeps other bootstraps out as long as the plan is carried out; an error tells who is there.
	Lock func() (release func() error, err error)
	// TryLock tells whether somebody holds it.
	TryLock func() error
	// Status asks the agent. Patience is how long it may take to be what it was after a restart.
	Status   func(ctx context.Context) (*wire.Status, error)
	Patience time.Duration
	// Forget has the agent forget which cluster it belongs to, and tells whether it did.
	Forget func(ctx context.Context) (forgot bool, err error)
	Now    func() time.Time
}

// preparer carries out one plan.
type preparer struct {
	Parts
	machine Machine
	links   Links
	plan    Plan
	facts   Facts
	ledger  *ledger
	report  Report
}

// Run carries out a plan. What went wrong stands in the Report, which also says how far it came.
func Run(ctx context.Context, plan Plan, parts Parts) Report {
	p := &preparer{Parts: parts, machine: parts.Machine, links: parts.Links, plan: plan}
	if err := p.run(ctx); err != nil {
		p.report.Error = err.Error()
	}
	p.report.Facts = p.facts
	return p.report
}

func (p *preparer) run(ctx context.Context) (err error) {
	switch alone := slices.Contains([]Action{MakeKey, Install, Adopt}, p.plan.Action); {
	case p.plan.DryRun:
	case alone:
		release, err := p.Lock()
		if err != nil {
			return err
		}
		defer release() // the file is closed when the process ends, whatever this says
	case p.plan.Action == Check:
		if err := p.TryLock(); err != nil {
			return err
		}
	}
	if err := p.look(); err != nil {
		return err
	}
	if p.ledger, err = readLedger(p.machine); err != nil {
		return err
	}
	switch p.plan.Action {
	case Look:
		return nil
	case Check:
		p.report.Findings = p.checkAll(ctx)
		return nil
	case MakeKey:
		return p.makeKey()
	case Install:
		return p.install(ctx)
	case Adopt:
		return p.adopt(ctx)
	}
	return fmt.Errorf("there is no action %q: is this program of the operator's version?", p.plan.Action)
}

// look gathers the facts.
func (p *preparer) look() (err error) {
	p.facts.Now = p.Now()
	p.facts.Systemd = exists(p.machine, "/run/systemd/system") // sd_booted(3)
	if p.facts.System, p.facts.Family, err = release(p.machine); err != nil {
		return fmt.Errorf("reading which operating system this is: %w", err)
	}
	key, err := p.peerKey()
	if err != nil {
		return err
	}
	if key != nil {
		p.facts.PeerKey = site.Key{PublicKey: key}.String()
	}
	authorized, err := text(p.machine, site.AuthorizedKeysFile)
	if err != nil {
		return err
	}
	p.facts.Peers = nil
	for _, peer := range site.PeersIn([]byte(authorized)) {
		p.facts.Peers = append(p.facts.Peers, peer.String())
	}
	return nil
}

// peerKey is the public half of the gateway's own key; nil: there is none.
func (p *preparer) peerKey() (ssh.PublicKey, error) {
	private, err := p.machine.ReadFile(site.PeerKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w; remove it to have a new one made", site.PeerKeyFile, err)
	}
	return signer.PublicKey(), nil
}

// peerKeyStep is what Step calls makeKey.
const peerKeyStep = "key " + site.PeerKeyFile

// makeKey makes the key with which this gateway asks the others. The private half never leaves the machine.
func (p *preparer) makeKey() error {
	if p.facts.PeerKey != "" {
		p.step(peerKeyStep, Unchanged)
		return nil
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, p.plan.Gateway)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	if err := p.machine.WriteFile(site.PeerKeyFile, pem.EncodeToMemory(block), 0o600, ""); err != nil {
		return err
	}
	p.step(peerKeyStep, Created)
	return p.look()
}

func (p *preparer) step(what, outcome string, diff ...string) {
	p.report.Steps = append(p.report.Steps, Step{What: what, Outcome: outcome, Diff: diff})
}

func (p *preparer) note(format string, args ...any) {
	p.report.Notes = append(p.report.Notes, fmt.Sprintf(format, args...))
}

// diff is what changes between two texts: what is alike at the beginning and at the end is left out.
func diff(before, after []byte) []string {
	old, new := lines(before), lines(after)
	for len(old) > 0 && len(new) > 0 && old[0] == new[0] {
		old, new = old[1:], new[1:]
	}
	for len(old) > 0 && len(new) > 0 && old[len(old)-1] == new[len(new)-1] {
		old, new = old[:len(old)-1], new[:len(new)-1]
	}
	var changed []string
	for _, line := range old {
		changed = append(changed, "-"+line)
	}
	for _, line := range new {
		changed = append(changed, "+"+line)
	}
	return changed
}

func lines(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}
