package haproxy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Tenant is whom a slot serves: a load balancer, or one TCP port of it whose servers have ports of their own.
type Tenant struct {
	desired.Key
	// Port is the frontend's; 0: those frontends of the load balancer that have no slot of their own.
	Port uint16
	// Proxy is the header that the servers of a frontend get. It makes another tenant, and so another slot: while a slot
	// serves, nobody can tell which connection gets which header.
	Proxy desired.ProxyProtocol
	// Check is how the servers are checked, as far as HAProxy can neither change nor tell it while they run. It makes another
	// tenant too: with new servers in another slot the change is in effect at once, and nobody is refused. Empty: not known.
	Check string
	// Client is the family of VIPs that are served, where the servers see their clients' addresses.
	Client clientFamily
}

// TenantOf tells who serves a frontend; false when no slot does: the shared pool of nodes, or nftables alone.
func TenantOf(lb *desired.LoadBalancer, f desired.Frontend) (Tenant, bool) {
	port, ok := lb.SlotOf(f)
	if !ok {
		return Tenant{}, false
	}
	tenant := Tenant{Key: lb.Key, Port: port, Check: fixed(lb, f)}
	if port != 0 {
		tenant.Proxy = f.ProxyProtocol
	}
	return tenant, true
}

// fixed tells what of a frontend's check cannot be changed. Its port is the server's own, its path stands in a map.
func fixed(lb *desired.LoadBalancer, f desired.Frontend) string {
	c := lb.PoolOf(f).Check
	if c.Kind == desired.CheckNone {
		return string(c.Kind)
	}
	text := fmt.Sprintf("%s,%d,%d,%d,%d", c.Kind, c.IntervalMillis, c.Rise, c.Fall, c.DownIntervalMillis)
	if checkProxied(lb, f) {
		text += ",proxy"
	}
	return text
}

// checkProxied says whether a frontend's check begins with a PROXY protocol's header: who answers at the checked port expects one when
// it is where another frontend, or this one, sends clients with a header. It expects none anywhere else: kube-proxy's healthz
// would refuse it.
func checkProxied(lb *desired.LoadBalancer, f desired.Frontend) bool {
	c := lb.PoolOf(f).Check
	port := c.Port
	serves := func(g desired.Frontend) bool { // at the machines that are checked
		if f.Pool == nil {
			return g.NodePort == port
		}
		return g.Pool != nil && slices.ContainsFunc(g.Pool.Servers, func(s desired.Server) bool { return s.Port == port })
	}
	switch {
	case c.Kind == desired.CheckNone:
		return false
	case f.Pool != nil && (port == 0 || serves(f)):
		return f.ProxyProtocol != desired.ProxyNone
	}
	return slices.ContainsFunc(lb.Frontends, func(g desired.Frontend) bool {
		return g.Protocol == desired.TCP && g.ProxyProtocol != desired.ProxyNone && serves(g)
	})
}

// String gives "namespace/name", "namespace/name:443" or "namespace/name:443=v2", and "@6" behind it for clients of IPv6.
func (t Tenant) String() string {
	text := t.Key.String()
	if t.Port != 0 {
		text += ":" + strconv.Itoa(int(t.Port))
	}
	if t.Proxy != desired.ProxyNone {
		text += "=" + string(t.Proxy)
	}
	if t.Client != noClients {
		text += "@" + strconv.Itoa(int(t.Client))
	}
	return text
}

// text is String and, with a blank between, Check.
func (t Tenant) text() string {
	if t.Check == "" {
		return t.String()
	}
	return t.String() + " " + t.Check
}

// MarshalText is for Slots, which are a JSON object of strings.
func (t Tenant) MarshalText() ([]byte, error) { return []byte(t.text()), nil }

// UnmarshalText is the reverse of MarshalText. What agents wrote before slots had ports is a Tenant without one.
func (t *Tenant) UnmarshalText(text []byte) error {
	name, check, _ := strings.Cut(string(text), " ")
	name, client, _ := strings.Cut(name, "@")
	name, proxy, _ := strings.Cut(name, "=")
	name, port, ported := strings.Cut(name, ":")
	namespace, name, ok := strings.Cut(name, "/")
	*t = Tenant{Key: desired.Key{Namespace: namespace, Name: name}, Proxy: desired.ProxyProtocol(proxy), Check: check}
	if ported {
		n, err := strconv.ParseUint(port, 10, 16)
		t.Port, ok = uint16(n), ok && err == nil
	}
	if client != "" {
		n, err := strconv.Atoi(client)
		t.Client, ok = clientFamily(n), ok && err == nil
	}
	if !ok {
		return fmt.Errorf("%q names no load balancer, as namespace/name or namespace/name:port", text)
	}
	return nil
}

// Compare orders by key, then port.
func (t Tenant) Compare(other Tenant) int {
	return cmp.Or(t.Key.Compare(other.Key), cmp.Compare(t.Port, other.Port), cmp.Compare(t.Proxy, other.Proxy), cmp.Compare(t.Check, other.Check), cmp.Compare(t.Client, other.Client))
}

// need is a tenant with what the slot has to have.
type need struct {
	Tenant
	pool     *desired.Pool
	timeouts *desired.Timeouts
	// nodePort is the port of servers that have none. 0 when the map's entries have it: then no server has a port.
	nodePort uint16
	// checkProxy: the check of each server begins with a header.
	checkProxy bool
}

func (n need) kind() (slotKind, error) {
	kind, err := kindOf(n.pool, n.timeouts)
	kind.client = n.Client
	return kind, err
}

// needs are all slots that a State needs, sorted by tenant.
func needs(s *desired.State) []need {
	var all []need
	for i := range s.LoadBalancers {
		lb, known := &s.LoadBalancers[i], map[Tenant]bool{}
		for _, f := range lb.Frontends {
			for _, tenant := range tenantsOf(lb, f) {
				if known[tenant] {
					continue
				}
				known[tenant] = true
				n := need{Tenant: tenant, pool: ofClients(s, lb.PoolOf(f), tenant.Client), timeouts: lb.Timeouts, checkProxy: checkProxied(lb, f)}
				if tenant.Port != 0 {
					n.nodePort = f.NodePort
				}
				all = append(all, n)
			}
		}
	}
	slices.SortFunc(all, func(a, b need) int { return a.Tenant.Compare(b.Tenant) })
	return all
}
