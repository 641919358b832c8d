package provider

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config/strict"
)

// ledgerFile is a Ledger as it is written for people, who may edit it, but for what is given.
type ledgerFile struct {
	Kept        []keptEntry        `yaml:"kept,omitempty"`
	Quarantined []quarantinedEntry `yaml:"quarantined,omitempty"`
	// Given is read here and written into a givenFile, where builds before it wrote it.
	Given     []givenEntry     `yaml:"given,omitempty"`
	Releasing []releasingEntry `yaml:"releasing,omitempty"`
}

// givenFile is what a Ledger says of addresses that are given. Releases that know of none read a ledgerFile all the same.
type givenFile struct {
	Given []givenEntry `yaml:"given,omitempty"`
}

type keptEntry struct {
	Address netip.Addr `yaml:"address"`
	Service string     `yaml:"service" like:"default/web"`
}

type quarantinedEntry struct {
	Address netip.Addr `yaml:"address"`
	By      string     `yaml:"by"`
	Until   until      `yaml:"until"`
}

type givenEntry struct {
	Address netip.Addr  `yaml:"address"`
	Service string      `yaml:"service" like:"default/web"`
	Ports   []portEntry `yaml:"ports,omitempty"`
}

type releasingEntry struct {
	Address       netip.Addr  `yaml:"address"`
	Service       string      `yaml:"service" like:"default/web"`
	Ports         []portEntry `yaml:"ports,omitempty"`
	SinceEpoch    uint64      `yaml:"sinceEpoch"`
	SinceSequence uint64      `yaml:"sinceSequence"`
}

// renderLedger gives the content of each key of the ConfigMap.
func renderLedger(l loadbalancer.Ledger) (map[string]string, error) {
	var f ledgerFile
	for _, k := range l.Kept {
		f.Kept = append(f.Kept, keptEntry{k.Address, k.Owner.String()})
	}
	for _, q := range l.Quarantined {
		f.Quarantined = append(f.Quarantined, quarantinedEntry{q.Address, q.By, until{q.Until}})
	}
	var given givenFile
	for _, g := range l.Given {
		given.Given = append(given.Given, givenEntry{g.Address, g.Owner.String(), portEntries(g.Ports)})
	}
	for _, r := range l.Releasing {
		entry := releasingEntry{
			Address: r.Address, Service: r.Owner.String(), SinceEpoch: r.SinceEpoch, SinceSequence: r.SinceSequence,
		}
		entry.Ports = portEntries(r.Ports)
		f.Releasing = append(f.Releasing, entry)
	}
	files := map[string]string{}
	for key, content := range map[string]any{ledgerKey: f, givenKey: given} {
		var out strings.Builder
		e := yaml.NewEncoder(&out)
		e.SetIndent(2)
		e.CompactSeqIndent()
		if err := errors.Join(e.Encode(content), e.Close()); err != nil {
			return nil, fmt.Errorf("writing the addresses as YAML: %w", err)
		}
		files[key] = out.String()
	}
	return files, nil
}

// parseLedger is strict: whoever edits by hand hears of every slip, and nothing is forgotten for it.
func parseLedger(b []byte) (loadbalancer.Ledger, error) {
	var (
		f      ledgerFile
		l      loadbalancer.Ledger
		faults strict.Faults
	)
	if strict.Unmarshal(b, &f, &faults) != nil {
		return l, nil // empty: somebody released everything
	}
	r := ledgerReader{&faults}
	keptAt, quarantinedAt := map[ipam.Reservation]string{}, map[netip.Addr]string{}
	for i, e := range f.Kept {
		at := strict.Index("kept", i)
		entry := ipam.Reservation{Address: r.address(at, e.Address), Owner: ipam.Owner(r.service(at, e.Service))}
		if entry.Address.IsValid() && entry.Owner.Name != "" {
			r.once(at, keptAt[entry], "keeps %s for %s", entry.Address, entry.Owner)
			keptAt[entry] = at
		}
		l.Kept = append(l.Kept, entry)
	}
	for i, e := range f.Quarantined {
		at := strict.Index("quarantined", i)
		entry := loadbalancer.Quarantine{Address: r.address(at, e.Address), By: e.By, Until: r.until(at, e.Until)}
		if entry.Address.IsValid() {
			r.once(at, quarantinedAt[entry.Address], "is for %s", entry.Address)
			quarantinedAt[entry.Address] = at
		}
		l.Quarantined = append(l.Quarantined, entry)
	}
	l.Given = r.given(f.Given)
	for i, e := range f.Releasing {
		at := strict.Index("releasing", i)
		l.Releasing = append(l.Releasing, desired.Releasing{
			Address: r.address(at, e.Address), Owner: r.service(at, e.Service), Ports: portsOf(e.Ports),
			SinceEpoch: e.SinceEpoch, SinceSequence: e.SinceSequence,
		})
	}
	if err := faults.Err(); err != nil {
		return loadbalancer.Ledger{}, err
	}
	sortLedger(&l)
	return l, l.Validate()
}

