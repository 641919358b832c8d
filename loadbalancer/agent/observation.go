package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// observation is what runs and what lies on the disk. Decisions are made from it alone, never from what was done before.
type observation struct {
	haproxy    *process         // nil: does not run
	running    *haproxy.Running // nil: does not answer
	table      *nftables.Table
	keepalived *process          // nil: does not run
	loaded     string            // digest of the configuration that keepalived has read; "" when not known
	addresses  []byte            // of the machine, for keepalived.Held
	files      map[string][]byte // nil: there is none
}

// readLimit bounds the wait for an HAProxy that hangs, readAgain is the time between two tries.
const (
	readLimit = 5 * time.Second
	readAgain = 100 * time.Millisecond
)

// observe reads everything that a transaction compares. It changes nothing.
func (a *Agent) observe(ctx context.Context) (*observation, error) {
	seen := &observation{files: make(map[string][]byte)}
	var err error
	if seen.haproxy, err = a.alive(a.config.HAProxy); err != nil {
		return nil, err
	}
	if seen.haproxy != nil {
		seen.running = a.askHAProxy(ctx)
	}
	if seen.table, err = a.readTable(ctx); err != nil {
		return nil, err
	}
	if seen.keepalived, err = a.alive(a.config.Keepalived); err != nil {
		return nil, err
	}
	if seen.loaded, err = a.readLoaded(seen.keepalived); err != nil {
		return nil, err
	}
	if seen.addresses, err = a.readAddresses(ctx); err != nil {
		return nil, err
	}
	for _, path := range a.swapped() {
		if err := a.look(seen, path); err != nil {
			return nil, err
		}
	}
	return seen, nil
}

// look reads a file that was not read yet. A rendering may have one that no other has (the control plane's certificates).
func (a *Agent) look(seen *observation, path string) error {
	if _, known := seen.files[path]; known {
		return nil
	}
	content, err := a.host.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		seen.files[path] = nil
	case err != nil:
		return fmt.Errorf("reading what is installed: %w", err)
	default:
		seen.files[path] = append([]byte{}, content...) // never nil: that is a file that does not exist
	}
	return nil
}

// swapped are the files that every transaction swaps.
func (a *Agent) swapped() []string {
	p := a.config.Paths
	return []string{p.slotsFile(), p.ServicesMap, p.ChecksMap, p.HAProxy, p.frontFile(), p.Keepalived}
}

// askHAProxy gives nil when HAProxy does not answer, which leads to a reload; so it is asked more than once.
func (a *Agent) askHAProxy(ctx context.Context) *haproxy.Running {
	const tries = 3
	for try := 1; ; try++ {
		running, err := a.readHAProxy(ctx)
		if err == nil && a.isOurs(running) {
			return running
		} else if err == nil {
			err = fmt.Errorf("another HAProxy (process %d) has the socket", running.PID)
		}
		a.log.Warn("HAProxy runs and does not answer", "socket", a.config.Paths.HAProxySocket, "try", try, "error", err)
		if try == tries || ctx.Err() != nil {
			return nil
		}
		if pause(ctx, readAgain) != nil {
			return nil
		}
	}
}

// pause lets time pass until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (a *Agent) readHAProxy(ctx context.Context) (*haproxy.Running, error) {
	ctx, cancel := context.WithTimeout(ctx, readLimit)
	defer cancel()
	return a.haproxy.Read(ctx)
}

func (a *Agent) readTable(ctx context.Context) (*nftables.Table, error) {
	output, err := a.host.Run(ctx, nftables.ListArgv(), nil)
	if err != nil && !nftables.Absent(output.Stderr) {
		return nil, fmt.Errorf("reading our nftables table: %w", err)
	}
	table, err := nftables.ReadTable(output.Stdout)
	if err != nil {
		return nil, fmt.Errorf("reading our nftables table: %w", err)
	}
	return table, nil
}

func (a *Agent) readAddresses(ctx context.Context) ([]byte, error) {
	output, err := a.host.Run(ctx, keepalived.AddressArgv(), nil)
	if err != nil {
		return nil, fmt.Errorf("reading the machine's addresses: %w", err)
	}
	return output.Stdout, nil
}

// loaded is the content of the file that remembers what keepalived has read: keepalived itself cannot be asked.
type loaded struct {
	Process process `json:"process"`
	Digest  string  `json:"digest"`
}

