package loadbalancer

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// advise adds to why ipam gives no address what only Manager knows: until when that is so, and which object says it.
func (m *Manager) advise(err error) error {
	var (
		quarantined *ipam.QuarantinedError
		reserved    *ipam.ReservedError
		exhausted   *ipam.ExhaustedError
		advice      string
	)
	switch {
	case errors.As(err, &quarantined):
		q := m.quarantined[quarantined.Address]
		remedy := "take it from that machine first"
		if q.Node != "" {
			remedy = nodeRemedy
		}
		advice = fmt.Sprintf("it is tried again after %s, and before when its entry in %s is deleted: %s",
			q.Until.UTC().Format(time.RFC3339), m.ledger.store.Name(), remedy)
	case errors.As(err, &reserved) && m.kept[hold{reserved.Address, desired.Key(reserved.Owner)}]:
		advice = fmt.Sprintf("it was kept for that Service (keep-ip): the reservation is its entry in %s", m.ledger.store.Name())
	case errors.As(err, &exhausted):
		if first := m.firstTried(exhausted); !first.IsZero() {
			advice = fmt.Sprintf("what is quarantined is tried again after %s, and before when its entry in %s is deleted",
				first.UTC().Format(time.RFC3339), m.ledger.store.Name())
		}
	}
	if advice == "" {
		return err
	}
	return &AdvisedError{Err: err, Advice: advice}
}

// firstTried is when the first quarantine ends in the pools that have no free address; zero when there is none.
func (m *Manager) firstTried(e *ipam.ExhaustedError) (first time.Time) {
	for address, q := range m.quarantined {
		p := m.poolFamily(address)
		asked := slices.ContainsFunc(e.Pools, func(c ipam.Count) bool { return c.Pool == p.pool && c.Family == p.family })
		if asked && (first.IsZero() || q.Until.Before(first)) {
			first = q.Until
		}
	}
	return first
}
