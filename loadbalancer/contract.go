package loadbalancer

import (
	"context"
	"net/netip"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Gateway is one gateway's agent, as gateway.Client reaches it. Probe may be called while another call runs; others wait for
// each other. An error that is no *wire.Refusal means that the agent could not be asked; its text names the gateway and the
// remedy.
type Gateway interface {
	Name() string
	Hello(ctx context.Context) (*wire.Hello, error)
	// State gives nil when the gateway never got one.
	State(ctx context.Context) (*desired.Signed, error)
	// ApplyAfter makes the State true unless the gateway holds another controller's that is newer than read.
	ApplyAfter(ctx context.Context, signed desired.Signed, read desired.Fence) (*wire.Result, error)
	Status(ctx context.Context) (*wire.Status, error)
	// Probe asks at most wire.MaxProbeTargets.
	Probe(ctx context.Context, targets []wire.ProbeTarget) (*wire.Probed, error)
}

// Signer signs canonical bytes with the controller's SSH key (invariant 13).
type Signer interface {
	Sign(state []byte) (desired.Signed, error)
}

// EpochStore is an object of ours in the API server that says which controller leads (invariant 4).
type EpochStore interface {
	// Claim makes instance the holder with an epoch that is at least atLeast and above the stored one, by
	// compare-and-swap, and returns it.
	Claim(ctx context.Context, atLeast uint64, instance string) (epoch uint64, err error)
	// Holder gives the present holder and the stored epoch; nobody ("", 0) when there is no object.
	Holder(ctx context.Context) (instance string, epoch uint64, err error)
}

// LedgerStore is an object of ours in the API server that keeps what neither a Service nor the gateways can tell after a
// restart. A person may edit it; Manager reads it at each resync.
type LedgerStore interface {
	// Name is how people find the object, e.g. "ConfigMap kube-system/name".
	Name() string
	// Read gives nil when there is no object. What cannot be read in it, or what Ledger.Validate finds, is an error that says
	// where.
	Read(ctx context.Context) (*Ledger, error)
	// Write replaces what Read or Write gave last, by compare-and-swap; *LedgerChangedError when somebody else changed it.
	Write(ctx context.Context, ledger Ledger) error
}

// Ledger is what is remembered of addresses. All lists are sorted by address.
type Ledger struct {
	// Kept are the addresses of Services that were deleted with annotation keep-ip. Who removes an entry releases it.
	Kept []ipam.Reservation
	// Quarantined are addresses that a stranger answered for. Who removes an entry lets it be tried at once.
	Quarantined []Quarantine
	// Given are addresses that are about to be served, until every gateway or the Service's status tells of them.
	Given []Given
	// Releasing repeats what State says, for the case that every gateway is made anew.
	Releasing []desired.Releasing
}

// Quarantine is an address that a machine which is no gateway answered for.
type Quarantine struct {
	Address netip.Addr
	// By says who, for people.
	By string
	// Node is who, when that is one of the workers. The ledger does not remember it: the next time that it is tried tells it again.
	Node string
	// Until is when it is tried again.
	Until time.Time
}

// Observer is told what deserves a metric or an Event. It is called from Manager's goroutines, one call at a time, and
// must not block or call Manager.
type Observer interface {
	RoundDone(Round)
	// GatewayChanged tells when a gateway starts or stops confirming, or fails for another reason than before.
	GatewayChanged(GatewayStatus)
	// AddressFreed tells that a Service that waits for an address may try again.
	AddressFreed(netip.Addr)
	// ServiceNotice tells what a Service's owner should know and no Ensure returns: *ServiceFaultError of a Service
	// that nobody ensured just now, *ipam.TakenError and *ipam.SharingError of a published address that another Service
	// holds, *ipam.OutsideError and *ipam.ExcludedError of one that is kept (in a *KeptError, once an hour), *ReservationError,
	// *KeylessError, *PoolError (in a *KeptError), *IdleEntryError,
	// *ConflictError of one that somebody else on the network answers for.
	ServiceNotice(desired.Key, error)
	// Notice tells what concerns no single Service: *ProxyARPError, *LedgerError, *ReservationError, *IdleEntryError,
	// *HoldersError, and what a gateway found: *DriftError, *WarningError, *RolloutError, *EpochError; *DrainNotice, which is no fault.
	Notice(error)
}

// PoolSettings are what the configuration says of addresses. They can change while a Manager lives (SetPools).
type PoolSettings struct {
	Pools []ipam.Pool
	// Exclusions are the addresses that no Service may get, also when a pool has them. Those of the gateways and the control
	// plane of Settings are excluded without being named here.
	Exclusions []ipam.Exclusion
	// Reservations are addresses that only one Service may get.
	Reservations []ipam.Reservation
	// PoolInterface gives the interface of a pool's VIPs by the pool's name; none: the gateway's own interface.
	PoolInterface map[string]string
	// Unprobed names the pools whose new addresses are not looked for on the network before they are claimed.
	Unprobed map[string]bool
}

// Settings are what the configuration says. But for PoolSettings they do not change while a Manager lives.
type Settings struct {
	PoolSettings
	// ClusterUID gives the UID of namespace kube-system. It is asked in Load.
	ClusterUID func(context.Context) (string, error)
	// Existing asks the API server itself, not a cache, about Services that gateways serve and that Replay did not name: the first
	// list of an informer may be an old one. It gives those that exist and are ours. Nil: Replay is believed.
	Existing func(context.Context, []desired.Key) ([]Replay, error)
	// Gateways are described in State; each needs a Gateway of the same name.
	Gateways []desired.Gateway
	VRRP     desired.VRRP
	// FirstRouterID is the virtual_router_id of the first VRRP instance; see desired.Instances.
	FirstRouterID int
	NodeCheck     desired.Check
	// DrainSeconds is desired.State's.
	DrainSeconds int
	// Servers is how many servers a gateway may have in pools of load balancers' own, and Bytes how large a State may be, before
	// new forms that need more are refused; 0: 50000, and three quarters of what fits in a message.
	Servers, Bytes int
	// ControlPlane has the API servers that are always there; SetEndpoints tells more of them when EndpointsFromNodes is set.
	ControlPlane       *desired.ControlPlane
	EndpointsFromNodes bool
	// ControlPlaneInterface holds the control plane's address; empty: each gateway's own interface.
	ControlPlaneInterface string
	// Resync is the time between two comparisons of every gateway with the State; 0: 60 s.
	Resync time.Duration
	// ApplyTimeout bounds one Apply, 0: 15 s (a gateway whose daemons are slow rolls back by itself before that);
	// AskTimeout one Hello, State or Status and one question to the API server, 0: 5 s; HoldTimeout how long Ensure waits
	// until a gateway holds the VIP that it has confirmed, 0: 5 s.
	ApplyTimeout, AskTimeout, HoldTimeout time.Duration
}

// Service is one Service of type LoadBalancer as provider translated it. Manager keeps no reference to its slices.
type Service struct {
	// LoadBalancer has no Addresses yet.
	LoadBalancer desired.LoadBalancer
	// Facts are what LoadBalancer was made from; they hold for the last good form too, while it is served instead. Nil: not known.
	Facts *Facts
	// Request.Moves holds when the Service has changed Named while we watched. An address never changes because somebody edits
	// the pools, nor at a restart, when nobody knows what Named was.
	Request ipam.Request
	// Named is what the Service says of pools (annotation address-pool).
	Named string
	// Published are the addresses in the Service's status.
	Published []netip.Addr
	// PreferredGateway holds the Service's addresses while it is able to; empty: whichever VRRP instance they hash to
	// (annotation preferred-gateway).
	PreferredGateway string
	// Created is the Service's creation time: of those that share an address the eldest's PreferredGateway counts.
	Created time.Time
	// Keep reserves the addresses for the Service when it is deleted (annotation keep-ip).
	Keep bool
}

// Replay is one Service that exists while Manager starts.
type Replay struct {
	Key desired.Key
	// UID is the object's. What the gateways serve of another object of this name is no form of this one. Empty: not known.
	UID string
	// Created is the Service's creation time: of two that publish one address the elder keeps it.
	Created time.Time
	// Published are the addresses in the Service's status.
	Published []netip.Addr
	// Sharing is the Service's, also when the rest of it could not be translated. Keyless lets a Service without a key stay at
	// an address that others publish too.
	Sharing ipam.Sharing
	// Service is nil when the translation failed: the Service keeps its last good form.
	Service *Service
	// Sources hold for that last good form; nil when they cannot be read either. See Manager.Refuse. So do Facts; nil: not known.
	Sources *Sources
	Facts   *Facts
}

// Sources say who may connect to a Service, as desired.LoadBalancer's AllowSources and DenySources do.
type Sources struct{ Allow, Deny []netip.Prefix }

// Ensured is the answer to Ensure.
type Ensured struct {
	// Addresses are in the order of the Service's families.
	Addresses []netip.Addr
	// Warnings are true now and concern this Service or every Service: gateways that are away, all nodes down, a foreign
	// firewall.
	Warnings []wire.Warning
}

// Round is one push of a State.
type Round struct {
	// Reason is why there was a round: change, retry, resync or repair (of a gateway that is back).
	Reason string
	Fence  desired.Fence
	// Joined counts the Ensure and Delete calls that this round answered or handed on to the wait for the VIP.
	Joined        int
	LoadBalancers int
	VIPs          int
	Duration      time.Duration
	// Attempts counts the States that were pushed: more than one when load balancers were at fault.
	Attempts int
	// Outcomes are the confirmations by gateway name.
	Outcomes map[string]wire.Outcome
	// HeldTwice and HeldByNobody count the VIPs of which the last census said so.
	HeldTwice, HeldByNobody int
	// Pools are the counts of every pool and family.
	Pools []ipam.Count
	// Gateways is what is known of all of them, sorted by name.
	Gateways []GatewayStatus
	// Err says why the round failed and will be retried.
	Err error
}

// GatewayStatus is what Manager knows of one gateway.
type GatewayStatus struct {
	Name string
	// Err is nil while the gateway confirms States.
	Err error
	// Confirmed is the fence of the newest State that the gateway confirmed to this Manager.
	Confirmed desired.Fence
	// Held are the VIPs that it holds, Warnings what it warned of, when last heard.
	Held     []netip.Addr
	Warnings []wire.Warning
	// InSync is false when the gateway said that what runs differs from its State; Drift says how.
	InSync bool
	Drift  []string
	// Drain is set while it is known to be drained.
	Drain *wire.DrainStatus
}
