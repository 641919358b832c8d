package provider

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"
	"sigs.k8s.io/yaml"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// ledgerFile is a Ledger as it is written for people, who may edit it.
type ledgerFile struct {
	Kept        []keptEntry        `json:"kept,omitempty"`
	Quarantined []quarantinedEntry `json:"quarantined,omitempty"`
	Releasing   []releasingEntry   `json:"releasing,omitempty"`
}

type keptEntry struct {
	Address string `json:"address"`
	Service string `json:"service"`
}

type quarantinedEntry struct {
	Address string `json:"address"`
	By      string `json:"by"`
	Until   string `json:"until"`
}

type releasingEntry struct {
	Address       string   `json:"address"`
	Service       string   `json:"service"`
	Ports         []string `json:"ports,omitempty"`
	SinceEpoch    uint64   `json:"sinceEpoch"`
	SinceSequence uint64   `json:"sinceSequence"`
}

func renderLedger(l loadbalancer.Ledger) ([]byte, error) {
	var f ledgerFile
	for _, k := range l.Kept {
		f.Kept = append(f.Kept, keptEntry{k.Address.String(), k.Owner.String()})
	}
	for _, q := range l.Quarantined {
		f.Quarantined = append(f.Quarantined, quarantinedEntry{q.Address.String(), q.By, q.Until.UTC().Format(time.RFC3339Nano)})
	}
	for _, r := range l.Releasing {
		entry := releasingEntry{Address: r.Address.String(), Service: r.Owner.String(), SinceEpoch: r.SinceEpoch, SinceSequence: r.SinceSequence}
		for _, p := range r.Ports {
			entry.Ports = append(entry.Ports, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
		f.Releasing = append(f.Releasing, entry)
	}
	b, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("writing the addresses as YAML: %w", err)
	}
	return b, nil
}

// parseLedger is strict: whoever edits by hand hears of a slip, and nothing is forgotten for it. Every fault is told.
func parseLedger(b []byte) (loadbalancer.Ledger, error) {
	var f ledgerFile
	if err := yaml.UnmarshalStrict(b, &f); err != nil {
		return loadbalancer.Ledger{}, err
	}
	r := &ledgerReader{}
	var l loadbalancer.Ledger
	for i, e := range f.Kept {
		at := fmt.Sprintf("kept[%d]", i)
		l.Kept = append(l.Kept, ipam.Reservation{Address: r.address(at, e.Address), Owner: ipam.Owner(r.service(at, e.Service))})
	}
	for i, e := range f.Quarantined {
		at := fmt.Sprintf("quarantined[%d]", i)
		l.Quarantined = append(l.Quarantined, loadbalancer.Quarantine{Address: r.address(at, e.Address), By: e.By, Until: r.until(at, e.Until)})
	}
	for i, e := range f.Releasing {
		at := fmt.Sprintf("releasing[%d]", i)
		l.Releasing = append(l.Releasing, desired.Releasing{
			Address: r.address(at, e.Address), Owner: r.service(at, e.Service), Ports: r.ports(at, e.Ports),
			SinceEpoch: e.SinceEpoch, SinceSequence: e.SinceSequence,
		})
	}
	slices.SortFunc(l.Kept, func(a, b ipam.Reservation) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner))
	})
	slices.SortFunc(l.Quarantined, func(a, b loadbalancer.Quarantine) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(l.Releasing, func(a, b desired.Releasing) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner))
	})
	r.twice(l)
	if err := r.faults.ErrorOrNil(); err != nil {
		return loadbalancer.Ledger{}, err
	}
	if err := l.Validate(); err != nil {
		return loadbalancer.Ledger{}, err
	}
	return l, nil
}

// ledgerReader collects the faults of one file.
type ledgerReader struct{ faults *multierror.Error }

func (r *ledgerReader) wrong(format string, args ...any) {
	r.faults = multierror.Append(r.faults, fmt.Errorf(format, args...))
}

// What would make every State invalid is refused here, where its place can be told.
func (r *ledgerReader) address(at, text string) netip.Addr {
	a, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil || a.Zone() != "" || a.Is4In6() {
		r.wrong("%s.address: %q is not an IP address", at, text)
	} else if problem := desired.AddressProblem(a); problem != "" {
		r.wrong("%s.address: %s", at, problem)
	}
	return a
}

func (r *ledgerReader) service(at, text string) desired.Key {
	namespace, name, found := strings.Cut(text, "/")
	key := desired.Key{Namespace: namespace, Name: name}
	if !found {
		r.wrong("%s.service: %q; allowed is NAMESPACE/NAME", at, text)
	} else if problem := desired.KeyProblem(key); problem != "" {
		r.wrong("%s.service: %q; allowed is NAMESPACE/NAME: %s", at, text, problem)
	}
	return key
}

func (r *ledgerReader) until(at, text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		r.wrong("%s.until: %q; allowed is a time like 2026-01-31T14:00:00Z (RFC 3339)", at, text)
	}
	return t
}

func (r *ledgerReader) ports(at string, texts []string) []desired.Port {
	var ports []desired.Port
	for i, text := range texts {
		number, protocol, _ := strings.Cut(text, "/")
		n, err := strconv.ParseUint(number, 10, 16)
		p := desired.Protocol(protocol)
		if err != nil || n == 0 || p != desired.TCP && p != desired.UDP && p != desired.SCTP {
			r.wrong("%s.ports[%d]: %q; allowed is NUMBER/TCP, NUMBER/UDP or NUMBER/SCTP", at, i, text)
		}
		ports = append(ports, desired.Port{Protocol: p, Port: uint16(n)})
	}
	slices.SortFunc(ports, func(a, b desired.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return ports
}

// twice refuses two entries that contradict each other.
func (r *ledgerReader) twice(l loadbalancer.Ledger) {
	if r.faults.ErrorOrNil() != nil {
		return // what could not be read is equal
	}
	for i := 1; i < len(l.Kept); i++ {
		if l.Kept[i] == l.Kept[i-1] {
			r.wrong("kept: %s is there twice for %s", l.Kept[i].Address, l.Kept[i].Owner)
		}
	}
	for i := 1; i < len(l.Quarantined); i++ {
		if a := l.Quarantined[i].Address; a == l.Quarantined[i-1].Address {
			r.wrong("quarantined: %s is there twice", a)
		}
	}
}