// parseGiven reads a givenFile as parseLedger reads the rest.
func parseGiven(b []byte) ([]loadbalancer.Given, error) {
	var (
		f      givenFile
		faults strict.Faults
	)
	if strict.Unmarshal(b, &f, &faults) != nil {
		return nil, nil // empty, or not there
	}
	given := ledgerReader{&faults}.given(f.Given)
	return given, faults.Err()
}

func sortLedger(l *loadbalancer.Ledger) {
	slices.SortFunc(l.Kept, func(a, b ipam.Reservation) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner))
	})
	slices.SortFunc(l.Quarantined, func(a, b loadbalancer.Quarantine) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(l.Given, func(a, b loadbalancer.Given) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner))
	})
	slices.SortFunc(l.Releasing, func(a, b desired.Releasing) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner))
	})
}

// ledgerReader judges what could be read. What would make every State invalid is refused here, where its place can be
// told.
type ledgerReader struct{ faults *strict.Faults }

// once tells of an entry that says the same as the one at first, if there is such a one.
func (r ledgerReader) once(at, first, format string, args ...any) {
	if first != "" {
		r.faults.Add(at, "%s, as %s does; once is allowed", fmt.Sprintf(format, args...), first)
	}
}

func (r ledgerReader) given(entries []givenEntry) (all []loadbalancer.Given) {
	for i, e := range entries {
		at := strict.Index("given", i)
		all = append(all, loadbalancer.Given{Address: r.address(at, e.Address), Owner: r.service(at, e.Service), Ports: portsOf(e.Ports)})
	}
	return all
}

func (r ledgerReader) address(at string, a netip.Addr) netip.Addr {
	if problem := desired.AddressProblem(a); problem != "" {
		r.faults.Add(strict.Field(at, "address"), "%s", problem)
	}
	return a
}

func (r ledgerReader) service(at, text string) desired.Key {
	namespace, name, _ := strings.Cut(text, "/")
	key := desired.Key{Namespace: namespace, Name: name}
	switch at, problem := strict.Field(at, "service"), desired.KeyProblem(key); {
	case text == "":
		r.faults.Add(at, "is missing; the namespace and name of a Service (default/web) are needed")
	case !strings.Contains(text, "/"):
		r.faults.Add(at, "%q; the namespace and name of a Service (default/web) are allowed", text)
	case problem != "":
		r.faults.Add(at, "%q: %s", text, problem)
	}
	return key
}

func (r ledgerReader) until(at string, u until) time.Time {
	if u.IsZero() {
		r.faults.Add(strict.Field(at, "until"), "is missing; %s is needed", u.Form())
	}
	return u.Time
}

// until is a time as people read and write it, in whole seconds.
type until struct{ time.Time }

func (u until) MarshalText() ([]byte, error) { return u.UTC().AppendFormat(nil, time.RFC3339), nil }

// Form says what is allowed.
func (u until) Form() string { return "a time like 2026-01-31T14:00:00Z (RFC 3339)" }

// portEntry is a port as people write it: 80/TCP.
type portEntry desired.Port

func (p portEntry) MarshalText() ([]byte, error) {
	return fmt.Appendf(nil, "%d/%s", p.Port, p.Protocol), nil
}

func (p *portEntry) UnmarshalText(text []byte) error {
	number, protocol, _ := strings.Cut(string(text), "/")
	n, err := strconv.ParseUint(number, 10, 16)
	*p = portEntry{Protocol: desired.Protocol(protocol), Port: uint16(n)}
	if err != nil || n == 0 || p.Protocol != desired.TCP && p.Protocol != desired.UDP && p.Protocol != desired.SCTP {
		return errors.New("no port")
	}
	return nil
}

// Form says what is allowed.
func (p *portEntry) Form() string { return "a port (80/TCP, 53/UDP or 5060/SCTP)" }

func portsOf(entries []portEntry) []desired.Port {
	var ports []desired.Port
	for _, e := range entries {
		ports = append(ports, desired.Port(e))
	}
	slices.SortFunc(ports, func(a, b desired.Port) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
	})
	return ports
}

func portEntries(ports []desired.Port) (entries []portEntry) {
	for _, p := range ports {
		entries = append(entries, portEntry(p))
	}
	return entries
}
