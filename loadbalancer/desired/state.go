package desired

import (
	"cmp"
	"fmt"
	"net/netip"
)

// Schema is the version of the State's form that this build writes and reads. A State of another schema is refused as a
// whole: half-understood configuration is worse than old configuration.
const Schema = 1

// State is everything that the gateways have to do, as one value. It names no file, daemon version or local path: each
// gateway renders it for itself. A State is immutable once it is canonical (see Canonical); change a Clone.
type State struct {
	// Schema is the version of this form, always Schema.
	Schema int `json:"schema"`
	// Fence orders States of one cluster.
	Fence Fence `json:"fence"`
	// Gateways are all machines that share the VIPs, sorted by Name; at least one.
	Gateways []Gateway `json:"gateways"`
	// VRRP holds what all VRRP instances have in common.
	VRRP VRRP `json:"vrrp"`
	// Instances are the VRRP instances, sorted by RouterID: one for each ordered pair of gateways (holder, first heir).
	Instances []Instance `json:"instances"`
	// VIPs are all floating addresses, the control plane's among them, sorted by Address.
	VIPs []VIP `json:"vips,omitempty"`
	// ControlPlane is the API server's own frontend; nil when the gateways do not carry it.
	ControlPlane *ControlPlane `json:"controlPlane,omitempty"`
	// Nodes are the workers that the shared pool spreads connections over, sorted by Name.
	Nodes []Node `json:"nodes,omitempty"`
	// NodeCheck is how HAProxy finds out that a node of the shared pool is fit to serve.
	NodeCheck Check `json:"nodeCheck"`
	// DrainSeconds is how long connections may live on to a server that was taken out, or of a client that may not connect any more,
	// 1 to 86400; 0: DefaultDrainSeconds.
	DrainSeconds int `json:"drainSeconds,omitempty"`
	// LoadBalancers are the Services of type LoadBalancer, sorted by Key.
	LoadBalancers []LoadBalancer `json:"loadBalancers,omitempty"`
	// Releasing are addresses, or ports of shared ones, that their load balancer has no more and that some gateway may still
	// serve for it, sorted by Address and Owner. They must not be given to another Service yet.
	Releasing []Releasing `json:"releasing,omitempty"`
	// Pools, Reserved and Quarantined are what an operator may want to know of the addresses; they configure nothing.
	Pools []PoolSummary `json:"pools,omitempty"`
	// Reserved are addresses that only some Services can get, sorted by Address and Owner.
	Reserved []Reserved `json:"reserved,omitempty"`
	// Quarantined are addresses that a stranger on the network answered for, sorted by Address.
	Quarantined []Quarantined `json:"quarantined,omitempty"`
}

// Fence decides which of two States is the newer and whether they may replace each other at all.
type Fence struct {
	// ClusterUID is the UID of the cluster's namespace kube-system. Empty in a State made before the cluster exists.
	ClusterUID string `json:"clusterUID,omitempty"`
	// Epoch rises by at least one whenever a controller takes over. 0 only in a State made before the cluster exists.
	Epoch uint64 `json:"epoch"`
	// Instance is the random name of the controller that claimed the epoch.
	Instance string `json:"instance,omitempty"`
	// Sequence rises by one with each State that a controller makes within its epoch.
	Sequence uint64 `json:"sequence"`
}

// Gateway gives the gateway of that name. Whoever renders the State asks it for the machine that it renders for.
func (s *State) Gateway(name string) (Gateway, error) {
	for _, g := range s.Gateways {
		if g.Name == name {
			return g, nil
		}
	}
	return Gateway{}, fmt.Errorf("no gateway %q in State: the name in agent.yaml must be one of the controller's configuration", name)
}

// Gateway is one machine with HAProxy and keepalived.
type Gateway struct {
	// Name is the machine's name in the configuration, a DNS label.
	Name string `json:"name"`
	// SSHAddress is the host (name or address) and port where its sshd listens, as host:port.
	SSHAddress string `json:"sshAddress"`
	// VRRPAddress is the source and destination of its VRRP adverts (RFC 9568), an address of Interface.
	VRRPAddress netip.Addr `json:"vrrpAddress"`
	// Interface is the network interface that sends VRRP adverts and, unless a VIP names another one, holds the VIPs.
	Interface string `json:"interface"`
}

