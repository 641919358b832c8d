package simulation

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Kind is what an Operation does.
type Kind string

// The users' operations, then the faults of gateways, networks, controllers and the API server.
const (
	Create Kind = "create" // a Service, or change it when it is there
	Change Kind = "change"
	Delete Kind = "delete"
	Retype Kind = "retype" // to ClusterIP or back
	Node   Kind = "node"   // joins or leaves the cluster
	Sicken Kind = "sicken" // a node fails its checks and serves nobody, or heals

	PowerOff  Kind = "power-off"
	Reboot    Kind = "reboot"
	KillAgent Kind = "kill-agent"
	KillHA    Kind = "kill-haproxy"
	KillVRRP  Kind = "kill-keepalived"
	Flush     Kind = "flush-nft"
	Strike    Kind = "strike" // something happens in the middle of a transaction
	Full      Kind = "disk-full"
	Lag       Kind = "lag"
	Forge     Kind = "forge" // somebody offers a State that no gateway may take
	Lie       Kind = "lie"   // a gateway tells its peers of a newer State, and hands them one that nobody signed
	Drain     Kind = "drain" // an operator drains a gateway, and takes that back

	CutSSH   Kind = "cut-ssh"   // a gateway from all controllers
	CutPeers Kind = "cut-peers" // a gateway from the other gateways' SSH
	CutVRRP  Kind = "cut-vrrp"  // a gateway from the others' adverts

	Crash   Kind = "crash-controller"
	Second  Kind = "second-controller" // another one believes that it leads
	Pause   Kind = "pause-controller"
	APIDown Kind = "api-down"
	APILate Kind = "api-late"     // watches are behind
	Restore Kind = "restore-etcd" // as it was some operations before
	Forget  Kind = "delete-epoch"
)

// Operation is one step of a history. It means something whatever was done before, so that any part of a history is one.
type Operation struct {
	Kind Kind
	// Which Service, node, gateway or controller.
	Which int
	// How it is done; each kind reads it in its own way.
	How uint32
	// For is how long a fault lasts, Then how long nothing is done after the operation.
	For, Then time.Duration
}

func (o Operation) String() string {
	s := fmt.Sprintf("%s %d how %#x", o.Kind, o.Which, o.How)
	if o.For > 0 {
		s += fmt.Sprintf(" for %s", o.For)
	}
	return s + fmt.Sprintf(", then %s", o.Then)
}

// weight says how often a kind is drawn.
type weight struct {
	kind   Kind
	weight int
	lasts  bool
}

var weights = []weight{
	{Create, 22, false}, {Change, 10, false}, {Delete, 12, false}, {Retype, 2, false}, {Node, 3, false}, {Sicken, 2, true},
	{PowerOff, 4, true}, {Reboot, 4, false}, {KillAgent, 3, false}, {KillHA, 2, false}, {KillVRRP, 2, false}, {Flush, 2, false},
	{Strike, 8, false}, {Full, 2, true}, {Lag, 2, true}, {Forge, 1, false},
	{CutSSH, 5, true}, {CutPeers, 2, true}, {CutVRRP, 2, true},
	{Crash, 5, false}, {Second, 2, false}, {Pause, 2, true}, {APIDown, 2, true}, {APILate, 2, true},
	{Restore, 1, false}, {Forget, 2, false},
}

// crowd are the weights of the seeds that are crowded.
var crowd = []weight{
	{Create, 34, false}, {Change, 12, false}, {Delete, 20, false}, {Retype, 2, false}, {Node, 5, false}, {Sicken, 10, true},
	{PowerOff, 2, true}, {Reboot, 2, false}, {KillAgent, 4, false}, {KillHA, 1, false}, {KillVRRP, 1, false}, {Flush, 1, false},
	{Strike, 4, false}, {Full, 1, true}, {Lag, 3, true}, {Forge, 1, false}, {Lie, 3, true}, {Drain, 4, true},
	{CutSSH, 2, true}, {CutPeers, 1, true}, {CutVRRP, 1, true},
	{Crash, 3, false}, {Second, 1, false}, {Pause, 1, true}, {APIDown, 1, true}, {APILate, 2, true},
	{Restore, 1, false}, {Forget, 1, false},
}

// crowded says that a seed is one of those with few slots, most of whose Services have servers of their own, on nodes that are ill
// more often; half of those that look whether failed rounds are tried again are not: there somebody always waits for an address and asks
// again. controlled ones have a control plane, and in those with datagrams Services may have a port of UDP.
func crowded(seed uint64) bool { return seed%4 == 3 && seed%32 != 19 }

func controlled(seed uint64) bool { return seed%8 == 3 }

func withDatagrams(seed uint64) bool { return seed%16 == 7 }

// slotsPerKind is what agent.yaml says: 2, so that a third Service takes a reload, or as many as are never needed.
func slotsPerKind(seed uint64) int {
	if crowded(seed) {
		return 2
	}
	return 10
}

// History is what a seed says.
type History struct {
	Seed       uint64
	Gateways   int
	Operations []Operation
}

// Generate makes the history of a seed.
func Generate(seed uint64) History {
	r := rand.New(rand.NewPCG(seed, 0x5eed))
	h := History{Seed: seed, Gateways: 2}
	if r.IntN(4) == 0 {
		h.Gateways = 3
	}
	total, drawn := 0, weights
	if crowded(seed) {
		drawn = crowd
	}
	for _, w := range drawn {
		total += w.weight
	}
	for range 8 + r.IntN(9) {
		n := r.IntN(total)
		for _, w := range drawn {
			if n -= w.weight; n >= 0 {
				continue
			}
			o := Operation{Kind: w.kind, Which: r.IntN(60), How: r.Uint32(), Then: pause(r)}
			if w.lasts {
				o.For = 10*time.Millisecond + time.Duration(r.IntN(40_000))*time.Millisecond
			}
			h.Operations = append(h.Operations, o)
			break
		}
	}
	return h
}

// pause is nothing, some milliseconds, or some seconds: faults meet transactions half-way, and histories get on.
func pause(r *rand.Rand) time.Duration {
	switch r.IntN(4) {
	case 0:
		return 0
	case 1:
		return time.Duration(r.IntN(150)) * time.Millisecond
	case 2:
		return time.Duration(r.IntN(1500)) * time.Millisecond
	}
	return time.Duration(r.IntN(8000)) * time.Millisecond
}
