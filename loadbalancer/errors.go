package loadbalancer

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

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

func join(addresses []netip.Addr) string {
	parts := make([]string, len(addresses))
	for i, a := range addresses {
		parts[i] = a.String()
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

// ClusterError says that a gateway belongs to another cluster.
type ClusterError struct {
	Gateway   string
	Got, Want string
}

func (e *ClusterError) Error() string {
	return fmt.Sprintf("gateway %s serves cluster %s and this is cluster %s; if the gateway shall leave that cluster, "+
		"stop gatewayctl-agent on it, remove /var/lib/gatewayctl/state.json and start it again", e.Gateway, e.Got, e.Want)
}

// DeposedError ends Run: another controller has claimed the gateways.
type DeposedError struct {
	// Ours is the fence of our newest State, Newer the one that a gateway holds.
	Ours, Newer desired.Fence
}

func (e *DeposedError) Error() string {
	return fmt.Sprintf("another controller (instance %s, %s) leads, this one (instance %s, %s) ends", e.Newer.Instance,
		e.Newer, e.Ours.Instance, e.Ours)
}
