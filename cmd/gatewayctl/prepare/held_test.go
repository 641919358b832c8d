package prepare

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// serve gives the machine a State with one Service.
func (m *machine) serve(address string) {
	m.t.Helper()
	vip := netip.MustParseAddr(address)
	state := &desired.State{
		Schema:        desired.Schema,
		Gateways:      []desired.Gateway{{Name: "gw1", Interface: "eth0"}},
		VIPs:          []desired.VIP{{Address: vip}},
		LoadBalancers: []desired.LoadBalancer{{Key: desired.Key{Namespace: "default", Name: "web"}, Addresses: []netip.Addr{vip}}},
	}
	state.Normalize()
	canonical, err := state.Canonical()
	if err != nil {
		m.t.Fatal(err)
	}
	signed, err := json.Marshal(desired.Signed{State: canonical})
	if err != nil {
		m.t.Fatal(err)
	}
	m.put(heldFile, string(signed))
}

// narrower has the plan's limits without an address.
func narrower(p *Plan) {
	for i := range p.Files {
		if p.Files[i].Path == site.LimitsFile {
			p.Files[i].Content = []byte(strings.Replace(string(p.Files[i].Content), `"192.0.2.64/27"`, `"192.0.2.64/28"`, 1))
		}
	}
}

// Limits that would refuse what the gateway serves are told before they are written, and written when somebody insists.
func TestLimitsThatWouldCut(t *testing.T) {
	limits := func(r Report) []Finding {
		return slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.Check != checkLimits })
	}
	m := newMachine(t)
	installed(t, m.do(plan(t, Install, nil)))
	m.serve("192.0.2.90")
	if r := m.do(plan(t, Check, nil)); len(limits(r)) > 0 {
		t.Errorf("what is allowed is in the way: %+v", r.Findings)
	}
	before := m.read(site.LimitsFile)
	r := m.do(plan(t, Install, narrower))
	if got := limits(r); r.Error == "" || len(got) != 1 || got[0].Warning || !strings.Contains(got[0].Problem, "Service default/web: 192.0.2.90 is not in vipPrefixes") {
		t.Errorf("%q, %+v", r.Error, r.Findings)
	}
	if m.read(site.LimitsFile) != before {
		t.Error("limits.yaml was changed")
	}
	for name, insists := range map[string]func(*Plan){
		"--ignore": func(p *Plan) { narrower(p); p.Ignore = []string{checkLimits} },
		"--adopt":  func(p *Plan) { narrower(p); p.Adopt = true },
	} {
		r := m.do(plan(t, Check, insists))
		if got := limits(r); len(got) != 1 || !got[0].Warning {
			t.Errorf("with %s: %+v", name, r.Findings)
		}
	}
	installed(t, m.do(plan(t, Install, func(p *Plan) { narrower(p); p.Ignore = []string{checkLimits} })))
	if r := m.do(plan(t, Check, narrower)); len(limits(r)) > 0 {
		t.Errorf("what is refused already is told once more: %+v", r.Findings)
	}
	m.serve("192.0.2.65")
	if r := m.do(plan(t, Check, narrower)); len(limits(r)) > 0 {
		t.Errorf("the Service has left and is in the way: %+v", r.Findings)
	}
	m.put(heldFile, "{")
	if got := limits(m.do(plan(t, Check, nil))); len(got) != 1 || !got[0].Warning {
		t.Errorf("a State that cannot be read: %+v", got)
	}
}
