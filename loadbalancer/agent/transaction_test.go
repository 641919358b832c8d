package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// The same State once more reads what runs, and neither checks nor writes anything but the count.
func TestUnchangedIsQuick(t *testing.T) {
	s := sample(1, service("web", "192.0.2.10", 51))
	m := holding(t, s)
	a := started(t, m)
	m.log = nil
	result, refusal := a.apply(t.Context(), sign(t, s))
	if refusal != nil || result.Outcome != wire.Unchanged {
		t.Fatalf("got %+v, %v", result, refusal)
	}
	var other []string
	for _, operation := range m.log {
		if !strings.HasPrefix(operation, "read ") {
			other = append(other, operation)
		}
	}
	want := []string{"haproxy read", "run nft --json list table inet cloud_provider_haproxy", "run unshare", "run ip -json address show",
		"write /var/lib/gatewayctl/counters.json", "write /run/gatewayctl/track/ready"}
	for _, operation := range other {
		if !slices.ContainsFunc(want, func(w string) bool { return strings.HasPrefix(operation, w) }) {
			t.Errorf("an unchanged State leads to %q", operation)
		}
	}
}

// A VRRP transition begins between the last change and reading it back: the VIPs that are under way are no failure.
func TestTransitionWhileReadingBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sample(1, service("web", "192.0.2.10", 51))
		m := holding(t, s)
		a := started(t, m)
		last := "run " + strings.Join(nftables.LoadArgv(), " ")
		m.strike = func(_ int, operation string) strike {
			if operation == last {
				home := m.keepalived.addresses[51]
				m.meanwhile(func() { m.keepalived.addresses[51] = home[:1] }) // its anchor is here, its VIP not yet
				time.AfterFunc(50*time.Millisecond, func() { m.meanwhile(func() { m.keepalived.addresses[51] = home }) })
			}
			return passes
		}
		more := sample(2, service("web", "192.0.2.10", 51), func(s *desired.State) {
			s.LoadBalancers[0].Frontends = append(s.LoadBalancers[0].Frontends, desired.Frontend{Protocol: desired.TCP, Port: 8443, NodePort: 30999})
		})
		result, refusal := a.apply(t.Context(), sign(t, more))
		if refusal != nil || result.Outcome != wire.Runtime {
			t.Errorf("got %+v, %v", result, refusal)
		}
		if !m.did(last) {
			t.Error("the table was not loaded: this test shows nothing")
		}
	})
}

// A Service that comes or goes leads to no check and no reload of HAProxy, a node to no reload of keepalived.
func TestOnlyWhatChangesIsTouched(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*desired.State)
		never  []string
	}{
		{"service", service("db", "192.0.2.11", 51), []string{"run /haproxy", "run /usr/sbin/haproxy"}},
		{"node", node("worker-3", "10.0.2.3"), []string{"run /haproxy", "run /keepalived", "run /usr/sbin/keepalived", "run nft --file", "run nft --check"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			a := started(t, m)
			m.log = nil
			result, refusal := a.apply(t.Context(), sign(t, sample(2, service("web", "192.0.2.10", 51), test.change)))
			if refusal != nil || result.Outcome != wire.Runtime {
				t.Fatalf("got %+v, %v", result, refusal)
			}
			for _, operation := range m.log {
				for _, never := range test.never {
					if strings.HasPrefix(operation, never) {
						t.Errorf("%q", operation)
					}
				}
			}
		})
	}
}

// The order in which clients notice nothing: what is new is there before it is reached, what goes is not reached before
// it is gone.
func TestOrder(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	a := started(t, m)
	m.log = nil
	if result, refusal := a.apply(t.Context(), sign(t, sample(2, service("db", "192.0.2.11", 51)))); refusal != nil || result.Outcome != wire.Runtime {
		t.Fatalf("got %+v, %v", result, refusal)
	}
	var got []string
	for _, operation := range m.log {
		for _, step := range []string{"haproxy apply grow=true", "run nft --file", "run /keepalived reload", "haproxy apply grow=false", "write /var/lib/gatewayctl/state.json"} {
			if strings.HasPrefix(operation, step) && !strings.HasSuffix(operation, ".staged") {
				got = append(got, step)
			}
		}
	}
	want := []string{"haproxy apply grow=true", "run nft --file", "run /keepalived reload", "haproxy apply grow=false", "write /var/lib/gatewayctl/state.json"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-want +got):\n%s\nall: %s", diff, strings.Join(m.log, "\n"))
	}
}

