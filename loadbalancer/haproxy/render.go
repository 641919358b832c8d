package haproxy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"cloud-provider-haproxy/loadbalancer/desired"
)

//go:embed templates/haproxy.cfg.tmpl
var configText string

// configTemplate is parsed once: that takes longer than a rendering for some Services.
var configTemplate = template.Must(template.New("haproxy.cfg").Parse(configText))

// generationMark stands for the Generation until the rest of the file, which it digests, is rendered.
const generationMark = "<generation>"

// view is what the template sees.
type view struct {
	Local
	Generation                 string
	OldWorkersSeconds          int
	ServicesMaxConn            int
	NodeServer, EndpointServer string
	NodePath, EndpointPath     string
	Nodes, NodesOpen           []Server
	Nodes6, Nodes6Open         []Server
	ControlPlane               bool
	Endpoints, EndpointsOpen   []Server
	ExtraPorts                 []extraPort
	Slots                      []slotView
	Peers                      []peer
	Affinities                 []affinity
}

// extraPort is one more port of the control plane.
type extraPort struct {
	Backend       string
	Port          uint16
	ServerWords   string // of all servers
	Servers, Open []Server
}

// slotView is one slot, taken or not.
type slotView struct {
	Name     string
	Tenant   string // empty: free
	Balance  []string
	Timeouts []string
	HTTP     bool
	Servers  []Server
}

// Render makes the configuration of one gateway from a valid State (desired.State.Validate). Load balancers with a Pool
// that slots leaves out get no map entry, so that their ports refuse.
//
// The error is desired.Faults when the State has something that this HAProxy cannot be told, with the owner of each
// fault that one load balancer alone is behind.
func Render(s *desired.State, l Local, slots Slots) (*Config, error) {
	if err := checkInput(s, l, slots); err != nil {
		return nil, err
	}
	c := &Config{Local: l, Servers: map[string][]Server{}, tenants: map[string]Tenant{}}
	v := view{Local: l, Generation: generationMark, OldWorkersSeconds: int(l.OldWorkers.Seconds())}
	if l.MaxConn > 0 {
		v.ServicesMaxConn = l.servicesMaxConn(l.MaxConn)
	}
	v.Peers = peers(s, l)
	v.Affinities, _ = affinities(s)
	c.nodes(s, &v)
	c.controlPlane(s, &v)
	c.slots(s, slots, &v)
	c.entries(s, slots)
	c.ServicesMap, c.ChecksMap = mapFile(c.Entries), mapFile(c.Checks)

	var file bytes.Buffer
	if err := configTemplate.Execute(&file, v); err != nil {
		return nil, fmt.Errorf("rendering haproxy.cfg: %w", err)
	}
	c.Generation = generation(file.Bytes())
	c.File = bytes.Replace(file.Bytes(), []byte(generationMark), []byte(c.Generation), 1)
	c.owners = slotLines(c.File, c.tenants)
	return c, nil
}

// servicesMaxConn is what the Services' frontend may hold when HAProxy holds at most global connections.
//
// Without a configured maxconn the file cannot say it: HAProxy derives its own from the file descriptors it is given, and
// tells it in `show info`. Compare then asks for `set maxconn frontend services`, right after each start. The reserve is
// never more than a quarter, so that a small gateway still serves.
func (l Local) servicesMaxConn(global int) int { return global - min(l.Reserve, global/4) }

func (c *Config) nodes(s *desired.State, v *view) {
	for _, node := range s.Nodes {
		// A VIP of either family reaches a node through its first address: HAProxy ends the client's connection.
		server := Server{Name: node.Name, Addr: node.Addresses[0], Weight: 1, Check: s.NodeCheck}
		v.Nodes = append(v.Nodes, server)
		if address, ok := node.IPv6(); ok {
			server.Addr = address
			v.Nodes6 = append(v.Nodes6, server)
		}
	}
	v.Nodes, v.NodesOpen = twins(v.Nodes)
	v.Nodes6, v.Nodes6Open = twins(v.Nodes6)
	v.NodeServer = Server{Weight: 1, Check: s.NodeCheck}.words()
	v.NodePath = path(s.NodeCheck)
	c.Servers[nodesBackend], c.Servers[nodesOpenBackend] = v.Nodes, v.NodesOpen
	c.Servers[nodes6Backend], c.Servers[nodes6OpenBackend] = v.Nodes6, v.Nodes6Open
}

func (c *Config) controlPlane(s *desired.State, v *view) {
	if s.ControlPlane == nil {
		return
	}
	v.ControlPlane = true
	server := Server{Weight: 1, Check: s.ControlPlane.Check}
	switch ca := s.ControlPlane.CA; {
	case ca != "":
		c.CA, c.CAFile = []byte(ca), c.Local.caFile([]byte(ca))
		server.CAFile = c.CAFile
	case server.Check.Kind == desired.CheckHTTPS:
		server.Check.Kind = desired.CheckTLS
	}
	v.EndpointServer = server.words()
	for _, e := range s.ControlPlane.Endpoints {
		server.Name, server.Addr, server.Port = fmt.Sprintf("%s-%d", e.Addr(), e.Port()), e.Addr(), e.Port()
		v.Endpoints = append(v.Endpoints, server)
	}
	v.Endpoints, v.EndpointsOpen = twins(v.Endpoints)
	v.EndpointPath = path(server.Check)
	c.Servers[controlPlaneBackend], c.Servers[controlPlaneOpenBackend] = v.Endpoints, v.EndpointsOpen
	for _, e := range s.ControlPlane.ExtraPorts {
		c.extraPort(s.ControlPlane, e, v)
	}
}

