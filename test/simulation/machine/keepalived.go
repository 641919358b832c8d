package machine

import (
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// keepalived is the daemon with what it has read.
type keepalived struct {
	pid       int
	instances map[int]*instance // by router ID
}

// instance is one vrrp_instance.
type instance struct {
	routerID, priority int
	advert             time.Duration
	// addresses are the anchor and the VIPs.
	addresses []netip.Addr
	master    bool
	since     time.Time // it is master, or
	deadline  time.Time // when it becomes master unless it hears an advert
}

// loadKeepalived starts keepalived or lets it read its file again: an instance keeps its state.
func (m *Machine) loadKeepalived(start bool) error {
	if !start && m.keepalived == nil {
		return errors.New("keepalived.service is not active, cannot reload")
	}
	text, ok := m.disk[keepalivedFile]
	if !ok {
		return errors.New("keepalived has no configuration")
	}
	if start && m.keepalived != nil {
		return nil
	}
	k := &keepalived{instances: readInstances(string(text))}
	if start {
		k.pid = m.begin(keepalivedPID, "keepalived")
		clear(m.addresses) // what one that was killed has left behind
	} else {
		k.pid = m.keepalived.pid
	}
	now := time.Now()
	for id, i := range k.instances {
		i.deadline = now.Add(3*i.advert + i.advert)
		if m.keepalived != nil && m.keepalived.instances[id] != nil {
			old := m.keepalived.instances[id]
			i.master, i.since, i.deadline = old.master, old.since, old.deadline
		}
	}
	m.keepalived = k
	m.settleAddresses()
	return nil
}

func (m *Machine) stopKeepalived() {
	if m.keepalived != nil {
		m.forget(keepalivedPID, m.keepalived.pid)
		m.keepalived = nil
		clear(m.addresses)
	}
}

// settleAddresses puts on the interface what the instances that are master have.
func (m *Machine) settleAddresses() {
	clear(m.addresses)
	for _, i := range m.keepalived.instances {
		if i.master {
			for _, a := range i.addresses {
				m.addresses[a] = true
			}
		}
	}
}

func readInstances(text string) map[int]*instance {
	instances := map[int]*instance{}
	var i *instance
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "vrrp_instance":
			i = &instance{}
		case i == nil:
		case len(words) == 2 && words[0] == "virtual_router_id":
			i.routerID, _ = strconv.Atoi(words[1]) // the renderer's number
			instances[i.routerID] = i
		case len(words) == 2 && words[0] == "priority":
			i.priority, _ = strconv.Atoi(words[1])
		case len(words) == 2 && words[0] == "advert_int":
			seconds, _ := strconv.ParseFloat(words[1], 64)
			i.advert = time.Duration(seconds * float64(time.Second))
		case len(words) == 3 && words[1] == "dev":
			i.addresses = append(i.addresses, netip.MustParsePrefix(words[0]).Addr())
		}
	}
	return instances
}

func (m *Machine) checkKeepalived(argv []string, output *agent.Output) error {
	if _, ok := m.disk[argv[len(argv)-1]]; !ok {
		output.Stdout = []byte("Unable to find configuration file\n")
	}
	return nil
}

// track is what a track file adds to the priorities.
func (m *Machine) track(file string) int {
	n, err := strconv.Atoi(strings.TrimSpace(string(m.memory[file])))
	if err != nil {
		return 0
	}
	return n
}

// advert is what a master tells the others.
type advert struct {
	from     *Machine
	routerID int
	priority int
}

// Segment is the network on which gateways hear each other's adverts.
type Segment struct {
	Machines []*Machine
	// Cut says that adverts of one do not reach the other.
	Cut func(from, to string) bool
}

// Transition is an instance that a machine took.
type Transition struct {
	By *Machine
	// From are those that were its master until now and were heard, as far as they were.
	From     []*Machine
	RouterID int
}

// Tick lets every master advertise once and everybody hear it (RFC 9568, sections 6.4.2 and 6.4.3). An interval of VRRP has
// passed since the last.
func (s *Segment) Tick(now time.Time) (taken []Transition) {
	var adverts []advert
	for _, m := range s.Machines {
		adverts = append(adverts, m.adverts()...)
	}
	for _, m := range s.Machines {
		heard := slices.DeleteFunc(slices.Clone(adverts), func(a advert) bool { return a.from == m || s.Cut(a.from.name, m.name) })
		taken = append(taken, m.hear(now, heard)...)
	}
	return taken
}

func (m *Machine) adverts() (adverts []advert) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keepalived == nil {
		return nil
	}
	for id, i := range m.keepalived.instances {
		if i.master {
			adverts = append(adverts, advert{m, id, m.priority(i)})
		}
	}
	slices.SortFunc(adverts, func(a, b advert) int { return a.routerID - b.routerID })
	return adverts
}

func (m *Machine) priority(i *instance) int {
	return min(254, max(1, i.priority+m.track(aliveFile)+m.track(readyFile)))
}

// hear lets the machine's instances act on the adverts.
func (m *Machine) hear(now time.Time, adverts []advert) (taken []Transition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keepalived == nil {
		return nil
	}
	changed := false
	for id, i := range m.keepalived.instances {
		own := m.priority(i)
		var from []*Machine
		for _, a := range adverts {
			if a.routerID != id {
				continue
			}
			from = append(from, a.from)
			switch higher := a.priority > own || a.priority == own && a.from.address.Compare(m.address) > 0; {
			case i.master && higher:
				i.master, changed = false, true
				fallthrough
			case !i.master && a.priority >= own:
				i.deadline = now.Add(3*i.advert + i.advert*time.Duration(256-own)/256)
			}
		}
		if !i.master && !now.Before(i.deadline) {
			i.master, i.since, changed = true, now, true
			taken = append(taken, Transition{By: m, From: from, RouterID: id})
		}
	}
	if changed {
		m.settleAddresses()
	}
	return taken
}

// StartKeepalived is what systemd does when the agent has said that it is ready.
func (m *Machine) StartKeepalived() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.on {
		_ = m.loadKeepalived(true) // without a configuration it fails, as the unit does
	}
}

// Held are the addresses that keepalived has put on the interface, anchors among them.
func (m *Machine) Held() []netip.Addr {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held()
}

// Serves says what the agent tells keepalived of HAProxy.
func (m *Machine) Serves() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.track(aliveFile) > 0
}

// Ready says what the agent tells keepalived of its freshness.
func (m *Machine) Ready() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.track(readyFile) >= 25
}
