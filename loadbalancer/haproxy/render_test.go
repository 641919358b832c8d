package haproxy

import (
	"bytes"
	_ "embed"
	"flag"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

var update = flag.Bool("update", false, "write testdata anew from what Render makes")

func kubeProxyCheck() desired.Check {
	return desired.Check{Kind: desired.CheckHTTP, Port: 10256, Path: "/healthz", IntervalMillis: 2000, Rise: 2, Fall: 3}
}

func addrs(texts ...string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func tcpPort(port, nodePort uint16) desired.Frontend {
	return desired.Frontend{Protocol: desired.TCP, Port: port, NodePort: nodePort}
}

// baseState is a pair of gateways and three nodes without any Service.
func baseState() *desired.State {
	return &desired.State{
		Schema: desired.Schema,
		Fence:  desired.Fence{ClusterUID: "4f2c", Epoch: 3, Instance: "a", Sequence: 1},
		Gateways: []desired.Gateway{
			{Name: "gw1", SSHAddress: "10.0.0.2:22", VRRPAddress: netip.MustParseAddr("10.0.0.2"), Interface: "eth0"},
			{Name: "gw2", SSHAddress: "10.0.0.3:22", VRRPAddress: netip.MustParseAddr("10.0.0.3"), Interface: "eth0"},
		},
		Nodes: []desired.Node{
			{Name: "worker1", Addresses: addrs("10.0.0.11")},
			{Name: "worker2", Addresses: addrs("10.0.0.12", "fd00::12")},
			{Name: "worker3", Addresses: addrs("fd00::13")},
		},
		NodeCheck: kubeProxyCheck(),
	}
}

func web(address ...string) desired.LoadBalancer {
	return desired.LoadBalancer{
		Key: desired.Key{Namespace: "default", Name: "web"}, UID: "1", Addresses: addrs(address...),
		Frontends: []desired.Frontend{tcpPort(80, 32689)},
	}
}

func localPolicy(name, address string, check desired.Check, servers ...desired.Server) desired.LoadBalancer {
	return desired.LoadBalancer{
		Key: desired.Key{Namespace: "edge", Name: name}, UID: name, Addresses: addrs(address),
		Frontends: []desired.Frontend{tcpPort(80, 30080), tcpPort(443, 30443)},
		Pool:      &desired.Pool{Algorithm: desired.RoundRobin, Check: check, Servers: servers},
	}
}

func testLocal() Local {
	l := DebianLocal()
	l.SlotsPerKind, l.Gateway = 2, "gw1"
	return l
}

//go:embed testdata/ca.pem
var ca string

func TestRenderGolden(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			c := s.render(t)
			for name, got := range map[string][]byte{"haproxy.cfg": c.File, "services.map": c.ServicesMap, "checks.map": c.ChecksMap} {
				golden := filepath.Join("testdata", s.name, name)
				if *update {
					if err := os.MkdirAll(filepath.Dir(golden), 0o755); err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(golden, got, 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(golden)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), string(got)); diff != "" {
					t.Errorf("%s differs (run with -update when that is right):\n%s", golden, diff)
				}
			}
		})
	}
}

// checkFile runs haproxy's own check over bytes, with the maps in a directory of the test.
func checkFile(t *testing.T, file, services, checks []byte) []Message {
	t.Helper()
	lab.RequirePrograms(t, "haproxy")
	dir := t.TempDir()
	file = bytes.ReplaceAll(file, []byte("/etc/haproxy/"), []byte(dir+"/"))
	file = bytes.ReplaceAll(file, []byte("/var/lib/haproxy/server-state"), []byte(dir+"/server-state"))
	for name, content := range map[string][]byte{
		"haproxy.cfg": file, "services.map": services, "checks.map": checks, "server-state": []byte("1\n"),
		filepath.Base(testLocal().caFile([]byte(ca))): []byte(ca),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	argv := CheckArgv(filepath.Join(dir, "haproxy.cfg"))
	command := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	var stderr bytes.Buffer
	command.Stderr = &stderr
	err := command.Run()
	messages := ParseCheck(stderr.Bytes())
	if alerts := withSeverity(messages, "ALERT"); (err != nil) != (len(alerts) > 0) {
		t.Fatalf("haproxy ended with %v, and these alerts were read of it: %v\n%s", err, alerts, stderr.Bytes())
	}
	return messages
}

func withSeverity(messages []Message, severity string) []Message {
	return slices.DeleteFunc(slices.Clone(messages), func(m Message) bool { return m.Severity != severity })
}

func TestGoldenThroughHAProxy(t *testing.T) {
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			var content [3][]byte
			for i, name := range []string{"haproxy.cfg", "services.map", "checks.map"} {
				var err error
				if content[i], err = os.ReadFile(filepath.Join("testdata", s.name, name)); err != nil {
					t.Fatal(err)
				}
			}
			for _, m := range checkFile(t, content[0], content[1], content[2]) {
				if m.Severity != "NOTICE" {
					t.Errorf("haproxy says: %+v", m)
				}
			}
		})
	}
}