// VRRP holds what all VRRP instances have in common.
type VRRP struct {
	// AdvertIntervalMillis is the time between two adverts of a MASTER in milliseconds, 10 to 40950 in steps of 10
	// (keepalived's advert_int; RFC 9568 section 5.2.7 counts centiseconds).
	AdvertIntervalMillis int `json:"advertIntervalMillis"`
	// PreemptDelaySeconds is how long a gateway that has returned leaves the instances that it is the first of to who has them, 0 to
	// 1000 (keepalived's preempt_delay).
	PreemptDelaySeconds int `json:"preemptDelaySeconds,omitempty"`
}

// Instance is one VRRP instance (vrrp_instance of keepalived.conf). Gateways[0] is its MASTER while it is healthy.
type Instance struct {
	// RouterID is the virtual_router_id, 1 to 255, unique on the network segment.
	RouterID int `json:"routerID"`
	// Gateways are the names of all gateways in the order in which they inherit, holder first.
	Gateways []string `json:"gateways"`
}

// VIP is one floating address.
type VIP struct {
	Address netip.Addr `json:"address"`
	// Interface holds the address; empty means the gateway's own Interface.
	Interface string `json:"interface,omitempty"`
	// RouterID names the Instance that moves the address.
	RouterID int `json:"routerID"`
}

// Node is one worker of the cluster.
type Node struct {
	Name string `json:"name"`
	// Addresses are where its NodePorts are reached: at most one IPv4 and one IPv6 address, IPv4 first.
	Addresses []netip.Addr `json:"addresses"`
}

// CheckKind is how a server is checked.
type CheckKind string

const (
	// CheckNone leaves the server always up.
	CheckNone CheckKind = "none"
	// CheckTCP opens a connection to Port.
	CheckTCP CheckKind = "tcp"
	// CheckHTTP sends GET Path to Port and wants a 2xx or 3xx status.
	CheckHTTP CheckKind = "http"
	// CheckTLS opens a TCP connection to Port and wants the TLS handshake to be completed. It verifies no certificate.
	CheckTLS CheckKind = "tls"
	// CheckHTTPS is CheckHTTP over TLS. The control plane's verifies the certificate with ControlPlane.CA.
	CheckHTTPS CheckKind = "https"
)

// Check is a health check of servers.
type Check struct {
	Kind CheckKind `json:"kind"`
	// Port is checked instead of the traffic's port. 0 with CheckNone, and in a Frontend's Pool whose servers all have a Port:
	// then each is checked there.
	Port uint16 `json:"port,omitempty"`
	// Path is the HTTP path, "/healthz" for kube-proxy.
	Path string `json:"path,omitempty"`
	// IntervalMillis is the time between two checks (inter); Rise and Fall are how many in a row change the verdict.
	IntervalMillis int `json:"intervalMillis,omitempty"`
	Rise           int `json:"rise,omitempty"`
	Fall           int `json:"fall,omitempty"`
	// DownIntervalMillis is the time between two checks of a server that is down (downinter); 0: IntervalMillis.
	DownIntervalMillis int `json:"downIntervalMillis,omitempty"`
}

// Protocol is a transport protocol, written as Kubernetes writes it.
type Protocol string

const (
	TCP  Protocol = "TCP"
	UDP  Protocol = "UDP"
	SCTP Protocol = "SCTP"
)

