package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Order is what is asked for.
type Order struct {
	Site     *site.Site
	Gateways []desired.Gateway // those to prepare; the others are left alone
	Program  *Program
	Login    *Login
	// HostKeysFile is the controller's known_hosts: the host keys are added there.
	HostKeysFile string
	// PeerKeys are public keys of gateways that are not among Gateways, by name.
	PeerKeys map[string]ssh.PublicKey
	Options  prepare.Options
}

// Result is what became of one gateway.
type Result struct {
	Gateway string
	// Report is nil for a gateway that was not tried.
	Report *prepare.Report
	Err    error
}

// Errors of Run that say what state the gateways are in.
var (
	ErrUnreached = errors.New("not every gateway could be looked at, and nothing was changed on any")
	ErrInTheWay  = errors.New("something is in the way, and nothing was changed on any gateway")
	ErrStopped   = errors.New("stopped at the first failure: mend it, and run the same command again for what is missing")
)

// Run prepares the gateways. The results are in their order, also when there is an error.
func Run(ctx context.Context, o Order) ([]Result, error) { return do(ctx, o, prepare.Install) }

// Adopt has the gateways, which are prepared already, believe this configuration's controller and forget their cluster.
func Adopt(ctx context.Context, o Order) ([]Result, error) { return do(ctx, o, prepare.Adopt) }

func do(ctx context.Context, o Order, action prepare.Action) ([]Result, error) {
	b := &bootstrap{Order: o, known: map[string]site.Acquaintance{}, families: map[string]site.Family{}}
	for _, g := range o.Gateways {
		b.results = append(b.results, Result{Gateway: g.Name})
	}
	err := b.run(ctx, action)
	return b.results, errors.Join(err, b.close(ctx))
}

type bootstrap struct {
	Order
	results  []Result
	remotes  []*remote
	known    map[string]site.Acquaintance
	families map[string]site.Family
}

func (b *bootstrap) run(ctx context.Context, action prepare.Action) error {
	if err := b.reach(ctx); err != nil {
		return err
	}
	if !b.Options.DryRun {
		if err := recordHostKeys(b.HostKeysFile, b.remotes); err != nil {
			return err
		}
	}
	if err := b.look(ctx); err != nil {
		return err
	}
	if action == prepare.Adopt {
		return b.each(ctx, action)
	}
	found := b.check(ctx)
	if b.Options.DryRun && (found == nil || errors.Is(found, ErrInTheWay)) {
		return errors.Join(found, b.each(ctx, action))
	}
	if found != nil {
		return found
	}
	if err := b.makeKeys(ctx); err != nil {
		return err
	}
	return b.each(ctx, action)
}

