package provider

import (
	"errors"
	"sync"
	"time"

	"k8s.io/cloud-provider/api"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

const (
	// retrySoon is for faults that pass by themselves: gateways or an API server that do not answer.
	retrySoon = 5 * time.Second
	// retryLater is for faults that somebody has to mend. A change of the Service is looked at when it happens.
	retryLater = 30 * time.Second
)

// cause is what a Service waits for.
type cause int

const (
	nothing    cause = iota
	gateways         // that one confirms again
	address          // that one is freed, or that somebody changes the Service or the configuration
	correction       // that somebody changes the Service or the configuration
	patience         // that it passes by itself, which nobody tells
)

// reason is the cause as an Event's reason.
func (c cause) reason() string {
	switch c {
	case gateways:
		return "WaitsForGateways"
	case address:
		return "WaitsForAddress"
	case correction:
		return "WaitsForCorrection"
	default:
		return "Waits"
	}
}

// causeOf sorts an error of the translation or of Manager.
func causeOf(err error) cause {
	var (
		exhausted   *ipam.ExhaustedError
		taken       *ipam.TakenError
		sharing     *ipam.SharingError
		reserved    *ipam.ReservedError
		quarantined *ipam.QuarantinedError
		conflict    *loadbalancer.ConflictError
		ledger      *loadbalancer.LedgerError
		outside     *ipam.OutsideError
		excluded    *ipam.ExcludedError
		request     *ipam.RequestError
		refused     *loadbalancer.ServiceFaultError
		faulty      *faultyServiceError
	)
	switch {
	case err == nil:
		return nothing
	case errors.As(err, &exhausted), errors.As(err, &taken), errors.As(err, &sharing), errors.As(err, &reserved),
		errors.As(err, &quarantined), errors.As(err, &conflict):
		return address // what is reserved, quarantined or answered for is told as freed when it is so no more
	case errors.As(err, &outside), errors.As(err, &excluded), errors.As(err, &request),
		errors.As(err, &refused), errors.As(err, &faulty):
		return correction
	case errors.As(err, &ledger):
		return patience // and not a round that succeeds: it would be tried again after each of its own rounds
	default:
		return gateways
	}
}

// retry gives err the form that makes the library try again after a fixed time. Any other error makes it back off
// exponentially, to 300 s.
func retry(err error) error {
	switch causeOf(err) {
	case nothing:
		return nil
	case gateways, patience:
		return api.NewRetryError(err.Error(), retrySoon)
	default:
		return api.NewRetryError(err.Error(), retryLater)
	}
}

// waiting remembers which Services wait for what.
type waiting struct {
	mu   sync.Mutex
	keys map[desired.Key]cause
	// last is what went wrong at the last try of a Service that has not succeeded since.
	last map[desired.Key]string
}

func newWaiting() *waiting {
	return &waiting{keys: map[desired.Key]cause{}, last: map[desired.Key]string{}}
}

// note remembers what a failed call for the Service waits for. It says whether the call failed for another reason than
// the one before.
func (w *waiting) note(key desired.Key, err error) (otherwise bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		delete(w.keys, key)
		delete(w.last, key)
		return false
	}
	before, failed := w.last[key]
	w.keys[key], w.last[key] = causeOf(err), err.Error()
	return failed && before != err.Error()
}

func (w *waiting) has(key desired.Key) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, waits := w.keys[key]
	return waits
}

// take gives the Services for which woken is true and forgets them.
func (w *waiting) take(woken func(desired.Key, cause) bool) []desired.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	var keys []desired.Key
	for key, waitsFor := range w.keys {
		if woken(key, waitsFor) {
			keys = append(keys, key)
			delete(w.keys, key)
		}
	}
	return keys // in any order: the library's queue has none either
}
