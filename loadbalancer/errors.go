package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// ErrStopped is returned to callers that wait while Run ends.
var ErrStopped = errors.New("the controller is stopping; the next one goes on")

// GatewaysError says that no gateway did what was asked. What ran before still runs, and addresses stay assigned. Manager tries
// again by itself.
type GatewaysError struct {
	// Problem says what did not happen.
	Problem string
	// Gateways are the errors of the single gateways, in the order of names.
	Gateways []GatewayError
}

// GatewayError is what one gateway answered, or why it could not be asked. The text of Err names gateway and remedy.
type GatewayError struct {
	Name string
	Err  error
}

func (e GatewayError) Error() string { return e.Err.Error() }

func (e GatewayError) Unwrap() error { return e.Err }

func (e *GatewaysError) Error() string {
	parts := make([]string, len(e.Gateways))
	for i, g := range e.Gateways {
		parts[i] = g.Error()
	}
	return e.Problem + ", it will be tried again: " + strings.Join(parts, "; ")
}

func (e *GatewaysError) Unwrap() []error {
	errs := make([]error, len(e.Gateways))
	for i, g := range e.Gateways {
		errs[i] = g
	}
	return errs
}

// WithheldError says that a fault which no gateway could attribute is searched for among several Services; this one may
// be innocent. Manager goes on searching.
type WithheldError struct{ Key desired.Key }

func (e *WithheldError) Error() string {
	return fmt.Sprintf("a gateway refuses one of several changed Services without saying which; Service %s is tried "+
		"again", e.Key)
}

// NotHeldError says that gateways confirmed the State but none said in time that it holds the VIPs.
type NotHeldError struct {
	Key       desired.Key
	Addresses []netip.Addr
	// Gateways are those that were asked.
	Gateways []string
	// Away are the gateways that could not be asked: one of them may hold the VIPs.
	Away []GatewayError
}

func (e *NotHeldError) Error() string {
	s := fmt.Sprintf("no gateway holds %s of Service %s yet (asked: %s)", join(e.Addresses), e.Key,
		strings.Join(e.Gateways, ", "))
	for _, g := range e.Away {
		s += "; " + g.Error()
	}
	return s + "; see `gatewayctl status` and keepalived's log on the gateways"
}

func join[T fmt.Stringer](list []T) string {
	parts := make([]string, len(list))
	for i, element := range list {
		parts[i] = element.String()
	}
	return strings.Join(parts, ", ")
}

// ServiceFaultError says that a Service's newest form was refused while the other Services were served.
type ServiceFaultError struct {
	Key desired.Key
	// Gateway refused it; empty when it never left the controller.
	Gateway string
	// Problems are what is wrong, one sentence each.
	Problems []string
	// Kept is set when the Service is served in its last good form, not set when it is not served.
	Kept bool
}

func (e *ServiceFaultError) Error() string {
	where, kept := "", "it is not served until that is mended"
	if e.Gateway != "" {
		where = "by gateway " + e.Gateway
	}
	if e.Kept {
		kept = "its last good form is still served"
	}
	return strings.Join(strings.Fields(fmt.Sprintf("Service %s was refused %s", e.Key, where)), " ") + ": " +
		strings.Join(e.Problems, "; ") + "; " + kept
}

// KeptError says that a Service would not get its address anew, and keeps it.
type KeptError struct{ Err error }

func (e *KeptError) Error() string {
	return e.Err.Error() + "; the Service keeps it as long as it does not ask for another one"
}

func (e *KeptError) Unwrap() error { return e.Err }

// PoolError says that the address of a Service lies in a pool that the Service does not name, although it names some.
type PoolError struct {
	Address netip.Addr
	Pool    string
	Named   []string
}

func (e *PoolError) Error() string {
	return fmt.Sprintf("address %s lies in pool %s, and the Service names %s (annotation address-pool): the pools were changed, or the "+
		"annotation while no controller ran; to move the Service, take that annotation off and set it again, or request an address "+
		"(annotation load-balancer-ips)", e.Address, e.Pool, strings.Join(e.Named, ", "))
}

// KeylessError says that Services share an address although not all of them have a sharing key.
type KeylessError struct {
	Address  netip.Addr
	Services []desired.Key
}

