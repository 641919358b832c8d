package desired

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// Clone is a deep copy.
func (s *State) Clone() *State {
	c := *s
	c.Gateways = slices.Clone(s.Gateways)
	c.Instances = slices.Clone(s.Instances)
	for i := range c.Instances {
		c.Instances[i].Gateways = slices.Clone(c.Instances[i].Gateways)
	}
	c.VIPs = slices.Clone(s.VIPs)
	if s.ControlPlane != nil {
		controlPlane := *s.ControlPlane
		controlPlane.Endpoints = slices.Clone(controlPlane.Endpoints)
		controlPlane.ExtraPorts = slices.Clone(controlPlane.ExtraPorts)
		c.ControlPlane = &controlPlane
	}
	c.Nodes = slices.Clone(s.Nodes)
	for i := range c.Nodes {
		c.Nodes[i].Addresses = slices.Clone(c.Nodes[i].Addresses)
	}
	c.LoadBalancers = slices.Clone(s.LoadBalancers)
	for i := range c.LoadBalancers {
		c.LoadBalancers[i] = c.LoadBalancers[i].Clone()
	}
	c.Releasing = slices.Clone(s.Releasing)
	for i := range c.Releasing {
		c.Releasing[i].Ports = slices.Clone(c.Releasing[i].Ports)
	}
	c.Pools = slices.Clone(s.Pools)
	c.Reserved = slices.Clone(s.Reserved)
	c.Quarantined = slices.Clone(s.Quarantined)
	return &c
}

// Clone is a deep copy.
func (l LoadBalancer) Clone() LoadBalancer {
	l.Addresses = slices.Clone(l.Addresses)
	l.Frontends = slices.Clone(l.Frontends)
	for i := range l.Frontends {
		l.Frontends[i].Pool = l.Frontends[i].Pool.clone()
	}
	l.Pool = l.Pool.clone()
	if l.Timeouts != nil {
		timeouts := *l.Timeouts
		l.Timeouts = &timeouts
	}
	l.AllowSources = slices.Clone(l.AllowSources)
	l.DenySources = slices.Clone(l.DenySources)
	return l
}

func (p *Pool) clone() *Pool {
	if p == nil {
		return nil
	}
	c := *p
	c.Servers = slices.Clone(p.Servers)
	return &c
}

// Normalize sorts every list into canonical order, in place, merges source prefixes, and makes empty lists nil. Lists whose order means
// something keep it: Instance.Gateways (who inherits) and LoadBalancer.Addresses (the Service's ipFamilies). Elements
// that tie are faults, which Validate names.
func (s *State) Normalize() {
	sortList(&s.Gateways, func(a, b Gateway) int { return strings.Compare(a.Name, b.Name) })
	sortList(&s.Instances, func(a, b Instance) int { return cmp.Compare(a.RouterID, b.RouterID) })
	for i := range s.Instances {
		nilIfEmpty(&s.Instances[i].Gateways)
	}
	sortList(&s.VIPs, func(a, b VIP) int { return a.Address.Compare(b.Address) })
	if s.ControlPlane != nil {
		sortList(&s.ControlPlane.Endpoints, netip.AddrPort.Compare)
		sortList(&s.ControlPlane.ExtraPorts, ExtraPort.Compare)
	}
	sortList(&s.Nodes, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	for i := range s.Nodes {
		// netip orders IPv4 before IPv6.
		sortList(&s.Nodes[i].Addresses, netip.Addr.Compare)
	}
	sortList(&s.LoadBalancers, func(a, b LoadBalancer) int { return a.Key.Compare(b.Key) })
	for i := range s.LoadBalancers {
		s.LoadBalancers[i].normalize()
	}
	sortList(&s.Releasing, func(a, b Releasing) int { return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner)) })
	for i := range s.Releasing {
		sortList(&s.Releasing[i].Ports, Port.Compare)
	}
	sortList(&s.Pools, func(a, b PoolSummary) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Family, b.Family))
	})
	sortList(&s.Reserved, func(a, b Reserved) int {
		return cmp.Or(a.Address.Compare(b.Address), a.Owner.Compare(b.Owner))
	})
	sortList(&s.Quarantined, func(a, b Quarantined) int { return a.Address.Compare(b.Address) })
}

func (l *LoadBalancer) normalize() {
	nilIfEmpty(&l.Addresses)
	sortList(&l.Frontends, func(a, b Frontend) int { return a.port().Compare(b.port()) })
	for _, pool := range l.Pools() {
		sortList(&pool.Servers, func(a, b Server) int { return strings.Compare(a.Name, b.Name) })
	}
	if l.Timeouts != nil && *l.Timeouts == (Timeouts{}) {
		l.Timeouts = nil
	}
	l.AllowSources, l.DenySources = MergePrefixes(l.AllowSources), MergePrefixes(l.DenySources)
}

func sortList[E any](list *[]E, compare func(a, b E) int) {
	nilIfEmpty(list)
	slices.SortStableFunc(*list, compare)
}

// nilIfEmpty gives an empty list its one canonical form: JSON tells nil from empty.
func nilIfEmpty[E any](list *[]E) {
	if len(*list) == 0 {
		*list = nil
	}
}

// Canonical gives the bytes that are signed, sent, stored and compared: JSON of the normalized State without a
// trailing newline. Two equal States give equal bytes. The State itself is not changed.
func (s *State) Canonical() ([]byte, error) {
	normal := s.Clone()
	normal.Normalize()
	b, err := json.Marshal(normal)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return b, nil
}

// Digest is the lower-case hex SHA-256 of the State's canonical bytes with an empty Fence: equal digests mean that
// nothing changed but the fence.
func (s *State) Digest() (string, error) {
	unfenced := *s
	unfenced.Fence = Fence{}
	b, err := unfenced.Canonical()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// SchemaError says that a State was written by a build with another Schema.
type SchemaError struct{ Got, Want int }

func (e *SchemaError) Error() string {
	return fmt.Sprintf("state has schema %d and this build reads schema %d only: run the same release of "+
		"cloud-provider-haproxy on the controller and on every gateway", e.Got, e.Want)
}

// Decode reads canonical bytes strictly: an unknown field, a trailing byte or another schema is an error
// (*SchemaError for the latter). It does not Validate.
//
// What it returns is normalized. Bytes in another order are accepted, because a State that an older build of the same
// schema wrote must stay readable after an upgrade; who relies on the bytes has their signature.
func Decode(b []byte) (*State, error) {
	s := new(State)
	err := decodeStrictly(b, s)
	if err == nil && s.Schema == Schema {
		s.Normalize()
		return s, nil
	}
	// A State of another schema is told as such, not as the first of its unknown fields.
	var versioned struct {
		Schema int `json:"schema"`
	}
	if json.Unmarshal(b, &versioned) == nil && versioned.Schema != Schema {
		return nil, &SchemaError{Got: versioned.Schema, Want: Schema}
	}
	return nil, fmt.Errorf("decode state: %w", err)
}

func decodeStrictly(b []byte, s *State) error {
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(s); errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	} else if err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the state")
	}
	return nil
}
