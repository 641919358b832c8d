package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A load balancer with ClientSource has slots of a kind of their own, one for each family that its VIPs have: there `source PROBE usesrc
// clientip` has HAProxy connect from the client's address, which a server of the other family could not be reached from. The
// check of such a server connects from PROBE, an address of this gateway that workers route like those of clients
// (Local.ClientSourceProbes): so who passes it has shown that its answers come back here, before it gets a connection and for as long as
// it has some. HAProxy uses the client's address for connections alone, the one behind `source` for checks (tcp_connect_server
// of src/proto_tcp.c: a check has no client).

// clientFamily says of which family the clients are whose addresses a slot connects from; noClients: HAProxy's own is used.
type clientFamily int

const (
	noClients   clientFamily = 0
	clientsIPv4 clientFamily = 4
	clientsIPv6 clientFamily = 6
)

func familyOf(a netip.Addr) clientFamily { return clientFamily(desired.FamilyOf(a)) }

// clientWord is what a kind's name has in it: "client4".
const clientWord = "client"

// clientDownInterval is the longest time in milliseconds between two checks of a server that fails its check. Where a VIP is not held
// all of them do: answers go to the gateway that holds it. When it comes, so do they.
const clientDownInterval = 250

// probe is where checks of servers are made from whose clients are of the family; the zero Addr: this gateway's owner allows none.
func (l Local) probe(family clientFamily) netip.Addr {
	probe, _ := desired.OfFamily(l.ClientSourceProbes, int(family))
	return probe
}

// allows says whether this gateway may have slots of the kind.
func (l Local) allows(k slotKind) bool { return k.client == noClients || l.probe(k.client).IsValid() }

// clientFamilies are those that there are slots for, IPv4 first.
func (l Local) clientFamilies() (families []clientFamily) {
	for _, family := range []clientFamily{clientsIPv4, clientsIPv6} {
		if l.probe(family).IsValid() {
			families = append(families, family)
		}
	}
	return families
}

// clientSourceMark begins the line of global that tells people, and Generation, that HAProxy may connect from clients' addresses.
const (
	clientSourceMark = "  # client-source: "
	clientSourcePart = "client-source"
)

// RunsAs are the lines of global that say as whom the worker runs. To bind to another machine's address takes CAP_NET_RAW (or
// CAP_NET_ADMIN) and nothing else. From 3.0 on the worker keeps it when it changes its user (setcap). What is older loses it, and so refuses
// to start with a user and usesrc in one file, 2.9 also with setcap (src/haproxy.c, LSTCHK_NETADM; commit e4306fb82). `haproxy -c` does not see it.
func (l Local) RunsAs() []string {
	confined := []string{"  user " + l.User, "  group " + l.Group}
	if len(l.ClientSourceProbes) == 0 {
		return confined
	}
	var probes []string
	for _, a := range l.ClientSourceProbes {
		probes = append(probes, a.String())
	}
	mark := clientSourceMark + "limits.yaml allows connections from clients' addresses, and checks from " + strings.Join(probes, " and ")
	if l.Root() {
		return []string{mark + "; before HAProxy 3.0 that takes root: no user, no group"}
	}
	return append(confined, mark, "  setcap cap_net_raw")
}

// sourceLine is the slot's own line; empty: HAProxy connects from an address of the gateway.
func (k slotKind) sourceLine(l Local) string {
	if k.client == noClients {
		return ""
	}
	probe := Server{Addr: l.probe(k.client)}
	return fmt.Sprintf("source %s usesrc clientip", probe.address())
}

// tenantsOf are those who serve a frontend: two, where the client's address is kept and there are VIPs of both families.
func tenantsOf(lb *desired.LoadBalancer, f desired.Frontend) (tenants []Tenant) {
	for _, vip := range lb.Addresses {
		if tenant, ok := tenantAt(lb, f, vip); ok && !slices.Contains(tenants, tenant) {
			tenants = append(tenants, tenant)
		}
	}
	return tenants
}

// tenantAt tells who serves a frontend at one of its VIPs.
func tenantAt(lb *desired.LoadBalancer, f desired.Frontend, vip netip.Addr) (Tenant, bool) {
	tenant, ok := TenantOf(lb, f)
	if ok && lb.ClientSource {
		tenant.Client = familyOf(vip)
	}
	return tenant, ok
}

// ofClients is the pool at the addresses of a family. A node's others stand in State.Nodes; who has none of the family cannot serve
// it. Backups are left out, for nobody checks them: whether their answers come back is not known.
func ofClients(s *desired.State, pool *desired.Pool, family clientFamily) *desired.Pool {
	if family == noClients {
		return pool
	}
	own := *pool
	own.Servers = nil
	if d := &own.Check.DownIntervalMillis; own.Check.IntervalMillis > clientDownInterval && (*d == 0 || *d > clientDownInterval) {
		*d = clientDownInterval
	}
	for _, server := range pool.Servers {
		addresses := s.AddressesOf(server)
		i := slices.IndexFunc(addresses, func(a netip.Addr) bool { return familyOf(a) == family })
		if i < 0 || server.Backup {
			continue
		}
		server.Address = addresses[i]
		own.Servers = append(own.Servers, server)
	}
	return &own
}

// clientSource refuses what cannot be proven.
func (in *input) clientSource(lb *desired.LoadBalancer) {
	if !lb.ClientSource {
		return
	}
	if lb.Pool == nil || lb.Pool.Check.Kind == desired.CheckNone {
		in.fault("clientSource", "is set, and the servers are not checked: whether their answers come back through the gateway would not be known")
	}
	if i := slices.IndexFunc(lb.Frontends, func(f desired.Frontend) bool { return f.Pool != nil }); i >= 0 {
		in.fault("clientSource", fmt.Sprintf("is set, and frontends[%d] has servers of its own: only nodes are known to send answers back", i))
	}
}

// AtVIP gives the slot that serves a load balancer at a VIP, those frontends that have none of their own; empty when there is none.
func (slots Slots) AtVIP(lb *desired.LoadBalancer, vip netip.Addr) string {
	if !lb.ClientSource {
		return slots.At(lb.Key, 0)
	}
	for tenant, slot := range slots {
		if tenant.Key == lb.Key && tenant.Port == 0 && tenant.Client == familyOf(vip) {
			return slot
		}
	}
	return ""
}

// Root says whether the worker stays root.
func (l Local) Root() bool {
	return len(l.ClientSourceProbes) > 0 && (l.Version == "" || !atLeast(l.Version, 3, 0))
}