// reach logs in everywhere before anything is done anywhere.
func (b *bootstrap) reach(ctx context.Context) error {
	var faults []error
	for i, g := range b.Gateways {
		r, err := open(ctx, b.Login, g, b.Program)
		if err != nil {
			b.results[i].Err = err
			faults = append(faults, err)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		b.remotes = append(b.remotes, r)
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: %w", ErrUnreached, errors.Join(faults...))
	}
	return nil
}

func (b *bootstrap) close(ctx context.Context) error {
	var faults []error
	for _, r := range b.remotes {
		faults = append(faults, r.close(ctx))
	}
	return errors.Join(faults...)
}

// ask has one plan carried out on all, and keeps the reports. All are asked, whatever one says.
func (b *bootstrap) ask(ctx context.Context, plan func(*remote) (prepare.Plan, error)) error {
	var faults []error
	for i, r := range b.remotes {
		p, err := plan(r)
		if err != nil {
			return err
		}
		report, err := r.carryOut(ctx, p)
		if err == nil && report.Error != "" {
			err = fmt.Errorf("gateway %s: %s", r.gateway.Name, report.Error)
		}
		b.results[i].Report, b.results[i].Err = report, err
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// look learns what the gateways have to know of each other.
func (b *bootstrap) look(ctx context.Context) error {
	err := b.ask(ctx, func(*remote) (prepare.Plan, error) { return prepare.Plan{Action: prepare.Look}, nil })
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreached, err)
	}
	hosts, err := HostKeys(b.HostKeysFile, b.Site.Gateways)
	if err != nil {
		return err
	}
	for _, g := range b.Site.Gateways {
		b.known[g.Name] = site.Acquaintance{PeerKey: b.PeerKeys[g.Name], HostKeys: hosts[g.Name]}
	}
	// What the prepared ones know of those that are left alone, then what each says of itself.
	for i := range b.remotes {
		name := b.results[i].Gateway
		for _, line := range b.results[i].Report.Facts.Peers {
			peer, err := site.ParseKey(line)
			if err != nil {
				return fmt.Errorf("gateway %s: %w", name, err)
			}
			own := b.known[name]
			own.Peers = append(own.Peers, peer)
			b.known[name] = own
			if a, ok := b.known[peer.Comment]; ok && a.PeerKey == nil {
				a.PeerKey = peer.PublicKey
				b.known[peer.Comment] = a
			}
		}
	}
	return b.introduce()
}

// introduce takes what the gateways say of themselves.
func (b *bootstrap) introduce() error {
	for i, r := range b.remotes {
		facts := b.results[i].Report.Facts
		b.families[r.gateway.Name] = facts.Family
		a := b.known[r.gateway.Name]
		if !slices.ContainsFunc(a.HostKeys, func(k ssh.PublicKey) bool { return slices.Equal(k.Marshal(), r.hostKey.Marshal()) }) {
			a.HostKeys = append(a.HostKeys, r.hostKey)
		}
		a.PeerKey = nil // one that was made anew has a new one
		if facts.PeerKey != "" {
			key, err := site.ParseKey(facts.PeerKey)
			if err != nil {
				return fmt.Errorf("gateway %s: %w", r.gateway.Name, err)
			}
			a.PeerKey = key.PublicKey
		}
		b.known[r.gateway.Name] = a
	}
	return nil
}

func (b *bootstrap) makeKeys(ctx context.Context) error {
	err := b.ask(ctx, func(*remote) (prepare.Plan, error) { return prepare.Plan{Action: prepare.MakeKey}, nil })
	if err != nil {
		return fmt.Errorf("%w: %w", ErrStopped, err)
	}
	return b.introduce()
}

// plan is all of one gateway.
func (b *bootstrap) plan(r *remote, action prepare.Action) (prepare.Plan, error) {
	files, err := b.Site.Files(r.gateway.Name, b.families[r.gateway.Name], b.known)
	if err != nil {
		return prepare.Plan{}, err
	}
	if action == prepare.Adopt {
		files = slices.DeleteFunc(files, func(f site.File) bool { return f.Path != site.SignersFile && f.Path != site.AuthorizedKeysFile })
	}
	return prepare.Plan{
		Action: action, User: b.Site.User, Address: r.gateway.VRRPAddress, Interfaces: b.Site.InterfacesOf(r.gateway), Listen: listens(r), From: b.from(r.gateway),
		Directories: b.Site.Directories(), Files: files, Options: b.Options,
	}, nil
}

// listens is where we came to: the gateway's sshd.
func listens(r *remote) netip.AddrPort {
	address, err := netip.ParseAddrPort(r.client.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(address.Addr().Unmap().WithZone(""), address.Port())
}

// from is where another gateway comes from; not valid: there is none.
func (b *bootstrap) from(g desired.Gateway) netip.Addr {
	for _, other := range b.Site.Gateways {
		if other.Name != g.Name {
			return other.VRRPAddress
		}
	}
	return netip.Addr{}
}

// check tells everything that is in the way, on all gateways.
func (b *bootstrap) check(ctx context.Context) error {
	err := b.ask(ctx, func(r *remote) (prepare.Plan, error) { return b.plan(r, prepare.Check) })
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnreached, err)
	}
	for _, result := range b.results {
		for _, f := range result.Report.Findings {
			if !f.Warning {
				return ErrInTheWay
			}
		}
	}
	return nil
}

// each does it on one gateway after the other, and stops at the first failure. A dry run asks them all.
func (b *bootstrap) each(ctx context.Context, action prepare.Action) error {
	keys := make([][]prepare.Step, len(b.remotes))
	for i := range b.remotes {
		keys[i] = b.results[i].Report.Steps
		b.results[i].Report, b.results[i].Err = nil, nil
	}
	var faults []error
	for i, r := range b.remotes {
		plan, err := b.plan(r, action)
		if err != nil {
			return err
		}
		report, err := r.carryOut(ctx, plan)
		if report != nil {
			report.Steps = append(keys[i], report.Steps...)
			if report.Error != "" {
				err = fmt.Errorf("gateway %s: %s", r.gateway.Name, report.Error)
			}
		}
		b.results[i].Report, b.results[i].Err = report, err
		faults = append(faults, err)
		if err != nil && !b.Options.DryRun {
			return fmt.Errorf("%w: %w", ErrStopped, err)
		}
	}
	return errors.Join(faults...)
}