// What a daemon says about the new bytes is told, with the load balancer that is behind the line; nothing is touched.
func TestDaemonRefuses(t *testing.T) {
	web := service("web", "192.0.2.10", 51)
	next := sample(2, web, service("db", "192.0.2.11", 51), local("db", "10.0.2.1"))
	line := func(m *machine, a *Agent) int {
		r, err := a.render(t.Context(), decoded(t, next), m.haproxy.running())
		if err != nil {
			t.Fatal(err)
		}
		for n, text := range strings.Split(string(r.config.File), "\n") {
			if strings.HasPrefix(text, "backend slot-") && strings.Contains(text, " # default/db ") {
				return n + 2
			}
		}
		t.Fatal("the slot of default/db is not in the file")
		return 0
	}
	for _, test := range []struct {
		program string
		says    func(line int) string
		owner   string
		fault   string
	}{
		{"/usr/sbin/haproxy -c", func(line int) string {
			return fmt.Sprintf("[ALERT]    (35) : config : parsing [/etc/haproxy/haproxy.cfg.staged:%d] : unknown keyword 'server'\n", line)
		}, "default/db", "unknown keyword"},
		{"/usr/sbin/haproxy -c", func(int) string { return "Segmentation fault\n" }, "", "Segmentation fault"},
		{"/usr/sbin/keepalived", func(int) string { return "(/etc/keepalived/keepalived.conf: Line 3) Unknown keyword 'x'\n" }, "", "Unknown keyword 'x'"},
		{"nft --check", func(int) string { return "Error: syntax error\n" }, "", "syntax error"},
	} {
		t.Run(test.program, func(t *testing.T) {
			m := holding(t, sample(1, web))
			a := started(t, m)
			before := m.moment()
			said := test.says(line(m, a))
			m.verdict = func(command string) error {
				if !strings.HasPrefix(command, test.program) {
					return nil
				}
				return &CommandError{Argv: strings.Fields(command), Code: 1, Output: Output{Stderr: []byte(said)}, Err: errStruck}
			}
			result, refusal := a.apply(t.Context(), sign(t, next))
			if refusal != nil || result.Outcome != wire.Refused || len(result.Faults) != 1 {
				t.Fatalf("got %+v, %v", result, refusal)
			}
			fault := result.Faults[0]
			owner := ""
			if fault.LoadBalancer != nil {
				owner = fault.LoadBalancer.String()
			}
			if owner != test.owner || !strings.Contains(fault.Message, test.fault) {
				t.Errorf("fault of %q: %+v, want one of %q with %q", owner, fault, test.owner, test.fault)
			}
			if result.Fence.Sequence != 1 {
				t.Errorf("the result tells the fence %v, but sequence 1 is held", result.Fence)
			}
			if diff := cmp.Diff(before, m.moment()); diff != "" {
				t.Errorf("a refused State changed the machine:\n%s", diff)
			}
			for path := range m.files {
				if strings.HasSuffix(path, ".staged") {
					t.Errorf("%s was left behind", path)
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	valid := sample(2, service("web", "192.0.2.10", 51))
	forged := sign(t, valid)
	forged.Signature = []byte("forged")
	strange := sample(2, service("web", "192.0.2.10", 51))
	strange.Gateways[0].Name, strange.Instances[0].Gateways, strange.Instances[1].Gateways = "north", []string{"north", "west"}, []string{"west", "north"}
	invalid := sample(2, service("web", "192.0.2.10", 99))
	text, err := invalid.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	unchecked := sign(t, valid)
	unchecked.State = text
	for _, test := range []struct {
		name   string
		signed desired.Signed
		verify Verifier
		want   wire.Code
		says   string
	}{
		{"no State at all", desired.Signed{State: []byte("{}")}, believe{}, wire.CodeVersion, ""},
		{"no JSON", desired.Signed{State: []byte("x")}, believe{}, wire.CodeMalformed, ""},
		{"forged", forged, believe{}, wire.CodeSignature, "/etc/gatewayctl/signers"},
		{"outside the limits", sign(t, sample(2, service("web", "192.0.3.10", 51))), believe{}, wire.CodeLimits, "vips[0].address: 192.0.3.10 is not in vipPrefixes"},
		{"this gateway is not listed", sign(t, strange), believe{}, wire.CodeInvalid, `this gateway is called "east"`},
		{"invalid", unchecked, trusting{}, wire.CodeInvalid, "99"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
			a := started(t, m)
			a.verifier = test.verify
			before := m.moment()
			_, refusal := a.apply(t.Context(), test.signed)
			if refusal == nil || refusal.Code != test.want || !strings.Contains(refusal.Error(), test.says) {
				t.Errorf("got %+v, want %s with %q", refusal, test.want, test.says)
			}
			if diff := cmp.Diff(before, m.moment()); diff != "" {
				t.Errorf("a refused State changed the machine:\n%s", diff)
			}
		})
	}
}

type trusting struct{}

func (trusting) Verify(desired.Signed) error { return nil }

// A fault that only a renderer finds names its load balancer too: Manager serves the others.
func TestRendererFindsFault(t *testing.T) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	a := started(t, m)
	offered := decoded(t, sample(2, service("web", "192.0.2.10", 51), service("db", "192.0.2.11", 51)))
	for i := range offered.state.LoadBalancers { // as if Validate had missed it
		if lb := &offered.state.LoadBalancers[i]; lb.Name == "db" {
			lb.Frontends[0].NodePort = 0
		}
	}
	_, refusal := (&transaction{agent: a, held: a.held(), offered: offered}).prepare(t.Context())
	if refusal == nil || refusal.Code != wire.CodeInvalid || len(refusal.Faults) != 1 {
		t.Fatalf("got %+v, want one fault", refusal)
	}
	fault := refusal.Faults[0]
	if fault.LoadBalancer == nil || fault.LoadBalancer.String() != "default/db" || !strings.Contains(fault.Field, "nodePort") ||
		!strings.Contains(refusal.Message, "nodePort") {
		t.Errorf("refused as %q with %+v, want the nodePort of default/db named", refusal.Message, fault)
	}
}

// A machine without a limits file allows nothing, and says which file is missing.
func TestNoLimitsFile(t *testing.T) {
	m := newMachine()
	delete(m.files, "/etc/gatewayctl/limits.yaml")
	_, refusal := started(t, m).apply(t.Context(), sign(t, sample(1)))
	if refusal == nil || refusal.Code != wire.CodeLimits || !strings.Contains(refusal.Message, "/etc/gatewayctl/limits.yaml does not exist") {
		t.Errorf("got %+v", refusal)
	}
}

// A State that is held goes on being served when its signer or its limits are gone, and status says so.
func TestServesOnAndSaysSo(t *testing.T) {
	s := sample(1, service("web", "192.0.2.10", 51))
	m := holding(t, s)
	m.files["/etc/gatewayctl/limits.yaml"] = "{}"
	a := newAgent(t, m)
	a.verifier = distrusting{}
	if err := a.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.recover(t.Context())
	status := a.status(t.Context(), wire.RoleController)
	var reasons []string
	for _, w := range status.Warnings {
		reasons = append(reasons, w.Reason)
	}
	if !status.InSync || len(status.Held) != 1 || !slices.Contains(reasons, "SignerRemoved") || !slices.Contains(reasons, "OutsideLimits") {
		t.Errorf("in sync %t, held %v, warnings %v", status.InSync, status.Held, reasons)
	}
}

type distrusting struct{}

func (distrusting) Verify(s desired.Signed) error {
	return fmt.Errorf("%s is in no signers file", s.Signer)
}

// Somebody else's configuration is saved aside once, and never overwritten by ours.
func TestForeignConfigurationIsSavedAside(t *testing.T) {
	m := newMachine()
	a := started(t, m)
	m.strike = func(_ int, operation string) strike {
		if operation == "run /keepalived start" {
			return failsBefore
		}
		return passes
	}
	first := sample(1, service("web", "192.0.2.10", 51))
	if result, _ := a.apply(t.Context(), sign(t, first)); result == nil || result.Outcome != wire.RolledBack {
		t.Fatalf("got %+v, want RolledBack", result)
	}
	if m.files["/etc/haproxy/haproxy.cfg"] != foreignConfig || m.haproxy.config.generation != "" {
		t.Error("the way back did not restore Debian's configuration")
	}
	m.strike = at(0, passes)
	for n := range uint64(3) {
		if result, refusal := a.apply(t.Context(), sign(t, sample(n+1, service("web", "192.0.2.10", 51)))); refusal != nil || result.Outcome == wire.RolledBack {
			t.Fatalf("got %+v, %v", result, refusal)
		}
	}
	if got := m.files["/etc/haproxy/haproxy.cfg.before-gatewayctl"]; got != foreignConfig {
		t.Errorf("saved aside is %q", got)
	}
}

// What stood on the machine before its first State is remembered until that one is committed, over any number of tries.
func TestFirstStateFailsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		before := m.moment()
		a := started(t, m)
		begun := false
		m.strike = func(_ int, operation string) strike {
			begun = begun || operation == "run /keepalived start"
			if begun {
				return failsBefore
			}
			return passes
		}
		first := sign(t, sample(1, service("web", "192.0.2.10", 51)))
		if result, _ := a.apply(t.Context(), first); result == nil || result.Outcome != wire.Stuck {
			t.Fatalf("got %+v, want Stuck", result)
		}
		m.strike = func(_ int, operation string) strike {
			if operation == "run /keepalived start" {
				return failsBefore
			}
			return passes
		}
		if result, _ := a.apply(t.Context(), first); result == nil || result.Outcome != wire.RolledBack {
			t.Fatalf("got %+v, want RolledBack", result)
		}
		if diff := cmp.Diff(before, m.moment()); diff != "" {
			t.Errorf("after two tries (-before +now):\n%s", diff)
		}
	})
}

// Reasons are counted by class, so that the same reason with another number is the same.
func TestClass(t *testing.T) {
	for reason, want := range map[string]string{
		"HAProxy was not running":                         "HAProxy was not running",
		"50 more slots of kind tcp-roundrobin are needed": "more slots of kind tcp-roundrobin are needed",
		"HAProxy did not answer: dial unix: i/o timeout":  "HAProxy did not answer",
		"haproxy runs a configuration that is not ours":   "haproxy runs a configuration that is not ours",
	} {
		if got := class(reason); got != want {
			t.Errorf("class of %q is %q, want %q", reason, got, want)
		}
	}
}