// Key names a Service.
type Key struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// LoadBalancer is one Service of type LoadBalancer. Every Frontend is open on every one of Addresses.
type LoadBalancer struct {
	Key
	// UID is the Service's metadata.uid: a Service made anew under an old name is another one.
	UID string `json:"uid"`
	// Addresses are the VIPs, at most one IPv4 and one IPv6, in the order of the Service's ipFamilies.
	Addresses []netip.Addr `json:"addresses"`
	// Frontends are the ports, sorted by Protocol and Port.
	Frontends []Frontend `json:"frontends"`
	// Pool is set when the Service cannot use the shared pool of nodes (externalTrafficPolicy: Local, a choice of nodes, a check
	// or an algorithm of its own, the PROXY protocol, ClientSource, Timeouts). A Frontend may have another one.
	Pool *Pool `json:"pool,omitempty"`
	// AllowSources are the clients that may connect, of both families, merged (MergePrefixes); none: everybody. When only
	// one family is named, nobody of the other may connect. DenySources may not connect whatever AllowSources says.
	// They are about new connections; what becomes of those that are established is the agent's to know.
	AllowSources []netip.Prefix `json:"allowSources,omitempty"`
	DenySources  []netip.Prefix `json:"denySources,omitempty"`
	// UDPIdleSeconds is how long a flow of UDP that was answered is remembered without a datagram, 1 to 86400; a gateway may take the
	// next longer time that it has. 0: as the gateway's kernel is set.
	UDPIdleSeconds int `json:"udpIdleSeconds,omitempty"`
	// AffinitySeconds is how long after its last new connection began a client is sent where that one went, 1 to 86400; a gateway may
	// take the next longer time that it has. 0: not at all.
	AffinitySeconds int `json:"affinitySeconds,omitempty"`
	// DrainSeconds is State.DrainSeconds for this load balancer alone, 1 to 86400; 0: the State's.
	DrainSeconds int `json:"drainSeconds,omitempty"`
	// Timeouts are other than those of all load balancers; it needs a Pool. HAProxy reloads when they change.
	Timeouts *Timeouts `json:"timeouts,omitempty"`
	// ConnectionLimit is how many TCP connections each frontend takes at a time at one gateway; more are refused. 0: as many as
	// there are.
	ConnectionLimit int `json:"connectionLimit,omitempty"`
	// SourceRate is how many new TCP connections a second, averaged over ten seconds, one client address (of IPv6: one network
	// of 64 bits) may open to each frontend at one gateway; more are refused. 0: as many as it likes.
	SourceRate int `json:"sourceRate,omitempty"`
	// Log has every TCP connection logged, not those alone that failed.
	Log bool `json:"log,omitempty"`
	// ClientSource lets servers see the client's address instead of the gateway's or the VIP's; it needs a Pool. Servers must send
	// their answers back through the gateway.
	ClientSource bool `json:"clientSource,omitempty"`
}

// Timeouts of a load balancer's TCP connections; what is 0 is as for all load balancers.
type Timeouts struct {
	// ConnectMillis bounds one attempt to connect to a server, 50 to 60000 (timeout connect).
	ConnectMillis int `json:"connectMillis,omitempty"`
	// IdleSeconds is how long a connection may be silent in both directions, 1 to 604800 (timeout tunnel).
	IdleSeconds int `json:"idleSeconds,omitempty"`
	// CheckMillis bounds the wait for the answer to a check, 50 to 60000 (timeout check).
	CheckMillis int `json:"checkMillis,omitempty"`
}

// ProxyProtocol is the version of the PROXY protocol's header that a server gets before the client's first byte, in HAProxy's words.
type ProxyProtocol string

const (
	ProxyNone ProxyProtocol = ""
	ProxyV1   ProxyProtocol = "v1"
	ProxyV2   ProxyProtocol = "v2"
)

// Frontend is one port of a load balancer.
type Frontend struct {
	// Name is the name of the Service's port, possibly empty.
	Name     string   `json:"name,omitempty"`
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
	// NodePort is where every node answers for this port. 0 only with servers that all have a Port.
	NodePort uint16 `json:"nodePort,omitempty"`
	// ProxyProtocol is for TCP only and needs a pool, the frontend's or the load balancer's. The header names the VIP and Port.
	ProxyProtocol ProxyProtocol `json:"proxyProtocol,omitempty"`
	// Pool is set when the servers of this port are others than those of the load balancer's other ports: pods.
	Pool *Pool `json:"pool,omitempty"`
}

// Algorithm is how a pool chooses a server, in HAProxy's words.
type Algorithm string

const (
	RoundRobin Algorithm = "roundrobin"
	LeastConn  Algorithm = "leastconn"
	// Source hashes the client's address (hash-type consistent).
	Source Algorithm = "source"
	// Random takes the less loaded one of two servers that it draws, "random(2)".
	Random Algorithm = "random"
)

// Pool is a set of servers that belongs to one load balancer. Without one that takes connections (Active) its VIP refuses.
type Pool struct {
	Algorithm Algorithm `json:"algorithm"`
	Check     Check     `json:"check"`
	// Local: a node that is no server of the pool cannot answer, its NodePort leads nowhere (externalTrafficPolicy: Local).
	Local bool `json:"local,omitempty"`
	// AllNodes: all of State.Nodes are the servers, each with weight 1, and Servers is empty (see State.Expanded).
	AllNodes bool `json:"allNodes,omitempty"`
	// Family says at which address AllNodes reaches a node: its IPv4 (4) or IPv6 (6) address, and a node without one is no
	// server; 0: the first that it has.
	Family int `json:"family,omitempty"`
	// Servers are sorted by Name.
	Servers []Server `json:"servers,omitempty"`
}