func (e *KeylessError) Error() string {
	return fmt.Sprintf("address %s is shared by %s, which have no sharing key in common: they keep it, each with ports of its own, and "+
		"no other Service can join; give all of them the same one (annotation allow-shared-ip)", e.Address, services(e.Services))
}

// ReservationError says that a Service does not get, or has not got, the address that is reserved for it.
type ReservationError struct {
	Address netip.Addr
	Owner   desired.Key
	// Kept is set when it is reserved because Owner was deleted with annotation keep-ip; Ledger names the object that says so.
	Kept   bool
	Ledger string
	// Overruled is whom the configuration reserves the address for, when that is another than whom it is kept for. Holders
	// have it, and Owner has another one, Has; each may be empty.
	Overruled desired.Key
	Holders   []desired.Key
	Has       netip.Addr
}

func (e *ReservationError) Error() string {
	reserved, remedy := "reserved for Service "+e.Owner.String(), "remove the reservation"
	if e.Kept {
		reserved, remedy = fmt.Sprintf("kept for Service %s (keep-ip)", e.Owner), "delete its entry in "+e.Ledger
	}
	asked := "(annotation load-balancer-ips)"
	var rest string
	switch {
	case e.Overruled != desired.Key{}:
		rest = fmt.Sprintf(", and the configuration reserves it for Service %s, which counts: %s gets another one; remove the "+
			"reservation, or %s", e.Overruled, e.Owner, remedy)
	case len(e.Holders) == 0:
		rest = fmt.Sprintf(", which has %s and keeps that; request %s for %s %s, or %s", e.Has, e.Address, e.Owner, asked, remedy)
	case e.Has.IsValid():
		rest = fmt.Sprintf(", but %s has it and keeps it, and %s has %s; request another one for %s, then %s for %s %s, or %s",
			services(e.Holders), e.Owner, e.Has, join(e.Holders), e.Address, e.Owner, asked, remedy)
	default:
		rest = fmt.Sprintf(", but %s has it and keeps it, so that %s would get another one now; request another one for %s %s, or %s",
			services(e.Holders), e.Owner, join(e.Holders), asked, remedy)
	}
	return fmt.Sprintf("address %s is %s%s", e.Address, reserved, rest)
}

// services gives "Service default/a" or "Services default/a, default/b".
func services(keys []desired.Key) string {
	if len(keys) == 1 {
		return "Service " + join(keys)
	}
	return "Services " + join(keys)
}

// IdleEntryError says that somebody keeps an address in the ledger for a Service that exists.
type IdleEntryError struct {
	Address netip.Addr
	Owner   desired.Key
	Has     []netip.Addr
	Ledger  string
}

func (e *IdleEntryError) Error() string {
	return fmt.Sprintf("the entry that keeps %s for Service %s in %s is taken off: that Service exists and has %s; to move it request the "+
		"address for it (annotation load-balancer-ips), to keep what it has when it is deleted annotate it with keep-ip", e.Address, e.Owner,
		e.Ledger, join(e.Has))
}

// AdvisedError is why a Service gets no address, with what else is known of that.
type AdvisedError struct {
	Err    error
	Advice string
}

func (e *AdvisedError) Error() string { return e.Err.Error() + "; " + e.Advice }

func (e *AdvisedError) Unwrap() error { return e.Err }

// nodeRemedy is for a node that answers for a Service's address.
const nodeRemedy = "if kube-proxy runs there in IPVS mode, set its ipvs.strictARP to true, or ipMode: Proxy in the cloud configuration"

// ConflictError says that somebody who is no gateway answers for an address on the network.
type ConflictError struct {
	Address netip.Addr
	// Gateway asked.
	Gateway string
	// MAC answered. Node is its name when it is one of the workers.
	MAC, Node string
	// Requested is set when the Service asked for this very address, so that it gets no other one; Held when a gateway
	// holds the address already. Neither: the Service gets another address when one is free.
	Requested, Held bool
}

