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