// Server is one member of a Pool.
type Server struct {
	// Name is the node's name, or names a pod.
	Name    string     `json:"name"`
	Address netip.Addr `json:"address"`
	// Port is where it serves; 0: the frontend's NodePort. Only servers of a Frontend's Pool have one.
	Port uint16 `json:"port,omitempty"`
	// Weight is the server's share, 1 to 256 (HAProxy manual section 5.2, weight).
	Weight int `json:"weight"`
	// Backup servers get connections only while no other server of the pool passes its check. They are not checked.
	Backup bool `json:"backup,omitempty"`
	// Drains: the server gets no connection, and those that it has may live on as long as they like. Those of a node that is not
	// in the pool any more end after the load balancer's drain time, those of a pod at once.
	Drains bool `json:"drains,omitempty"`
}

// ControlPlane is the API server's frontend. It never depends on Services or on a running controller, and fails open.
type ControlPlane struct {
	// Address is its VIP; it stands in State.VIPs too and belongs to no load balancer.
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	// Endpoints are the API servers, sorted.
	Endpoints []netip.AddrPort `json:"endpoints"`
	Check     Check            `json:"check"`
	// ExtraPorts are further ports of the same machines, sorted by Port.
	ExtraPorts []ExtraPort `json:"extraPorts,omitempty"`
	// CA are the certificates, in PEM, that an API server's has to come from to pass a CheckHTTPS; empty with other checks. A
	// CheckHTTPS without them is a CheckTLS: nothing is sent to a server that is not known to be the right one.
	CA string `json:"ca,omitempty"`
}

// ExtraPort is one more port of the control plane (konnectivity, a join API), with servers of its own. Check's kind none
// leaves them unchecked, any other makes it a TCP connection to EndpointPort with the same times.
type ExtraPort struct {
	// Port is open at ControlPlane.Address; EndpointPort at the address of each of Endpoints.
	Port         uint16 `json:"port"`
	EndpointPort uint16 `json:"endpointPort"`
}

// Compare orders by Port.
func (e ExtraPort) Compare(other ExtraPort) int { return cmp.Compare(e.Port, other.Port) }

// Releasing is an address on its way back to its pool.
type Releasing struct {
	Address netip.Addr `json:"address"`
	// Owner is the Service that had it.
	Owner Key `json:"owner"`
	// Ports are those that Owner had of an address that it shared, sorted by Protocol and Port; none: the address was its own,
	// and all of it but what Owner has in this State is on its way back.
	Ports []Port `json:"ports,omitempty"`
	// Since is the fence of the first State without the address: every configured gateway has to confirm it, or a newer one.
	SinceEpoch    uint64 `json:"sinceEpoch"`
	SinceSequence uint64 `json:"sinceSequence"`
}

// Port is one port of a protocol.
type Port struct {
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
}

// Reserved is an address that only Owner can get, and others for whom it is reserved too: those that shared it.
type Reserved struct {
	Address netip.Addr `json:"address"`
	Owner   Key        `json:"owner"`
	// Kept is set when Owner was deleted with annotation keep-ip, not set when the configuration reserves the address.
	Kept bool `json:"kept,omitempty"`
}

// Quarantined is an address of a pool that a machine which is no gateway answered for.
type Quarantined struct {
	Address netip.Addr `json:"address"`
	// By says who, for people: a MAC, and the machine's name when it is known.
	By string `json:"by"`
}

// PoolSummary counts the addresses of one pool and family. Each is counted once: what is reserved or quarantined and in
// use is in use. Size saturates at the largest uint64.
type PoolSummary struct {
	Name        string `json:"name"`
	Family      int    `json:"family"` // 4 or 6
	Size        uint64 `json:"size"`   // without excluded ones
	Assigned    uint64 `json:"assigned"`
	Releasing   uint64 `json:"releasing"`
	Reserved    uint64 `json:"reserved,omitempty"`
	Quarantined uint64 `json:"quarantined,omitempty"`
}
