package provider

import (
	"errors"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// observer turns what Manager tells into metrics and Events, and wakes who waits. Manager must not be blocked or called
// from here, so waking is only asked for.
type observer struct {
	measures *measures
	recorder record.EventRecorder
	subject  *subject
	services func() corelisters.ServiceLister
	wake     func(cause)
	poolOf   func(netip.Addr) string
	fullness *fullness
}

var _ loadbalancer.Observer = (*observer)(nil)

func (o *observer) RoundDone(r loadbalancer.Round) {
	o.measures.round(r)
	for _, full := range o.fullness.look(r.Pools) {
		o.recorder.Event(o.subject.reference(), v1.EventTypeWarning, full.reason, full.message)
	}
	if r.Err == nil {
		o.wake(gateways)
	}
}

func (o *observer) GatewayChanged(s loadbalancer.GatewayStatus) {
	o.measures.gateway(s)
	tell := func(kind, reason, format string, args ...any) {
		o.recorder.AnnotatedEventf(o.subject.reference(), map[string]string{gatewayAnnotation: s.Name}, kind, reason,
			format, args...)
	}
	switch {
	case s.Err != nil:
		tell(v1.EventTypeWarning, "GatewayAway", "%v", s.Err)
	case !s.InSync:
		tell(v1.EventTypeWarning, "GatewayDrifted", "gateway %s runs something else than it was told: %s", s.Name,
			strings.Join(s.Drift, "; "))
	default:
		tell(v1.EventTypeNormal, "GatewayConfirms", "gateway %s confirms what it is told (%s)", s.Name, s.Confirmed)
		o.wake(gateways)
	}
}

func (o *observer) AddressFreed(netip.Addr) { o.wake(address) }

func (o *observer) ServiceNotice(key desired.Key, err error) {
	o.measures.conflict(err, o.poolOf)
	svc, missing := o.services().Services(key.Namespace).Get(key.Name)
	if missing != nil {
		return // it is gone, and so is who would read the Event
	}
	o.recorder.Event(svc, v1.EventTypeWarning, noticeReason(err), err.Error())
}

// noticeReason sorts what a Service's owner is told.
func noticeReason(err error) string {
	var (
		conflict *loadbalancer.ConflictError
		taken    *ipam.TakenError
		sharing  *ipam.SharingError
		outside  *ipam.OutsideError
		excluded *ipam.ExcludedError
		reserved *loadbalancer.ReservationError
		keyless  *loadbalancer.KeylessError
		pool     *loadbalancer.PoolError
		idle     *loadbalancer.IdleEntryError
	)
	switch {
	case errors.As(err, &reserved), errors.As(err, &idle):
		return "AddressReserved"
	case errors.As(err, &keyless):
		return "AddressShared"
	case errors.As(err, &pool):
		return "AddressOfAnotherPool"
	case errors.As(err, &conflict):
		return "AddressConflict"
	case errors.As(err, &taken), errors.As(err, &sharing):
		return "AddressTaken"
	case errors.As(err, &outside):
		return "AddressOutsidePools"
	case errors.As(err, &excluded):
		return "AddressExcluded"
	default:
		return "LoadBalancerNotice"
	}
}

// Notice tells what concerns no single Service.
func (o *observer) Notice(err error) {
	var (
		proxyARP *loadbalancer.ProxyARPError
		ledger   *loadbalancer.LedgerError
		reserved *loadbalancer.ReservationError
		idle     *loadbalancer.IdleEntryError
	)
	kind, reason := v1.EventTypeWarning, "AddressNotice"
	switch {
	case errors.As(err, &proxyARP):
		reason = "ProxyARP"
		if proxyARP.Ended {
			kind, reason = v1.EventTypeNormal, "ProxyARPEnded"
		}
	case errors.As(err, &ledger):
		reason = "AddressLedger"
	case errors.As(err, &reserved), errors.As(err, &idle):
		reason = "AddressReserved"
	}
	o.recorder.Event(o.subject.reference(), kind, reason, err.Error())
}
