package config

import (
	"net/netip"
	"time"
)

// APIVersion and Kind are the first two lines of every file.
const (
	APIVersion = "cloud-provider-haproxy/v1"
	Kind       = "CloudConfig"
)

// Config is the whole file.
type Config struct {
	// APIVersion is always `cloud-provider-haproxy/v1`.
	APIVersion string `yaml:"apiVersion"`
	// Kind is always `CloudConfig`.
	Kind string `yaml:"kind"`
	// Gateways are the machines that run HAProxy and keepalived for this cluster: one or more, usually two.
	Gateways []Gateway `yaml:"gateways"`
	// SSH is how the controller logs in to the gateways.
	SSH SSH `yaml:"ssh"`
	// VRRP is how the gateways agree on who holds a floating address.
	VRRP VRRP `yaml:"vrrp"`
	// Pools are the addresses that Services may get, at least one pool. Addresses of gateways, nodes and the control plane that lie inside a pool are never given to a Service.
	Pools []Pool `yaml:"pools"`
	// Reservations keep single addresses of the pools for one Service each, which gets its address whatever the pool's other rules say: `192.0.2.70: default/web`. The address may be written in any form that is an address (`2001:DB8:0::70`); one that is written in two forms is refused. It lies in a pool and is not excluded.
	Reservations map[string]string `yaml:"reservations" like:"default/web"`
	// ReadForeignAnnotations makes the annotations of other controllers count where our own is absent: `metallb.io/loadBalancerIPs`, `metallb.io/address-pool`, `metallb.io/allow-shared-ip` and `kube-vip.io/loadbalancerIPs`, so that a site moves here without an edit of its Services. Default `false`.
	ReadForeignAnnotations bool `yaml:"readForeignAnnotations"`
	// Nodes is how the gateways reach and check the workers.
	Nodes Nodes `yaml:"nodes"`
	// IPMode is what is written to a Service's `status.loadBalancer.ingress[].ipMode`: `VIP`, or `Proxy`, which keeps kube-proxy from answering for the address inside the cluster (KEP-1860); workers with kube-proxy in IPVS mode without strictARP need `Proxy`. With annotation `cloud-provider-haproxy/proxy-protocol` it is `Proxy` always. Default `VIP`.
	IPMode string `yaml:"ipMode"`
	// LoadBalancerClass is the `spec.loadBalancerClass` of the Services that are ours. Default `cloud-provider-haproxy/gateway`.
	LoadBalancerClass string `yaml:"loadBalancerClass"`
	// ServeUnclassed says whether Services without a `spec.loadBalancerClass` are ours too. Set it to `false` next to another load balancer controller. Default `true`.
	ServeUnclassed *bool `yaml:"serveUnclassed"`
	// ResyncInterval is how often every gateway is compared with what it should do, and repaired, `5s` or more. Default `60s`.
	ResyncInterval Duration `yaml:"resyncInterval"`
	// ControlPlane makes the gateways carry the API server's address too. Absent: they do not.
	ControlPlane *ControlPlane `yaml:"controlPlane"`
}

// Gateway is one machine with HAProxy and keepalived.
type Gateway struct {
	// Name is the gateway's name, a DNS label. It must equal `name` in the gateway's own `/etc/gatewayctl/agent.yaml`.
	Name string `yaml:"name"`
	// SSHAddress is the host name or address where its sshd listens.
	SSHAddress string `yaml:"sshAddress"`
	// SSHPort is the port where its sshd listens. Default `22`.
	SSHPort int `yaml:"sshPort"`
	// VRRPAddress is the address that it sends its VRRP adverts from, an address of `interface`. Default: `sshAddress`, when that is an address.
	VRRPAddress netip.Addr `yaml:"vrrpAddress"`
	// Interface is the network interface that sends VRRP adverts and, unless a pool names another one, holds the floating addresses.
	Interface string `yaml:"interface"`
}