func (e *ConflictError) Error() string {
	who, remedy := "a machine that is no gateway", "take the address from that machine, or exclude it from the pool"
	if e.Node != "" {
		who, remedy = "node "+e.Node, nodeRemedy
	}
	effect := "it is quarantined, and another address is taken if there is one"
	switch {
	case e.Held:
		effect = "a part of the connections goes there"
	case e.Requested:
		effect = "it is quarantined and the Service has to wait or to ask for another one"
	}
	return fmt.Sprintf("address %s is answered for by %s (%s), seen from gateway %s; %s; %s", e.Address, e.MAC, who, e.Gateway,
		effect, remedy)
}

// ProxyARPError says that one machine answers for whatever address of a pool is asked for, or that this ended.
type ProxyARPError struct {
	Pool         string
	Family       ipam.Family
	MAC, Gateway string
	Ended        bool
}

func (e *ProxyARPError) Error() string {
	addresses, proxy := fmt.Sprintf("%s addresses of pool %s", e.Family, e.Pool), "proxy ARP"
	if e.Family == ipam.IPv6 {
		proxy = "a proxy of neighbour discovery"
	}
	if e.Ended {
		return fmt.Sprintf("%s does not answer any more for free %s that gateway %s asks for (%s): new ones are asked for again "+
			"before they are claimed", e.MAC, addresses, e.Gateway, proxy)
	}
	return fmt.Sprintf("%s answers for all %s that gateway %s asks for (%s), so that those in use cannot be told from free ones: "+
		"new ones are claimed without asking, until that machine stops answering for free ones, which is looked at every minute "+
		"or so; turn %[4]s off on it, or set probe: false for the pool", e.MAC, addresses, e.Gateway, proxy)
}

// LedgerError says that the object with kept and quarantined addresses could not be read or written; it is tried again.
type LedgerError struct{ Err error }

func (e *LedgerError) Error() string {
	return fmt.Sprintf("addresses that are kept, quarantined or new would not survive a restart now: %v", e.Err)
}

func (e *LedgerError) Unwrap() error { return e.Err }

// LedgerChangedError says that somebody else changed the ledger since it was read.
type LedgerChangedError struct{ Err error }

func (e *LedgerChangedError) Error() string { return "it was changed meanwhile: " + e.Err.Error() }

func (e *LedgerChangedError) Unwrap() error { return e.Err }

// ClusterError says that a gateway belongs to another cluster.
type ClusterError struct {
	Gateway   string
	Got, Want string
}

func (e *ClusterError) Error() string {
	return fmt.Sprintf("gateway %s serves cluster %s and this is cluster %s; if the gateways shall leave that cluster, hand "+
		"them over: `gatewayctl adopt --cloud-config FILE`, or as root on each `gatewayctl adopt --local`", e.Gateway, e.Got, e.Want)
}

// EpochError says that a gateway tells of an epoch that no controller of this cluster can have claimed.
type EpochError struct {
	Gateway string
	// By says so of it; empty: it does itself.
	By string
	// Known is the epoch of the cluster.
	Told, Known uint64
}

func (e *EpochError) Error() string {
	by := ""
	if e.By != "" {
		by = ", says gateway " + e.By + ","
	}
	return fmt.Sprintf("gateway %s%s holds a State of epoch %d, and the cluster is at epoch %d: no cluster claims more than %d epochs "+
		"meanwhile, so that it is not believed; find out who pushed that State, then stop the agent of %s, remove its "+
		"/var/lib/gatewayctl/state.json and start it: it takes the State of the others", e.Gateway, by, e.Told, e.Known, maxEpochJump, e.Gateway)
}

// DeposedError ends Run: another controller has claimed the gateways.
type DeposedError struct {
	// Ours is the fence of our newest State, Newer the one that a gateway holds; it has no Instance when the epoch object alone told.
	Ours, Newer desired.Fence
}

func (e *DeposedError) Error() string {
	if e.Newer.Instance == "" {
		return fmt.Sprintf("the epoch object is not held by this controller (instance %s, %s) any more, so that it ends", e.Ours.Instance, e.Ours)
	}
	return fmt.Sprintf("another controller (instance %s, %s) leads, this one (instance %s, %s) ends", e.Newer.Instance,
		e.Newer, e.Ours.Instance, e.Ours)
}
