package simulation

import (
	"net/netip"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/simulation/machine"
)

// session is a connection of a client that meant a Service when it resolved the address.
type session struct {
	*machine.Session
	key     desired.Key
	uid     string
	at      *gateway
	begun   time.Time
	reached bool
}

// stable is since when a Service is served everywhere as its object says.
type stable struct {
	object *object
	since  time.Time
}

// ensured is called when Manager says that a Service is served: who reads its status from now on may rely on it.
func (c *checks) ensured(by *controller, o *object, addresses []netip.Addr) {
	c.w.note("%s serves %s (%s) at %v", by.name, o.key, o.uid, addresses)
	c.mu.Lock()
	defer c.mu.Unlock()
	api := c.w.cluster
	api.mu.Lock()
	defer api.mu.Unlock()
	tellers := api.valid[o.uid].by
	if tellers == nil {
		tellers = map[string]bool{}
	}
	tellers[by.name] = true
	api.valid[o.uid] = claim{addresses, o.spec.doors(), tellers}
	now := api.objects[o.key]
	if now != nil && now.uid == o.uid && len(now.status) > 0 && !slices.Equal(now.status, addresses) &&
		!api.restored && !api.moved[o.uid] {
		c.w.fail(8, "%s had %v and gets %v, although it did not ask for another address", o.key, now.status, addresses)
	}
}

// clients lets clients connect to every Service that publishes an address, at every machine that has it, and looks after the
// connections that they have.
func (c *checks) clients() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retry()
	gateways, _ := c.w.calm()
	c.callAPI(gateways)
	for _, o := range c.w.cluster.all() {
		told := c.w.cluster.told(o.uid)
		if !o.wanted() || len(o.status) == 0 || !slices.Equal(told.addresses, o.status) {
			delete(c.settled, o.key)
			continue
		}
		for _, door := range told.doors {
			switch to := netip.AddrPortFrom(address(o.status), door.Port); {
			case !slices.Contains(o.spec.doors(), door):
			case door.Protocol == desired.UDP:
				c.send(o, to)
			default:
				c.connect(o, to, gateways)
			}
		}
	}
}

// connect is one client's SYN, which comes to each machine that has the address, as ARP caches may be.
func (c *checks) connect(o *object, to netip.AddrPort, calm time.Duration) {
	held, served := 0, 0
	why := []string{}
	for _, g := range c.w.gateways {
		s, refusal := g.machine.Connect(c.client(), to)
		if refusal != machine.NotHeld {
			held++
		}
		if refusal != machine.Taken {
			why = append(why, g.name+": "+string(refusal))
			continue
		}
		one := &session{Session: s, key: o.key, uid: o.uid, at: g, begun: time.Now()}
		c.judge(one)
		if one.reached {
			served++
		}
		c.sessions = append(c.sessions, one)
	}
	if c.isStable(o) && calm > 25*time.Second && !o.spec.closed && !o.spec.bad() && (served == 0 && c.w.cluster.serving() || held != 1 && !c.w.isCut()) {
		c.w.fail(5, "%s at %s is served everywhere since %s and nobody touched a gateway for %s: held by %d, served by %d: %v",
			o.key, to, time.Since(c.settled[o.key].since), calm, held, served, why)
	}
}

// callAPI is a client of the API server: it depends on no Service and on no controller (invariant 5).
func (c *checks) callAPI(calm time.Duration) {
	plane := c.w.controlPlane()
	if calm = min(calm, time.Since(c.w.begun)); plane == nil || calm < 25*time.Second || c.w.isCut() {
		return
	}
	held, served, why := 0, 0, []string{}
	for _, g := range c.w.gateways {
		if has := c.gateways[g.name].held; g.machine.On() && (has == nil || has.state.ControlPlane == nil) {
			return // its first State is still to come
		}
		refusal := g.machine.Control(netip.AddrPortFrom(plane.Address, plane.Port))
		if refusal != machine.NotHeld {
			held++
		}
		if refusal == machine.Taken {
			served++
		}
		why = append(why, g.name+": "+string(refusal))
	}
	if held != 1 || served != 1 {
		c.w.fail(5, "nobody touched a gateway for %s, and the control plane is held by %d and served by %d: %v", calm, held, served, why)
	}
}

// controlPlane is what every State has of it; nil in worlds without one.
func (w *world) controlPlane() *desired.ControlPlane {
	if !controlled(w.seed) {
		return nil
	}
	return &desired.ControlPlane{
		Address: netip.AddrFrom4([4]byte{192, 0, 2, 100}), Port: 6443,
		Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.0.3.1:6443"), netip.MustParseAddrPort("10.0.3.2:6443")},
		Check:     desired.Check{Kind: desired.CheckTCP, Port: 6443, IntervalMillis: 1000, Rise: 1, Fall: 2},
	}
}

