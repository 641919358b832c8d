package provider

import (
	"slices"
	"strings"
)

// Prefix begins the key of every annotation that we read.
const Prefix = "cloud-provider-haproxy/"

// Annotation is the key of a Service's annotation. The doc comment of each constant is its manual: README.md's table is
// made from them, see reference_test.go.
type Annotation string

const (
	// LoadBalancerIPs requests addresses by name: one IPv4 address, one IPv6 address, or both with a comma between
	// (`192.0.2.70` or `192.0.2.70,2001:db8::70`). They must lie in a pool that admits the Service, and be free. A
	// changed value moves the Service. The older field `spec.loadBalancerIP` does the same for one address; if both are
	// set they must agree. Default: an address of the first pool that has one.
	LoadBalancerIPs Annotation = Prefix + "load-balancer-ips"
	// AddressPool names the pools that addresses are taken from: one, or several with commas between, in the order in
	// which they are asked (`gold` or `gold,silver`). Each must exist and admit the Service. When the annotation is
	// changed, a Service whose address lies in none of them gets another one; when the pools are changed it keeps the
	// address, and an Event says so. Default: first the pools that choose their Services and admit this one,
	// then the others that assign addresses unasked, each by priority.
	AddressPool Annotation = Prefix + "address-pool"
	// AllowSharedIP lets Services share an address: those that say the same key here, any text (`frontend`), while no
	// two of them have the same port of the same protocol. Only Services of one namespace share, unless the address'
	// pool has `shareAcrossNamespaces: true`. The key can be changed while nobody else has the address. Default: the
	// Service's addresses are its own.
	AllowSharedIP Annotation = Prefix + "allow-shared-ip"
	// DenySourceRanges names clients that may not connect, whatever `spec.loadBalancerSourceRanges` allows: IPv4 and
	// IPv6 ranges with commas between (`198.51.100.0/24,2001:db8:66::/48`). The gateways refuse their connections at
	// once; those that are established are reset after the drain time (`drain-timeout`). Pods of the cluster are refused
	// only if `ipMode` is `Proxy`: else kube-proxy answers them, which knows `spec.loadBalancerSourceRanges` alone.
	// Default: nobody is denied.
	DenySourceRanges Annotation = Prefix + "deny-source-ranges"
	// KeepIP with `true` keeps the Service's addresses for it when it is deleted, or is no longer of type LoadBalancer:
	// only a Service of the same namespace and name gets them, until somebody deletes their entries in the ConfigMap
	// `kube-system/cloud-provider-haproxy-addresses`. `true` or `false`. Default `false`.
	KeepIP Annotation = Prefix + "keep-ip"
	// NodeSelector names the nodes that get the Service's connections by their labels, written as for `kubectl get nodes
	// -l` (`zone=a,disk in (ssd, nvme),!legacy`). Labels of nodes are followed: a node that matches no longer gets no new
	// connection at once. If no node matches, connections are refused; so they are when none of those that match passes
	// the health check. Default: all nodes.
	NodeSelector Annotation = Prefix + "node-selector"
	// ProxyProtocol has the gateways begin each TCP connection with a header of the PROXY protocol, which tells the pod the
	// client's address and the address and port that it connected to: `v1` or `v2` for all TCP ports, or for single ones by
	// number or name (`443=v2,smtp=v1`). Every pod behind the port must expect the header. `ipMode` in the Service's status
	// is `Proxy` then, so that pods of the cluster come by way of the gateways too (KEP-1860). The Service fails closed.
	// Default: no header.
	ProxyProtocol Annotation = Prefix + "proxy-protocol"
	// Algorithm says which node gets the next TCP connection: `roundrobin`, each in turn; `leastconn`, the one with the
	// fewest connections, for long ones; `source`, the same client the same node as long as nodes stay, by a hash of its
	// address; `random`, the less loaded of two that are drawn. With `externalTrafficPolicy: Local` by the number of a
	// node's pods. A client with `sessionAffinity: ClientIP` goes where it went before, whatever is said here. The Service
	// fails closed. Default: `roundrobin`, for all Services without an annotation of this kind together.
	Algorithm Annotation = Prefix + "algorithm"
	// TimeoutConnect bounds one attempt to connect to a node, `50ms` to `1m`; after it another node is tried, three times.
	// HAProxy reloads when it changes. The Service fails closed. Default `1s`.
	TimeoutConnect Annotation = Prefix + "timeout-connect"
	// TimeoutIdle is how long a TCP connection may be silent in both directions before it is ended, `1s` to `168h`, and how
	// long a flow of UDP that was answered is remembered without a datagram, at most `24h`, a gateway taking the next longer
	// time that it has. For TCP HAProxy reloads when it changes, and the Service fails closed. Default: `1h` for TCP, the
	// gateway's kernel's for UDP (120 seconds).
	TimeoutIdle Annotation = Prefix + "timeout-idle"
	// ConnectionLimit is how many TCP connections each port takes at a time at one gateway, 1 to 10000000; more are refused.
	// Default: as many as the gateway has room for.
	ConnectionLimit Annotation = Prefix + "connection-limit"
	// ConnectionRateLimit is how many new TCP connections a second, averaged over ten seconds, one client address (of
	// IPv6: one network of 64 bits) may open to each port at one gateway, 1 to 10000000; more are refused. Clients behind one
	// router are one address. Default: no limit.
	ConnectionRateLimit Annotation = Prefix + "connection-rate-limit"
	// DrainTimeout is how long connections live on to a node that gets no more of them because it left or is not chosen any
	// more, and those of a client that may not connect any more, `1s` to `24h` in whole seconds. Default: `nodes.drainTime`
	// of the configuration.
	DrainTimeout Annotation = Prefix + "drain-timeout"
	// HealthCheckProtocol is how the nodes are checked: `tcp` (connect), `http` (GET `health-check-path`; a status of 2xx or
	// 3xx passes), `https` (the same over TLS, no certificate is verified) or `none`. With `externalTrafficPolicy: Local`
	// the field `spec.healthCheckNodePort` says it, and this, `health-check-port` and `health-check-path` have no effect. Pods
	// that serve without a nodePort are checked so if all ports of the Service are such; else by connecting, unless it is
	// `none`. The Service fails closed. Default: as the configuration's `nodes.healthCheck` has it.
	HealthCheckProtocol Annotation = Prefix + "health-check-protocol"
	// HealthCheckPort is the port of every node that is checked: a number, or the name of one of the Service's TCP ports,
	// whose NodePort is meant. The Service fails closed. Default: the NodePort of the Service's first TCP port if
	// `health-check-protocol` is set, else the configuration's.
	HealthCheckPort Annotation = Prefix + "health-check-port"
	// HealthCheckPath is what `http` and `https` ask for: `/` and then at most 255 letters, digits and characters of
	// `/-._~%:@&+,=?`. The Service fails closed. Default: `/` if `health-check-protocol` is set, else the configuration's.
	HealthCheckPath Annotation = Prefix + "health-check-path"
	// HealthCheckInterval is the time between two checks of a node by one gateway, `100ms` to `1h`. A check that has not
	// connected by then has failed. The Service fails closed. Default: the configuration's (`2s`).
	HealthCheckInterval Annotation = Prefix + "health-check-interval"
	// HealthCheckTimeout bounds the wait for the answer to a check, `50ms` to `1m`. HAProxy reloads when it changes. The
	// Service fails closed. Default `2s`.
	HealthCheckTimeout Annotation = Prefix + "health-check-timeout"
	// HealthCheckHealthyThreshold is how many checks in a row must pass before a node gets connections, 1 to 100. The
	// Service fails closed. Default: the configuration's (2); with `externalTrafficPolicy: Local` 1.
	HealthCheckHealthyThreshold Annotation = Prefix + "health-check-healthy-threshold"
	// HealthCheckUnhealthyThreshold is how many checks in a row must fail before a node gets no more connections, 1 to 100.
	// The Service fails closed. Default: the configuration's (3).
	HealthCheckUnhealthyThreshold Annotation = Prefix + "health-check-unhealthy-threshold"
	// PreferredGateway names the gateway of the configuration (as it was when the controller started) that holds the Service's
	// addresses while it is able to. A changed value moves them, which cuts their connections; a removed one leaves them where they are. Of Services that
	// share an address the eldest that names a gateway decides. If there is no gateway of this name an Event says so, and the
	// Service is served all the same. Default: the addresses are spread over the gateways.
	PreferredGateway Annotation = Prefix + "preferred-gateway"
	// Hostname is published in the Service's status instead of its addresses (`lb.example.com`), as with other clouds. It is
	// for you to let the name resolve to the addresses, which an Event names, again when they change, and `gatewayctl pools`.
	// kube-proxy answers for addresses and for no name, so that pods of the cluster come by way of the gateways. The addresses stand with the
	// gateways alone then: request them with `load-balancer-ips` if they must outlive all gateways made anew. Default: the
	// addresses are published.
	Hostname Annotation = Prefix + "hostname"
	// SourceAddress with `client` has the nodes, and with `externalTrafficPolicy: Local` the pods, see the client's address without a
	// header, for TCP, UDP and SCTP. It takes the consent of the gateways' owner, and workers that send their answers back through the
	// gateways: see "Clients' addresses". Not with `proxy-protocol`, nor for ports that pods serve. Pods that terminate serve nobody, even
	// when no others are left. The Service fails closed. Default `gateway`: nodes see a gateway, of UDP and SCTP the Service's address.
	SourceAddress Annotation = Prefix + "source-address"
	// Log with `true` has every TCP connection logged by HAProxy, not only those that failed. `true` or `false`. Default
	// `false`.
	Log Annotation = Prefix + "log"
)

// annotations gives every key that we read, sorted.
func annotations() []Annotation {
	return []Annotation{AddressPool, Algorithm, AllowSharedIP, ConnectionLimit, ConnectionRateLimit, DenySourceRanges,
		DrainTimeout, HealthCheckHealthyThreshold, HealthCheckInterval, HealthCheckPath, HealthCheckPort, HealthCheckProtocol,
		HealthCheckTimeout, HealthCheckUnhealthyThreshold, Hostname, KeepIP, LoadBalancerIPs, Log, NodeSelector,
		PreferredGateway, ProxyProtocol, SourceAddress, TimeoutConnect, TimeoutIdle}
}

// unknownAnnotations gives the keys with our prefix that nobody reads, sorted.
func unknownAnnotations(all map[string]string) []string {
	var unknown []string
	for key := range all {
		if strings.HasPrefix(key, Prefix) && !slices.Contains(annotations(), Annotation(key)) {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return unknown
}

// nearest gives the known key with the fewest edits to key.
func nearest(key string) Annotation {
	return slices.MinFunc(annotations(), func(a, b Annotation) int {
		return edits(key, string(a)) - edits(key, string(b))
	})
}

// edits is Levenshtein's distance: how many letters must be added, removed or replaced to make a into b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
