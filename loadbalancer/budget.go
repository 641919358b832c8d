package loadbalancer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// defaultServers is how many servers of Services' own a gateway may have: each takes 4 kB of HAProxy and a check of its own every
// two seconds, so that these are 200 MB and two cores (DESIGN.md sections 3 and 7).
const defaultServers = 50_000

// mostBytes is the largest State that fits in a message, in which it stands in base64; roomyBytes is as far as new forms may fill
// it. The rest is for nodes and pods that come to Services which are served already.
const (
	mostBytes  = (wire.MaxFrame - 64<<10) / 4 * 3
	roomyBytes = mostBytes / 4 * 3
)

// StateTooLargeError says that no gateway can be told the State. Nothing changes until it is smaller.
type StateTooLargeError struct{ Bytes, Most int }

func (e *StateTooLargeError) Error() string {
	return fmt.Sprintf("the State of all Services is %d bytes and gateways take %d: nothing can be changed until Services, or their source "+
		"ranges, are fewer; what is served stays", e.Bytes, e.Most)
}

// load is what a load balancer, or a State, costs the gateways.
type load struct{ servers, bytes int }

func (l load) within(most load) bool { return l.servers <= most.servers && l.bytes <= most.bytes }

// overload refuses new forms, the youngest Service's first, until what the State of this size costs is within the budget, as far as it
// is they who cost. What is served is not taken away, and is given the nodes and pods that come to it. It is called with mu held.
func (m *Manager) overload(state *desired.State, bytes int) (refused []desired.Key) {
	total := load{bytes: bytes}
	for i := range state.LoadBalancers {
		total.servers += state.LoadBalancers[i].OwnServers(state.Nodes)
	}
	most := load{m.settings.Servers, m.settings.Bytes}
	if total.within(most) {
		return nil
	}
	for _, form := range m.newest(state) {
		costs := m.costs(form, state.Nodes)
		relieves := total.servers > most.servers && costs.servers > 0 || total.bytes > most.bytes && costs.bytes > 0
		if !relieves || !m.refuse(form.Key, form, "", []string{noRoom(most, total, costs)}, false) {
			continue
		}
		refused = append(refused, form.Key)
		total.servers, total.bytes = total.servers-costs.servers, total.bytes-costs.bytes
		if total.within(most) {
			break
		}
	}
	return refused
}

// newest are the forms that are not served yet, the youngest Service's first.
func (m *Manager) newest(state *desired.State) (forms []*desired.LoadBalancer) {
	for i := range state.LoadBalancers {
		form := &state.LoadBalancers[i]
		if kept := m.fallback(form.Key); kept == nil || !reflect.DeepEqual(*kept, *form) {
			forms = append(forms, form)
		}
	}
	slices.SortFunc(forms, func(a, b *desired.LoadBalancer) int {
		return cmp.Or(m.services[b.Key].created.Compare(m.services[a.Key].created), b.Key.Compare(a.Key))
	})
	return forms
}

// costs is what a form costs more than what is served without it.
func (m *Manager) costs(form *desired.LoadBalancer, nodes []desired.Node) load {
	more := load{form.OwnServers(nodes), bytesOf(form)}
	if kept := m.fallback(form.Key); kept != nil {
		more.servers -= kept.OwnServers(nodes)
		more.bytes -= bytesOf(kept)
	}
	return more
}

// noRoom says why a form that costs so much is refused, and what to do.
func noRoom(most, total, costs load) string {
	if total.servers > most.servers {
		return fmt.Sprintf("the gateways have room for %d servers of Services' own, %d are taken, and this form needs %d more: choose fewer "+
			"nodes (annotation node-selector), or take off the annotations that need servers of the Service's own (README: The Service fails "+
			"closed)", most.servers, total.servers-costs.servers, costs.servers)
	}
	return fmt.Sprintf("the State that gateways are told has room for %d bytes, %d are taken, and this form needs %d more: take fewer source "+
		"ranges, or choose fewer nodes (annotation node-selector)", most.bytes, total.bytes-costs.bytes, costs.bytes)
}

func bytesOf(lb *desired.LoadBalancer) int {
	text, err := json.Marshal(lb)
	if err != nil {
		return 0 // of what a State of it could not be made either
	}
	return len(text)
}