// client is one that was not there before.
func (c *checks) client() netip.AddrPort {
	c.dialed++
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, 200}), uint16(1024+c.dialed%60000))
}

// send is one client's first datagram. What is demanded of where it goes is what is of a connection.
func (c *checks) send(o *object, to netip.AddrPort) {
	for _, g := range c.w.gateways {
		server, refusal := g.machine.Datagram(c.client(), to)
		if refusal == machine.NoServer {
			c.w.fail(3, "%s lets datagrams for %s in and has no server for them", g.name, to)
		}
		if refusal != machine.Taken || c.excused() {
			continue
		}
		reached := c.w.cluster.endpoint(server.Port())
		if reached.uid != o.uid && (reached.uid == "" || c.w.cluster.name(reached.uid) != o.key) || reached.port != (desired.Port{Protocol: desired.UDP, Port: to.Port()}) {
			c.w.fail(0, "a datagram for %s (%s) reaches %v at %s", o.key, to, reached, g.name)
		}
	}
}

// judge says where a session's bytes go now.
func (c *checks) judge(s *session) {
	if c.excused() && keyOf(s.Owner) != s.key {
		return
	}
	if keyOf(s.Owner) != s.key {
		c.w.fail(0, "a client of %s at %s is taken for one of %s", s.key, s.at.name, s.Owner)
		return
	}
	node, connected, others := s.Target()
	if len(others) > 0 {
		c.w.fail(0, "a session of %s is in %s at %s, which serves %v by now", s.key, s.Backend, s.at.name, others)
	}
	if !connected || !c.w.cluster.healthy(node) {
		return
	}
	switch uid := c.w.cluster.serves(s.NodePort); uid {
	case s.uid:
		s.reached = true
	case "":
	default:
		if c.w.cluster.name(uid) != s.key {
			c.w.fail(0, "a client of %s reaches pods of %s at %s", s.key, uid, s.at.name)
		}
	}
}

// retry looks after open sessions: HAProxy tries those without an answer again, and may take another server.
func (c *checks) retry() {
	c.sessions = slices.DeleteFunc(c.sessions, func(s *session) bool {
		age := time.Since(s.begun)
		if s.Ended() || age > time.Duration(s.NodePort%9)*time.Second && s.reached || age > 5*time.Second && !s.reached {
			s.End()
			return true
		}
		if !s.reached {
			s.Retry()
			c.judge(s)
		} else if _, _, others := s.Target(); len(others) > 0 {
			c.w.fail(0, "a session of %s is in %s at %s, which serves %v by now", s.key, s.Backend, s.at.name, others)
		}
		return false
	})
}

// isStable says that for some seconds every machine that has power holds the Service as its object says.
func (c *checks) isStable(o *object) bool {
	known := c.settled[o.key]
	for _, g := range c.w.gateways {
		held := c.gateways[g.name].held
		if g.machine.On() && (held == nil || !holdsForm(held.state, o)) {
			delete(c.settled, o.key)
			return false
		}
	}
	if known.object == nil || known.object.uid != o.uid || !slices.Equal(known.object.status, o.status) || !slices.Equal(known.object.spec.doors(), o.spec.doors()) {
		c.settled[o.key] = stable{o, time.Now()}
		return false
	}
	return time.Since(known.since) > 3*time.Second
}

// holdsForm says that a State has the ports of a Service at the addresses of its status.
func holdsForm(state *desired.State, o *object) bool {
	i := slices.IndexFunc(state.LoadBalancers, func(lb desired.LoadBalancer) bool { return lb.Key == o.key && lb.UID == o.uid })
	if i < 0 || !slices.Equal(state.LoadBalancers[i].Addresses, o.status) {
		return false
	}
	lb := state.LoadBalancers[i]
	return slices.EqualFunc(lb.Frontends, o.spec.doors(), func(f desired.Frontend, to desired.Port) bool { return f.Port == to.Port && f.Protocol == to.Protocol }) &&
		(lb.Pool != nil) == o.spec.local && (len(lb.AllowSources) > 0) == o.spec.closed
}

func (w *world) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.cuts) > 0
}

// told gives what a Service was told last.
func (c *cluster) told(uid string) claim {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.valid[uid]
}

// name is the key of an object, also of one that is gone.
func (c *cluster) name(uid string) desired.Key {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names[uid]
}

func clientOf(*object) netip.AddrPort { return netip.MustParseAddrPort("198.51.100.201:1024") }

func to(o *object, port uint16) netip.AddrPort { return netip.AddrPortFrom(address(o.status), port) }
