package wire

import (
	"net/netip"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Version is the version of requests and replies. hello tells it; every other verb of another version is refused with
// CodeVersion, so that a controller and an agent of different builds say so instead of guessing.
const Version = 1

// MaxFrame bounds one request or reply after decompression, in bytes.
const MaxFrame = 16 << 20

// Verb is what a request asks for.
type Verb string

const (
	VerbHello  Verb = "hello"  // who are you, what do you run
	VerbState  Verb = "state"  // the signed State that the gateway holds
	VerbApply  Verb = "apply"  // make this State true (controller, operator)
	VerbPlan   Verb = "plan"   // what would apply do (controller, operator)
	VerbStatus Verb = "status" // what is true now
	VerbProbe  Verb = "probe"  // who on the network answers for these addresses (controller, operator)
	// drain hands this gateway's VIPs to the others until undrain (controller, operator)
	VerbDrain   Verb = "drain"
	VerbUndrain Verb = "undrain"
	// adopt has the gateway forget which cluster it belongs to, so that another one may have it (operator)
	VerbAdopt Verb = "adopt"
)

// Role is what the sender may do. It comes from the forced command in authorized_keys, never from a request.
type Role string

const (
	RoleController Role = "controller" // everything that Manager needs
	RolePeer       Role = "peer"       // hello, state
	RoleOperator   Role = "operator"   // root on the gateway itself
)

// Request is one question; exactly one Reply answers it. Requests of one connection are answered in order.
type Request struct {
	Version int  `json:"version"`
	Verb    Verb `json:"verb"`
	// Apply is set for VerbApply and VerbPlan.
	Apply *Apply `json:"apply,omitempty"`
	// Probe is set for VerbProbe.
	Probe *Probe `json:"probe,omitempty"`
	// Drain is set for VerbDrain.
	Drain *Drain `json:"drain,omitempty"`
}

// Apply hands over a State.
type Apply struct {
	Signed desired.Signed `json:"signed"`
	// Read is the newest State that the sender knew of when it made this one. A gateway that holds a newer one of another
	// instance refuses with CodeUnread. Nil: there is no such condition.
	Read *desired.Fence `json:"read,omitempty"`
}

// Reply is the answer: Refusal, or the field named like the verb.
type Reply struct {
	Version int      `json:"version"`
	Refusal *Refusal `json:"refusal,omitempty"`
	Hello   *Hello   `json:"hello,omitempty"`
	// State is nil on a gateway that never got one; such a Reply has Empty set.
	State  *desired.Signed `json:"state,omitempty"`
	Empty  bool            `json:"empty,omitempty"`
	Result *Result         `json:"result,omitempty"`
	Status *Status         `json:"status,omitempty"`
	Probed *Probed         `json:"probed,omitempty"`
	// Drained answers drain and undrain.
	Drained *Drained `json:"drained,omitempty"`
	Adopted *Adopted `json:"adopted,omitempty"`
}

// Adopted is what became of adopt.
type Adopted struct {
	// Changed is false when any cluster may have the gateway already.
	Changed bool `json:"changed"`
	// ClusterUID is the cluster whose State is served until another one's comes; empty: none.
	ClusterUID string `json:"clusterUID,omitempty"`
}

// Code says why a request was refused, for the asker's decisions; Message is for people.
type Code string

const (
	CodeVersion   Code = "version"   // another wire version or State schema
	CodeRole      Code = "role"      // this role may not use this verb
	CodeMalformed Code = "malformed" // not a request, or not a canonical State
	CodeSignature Code = "signature" // not signed by a key in the gateway's signers file
	CodeCluster   Code = "cluster"   // the gateway belongs to another cluster
	CodeEpoch     Code = "epoch"     // older epoch, or the same epoch from another instance
	CodeSequence  Code = "sequence"  // same epoch and instance, older sequence
	CodeUnread    Code = "unread"    // the gateway holds a State that the sender has not read
	CodeInvalid   Code = "invalid"   // Validate found faults (Faults are told)
	CodeLimits    Code = "limits"    // outside /etc/gatewayctl/limits.yaml
	CodeNoHeir    Code = "heir"      // drain: no other gateway can take the VIPs, or none did
	CodeInternal  Code = "internal"  // the gateway could not even try
)

// Refusal is an error that crosses the wire. Nothing was changed.
type Refusal struct {
	Code Code `json:"code"`
	// Message is one sentence: what was refused and why. Remedy is one sentence: what the reader can do.
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	// Faults are the single faults of CodeInvalid and CodeLimits.
	Faults []Fault `json:"faults,omitempty"`
	// Fence is what the gateway holds, for CodeCluster, CodeEpoch, CodeSequence and CodeUnread, and whenever a State was looked into.
	Fence *desired.Fence `json:"fence,omitempty"`
}

// Fault is one thing wrong, and whose fault it is when one load balancer alone is.
type Fault struct {
	LoadBalancer *desired.Key `json:"loadBalancer,omitempty"`
	Field        string       `json:"field,omitempty"`
	Message      string       `json:"message"`
}

// Hello tells what runs on a gateway.
type Hello struct {
	Gateway    string         `json:"gateway"` // name in the agent's own configuration
	Agent      string         `json:"agent"`   // version of the binary
	Role       Role           `json:"role"`    // the asker's
	Schema     int            `json:"schema"`  // desired.Schema of the agent's build
	HAProxy    string         `json:"haproxy"` // "2.6.12"
	Keepalived string         `json:"keepalived"`
	NFTables   string         `json:"nftables"`
	Fence      *desired.Fence `json:"fence,omitempty"` // of the State it holds
	// Links are the networks that the gateway is on, sorted by Interface; loopback is left out.
	Links []Link `json:"links,omitempty"`
	// Held are the VIPs that this gateway holds now. Told to peers alone, who tell it on in PeerStatus.
	Held []netip.Addr `json:"held,omitempty"`
	// Heir says whether this gateway could take VIPs over from another one now; nil: its agent is too old to tell.
	Heir *Heir `json:"heir,omitempty"`
	// Hop says how this gateway takes part in hand-overs; nil: its agent is too old to.
	Hop *Hop `json:"hop,omitempty"`
}

// Link is one network interface of a gateway, as far as it matters for which addresses can float there.
type Link struct {
	Interface string `json:"interface"`
	// Prefixes are the networks on the link, host bits zero, sorted; link-local ones and single addresses are left out.
	Prefixes []netip.Prefix `json:"prefixes,omitempty"`
	// Routers are the next hops of routes over the link, sorted.
	Routers []netip.Addr `json:"routers,omitempty"`
}

// MaxProbeTargets is the most that one probe asks for.
const MaxProbeTargets = 1024

// Probe asks who answers for addresses on the gateway's networks: ARP (RFC 5227) or neighbour discovery (RFC 4862).
type Probe struct {
	Targets []ProbeTarget `json:"targets"`
}

// ProbeTarget is one address.
type ProbeTarget struct {
	Address netip.Addr `json:"address"`
	// Interface is where the question goes out; empty: the gateway's own interface in its State.
	Interface string `json:"interface,omitempty"`
}

// Probed is the answer to probe, one ProbeAnswer for each target, in their order.
type Probed struct {
	Answers []ProbeAnswer `json:"answers"`
}

// ProbeAnswer is what became of one question.
type ProbeAnswer struct {
	Address netip.Addr `json:"address"`
	// Asked is false when nothing was asked, because Problem: the address is on no network of the interface, there is no
	// such interface, it is down.
	Asked   bool   `json:"asked"`
	Problem string `json:"problem,omitempty"`
	// Neighbors are who answered, sorted by MAC, this gateway itself left out.
	Neighbors []Neighbor `json:"neighbors,omitempty"`
}

// Neighbor is one machine on a link.
type Neighbor struct {
	// MAC is its link-layer address, lower case with colons.
	MAC string `json:"mac"`
	// Gateway or Node is its name in the State when the machine is one of them.
	Gateway string `json:"gateway,omitempty"`
	Node    string `json:"node,omitempty"`
}

// Outcome is how a transaction ended.
type Outcome string

const (
	Unchanged  Outcome = "Unchanged"  // everything was so already
	Runtime    Outcome = "Runtime"    // changed without a reload of HAProxy
	Reloaded   Outcome = "Reloaded"   // HAProxy was reloaded or started, see Reasons
	RolledBack Outcome = "RolledBack" // failed; what ran before runs again
	Refused    Outcome = "Refused"    // a check of the exact bytes failed; nothing was touched
	Stuck      Outcome = "Stuck"      // failed, and so did the way back: a person is needed
)

// Result is what apply did, or plan would do.
type Result struct {
	Outcome Outcome `json:"outcome"`
	// Fence and Digest are those of the State that the gateway holds after the transaction.
	Fence  desired.Fence `json:"fence"`
	Digest string        `json:"digest"`
	// Reasons say why HAProxy was reloaded, one sentence each.
	Reasons []string `json:"reasons,omitempty"`
	// Changes say what was (or would be) changed, one short line each, at most 100.
	Changes []string `json:"changes,omitempty"`
	// Faults say what went wrong (RolledBack, Refused, Stuck).
	Faults []Fault `json:"faults,omitempty"`
	// Warnings are true now and deserve a person: a foreign firewall that drops, all nodes down.
	Warnings []Warning `json:"warnings,omitempty"`
	// Held are the VIPs that this gateway holds now.
	Held   []netip.Addr `json:"held,omitempty"`
	Stages []Stage      `json:"stages,omitempty"`
}

// Stage is one timed part of a transaction (render, check, swap, runtime, verify, rollback).
type Stage struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration"` // nanoseconds
}