// SSH is how the controller logs in to the gateways.
type SSH struct {
	// User is the login name, the same on every gateway. Default `gatewayctl`.
	User string `yaml:"user"`
	// PrivateKeyFile is the private key of the controller, in OpenSSH's or PEM form. The same key signs what is sent, so its public half stands in `authorized_keys` and in `/etc/gatewayctl/signers` of every gateway. Only its owner and group may be able to read it. A relative path starts at the configuration file's directory.
	PrivateKeyFile string `yaml:"privateKeyFile"`
	// KnownHostsFile holds the gateways' host keys in the form of OpenSSH's known_hosts (hashed names are fine). There is no way to leave the check out. A relative path starts at the configuration file's directory.
	KnownHostsFile string `yaml:"knownHostsFile"`
}

// VRRP is how the gateways agree on who holds a floating address.
type VRRP struct {
	// FirstRouterID is the first virtual_router_id (1 to 255) in use; N gateways need N x (N-1) of them, one gateway needs one. Nobody else on the network segment may use these. Default `200`.
	FirstRouterID int `yaml:"firstRouterID"`
	// AdvertInterval is the time between two adverts, from `10ms` to `40.95s` in steps of 10ms. Three missing ones make the heir take over: with 1000 addresses nobody answers for 0.3 s at `100ms`, for 0.6 s at `200ms`. Below `100ms` a gateway without a free processor is soon taken for a dead one. Default `100ms`.
	AdvertInterval Duration `yaml:"advertInterval"`
	// PreemptDelay is how long a gateway that has returned (from a boot, a drain, a cut cable, a dead HAProxy) leaves its addresses to the one that stands in, `0s` to `1000s` in whole seconds: one that comes and goes then moves them less often. It begins anew when an address is added or removed meanwhile. Nobody waits to take over from a gateway that dies, is drained, or whose HAProxy dies; but when that is the one that stands in, and the two cannot reach each other by SSH, a dead HAProxy is waited out. Default `0s`: three adverts.
	PreemptDelay Duration `yaml:"preemptDelay"`
}

// Pool is a set of addresses that Services may get.
type Pool struct {
	// Name is the pool's name, a DNS label. Services ask for it by name in their annotation `cloud-provider-haproxy/address-pool`.
	Name string `yaml:"name"`
	// Addresses are networks (`192.0.2.0/26`), ranges (`192.0.2.10-192.0.2.20`) and single addresses, IPv4 and IPv6. No two overlap, within a pool or between pools. A pool has at most 2^64 addresses of each family: one IPv6 `/64`, or smaller ones that make as many.
	Addresses []string `yaml:"addresses" like:"192.0.2.0/26"`
	// Interface is the network interface of every gateway that holds these addresses. Default: each gateway's own `interface`.
	Interface string `yaml:"interface"`
	// Exclude are parts of `addresses` that no Service gets, written like `addresses`. Those of gateways, of the control plane and of `nodes.addresses` need not be named.
	Exclude []string `yaml:"exclude" like:"192.0.2.1"`
	// AvoidNetworkAndBroadcast leaves out the first and the last address of each IPv4 network in `addresses` and the first one of each IPv6 network, which hosts do not answer for; ranges, single addresses, `/31`, `/32`, `/127` and `/128` keep all. Set it to `false` when the networks are cut out of a larger one. Default `true`.
	AvoidNetworkAndBroadcast *bool `yaml:"avoidNetworkAndBroadcast"`
	// AutoAssign says whether Services get addresses from here without asking. With `false` only those do that name the pool or one of its addresses. Default `true`.
	AutoAssign *bool `yaml:"autoAssign"`
	// Priority decides which of several pools is asked first: the one with the highest number, among equals the first in the file. Pools that choose their Services (`namespaces`, `namespaceSelector`, `serviceSelector`) are asked before all others. May be negative. Default `0`.
	Priority int `yaml:"priority"`
	// Namespaces are the names of namespaces whose Services may have addresses from here. Default, when `namespaceSelector` is absent too: all.
	Namespaces []string `yaml:"namespaces"`
	// NamespaceSelector admits the namespaces with these labels, besides those in `namespaces`; written as for `kubectl get -l`: `team=web,stage in (prod, test),!legacy`.
	NamespaceSelector string `yaml:"namespaceSelector" like:"team=web"`
	// ServiceSelector leaves, of the Services in those namespaces, the ones with these labels; written like `namespaceSelector`. Default: all.
	ServiceSelector string `yaml:"serviceSelector" like:"app=web"`
	// ShareAcrossNamespaces lets Services of different namespaces share an address when both say the same annotation `cloud-provider-haproxy/allow-shared-ip`. Default `false`: only Services of one namespace.
	ShareAcrossNamespaces bool `yaml:"shareAcrossNamespaces"`
	// Probe says whether a gateway asks the network for a new address (ARP, neighbour discovery) before it is given to a Service, and leaves alone one that somebody answers for. That takes half a second; when somebody answers, one more, and five in all when 200 addresses in a row are somebody's. Default `true`.
	Probe *bool `yaml:"probe"`
}

