package loadbalancer

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// DriftError says that a gateway was not what its State says although nobody had sent another one, and what became of it.
type DriftError struct {
	Gateway string
	Found   time.Time
	// Changes undo it, one short line each.
	Changes []string
	// Left is set when the gateway's agent.yaml says that it is only reported; else Problem says why it could not be undone,
	// and is empty when it was.
	Left    bool
	Problem string
}

func (e *DriftError) Error() string {
	changes := strings.Join(e.Changes, "; ")
	at := e.Found.UTC().Format(time.RFC3339)
	switch {
	case e.Left:
		return fmt.Sprintf("gateway %s was found at %s to differ from its State, and is left so, because its agent.yaml says drift: report; "+
			"to undo it: %s", e.Gateway, at, changes)
	case e.Problem != "":
		return fmt.Sprintf("gateway %s was found at %s to differ from its State, and that could not be undone: %s; it needs: %s",
			e.Gateway, at, e.Problem, changes)
	}
	return fmt.Sprintf("gateway %s was found at %s to differ from its State, and that was undone: %s; whatever changed it there will do "+
		"so again: look at the agent's log for the time", e.Gateway, at, changes)
}

// WarningError is something that a gateway began to warn everybody, or the owner of a Service, of.
type WarningError struct {
	Gateway string
	// Reason is one CamelCase word, stable: see wire.Warning.
	Reason, Message string
}

func (e *WarningError) Error() string { return "gateway " + e.Gateway + ": " + e.Message }

// HoldersError says that VIPs are held by several gateways at once, or by none.
type HoldersError struct {
	Addresses []netip.Addr
	// Gateways hold them; nobody does when there are none.
	Gateways []string
}

func (e *HoldersError) Error() string {
	const most = 10
	named := join(e.Addresses[:min(len(e.Addresses), most)])
	if more := len(e.Addresses) - most; more > 0 {
		named += fmt.Sprintf(" and %d more", more)
	}
	if len(e.Gateways) == 0 {
		return fmt.Sprintf("no gateway holds %s, so nobody is served there; look at `gatewayctl status` and at keepalived's log on the "+
			"gateways: either one of them is stuck or has another State, or keepalived is in state FAULT, or an interface is missing", named)
	}
	return fmt.Sprintf("gateways %s all hold %s, so connections are cut; either they do not hear each other's VRRP adverts (IP protocol 112): look at "+
		"firewalls and switches between them; or one has another State, or an address that it could not take off: see `gatewayctl status`", strings.Join(e.Gateways, " and "), named)
}