// Warning is a finding on a gateway that stops nothing.
type Warning struct {
	Reason  string `json:"reason"`  // one CamelCase word, stable: ForeignFirewall, AllNodesDown, NotHolding...
	Message string `json:"message"` // what is wrong and what to do
	// LoadBalancers are those that it concerns, whose owners are told it, and nobody else's. None: everybody's.
	LoadBalancers []desired.Key `json:"loadBalancers,omitempty"`
}

// Status is what is true on a gateway now.
type Status struct {
	Hello   Hello         `json:"hello"`
	Fence   desired.Fence `json:"fence"`
	Digest  string        `json:"digest,omitempty"`
	Applied time.Time     `json:"applied,omitzero"` // when the State was made true
	// InSync is false when what runs is known to differ from the State, in the way that Drift says, and when there is none.
	InSync bool     `json:"inSync"`
	Drift  []string `json:"drift,omitempty"`
	// Differences are the last ones that the agent found since it started, oldest first, repaired ones too.
	Differences []Difference `json:"differences,omitempty"`
	Held        []netip.Addr `json:"held,omitempty"`
	// Current is false from a boot until the State was confirmed to be the newest, by the controller or by the peers. Such a
	// gateway takes no VIP from one that is.
	Current bool `json:"current"`
	// Drain is set while this gateway has handed its VIPs to the others and takes none that another one can hold.
	Drain *DrainStatus `json:"drain,omitempty"`
	// Peers are the other gateways, as this one sees them, in the State's order.
	Peers []PeerStatus `json:"peers,omitempty"`
	// HAProxyUp is since when HAProxy's present worker runs; zero when none answers.
	HAProxyUp    time.Time `json:"haproxyUp,omitzero"`
	KeepalivedUp bool      `json:"keepalivedUp"`
	// Reloads counts reloads of HAProxy by reason since the agent was installed; Rounds counts transactions by Outcome.
	Reloads map[string]uint64  `json:"reloads,omitempty"`
	Rounds  map[Outcome]uint64 `json:"rounds,omitempty"`
	// RuntimeUpdates counts transactions that changed HAProxy or nftables without a reload.
	RuntimeUpdates uint64       `json:"runtimeUpdates"`
	Nodes          []NodeStatus `json:"nodes,omitempty"`
	Warnings       []Warning    `json:"warnings,omitempty"`
	// Limited are ports of Services that lately refused connections because of a limit or a rate, sorted.
	Limited     []Limited `json:"limited,omitempty"`
	Connections uint64    `json:"connections"` // established through HAProxy now
	OldWorkers  int       `json:"oldWorkers"`  // of HAProxy, finishing their connections
}

