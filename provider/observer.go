package provider

import (
	"errors"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
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
	if warns := (*loadbalancer.WarningError)(nil); errors.As(err, &warns) {
		o.warned(svc, warns)
		return
	}
	o.recorder.Event(svc, v1.EventTypeWarning, noticeReason(err), err.Error())
}

// warned tells what a gateway began to warn of.
func (o *observer) warned(about runtime.Object, w *loadbalancer.WarningError) {
	o.measures.warnings.WithLabelValues(w.Gateway, w.Reason).Inc()
	o.recorder.AnnotatedEventf(about, map[string]string{gatewayAnnotation: w.Gateway}, v1.EventTypeWarning, w.Reason, "%s", w)
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
		holders  *loadbalancer.HoldersError
		drift    *loadbalancer.DriftError
		warns    *loadbalancer.WarningError
		drains   *loadbalancer.DrainNotice
		rollout  *loadbalancer.RolloutError
		idle     *loadbalancer.IdleEntryError
		epoch    *loadbalancer.EpochError
	)
	kind, reason, gateway := v1.EventTypeWarning, "AddressNotice", ""
	switch {
	case errors.As(err, &drains):
		o.drained(drains)
		return
	case errors.As(err, &warns):
		o.warned(o.subject.reference(), warns)
		return
	case errors.As(err, &rollout):
		reason, gateway = "RolloutStopped", rollout.Gateway
	case errors.As(err, &epoch):
		reason, gateway = "AbsurdEpoch", epoch.Gateway
	case errors.As(err, &proxyARP):
		reason = "ProxyARP"
		if proxyARP.Ended {
			kind, reason = v1.EventTypeNormal, "ProxyARPEnded"
		}
	case errors.As(err, &ledger):
		reason = "AddressLedger"
	case errors.As(err, &reserved), errors.As(err, &idle):
		reason = "AddressReserved"
	case errors.As(err, &holders) && len(holders.Gateways) == 0:
		reason = "VIPHeldByNobody"
	case errors.As(err, &holders):
		reason = "VIPHeldTwice"
	case errors.As(err, &drift):
		reason, gateway = "GatewayDrifted", drift.Gateway
		if o.measures.drifted(drift); !drift.Left && drift.Problem == "" {
			reason = "GatewayRepaired"
		}
	}
	if gateway == "" {
		o.recorder.Event(o.subject.reference(), kind, reason, err.Error())
		return
	}
	o.recorder.AnnotatedEventf(o.subject.reference(), map[string]string{gatewayAnnotation: gateway}, kind, reason, "%s", err)
}

// drained tells that somebody has drained a gateway, or let it have its addresses back: who looks for the cause of something
// wants to know, and nothing is wrong.
func (o *observer) drained(n *loadbalancer.DrainNotice) {
	reason := "GatewayDrained"
	if n.Drain == nil {
		reason = "GatewayUndrained"
	}
	o.recorder.AnnotatedEventf(o.subject.reference(), map[string]string{gatewayAnnotation: n.Gateway}, v1.EventTypeNormal, reason, "%s", n)
}