func TestParseCheckBlames(t *testing.T) {
	i := slices.IndexFunc(scenarios(), func(s scenario) bool { return s.name == "local-policy" })
	c := scenarios()[i].render(t)
	broken := bytes.Replace(c.File, []byte("weight 2"), []byte("weight 999"), 1)
	alerts := withSeverity(checkFile(t, broken, c.ServicesMap, c.ChecksMap), "ALERT")
	if len(alerts) == 0 || !strings.Contains(alerts[0].Text, "weight") || alerts[0].Line == 0 {
		t.Fatalf("the alert about the weight was not read: %+v", alerts)
	}
	owner, ok := c.Owner(alerts[0].Line)
	if want := (desired.Key{Namespace: "edge", Name: "ingress"}); !ok || owner != want {
		t.Errorf("line %d is blamed on %v (%t), want %v", alerts[0].Line, owner, ok, want)
	}
	if owner, ok := c.Owner(6); ok {
		t.Errorf("a line of global is blamed on %v", owner)
	}
}

func TestRenderIsDeterministic(t *testing.T) {
	for _, s := range scenarios() {
		first := s.render(t)
		slices.Reverse(s.state.Nodes)
		slices.Reverse(s.state.LoadBalancers)
		slices.Reverse(s.state.Gateways)
		second := s.render(t)
		if !bytes.Equal(first.File, second.File) || !bytes.Equal(first.ServicesMap, second.ServicesMap) || !bytes.Equal(first.ChecksMap, second.ChecksMap) {
			t.Errorf("%s: another order of the lists gave other bytes", s.name)
		}
	}
}

func TestGenerationChangesOnlyForReloads(t *testing.T) {
	render := func(change func(*desired.State, *Local)) string {
		s, l := baseState(), testLocal()
		change(s, &l)
		return scenario{"", l, s}.render(t).Generation
	}
	base := render(func(*desired.State, *Local) {})
	for name, change := range map[string]func(*desired.State, *Local){
		"service added":              func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{web("192.0.2.10")} },
		"an IPv6-only service added": func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{web("2001:db8::10")} },
		"node removed":               func(s *desired.State, _ *Local) { s.Nodes = s.Nodes[1:] },
		"slot taken": func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{localPolicy("a", "192.0.2.1", kubeProxyCheck(), desired.Server{Name: "x", Address: netip.MustParseAddr("10.0.0.1"), Weight: 1})}
		},
		"usual affinity": func(s *desired.State, _ *Local) { s.LoadBalancers = []desired.LoadBalancer{knobbed(usualAffinity)} },
		"affinity of UDP": func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{knobbed(600)}
			s.LoadBalancers[0].Frontends[0].Protocol = desired.UDP
		},
		"pods": func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{podService("a", "192.0.2.1", podAt("x", "10.0.0.1", 80))}
		},
		"a header": func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{proxiedIngress(desired.ProxyV2)}
		},
		"another algorithm": func(s *desired.State, _ *Local) {
			s.LoadBalancers = []desired.LoadBalancer{withAlgorithm(desired.Source, podAt("x", "10.0.0.1", 80))}
		},
		"more slots": func(_ *desired.State, l *Local) { l.SlotsPerKind = 4 },
		"sequence":   func(s *desired.State, _ *Local) { s.Fence.Sequence++ },
	} {
		if got := render(change); got != base {
			t.Errorf("%s: the generation changed from %s to %s", name, base, got)
		}
	}
	for name, change := range map[string]func(*desired.State, *Local){
		"node check's interval": func(s *desired.State, _ *Local) { s.NodeCheck.IntervalMillis++ },
		"node check's path":     func(s *desired.State, _ *Local) { s.NodeCheck.Path = "/livez" },
		"maxconn":               func(_ *desired.State, l *Local) { l.MaxConn = 1000 },
		"port":                  func(_ *desired.State, l *Local) { l.ServicesPort++ },
		"control plane": func(s *desired.State, _ *Local) {
			s.ControlPlane = &desired.ControlPlane{Address: netip.MustParseAddr("192.0.2.2"), Port: 6443, Check: desired.Check{Kind: desired.CheckNone}}
		},
	} {
		if render(change) == base {
			t.Errorf("%s: the generation did not change", name)
		}
	}
}