// Limited counts the connections that a port of a Service refused because of its connectionLimit or sourceRate.
type Limited struct {
	Service desired.Key `json:"service"`
	Port    uint16      `json:"port"`
	// Lately is in the last ten minutes about; Total since HAProxy's present worker runs, or since the port was idle for an hour.
	Lately uint64 `json:"lately"`
	Total  uint64 `json:"total"`
}

// Difference is what ran, or lay on the disk, otherwise than the State says although nobody had sent another State.
type Difference struct {
	Found time.Time `json:"found"`
	// Changes undo it, one short line each, at most 100.
	Changes []string `json:"changes"`
	// Left is set when agent.yaml says that differences are reported only.
	Left bool `json:"left,omitempty"`
	// Problem says why it could not be undone. The agent goes on trying.
	Problem string `json:"problem,omitempty"`
}

// NodeStatus is one node of the shared pool.
type NodeStatus struct {
	Name string `json:"name"`
	// State is UP, DOWN, MAINT, DRAIN or NOCHECK, as HAProxy shows it.
	State string `json:"state"`
	// StateIPv6 is the state of the node's IPv6 address, where IPv6-only Services reach it; empty when it is State, and
	// when the node has none.
	StateIPv6 string `json:"stateIPv6,omitempty"`
	Sessions  uint64 `json:"sessions"` // total since the worker started, at either address, passing its check or not
}

// PeerStatus is what a gateway knows of another one. It asks every few seconds.
type PeerStatus struct {
	Gateway string `json:"gateway"`
	// Answers says whether the last question was answered, Heard when the last answer came; zero: never.
	Answers bool      `json:"answers"`
	Heard   time.Time `json:"heard,omitzero"`
	// Fence is of the State that it said then that it holds; nil when it held none, and when it never answered. It is not
	// signed: it is what the machine at the peer's address, known by its host key, says.
	Fence *desired.Fence `json:"fence,omitempty"`
	// Held are the VIPs that it said then that it holds.
	Held []netip.Addr `json:"held,omitempty"`
	// Problem says why it does not answer, or why its newer State could not be taken.
	Problem string `json:"problem,omitempty"`
}