// Nodes is how the gateways reach and check the workers.
type Nodes struct {
	// AddressType is the type of the addresses in a Node's status that gateways connect to: `InternalIP` or `ExternalIP`. Default `InternalIP`.
	AddressType string `yaml:"addressType"`
	// Addresses names the addresses of single nodes, at most one IPv4 and one IPv6 each, instead of those in the Node's status: `worker-1: [192.0.2.21]`.
	Addresses map[string][]netip.Addr `yaml:"addresses"`
	// CIDRs restricts which addresses of a node are used: the first one inside these networks, in the order of the node's own list. It also allows looking up a node without any address by its host name, if the answer lies inside. Default: every address will do, and nothing is looked up.
	CIDRs []netip.Prefix `yaml:"cidrs"`
	// PodCIDRs are the networks of the cluster's pods (`[10.244.0.0/16]`), named if the gateways have routes to them (the network plugin's BGP, or static ones). Then the ports without a nodePort of a Service with `allocateLoadBalancerNodePorts: false` are served by its pods directly, at the addresses and ports of its EndpointSlices that lie in these networks or, for pods on their node's network (`hostNetwork`), are an address of a Node, inside `cidrs` where that is set. Run `gatewayctl bootstrap` after a change: the gateways' limits have these networks too. Default: none, and every port needs a nodePort.
	PodCIDRs []netip.Prefix `yaml:"podCIDRs"`
	// ClientSourceProbes allow Services to have annotation `cloud-provider-haproxy/source-address: client`: addresses that nobody has, one of IPv4, one of IPv6 or both (`[203.0.113.1]`), from which the gateways check the workers of such Services, and which workers route like those of clients, back through the gateways. HAProxy before 3.0 runs as root then. Run `gatewayctl bootstrap` after a change: it is the gateways' limits that count. Default: none, and a gateway refuses such a Service.
	ClientSourceProbes []netip.Addr `yaml:"clientSourceProbes"`
	// HealthCheck is how HAProxy finds out that a worker is fit to serve.
	HealthCheck HealthCheck `yaml:"healthCheck"`
	// DrainTime is how long connections to a worker live on that gets no more of them, `1s` to `24h` in whole seconds: one that was deleted, is to be deleted by the cluster autoscaler (taint `ToBeDeletedByClusterAutoscaler`), carries the label `node.kubernetes.io/exclude-from-external-load-balancers`, or is not chosen by a Service any more. So long live connections, too, of a client that may not connect to a Service any more. A Service has another one with annotation `cloud-provider-haproxy/drain-timeout`. Default `5m`.
	DrainTime Duration `yaml:"drainTime"`
}

// HealthCheck is how HAProxy checks a worker.
type HealthCheck struct {
	// Type is `kube-proxy` (GET `path` at kube-proxy's health port, which fails also while a node is being removed), `tcp` (connect to `port`), or `none`. kube-proxy's port must be reachable: k3s binds it to loopback and Cilium has none unless asked for; take `tcp` there. Default `kube-proxy`.
	Type string `yaml:"type"`
	// Port is the port that is checked. Default `10256` for `kube-proxy`; `tcp` needs one that every worker listens on, for example `10250`, the kubelet's.
	Port int `yaml:"port"`
	// Path is the HTTP path for `kube-proxy`. Default `/healthz`.
	Path string `yaml:"path"`
	// Interval is the time between two checks of one worker, `100ms` to `1h`. Default `2s`.
	Interval Duration `yaml:"interval"`
	// Rise is how many checks in a row must succeed before a worker gets connections, 1 to 100. Default `2`.
	Rise int `yaml:"rise"`
	// Fall is how many checks in a row must fail before it gets no more, 1 to 100. Default `3`.
	Fall int `yaml:"fall"`
}