func (a *Agent) readLoaded(running *process) (string, error) {
	text, err := a.host.ReadFile(a.config.Paths.loadedFile())
	if errors.Is(err, fs.ErrNotExist) || running == nil {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("reading what keepalived has loaded: %w", err)
	}
	var l loaded
	if err := json.Unmarshal(text, &l); err != nil || l.Process != *running {
		return "", nil // not known: one more reload with the same configuration moves nothing
	}
	return l.Digest, nil
}

func (a *Agent) writeLoaded(running *process, content []byte) error {
	text, err := json.Marshal(loaded{Process: *running, Digest: digest(content)})
	if err == nil {
		err = a.host.WriteFile(a.config.Paths.loadedFile(), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("remembering what keepalived has loaded: %w", err)
	}
	return nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// unsettled says in words what keepalived has still to do: a MASTER holds all VIPs of its instances, others none.
// before is the State that ran before, whose VIPs may have to go; nil when there was none.
func (a *Agent) unsettled(addresses []byte, want, before *desired.State) ([]string, error) {
	holding, err := keepalived.Held(addresses, want, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("reading which VIPs are held: %w", err)
	}
	var words []string
	wanted := make(map[netip.Addr]bool, len(want.VIPs))
	for _, vip := range want.VIPs {
		wanted[vip.Address] = true
		holds := isIn(holding.VIPs, vip.Address)
		master := slices.Contains(holding.RouterIDs, vip.RouterID)
		if master && !holds {
			words = append(words, fmt.Sprintf("VIP %s is missing although this gateway is MASTER of instance %d", vip.Address, vip.RouterID))
		}
		if holds && !master {
			words = append(words, fmt.Sprintf("VIP %s is held although this gateway is not MASTER of instance %d", vip.Address, vip.RouterID))
		}
	}
	if before == nil {
		return words, nil
	}
	old, err := keepalived.Held(addresses, before, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("reading which VIPs are held: %w", err)
	}
	for _, address := range old.VIPs {
		if !wanted[address] {
			words = append(words, fmt.Sprintf("VIP %s is still held", address))
		}
	}
	return words, nil
}

// strays are the VIPs that are here and should not be: of instances whose MASTER this gateway is not, and of none any more.
func (a *Agent) strays(addresses []byte, want, before *desired.State) (strays []keepalived.Place, err error) {
	now, err := keepalived.Held(addresses, want, a.keepalivedLocal())
	if err != nil {
		return nil, fmt.Errorf("reading which VIPs are held: %w", err)
	}
	for _, s := range []*desired.State{want, before} {
		if s == nil {
			continue
		}
		holding, err := keepalived.Held(addresses, s, a.keepalivedLocal())
		if err != nil {
			return nil, fmt.Errorf("reading which VIPs are held: %w", err)
		}
		for _, p := range holding.Places {
			at := slices.IndexFunc(want.VIPs, func(v desired.VIP) bool { return v.Address == p.Address })
			master := at >= 0 && slices.Contains(now.RouterIDs, want.VIPs[at].RouterID)
			if !master && !slices.Contains(strays, p) {
				strays = append(strays, p)
			}
		}
	}
	return strays, nil
}

// isIn looks an address up in keepalived.Holding's sorted list.
func isIn(sorted []netip.Addr, address netip.Addr) bool {
	_, found := slices.BinarySearchFunc(sorted, address, netip.Addr.Compare)
	return found
}

// heldVIPs is for people and for Manager, which counts on it.
func (a *Agent) heldVIPs(addresses []byte, s *desired.State) []netip.Addr {
	holding, err := keepalived.Held(addresses, s, a.keepalivedLocal())
	if err != nil {
		a.log.Warn("reading which VIPs are held", "error", err)
		return nil
	}
	return holding.VIPs
}

// misplaced finds VIPs where keepalived did not put them. Nothing that we do removes them, and as long as they are there
// this machine answers for them whoever is MASTER.
func (a *Agent) misplaced(addresses []byte, s *desired.State) []wire.Warning {
	holding, err := keepalived.Held(addresses, s, a.keepalivedLocal())
	if err != nil {
		a.log.Warn("reading which VIPs are held", "error", err)
		return nil
	}
	var warnings []wire.Warning
	for _, p := range holding.Misplaced {
		warnings = append(warnings, wire.Warning{Reason: "MisplacedVIP", Message: fmt.Sprintf(
			"VIP %s stands on interface %s, where it does not belong, so this machine answers for it whichever gateway holds it; "+
				"run: ip address delete %s/%d dev %s, and remove it from the network configuration",
			p.Address, p.Interface, p.Address, p.Bits, p.Interface)})
	}
	return warnings
}

func same(files map[string][]byte, f file) bool {
	content := files[f.path]
	return content != nil && bytes.Equal(content, f.content)
}
