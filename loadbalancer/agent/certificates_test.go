package agent

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// certificates are the names of the files of certificates on the machine.
func (m *machine) certificates() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(m.files)), func(path string) bool {
		return !strings.HasPrefix(path, "/etc/haproxy/control-plane-ca")
	})
}

// A machine has the certificates that its configuration names and no others: after a change, a look, a refusal and a way back.
func TestNoCertificatesAreLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		web := service("web", "192.0.2.10", 51)
		m := holding(t, sample(1, web, controlPlane, verifies(ca)))
		a := started(t, m)
		first := m.certificates()
		if len(first) != 1 || m.files[first[0]] != ca {
			t.Fatalf("certificates %q", first)
		}
		renewed := sample(2, web, controlPlane, verifies(renewedCA))
		if _, refusal := a.plan(t.Context(), sign(t, renewed)); refusal != nil {
			t.Fatal(refusal)
		}
		if got := m.certificates(); !slices.Equal(got, first) {
			t.Errorf("after a plan: %q", got)
		}
		m.lostReloads = 100
		if result, _ := a.apply(t.Context(), sign(t, renewed)); result == nil || result.Outcome != wire.RolledBack {
			t.Fatalf("HAProxy does not reload: %+v", result)
		}
		if got := m.certificates(); !slices.Equal(got, first) {
			t.Errorf("after a way back: %q", got)
		}
		m.lostReloads = 0
		for _, next := range []struct {
			state *desired.State
			want  int
		}{{renewed, 1}, {sample(3, web, controlPlane), 0}} {
			if result, refusal := a.apply(t.Context(), sign(t, next.state)); refusal != nil || result.Outcome != wire.Reloaded {
				t.Fatalf("%+v %v", result, refusal)
			}
			if got := m.certificates(); len(got) != next.want || slices.Equal(got, first) {
				t.Errorf("after sequence %d: %q", next.state.Fence.Sequence, got)
			}
		}
	})
}

// Certificates that somebody edits or deletes are put back without a reload: HAProxy has read the right ones.
func TestCertificatesAreRepaired(t *testing.T) {
	s := sample(1, service("web", "192.0.2.10", 51), controlPlane, verifies(ca))
	for name, spoil := range map[string]func(m *machine, path string){
		"edited":  func(m *machine, path string) { m.files[path] = renewedCA },
		"deleted": func(m *machine, path string) { delete(m.files, path) },
		"both spoiled": func(m *machine, path string) {
			delete(m.files, path)
			m.files["/etc/haproxy/haproxy.cfg"] += "# mine\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := holding(t, s)
			a := started(t, m)
			path := m.certificates()[0]
			worker := m.haproxy.pid
			spoil(m, path)
			if drift := a.status(t.Context(), wire.RoleOperator).Drift; !slices.Contains(drift, "write "+path) {
				t.Errorf("drift %q", drift)
			}
			a.recover(t.Context())
			if m.files[path] != ca || m.haproxy.pid != worker {
				t.Errorf("the certificates are %q, HAProxy's worker was %d and is %d", m.files[path], worker, m.haproxy.pid)
			}
		})
	}
}