// ControlPlane makes the gateways carry the API server's address.
type ControlPlane struct {
	// Address is the floating address of the API server, in no Service's hands ever.
	Address netip.Addr `yaml:"address"`
	// Port is the API server's port at that address. Default `6443`.
	Port int `yaml:"port"`
	// Interface is the network interface of every gateway that holds the address. Default: each gateway's own `interface`.
	Interface string `yaml:"interface"`
	// Endpoints are the API servers, as address or address:port (`192.0.2.11`, `[2001:db8::11]:6443`). The default port is 6443.
	Endpoints []string `yaml:"endpoints" like:"192.0.2.11"`
	// EndpointsFromNodes adds the Nodes with the label `node-role.kubernetes.io/control-plane` to `endpoints`, once the cluster runs: each at an address found as for workers (see `nodes`), of the family of the first of `endpoints`, and at the port of `endpoints`, which must be one for all. Whether the Node is ready does not matter, the check decides. `endpoints` always stay, and when no Node has the label, those that were known stay too. Default `false`.
	EndpointsFromNodes bool `yaml:"endpointsFromNodes"`
	// ExtraPorts are further ports of the same machines at the same address, each with servers and checks of its own: konnectivity's server, a distribution's join API.
	ExtraPorts []ExtraPort `yaml:"extraPorts"`
	// Check is how HAProxy finds out that an API server is fit to serve.
	Check ControlPlaneCheck `yaml:"check"`
}

// ExtraPort is one more port of the control plane.
type ExtraPort struct {
	// Port is the port at the floating address.
	Port int `yaml:"port"`
	// EndpointPort is the port at each endpoint's address, which is checked by connecting to it. Default: `port`.
	EndpointPort int `yaml:"endpointPort"`
}

// ControlPlaneCheck is how HAProxy checks an API server.
type ControlPlaneCheck struct {
	// Type is `https` (GET `path`, which an API server without anonymous access refuses; the certificate must come from `caFile`), `tls` (connect and complete the TLS handshake), `tcp` (connect), or `none`. If all fail the check, all are used. Default: `https` with a `caFile`, else `tls`.
	Type string `yaml:"type"`
	// Port is the port that is checked. Default: the endpoints' port, when they have all the same.
	Port int `yaml:"port"`
	// CAFile holds the certificates, in PEM, that an API server's must come from: the cluster's CA, `/etc/kubernetes/pki/ca.crt` of kubeadm. What it holds is sent to the gateways when the controller starts, or by `gatewayctl push`. A relative path starts at the configuration file's directory.
	CAFile CAFile `yaml:"caFile"`
	// Path is the HTTP path for `https`. Default `/readyz`.
	Path string `yaml:"path"`
	// Interval is the time between two checks of one API server, `100ms` to `1h`. Default `1s`.
	Interval Duration `yaml:"interval"`
	// Rise is how many checks in a row must succeed before an API server gets connections, 1 to 100. Default `2`.
	Rise int `yaml:"rise"`
	// Fall is how many checks in a row must fail before it gets no more, 1 to 100. Default `3`.
	Fall int `yaml:"fall"`
}

// CAFile is a file of certificates. Load reads it.
type CAFile struct{ Path, PEM string }

// UnmarshalText reads the path.
func (f *CAFile) UnmarshalText(text []byte) error {
	f.Path = string(text)
	return nil
}

// Form says what is allowed.
func (f *CAFile) Form() string { return "the path of a file" }

// Duration is a time span, written as Go writes it: 200ms, 1.5s, 2m.
type Duration time.Duration

// UnmarshalText reads Go's form of a duration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

// Form says what is allowed.
func (d *Duration) Form() string { return "a duration (200ms, 5s, 1m)" }

// String gives Go's form of a duration.
func (d Duration) String() string { return time.Duration(d).String() }

// Millis gives the duration in whole milliseconds.
func (d Duration) Millis() int { return int(time.Duration(d).Milliseconds()) }
