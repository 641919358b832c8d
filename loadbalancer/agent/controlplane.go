package agent

import (
	"fmt"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// The control plane's backends, as haproxy.Render names them: that of the API server, and with a port behind it that of an extra
// port. Beside each is one that is not checked.
const controlPlaneBackend = "control-plane"

// controlPlaneWarnings tell that the control plane's address fails open: none of the servers behind a port of it passes its
// check, and connections go to all of them.
func controlPlaneWarnings(running *haproxy.Running, p *desired.ControlPlane) (warnings []wire.Warning) {
	if p == nil {
		return nil
	}
	if allServersDown(running, controlPlaneBackend) {
		names := make([]string, len(p.Endpoints))
		for i, e := range p.Endpoints {
			names[i] = e.String()
		}
		warnings = append(warnings, wire.Warning{Reason: "AllAPIServersDown", Message: fmt.Sprintf("no API server (%s) passes its health check (%s), "+
			"so connections to %s port %d go to all of them (fail open); look whether they run, and at the check's port and CA",
			strings.Join(names, ", "), p.Check.Kind, p.Address, p.Port)})
	}
	for _, extra := range p.ExtraPorts {
		if allServersDown(running, fmt.Sprintf("%s-%d", controlPlaneBackend, extra.Port)) {
			warnings = append(warnings, wire.Warning{Reason: "AllAPIServersDown", Message: fmt.Sprintf("nobody answers port %d of the control plane's "+
				"machines, to which %s port %d leads; connections are tried all the same", extra.EndpointPort, p.Address, extra.Port)})
		}
	}
	return warnings
}

// allServersDown says whether a backend has servers and none passes its check.
func allServersDown(running *haproxy.Running, backend string) bool {
	b := running.Backends[backend]
	if b == nil || len(b.Servers) == 0 {
		return false
	}
	for _, s := range b.Servers {
		if s.State != "DOWN" {
			return false
		}
	}
	return true
}
