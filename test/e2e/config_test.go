package e2e

import (
	"errors"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/cluster"
)

// fiveFaults is a configuration with five faults, each of another kind.
const fiveFaults = `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw1, sshAddress: 192.0.2.11, interface: eth0, colour: red}
- {name: gw1, sshAddress: 192.0.2.12, interface: eth0}
ssh: {privateKeyFile: ` + lab.KeyFile + `, knownHostsFile: ` + lab.KnownHostsFile + `}
vrrp: {firstRouterID: 300}
pools:
- {name: default, addresses: [192.0.2.300]}
resyncInterval: 1s
`

// testBadConfig: all faults of a configuration are told at once, each with its field; the exit status is 1 and no gateway is
// touched.
func testBadConfig(t *testing.T, s *site) {
	// The site's own controller may have a round left to do from the test before: what changes now must be the faulty one's.
	must(t, s.controller.Stop())
	t.Cleanup(func() { s.start(t) })
	before := s.fences(t)
	const file = "/etc/cloud-provider-haproxy/faulty.yaml"
	must(t, s.Lab.Controller.WriteFile(file, []byte(fiveFaults), 0o644))
	_, err := s.Lab.Controller.Run(t.Context(), s.ControllerArgv("--cloud-config="+file, "--leader-elect=false", "--secure-port=10261")...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("the controller ended with %v, want exit status 1", err)
	}
	t.Log(err)
	for _, fault := range []string{"colour", "gateways[1].name", "vrrp.firstRouterID", "pools[0].addresses[0]", "resyncInterval"} {
		if lacks(err.Error(), []string{fault}) != "" {
			t.Errorf("the fault of %s is not told", fault)
		}
	}
	if diff := cmp.Diff(before, s.fences(t)); diff != "" {
		t.Errorf("gateways were touched (-before +after):\n%s", diff)
	}
}

// fences are the States that the gateways hold.
func (s *site) fences(t *testing.T) map[string]string {
	t.Helper()
	all, err := s.Status(t.Context())
	must(t, err)
	fences := map[string]string{}
	for _, g := range all {
		fences[g.Gateway] = fenceOf(g)
	}
	return fences
}

func fenceOf(g cluster.GatewayStatus) string {
	if g.Status == nil {
		return g.Error
	}
	return g.Status.Fence.String() + " " + g.Status.Digest
}
