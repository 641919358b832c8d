package loadbalancer

import (
	"context"
	"net/netip"
	"time"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Gateway is one gateway's agent, as gateway.Client reaches it. Calls may run at the same time. An error that is no
// *wire.Refusal means that the agent could not be asked; its text names the gateway and the remedy.
type Gateway interface {
	Name() string
	Hello(ctx context.Context) (*wire.Hello, error)
	// State gives nil when the gateway never got one.
	State(ctx context.Context) (*desired.Signed, error)
	Apply(ctx context.Context, signed desired.Signed) (*wire.Result, error)
	Status(ctx context.Context) (*wire.Status, error)
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
	// Held says whether instance is still the holder.
	Held(ctx context.Context, instance string) (bool, error)
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
	// that nobody ensured just now, *ipam.TakenError of a published address that another Service holds,
	// *ipam.OutsideError and *ipam.ExcludedError of one that is kept.
	ServiceNotice(desired.Key, error)
}

// Settings are what the configuration says. They do not change while a Manager lives.
type Settings struct {
	// ClusterUID gives the UID of namespace kube-system. It is asked in Load.
	ClusterUID func(context.Context) (string, error)
	// Gateways are described in State; each needs a Gateway of the same name.
	Gateways []desired.Gateway
	VRRP     desired.VRRP
	// FirstRouterID is the virtual_router_id of the first VRRP instance; see desired.Instances.
	FirstRouterID int
	Pools         []ipam.Pool
	// Exclusions are the addresses that no Service may get, also when a pool has them. Those of Gateways and
	// ControlPlane are excluded without being named here.
	Exclusions []ipam.Exclusion
	// PoolInterface gives the interface of a pool's VIPs by the pool's name; none: the gateway's own interface.
	PoolInterface map[string]string
	NodeCheck     desired.Check
	ControlPlane  *desired.ControlPlane
	// Resync is the time between two comparisons of every gateway with the State; 0: 60 s.
	Resync time.Duration
	// ApplyTimeout bounds one Apply, 0: 15 s (a gateway whose daemons are slow rolls back by itself before that);
	// AskTimeout one Hello, State or Status, 0: 5 s; HoldTimeout how long Ensure waits until a gateway holds the VIP
	// that it has confirmed, 0: 5 s.
	ApplyTimeout, AskTimeout, HoldTimeout time.Duration
}

// Service is one Service of type LoadBalancer as provider translated it. Manager keeps no reference to its slices.
type Service struct {
	// LoadBalancer has no Addresses yet.
	LoadBalancer desired.LoadBalancer
	Request      ipam.Request
	// Published are the addresses in the Service's status.
	Published []netip.Addr
}

// Replay is one Service that exists while Manager starts.
type Replay struct {
	Key desired.Key
	// Created is the Service's creation time: of two that publish one address the elder keeps it.
	Created time.Time
	// Published are the addresses in the Service's status.
	Published []netip.Addr
	// Service is nil when the translation failed: the Service keeps its last good form.
	Service *Service
}

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
	// Pools are the counts of every pool and family.
	Pools []ipam.Count
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
}
