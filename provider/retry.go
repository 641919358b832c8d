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
	// retrySoon is for faults that pass by themselves: gateways that do not answer.
	retrySoon = 5 * time.Second
	// retryLater is for faults that somebody has to mend. A change of the Service is looked at when it happens.
	retryLater = 30 * time.Second
)

// cause is what a Service waits for.
type cause int

const (
	nothing    cause = iota
	gateways         // that one confirms again
	address          // that one is freed
	correction       // that somebody changes the Service or the configuration
)

// causeOf sorts an error of the translation or of Manager.
func causeOf(err error) cause {
	var (
		exhausted *ipam.ExhaustedError
		taken     *ipam.TakenError
		outside   *ipam.OutsideError
		excluded  *ipam.ExcludedError
		request   *ipam.RequestError
		refused   *loadbalancer.ServiceFaultError
		faulty    *faultyServiceError
	)
	switch {
	case err == nil:
		return nothing
	case errors.As(err, &exhausted), errors.As(err, &taken):
		return address
	case errors.As(err, &outside), errors.As(err, &excluded), errors.As(err, &request),
		errors.As(err, &refused), errors.As(err, &faulty):
		return correction
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
	case gateways:
		return api.NewRetryError(err.Error(), retrySoon)
	default:
		return api.NewRetryError(err.Error(), retryLater)
	}
}

// waiting remembers which Services wait for what.
type waiting struct {
	mu   sync.Mutex
	keys map[desired.Key]cause
}

// note remembers that a call for the Service failed for want of something that is told when it happens.
func (w *waiting) note(key desired.Key, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch c := causeOf(err); c {
	case gateways, address:
		w.keys[key] = c
	default:
		delete(w.keys, key)
	}
}

// take gives the Services that wait for c and forgets them.
func (w *waiting) take(c cause) []desired.Key {
	w.mu.Lock()
	defer w.mu.Unlock()
	var keys []desired.Key
	for key, waitsFor := range w.keys {
		if waitsFor == c {
			keys = append(keys, key)
			delete(w.keys, key)
		}
	}
	return keys // in any order: the library's queue has none either
}
