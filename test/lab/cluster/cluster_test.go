package cluster_test

import (
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/cluster"
)

// A client reaches pods on every worker through a NodePort of any worker: the path below the gateways is real.
func TestNodePortReachesPodsOfEveryWorker(t *testing.T) {
	lab.Require(t)
	l := lab.New(t, lab.Options{Workers: 2, Bare: true})
	c, err := cluster.Start(t.Context(), l, cluster.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	if err := c.RunPods(t.Context(), "default", "web", 8080, "worker1", "worker2"); err != nil {
		t.Fatal(err)
	}
	out, err := c.KubectlInput(t.Context(), `
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ipFamilyPolicy: PreferDualStack
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
`, "apply", "-f", "-")
	if err != nil {
		t.Fatal(out, err)
	}
	for _, target := range []string{"192.0.2.21:30080", "[2001:db8::22]:30080"} {
		seen := map[string]bool{}
		deadline := time.Now().Add(20 * time.Second)
		for len(seen) < 2 && time.Now().Before(deadline) {
			if who, err := l.Client.Ask(target, time.Second); err == nil {
				seen[strings.Fields(who)[0]] = true
			}
		}
		if !seen["web-0"] || !seen["web-1"] {
			t.Errorf("%s answered with pods %v, want web-0 and web-1", target, seen)
		}
	}
}