// extraPort makes servers of the same machines for another port of theirs. Who answers there is not known, so a check
// connects and no more; machines that serve twice at one port are one server.
func (c *Config) extraPort(p *desired.ControlPlane, e desired.ExtraPort, v *view) {
	check := p.Check
	if check.Kind != desired.CheckNone {
		check.Kind, check.Port, check.Path = desired.CheckTCP, e.EndpointPort, ""
	}
	x := extraPort{Backend: fmt.Sprintf("%s-%d", controlPlaneBackend, e.Port), Port: e.Port}
	server := Server{Weight: 1, Check: check}
	x.ServerWords = server.words()
	for _, endpoint := range p.Endpoints {
		server.Name, server.Addr, server.Port = fmt.Sprintf("%s-%d", endpoint.Addr(), e.EndpointPort), endpoint.Addr(), e.EndpointPort
		if !slices.Contains(x.Servers, server) {
			x.Servers = append(x.Servers, server)
		}
	}
	x.Servers, x.Open = twins(x.Servers)
	c.Servers[x.Backend], c.Servers[x.Backend+openSuffix] = x.Servers, x.Open
	v.ExtraPorts = append(v.ExtraPorts, x)
}

// caFile names the file of these certificates.
func (l Local) caFile(ca []byte) string {
	sum := sha256.Sum256(ca)
	extension := filepath.Ext(l.ControlPlaneCA)
	return strings.TrimSuffix(l.ControlPlaneCA, extension) + "-" + hex.EncodeToString(sum[:8]) + extension
}

// twins sorts servers by name and gives them once more without a check.
func twins(servers []Server) (checked, open []Server) {
	slices.SortFunc(servers, func(a, b Server) int { return cmp.Compare(a.Name, b.Name) })
	for _, server := range servers {
		open = append(open, server.unchecked())
	}
	return servers, open
}

// path is what an HTTP check asks for, empty for another check.
func path(check desired.Check) string {
	if check.Kind == desired.CheckHTTP || check.Kind == desired.CheckHTTPS {
		return check.Path
	}
	return ""
}

func (c *Config) slots(s *desired.State, slots Slots, v *view) {
	tenants := map[string]need{}
	for _, n := range needs(s) {
		if slot := slots.of(n.Tenant); slot != "" {
			tenants[slot] = n
		}
	}
	for _, kind := range slots.kinds() {
		for _, name := range slots.names(kind, c.Local) {
			slot := slotView{Name: name, Balance: kind.balance(), Timeouts: kind.timeoutLines(), HTTP: kind.check == desired.CheckHTTP}
			if n, ok := tenants[name]; ok {
				slot.Tenant, c.tenants[name] = n.String(), n.Tenant
				slot.Servers = n.servers()
				if slot.HTTP {
					c.Checks = append(c.Checks, Entry{name, n.pool.Check.Path})
				}
			}
			v.Slots = append(v.Slots, slot)
			c.Servers[name] = slot.Servers
		}
	}
	sortEntries(c.Checks)
	c.pods = pods(s)
}

// entries makes an entry for each address and TCP port:
//
//	192.0.2.10:80 nodes|32689|namespace/name|AFFINITY|LIMIT|RATE|LOG
//
// Who asks for none of the last four has |0|0|0|0 there, which HAProxy looks for.
//
// The key is what HAProxy makes of a destination: inet_ntop(3), which netip writes alike, without brackets for IPv6.
func (c *Config) entries(s *desired.State, slots Slots) {
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		for _, f := range lb.Frontends {
			if f.Protocol != desired.TCP {
				continue // nftables forwards the other protocols itself
			}
			value, ok := route(lb, f, slots)
			if !ok {
				continue
			}
			for _, address := range lb.Addresses {
				c.Entries = append(c.Entries, Entry{mapKey(address, f.Port), value})
			}
		}
	}
	sortEntries(c.Entries)
}

// route is the value of a frontend's entries; false when it needs a slot and has none. The port is 0 where servers have one of
// their own: the destination stays the VIP's, and the PROXY protocol's header says so.
func route(lb *desired.LoadBalancer, f desired.Frontend, slots Slots) (value string, ok bool) {
	backend, port := nodesBackend, f.NodePort
	if lb.IPv6Only() {
		backend = nodes6Backend
	}
	if tenant, needed := TenantOf(lb, f); needed {
		if backend = slots.of(tenant); backend == "" {
			return "", false
		}
		if tenant.Port != 0 {
			port = 0
		}
	}
	return fmt.Sprintf("%s|%d|%s|%s", backend, port, lb.Key, knobs(lb)), true
}

func mapKey(address netip.Addr, port uint16) string {
	return address.Unmap().WithZone("").String() + ":" + strconv.Itoa(int(port))
}

func sortEntries(entries []Entry) {
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(a.Key, b.Key) })
}

func mapFile(entries []Entry) []byte {
	var b bytes.Buffer
	for _, e := range entries {
		b.WriteString(e.Key)
		b.WriteByte(' ')
		b.WriteString(e.Value)
		b.WriteByte('\n')
	}
	return b.Bytes()
}
