package haproxy

import (
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// sticky is twoNodes with affinity, and clients that are addresses of the namespace.
func sticky(seconds int) *desired.State {
	s := twoNodes()
	s.LoadBalancers[0].AffinitySeconds = seconds
	return s
}

// vrrp1 is where gw1, which is the namespace, has its port for peers.
const vrrp1 = "10.0.0.2"

// client is the n-th client's address.
func client(n int) string { return "10.88.0." + strconv.Itoa(n) }

func clients(n int) (addresses []string) {
	for i := range n {
		addresses = append(addresses, client(i+1))
	}
	return addresses
}

// from opens a connection from an address and gives the NodePort that greeted.
func (d *daemon) from(source, address string) string {
	d.t.Helper()
	answer := d.ask("open once " + address + " " + source)
	if !strings.HasPrefix(answer, "error") {
		d.ask("close once")
	}
	return answer
}

// homes is where each client gets to.
func (d *daemon) homes(sources []string, address string) map[string]string {
	d.t.Helper()
	homes := map[string]string{}
	for _, source := range sources {
		homes[source] = d.from(source, address)
	}
	return homes
}

// wantHomes finds each client where it was, three times over, in another order than before.
func (d *daemon) wantHomes(homes map[string]string, address string) {
	d.t.Helper()
	for range 3 {
		for source, home := range homes {
			if got := d.from(source, address); got != home {
				d.t.Errorf("%s of client %s led to %q, want %q again", address, source, got, home)
			}
		}
	}
}

// wantSpread finds clients at two homes: else sticking to them would prove nothing.
func (d *daemon) wantSpread(homes map[string]string) {
	d.t.Helper()
	seen := map[string]bool{}
	for _, home := range homes {
		seen[home] = true
	}
	if len(seen) != 2 {
		d.t.Fatalf("clients got to %v, want them at two servers", seen)
	}
}

func TestClientsStick(t *testing.T) {
	state := sticky(usualAffinity)
	state.LoadBalancers = append(state.LoadBalancers,
		localPolicy("ingress", vipLocal, health(31991, "/31991"), serverAt("worker1", node1), serverAt("worker2", node2)))
	state.LoadBalancers[1].AffinitySeconds = usualAffinity
	sources := clients(8)
	d := startDaemon(t, state, slices.Concat(nodes(), sources, []string{vrrp1}), vips())
	d.nodePorts(node1+":30080", node1+":30081", node1+":30443", node1+":31991", node1+":10256", node2+":30080", node2+":30081", node2+":30443", node2+":31991", node2+":10256")
	d.apply(state)
	d.up("nodes", "worker1", "worker2")
	d.up("slot-http-roundrobin-1", "worker1", "worker2")
	shared, own := d.homes(sources, vip4+":80"), d.homes(sources, vipLocal+":80")
	d.wantSpread(shared)
	d.wantSpread(own)
	d.wantHomes(shared, vip4+":80")
	d.wantHomes(own, vipLocal+":80")

	d.handOver(d.render(state))
	d.up("nodes", "worker1", "worker2")
	d.wantHomes(shared, vip4+":80")
	d.wantHomes(own, vipLocal+":80")

	// Another port of the Service is another affinity, as it is for kube-proxy (kubernetes issue 103000).
	d.wantSpread(d.homes(sources, vipLocal+":443"))

	// Without affinity a client moves on; the table is not asked any more. That needs no reload, as apply sees.
	state.LoadBalancers[0].AffinitySeconds = 0
	d.apply(state)
	first := d.from(client(1), vip4+":80")
	if second := d.from(client(1), vip4+":80"); first == second {
		t.Errorf("a client without affinity got to %s twice", first)
	}
}

// A server that left is replaced by another one, which the client keeps, also when the first comes back. The new server has
// the old one's number within HAProxy.
func TestClientsStickToTheServerAfter(t *testing.T) {
	state := sticky(usualAffinity)
	state.LoadBalancers[0].Frontends = append(state.LoadBalancers[0].Frontends, tcpPort(81, 30081))
	sources := clients(6)
	d := startDaemon(t, state, slices.Concat(nodes(), sources, []string{vrrp1}), vips())
	d.nodePorts(node1+":30080", node1+":30081", node1+":10256", node2+":30080", node2+":30081", node2+":10256", "["+node6+"]:30080", "["+node6+"]:30081", "["+node6+"]:10256")
	d.up("nodes", "worker1", "worker2")
	before := d.homes(sources, vip4+":80")
	d.wantSpread(before)

	state.Nodes = append(state.Nodes[:1:1], desired.Node{Name: "worker3", Addresses: addrs(node6)})
	d.apply(state)
	d.apply(state)
	d.up("nodes", "worker3")
	if _, there := d.read().Backends["nodes"].Servers["worker2"]; there {
		t.Fatal("worker2 is still there")
	}
	after := d.homes(sources, vip4+":80")
	for source, home := range before {
		if home == node1+":30080" && after[source] != home {
			t.Errorf("client %s moved from %s, which stayed, to %s", source, home, after[source])
		}
		if home != node1+":30080" && after[source] != node1+":30080" && after[source] != "["+node6+"]:30080" {
			t.Errorf("client %s of the node that left got to %q", source, after[source])
		}
	}
	d.wantHomes(after, vip4+":80")

	d.apply(sticky(usualAffinity)) // worker2 returns, worker3 leaves
	d.apply(sticky(usualAffinity))
	d.up("nodes", "worker2")
	final := d.homes(sources, vip4+":80")
	for source, home := range after {
		if home == node1+":30080" && final[source] != home {
			t.Errorf("client %s moved from %s, which stayed, to %s", source, home, final[source])
		}
	}
	d.wantHomes(final, vip4+":80")
}

// A node that fails its check loses its clients at once, and nodes that all fail keep them.
func TestClientsStickWhileNodesFail(t *testing.T) {
	state := sticky(usualAffinity)
	sources := clients(6)
	d := startDaemon(t, state, slices.Concat(nodes(), sources, []string{vrrp1}), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080")
	stop := d.nodePorts(node2 + ":10256")
	d.up("nodes", "worker1", "worker2")
	homes := d.homes(sources, vip4+":80")
	d.wantSpread(homes)
	stop()
	down := func(name string) func() bool {
		return func() bool { return d.read().Backends["nodes"].Servers[name].State == "DOWN" }
	}
	d.eventually("worker2 to fail", down("worker2"))
	for source := range homes {
		homes[source] = node1 + ":30080"
	}
	d.wantHomes(homes, vip4+":80")
	state.NodeCheck.Path = "/wrong"
	d.handOver(d.render(state))
	d.eventually("worker1 to fail", down("worker1"))
	d.eventually("worker2 to fail", down("worker2"))
	d.wantHomes(homes, vip4+":80") // nodes-open has both
}

// A slot's next Service has nothing of what clients of the last one stuck to.
func TestSlotForgetsItsClients(t *testing.T) {
	state := twoNodes()
	sources := clients(6)
	d := startDaemon(t, state, slices.Concat(nodes(), sources, []string{vrrp1}), vips())
	d.nodePorts(node1+":30080", node1+":31991", node2+":30080", node2+":31991", "["+node6+"]:30080", "["+node6+"]:31991")
	ingress := func(name string, servers ...desired.Server) {
		lb := localPolicy(name, vipLocal, health(31991, "/31991"), servers...)
		lb.AffinitySeconds = usualAffinity
		state.LoadBalancers = append(state.LoadBalancers[:1:1], lb)
		d.apply(state)
		d.apply(state)
		for _, server := range servers {
			d.up(d.slots.At(lb.Key, 0), server.Name)
		}
	}
	ingress("first", serverAt("worker1", node1), serverAt("worker2", node2))
	d.wantSpread(d.homes(sources, vipLocal+":80"))
	state.LoadBalancers = state.LoadBalancers[:1]
	d.apply(state)
	d.apply(state)
	ingress("second", serverAt("worker3", node6))
	if got := d.slots.At(desired.Key{Namespace: "edge", Name: "second"}, 0); got != "slot-http-roundrobin-1" {
		t.Fatalf("the second Service has %s, want the first one's slot", got)
	}
	for source, home := range d.homes(sources, vipLocal+":80") {
		if home != "["+node6+"]:30080" {
			t.Errorf("client %s of the second Service got to %q", source, home)
		}
	}
}

func TestNewAffinityReloads(t *testing.T) {
	state := sticky(600)
	sources := clients(6)
	d := startDaemon(t, twoNodes(), slices.Concat(nodes(), sources, []string{vrrp1}), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256")
	want := d.render(state)
	if diff := Compare(d.read(), want); !slices.Equal(diff.Reload, []string{"affinity of 600 s is new"}) {
		t.Fatalf("the reasons for the reload are %q", diff.Reload)
	}
	d.reload(want)
	d.up("nodes", "worker1", "worker2")
	homes := d.homes(sources, vip4+":80")
	d.wantSpread(homes)
	d.wantHomes(homes, vip4+":80")
	d.apply(twoNodes()) // nobody uses the table any more
	d.apply(state)      // somebody does again
	d.wantHomes(homes, vip4+":80")
}

// Two gateways in one namespace: what the first one learned, the second one knows when the first is killed.
func TestPeerKnowsWhereClientsStick(t *testing.T) {
	const vrrp2 = "10.0.0.3"
	state := sticky(usualAffinity)
	state.Gateways[0].VRRPAddress, state.Gateways[1].VRRPAddress = netip.MustParseAddr(vrrp1), netip.MustParseAddr(vrrp2)
	sources := clients(30)
	d := startDaemon(t, state, slices.Concat(nodes(), sources, []string{vrrp1, vrrp2}), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256")
	d.up("nodes", "worker1", "worker2")

	dir := t.TempDir()
	second := &daemon{t: t, namespace: d.namespace, local: d.local, ask: d.ask}
	second.local.Gateway, second.local.Chroot = "gw2", dir
	second.local.ServicesPort, second.local.ControlPlanePort = 7490, 7491
	second.local.StatsSocket, second.local.ConfigFile = dir+"/s", dir+"/haproxy.cfg"
	second.local.ServicesMap, second.local.ChecksMap, second.local.ServerState = dir+"/services.map", dir+"/checks.map", dir+"/state"
	second.runtime = NewRuntime(second.local.StatsSocket)
	second.write(second.render(state))
	if err := exec.Command("touch", second.local.ServerState).Run(); err != nil {
		t.Fatal(err)
	}
	second.start("haproxy", "-db", "-f", second.local.ConfigFile)
	second.eventually("the second gateway", func() bool { _, err := second.runtime.Read(t.Context()); return err == nil })
	second.up("nodes", "worker1", "worker2")
	established := func(of *daemon, peer string) func() bool {
		return func() bool {
			peers, err := of.runtime.ask(t.Context(), "show peers")
			return err == nil && strings.Contains(peers, "id="+peer+"(remote,active)") && strings.Contains(peers, "last_status=ESTA")
		}
	}
	d.eventually("peers to meet", established(d, "gw2"))

	homes := d.homes(sources, vip4+":80")
	d.wantSpread(homes)
	d.eventually("the second gateway to know all clients", func() bool { return second.stuck() == len(sources) })
	if err := syscall.Kill(d.read().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	second.inside("nft", "flush", "ruleset")
	second.tproxy(vips())
	second.wantHomes(homes, vip4+":80")
}

// handOver reloads, and waits until the new worker has what the old one knew. A worker teaches the next one only after it
// learned itself (flags of show peers: 1, from a worker before it, and 2, from another gateway), which takes five seconds
// each after a start without both.
func (d *daemon) handOver(c *Config) {
	d.t.Helper()
	stuck := d.stuck()
	d.eventually("the worker to have learned", func() bool {
		peers, err := d.runtime.ask(d.t.Context(), "show peers")
		if err != nil {
			d.t.Fatal(err)
		}
		_, flags, _ := strings.Cut(peers, "disabled=0 flags=0x")
		flags, _, _ = strings.Cut(flags, " ")
		number, err := strconv.ParseUint(flags, 16, 32)
		return err == nil && number&3 == 3
	})
	d.reload(c)
	d.eventually("the new worker to know all clients", func() bool { return d.stuck() == stuck })
}

// stuck counts the clients that the usual table has.
func (d *daemon) stuck() int {
	d.t.Helper()
	table, err := d.runtime.ask(d.t.Context(), "show table "+affinity{usualAffinity}.Table())
	if err != nil {
		d.t.Fatal(err)
	}
	return strings.Count(table, "server_key=")
}

// Why servers are taken out by maintenance, and why backups are servers that clients stick to like others.
func TestWhatSticksInHAProxy(t *testing.T) {
	d := startDaemon(t, sticky(usualAffinity), slices.Concat(nodes(), clients(1)), vips())
	d.nodePorts(node1+":30080", node1+":10256", node2+":30080", node2+":10256")
	d.up("nodes", "worker1", "worker2")
	home, server := d.from(client(1), vip4+":80"), "nodes/worker1"
	if home == node2+":30080" {
		server = "nodes/worker2"
	}
	order := func(command string) {
		t.Helper()
		if err := d.runtime.order(t.Context(), command); err != nil {
			t.Fatal(err)
		}
	}
	order("set server " + server + " state drain")
	if got := d.from(client(1), vip4+":80"); got != home {
		t.Errorf("the client of %s, which drains, got to %s", home, got)
	}
	order("set server " + server + " state maint")
	if got := d.from(client(1), vip4+":80"); got == home || strings.HasPrefix(got, "error") {
		t.Errorf("the client of %s, which is in maintenance, got to %s", home, got)
	}
	err := d.runtime.order(t.Context(), "add server nodes/worker9 10.9.9.9 backup non-stick")
	if err == nil || !strings.Contains(err.Error(), "non-stick") {
		t.Errorf("add server with non-stick: %v, want it refused", err)
	}
}
