package agent

import (
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// An agent before this one knew one slot for each load balancer. It stays there, and ports get slots beside it.
func TestSlotsOfTheOlderForm(t *testing.T) {
	own := sample(1, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51), local("web", "10.0.2.1"), local("db", "10.0.2.1"))
	m := holding(t, own)
	m.files["/var/lib/gatewayctl/slots.json"] = `{"default/db":"slot-tcp-roundrobin-1","default/web":"slot-tcp-roundrobin-2"}`
	a := started(t, m)
	own.Fence.Sequence = 2
	for i := range own.LoadBalancers {
		lb := &own.LoadBalancers[i]
		lb.Frontends = append(lb.Frontends, desired.Frontend{Protocol: desired.TCP, Port: 443, NodePort: 30443, ProxyProtocol: desired.ProxyV2})
	}
	if result, refusal := a.apply(t.Context(), sign(t, own)); refusal != nil || len(result.Faults) > 0 {
		t.Fatal(result, refusal)
	}
	for file, lines := range map[string][]string{
		"/var/lib/gatewayctl/slots.json": {`"default/db none":"slot-tcp-roundrobin-1"`, `"default/db:443=v2 none":"slot-tcp-roundrobin-3"`,
			`"default/web none":"slot-tcp-roundrobin-2"`, `"default/web:443=v2 none":"slot-tcp-roundrobin-4"`},
		"/etc/haproxy/services.map": {"192.0.2.11:80 slot-tcp-roundrobin-1|30011|default/db|", "192.0.2.11:443 slot-tcp-roundrobin-3|0|default/db|",
			"192.0.2.10:80 slot-tcp-roundrobin-2|30010|default/web|", "192.0.2.10:443 slot-tcp-roundrobin-4|0|default/web|"},
	} {
		for _, line := range lines {
			if !strings.Contains(m.files[file], line) {
				t.Errorf("%s lacks %s:\n%s", file, line, m.files[file])
			}
		}
	}
}

// A pool of all nodes is served by those of the State, and follows them without being named again; the State is kept as it was sent.
func TestSlotOfAllNodes(t *testing.T) {
	all := func(s *desired.State) {
		local("web", "10.0.2.9")(s)
		pool := s.LoadBalancers[0].Pool
		pool.AllNodes, pool.Local, pool.Servers = true, false, nil
	}
	own := sample(1, service("web", "192.0.2.10", 51), node("n1", "10.0.2.31"), all)
	m := newMachine()
	a := started(t, m)
	for i, names := range [][]string{{"n1"}, {"n1", "n2"}} {
		if own.Fence.Sequence = uint64(i + 1); i == 1 {
			node("n2", "10.0.2.32")(own)
		}
		signed := sign(t, own)
		if result, refusal := a.apply(t.Context(), signed); refusal != nil || len(result.Faults) > 0 {
			t.Fatal(result, refusal)
		}
		_, slots, _ := strings.Cut(m.files["/etc/haproxy/haproxy.cfg"], "backend slot-")
		for _, name := range names {
			if strings.Count(slots, "server "+name+" 10.0.2.3") != 1 {
				t.Errorf("%s is no server of the slot", name)
			}
		}
		if held := a.held(); string(held.signed.State) != string(signed.State) {
			t.Error("another State is held than was sent")
		}
	}
}
