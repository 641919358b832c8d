package nftables

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// The one table that is ours.
const (
	family    = "inet"
	tableName = "cloud_provider_haproxy"
)

// Local is what the gateway knows about itself and State does not tell.
type Local struct {
	Gateway          string // its name in State.Gateways
	ServicesPort     int    // HAProxy's transparent bind for all Services, on loopback
	ControlPlanePort int    // the same for the control plane
	PeersPort        int    // where HAProxy of other gateways connects, at this one's VRRP address
	// Routes4 and Routes6 are set when the machine forwarded packets of the family before UDP Services needed it to: it is a
	// router on purpose, and its own firewall decides what it forwards.
	Routes4, Routes6 bool
	Unfit            Unfit
}

// DebianLocal gives the ports of a Debian gateway.
func DebianLocal(gateway string) Local {
	return Local{Gateway: gateway, ServicesPort: 7480, ControlPlanePort: 7481, PeersPort: 7482}
}

//go:embed table.nft.tmpl
var tableText string

var tableTemplate = template.Must(template.New("table.nft").Parse(tableText))

// content is what the template shows. The rules depend on Local, but for its Unfit, and of the State on no more than Flows;
// the elements on the State, PeersPort and Unfit only.
type content struct {
	Local
	Sets []*set
	// Flows is false when the State has no port of UDP and SCTP. Rules for them make the kernel track all connections of the
	// machine, TCP's too: that costs memory and time, and new ones are lost when its table is full.
	Flows bool
}

// What the rules hash a flow with: fixed, so that every gateway gives a flow to the same node.
func (content) SharedSlots() int { return sharedSlots }
func (content) OwnSlots() int    { return ownSlots }
func (content) Seed() string     { return "0x5eed" }

// idle is how long a flow is remembered: before it was answered never longer than the kernel has it, or made-up ones stayed.
type idle struct{ Seconds, Unreplied int }

func (content) Idles() (all []idle) {
	for _, seconds := range idleTimes() {
		all = append(all, idle{seconds, min(seconds, 30)})
	}
	return all
}

type ipFamily struct{ IP, Suffix string }

func (content) Families() []ipFamily { return []ipFamily{{"ip", "4"}, {"ip6", "6"}} }

// Render gives a script for LoadArgv that replaces our whole table in one transaction, whether it exists or not. The fence
// of the State is not in it: same content, same bytes.
func Render(s *desired.State, l Local) ([]byte, error) {
	sets, err := newSets(s, l)
	if err != nil {
		return nil, fmt.Errorf("rendering the nftables table: %w", err)
	}
	return execute(content{Local: l, Sets: sets, Flows: Flows(s)})
}

func execute(c content) ([]byte, error) {
	var out bytes.Buffer
	if err := tableTemplate.Execute(&out, c); err != nil {
		return nil, fmt.Errorf("rendering the nftables table: %w", err)
	}
	return out.Bytes(), nil
}

// LoadArgv reads a script on stdin and loads it, all or nothing.
func LoadArgv() []string { return []string{"nft", "--file", "-"} }
