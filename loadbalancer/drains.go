package loadbalancer

import (
	"cmp"
	"fmt"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// DrainNotice says that a gateway is drained, or with no Drain that it is drained no more.
type DrainNotice struct {
	Gateway string
	Drain   *wire.DrainStatus
}

func (n *DrainNotice) Error() string {
	if n.Drain == nil {
		return fmt.Sprintf("gateway %s is drained no more and takes its addresses back", n.Gateway)
	}
	text := fmt.Sprintf("gateway %s has been drained since %s by %s", n.Gateway, n.Drain.Since.UTC().Format(time.RFC3339), cmp.Or(string(n.Drain.By), "nobody known"))
	if n.Drain.Reason != "" {
		text += " (" + n.Drain.Reason + ")"
	}
	return text + ": the others have its addresses until `gatewayctl undrain`"
}

// drainNews notes whether the gateway is drained and gives what deserves to be told of that. A drain that was there before this
// Manager is told too; that a gateway is not drained is no news in the beginning. It is called with mu held.
func (g *member) drainNews(now *wire.DrainStatus) []error {
	was := g.drain
	g.drain = now
	switch {
	case now == nil && was == nil, now != nil && was != nil && now.Since.Equal(was.Since):
		return nil
	}
	return []error{&DrainNotice{Gateway: g.name, Drain: now}}
}
