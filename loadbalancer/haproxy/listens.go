package haproxy

import (
	"fmt"
	"net/netip"
	"strings"
)

// ListensForPeers says whether an HAProxy, with the haproxy.cfg that it was loaded from, listens for its peers at a place already. running
// is nil when it does not answer: then the file alone tells. A release before peers had no such section, and another place has another line.
func ListensForPeers(running *Running, file []byte, l Local, place netip.AddrPort) bool {
	if running != nil && !hasPart(running.Generation, "peers-gateways") {
		return false
	}
	return strings.Contains(string(file), fmt.Sprintf("\n  peer %s %s\n", l.Gateway, place))
}

// hasPart says whether a generation has a part of that name.
func hasPart(generation, part string) bool {
	_, ok := parseGeneration(generation)[part]
	return ok
}
