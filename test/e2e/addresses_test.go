package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
)

const (
	prefix         = "cloud-provider-haproxy/"
	poolAnnotation = prefix + "address-pool"
	keepAnnotation = prefix + "keep-ip"
)

// testStranger: a machine of the network has an address of a pool without telling anybody. Who asks for it is told whose it is;
// who asks for any address gets the next one. When the machine gives it back, it is given.
func testStranger(t *testing.T, s *site) {
	s.withPools(t, `- {name: small, addresses: [192.0.2.240-192.0.2.241], autoAssign: false}`)
	const taken, next = "192.0.2.240", "192.0.2.241"
	must(t, setAddress(t, s.client, "add", taken))
	mac := s.mac(t)
	s.create(t, service("any", annotated(poolAnnotation, "small")))
	if got := s.addresses(t, "any")[0].String(); got != next {
		t.Errorf("got %s, want %s", got, next)
	}
	t.Log(s.expectEvent(t, "Service", "any", "Warning", taken, mac, "another address"))
	s.create(t, service("this", annotated(requestAnnotation, taken)))
	t.Log(s.expectEvent(t, "Service", "this", "Warning", taken, mac, "SyncLoadBalancerFailed"))
	s.pending(t, "this")
	s.create(t, service("full", annotated(poolAnnotation, "small")))
	t.Log(s.expectEvent(t, "Service", "full", "Warning", "small", "quarantined"))
	s.remove(t, "full")
	s.awaitGone(t, "full")

	must(t, setAddress(t, s.client, "del", taken))
	const object = "cloud-provider-haproxy-addresses"
	ledger, err := s.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(t.Context(), object, metav1.GetOptions{})
	must(t, err)
	if !strings.Contains(ledger.Data["addresses.yaml"], taken) {
		t.Errorf("the ledger does not name %s:\n%s", taken, ledger.Data["addresses.yaml"])
	}
	// The administrator does not wait ten minutes.
	_, err = s.Kubectl(t.Context(), "patch", "configmap", "-n", metav1.NamespaceSystem, object, "--type=merge", "-p", `{"data":{"addresses.yaml":"quarantined: []\n"}}`)
	must(t, err)
	if got := s.addresses(t, "this")[0].String(); got != taken {
		t.Errorf("got %s, want %s", got, taken)
	}
	s.reaches(t, taken+":80")
}

// testNodeAnswers: a worker answers for an address that a gateway holds, as kube-proxy in IPVS mode makes it do.
func testNodeAnswers(t *testing.T, s *site) {
	s.create(t, service("contested", families(corev1.IPFamilyPolicyRequireDualStack)))
	worker := s.Lab.Workers[0]
	for _, address := range s.addresses(t, "contested") {
		s.reaches(t, target(address, 80))
		must(t, setAddress(t, worker, "add", address.String()))
		t.Log(s.expectEvent(t, "Service", "contested", "Warning", "AddressConflict", address.String(), worker.Name, "strictARP"))
		must(t, setAddress(t, worker, "del", address.String()))
	}
}

// setAddress gives a host another address ("add"), or takes it away ("del").
func setAddress(t *testing.T, h *lab.Host, verb, address string) error {
	bits := "/32"
	if strings.Contains(address, ":") {
		bits = "/128"
	}
	_, err := h.Run(context.WithoutCancel(t.Context()), "ip", "address", verb, address+bits, "dev", "eth0")
	return err
}

func (s *site) mac(t *testing.T) string {
	t.Helper()
	mac, err := s.client.ReadFile("/sys/class/net/eth0/address")
	if err != nil || len(mac) == 0 { // /sys of the lab's machines may be that of this one
		shown, err := s.client.Run(t.Context(), "sh", "-c", "ip -o link show dev eth0 | sed 's,.*link/ether \\([^ ]*\\).*,\\1,'")
		must(t, err)
		return strings.TrimSpace(shown)
	}
	return strings.TrimSpace(string(mac))
}

// withPools lets the running controller have these pools besides its own, until the test ends.
func (s *site) withPools(t *testing.T, pools string) {
	t.Helper()
	s.reconfigure(t, strings.Replace(s.smallerPool(), "pools:\n", "pools:\n"+pools+"\n", 1))
	t.Cleanup(func() { s.reconfigure(t, s.Lab.CloudConfig()) })
}

// smallerPool is the lab's configuration, but the last addresses that the gateways' limits allow are in no pool.
func (s *site) smallerPool() string {
	return strings.Replace(s.Lab.CloudConfig(), "192.0.2.64-192.0.2.254", "192.0.2.64-192.0.2.229", 1)
}

// reconfigure changes the configuration under the running controller and waits until it has taken it.
func (s *site) reconfigure(t *testing.T, config string) {
	t.Helper()
	if now, err := s.Lab.Controller.ReadFile(cloudConfigFile); err == nil && string(now) == config {
		return
	}
	before := s.reloads(t)
	must(t, s.Lab.Controller.WriteFile(cloudConfigFile, []byte(config), 0o644))
	s.await(t, "the controller to take the changed configuration", func(context.Context) error {
		if now := s.reloads(t); now <= before {
			return fmt.Errorf("it took %d", now)
		}
		return nil
	})
}

// reloads counts the configurations that the controller took since it started.
func (s *site) reloads(t *testing.T) int {
	t.Helper()
	said, err := s.controller.Output()
	must(t, err)
	return strings.Count(string(said), configTaken)
}

// testSharing: two Services share an address and each is reached at its own port only; a third one that wants a port which is
// taken, or has another key, is told.
func testSharing(t *testing.T, s *site) {
	share := func(key string, ports ...int32) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			svc.Annotations = map[string]string{prefix + "allow-shared-ip": key}
			svc.Spec.Ports = nil
			for _, p := range ports {
				svc.Spec.Ports = append(svc.Spec.Ports, port(fmt.Sprintf("p%d", p), corev1.ProtocolTCP, p))
			}
		}
	}
	s.create(t, service("one", share("together", 80)))
	address := s.addresses(t, "one")[0]
	s.create(t, service("two", share("together", 81, 82)))
	if got := s.addresses(t, "two")[0]; got != address {
		t.Errorf("two has %s, want the shared %s", got, address)
	}
	held := s.hold(t, 10, target(address, 80))
	for _, p := range []uint16{80, 81, 82} {
		s.reaches(t, target(address, p))
	}
	asking := func(key string, p int32) func(*corev1.Service) {
		return func(svc *corev1.Service) {
			share(key, p)(svc)
			svc.Annotations[requestAnnotation] = address.String()
		}
	}
	s.create(t, service("same-port", asking("together", 81)))
	t.Log(s.expectEvent(t, "Service", "same-port", "Warning", "81", namespace+"/two"))
	s.create(t, service("other-key", asking("alone", 90)))
	t.Log(s.expectEvent(t, "Service", "other-key", "Warning", address.String(), namespace+"/"))
	s.remove(t, "two")
	s.awaitGone(t, "two")
	if got := s.addresses(t, "same-port")[0]; got != address {
		t.Errorf("same-port has %s", got)
	}
	s.reaches(t, target(address, 81))
	if _, err := s.client.Ask(target(address, 82), time.Second); err == nil {
		t.Error("port 82 is still open after its Service is gone")
	}
	uncut(t, held)
}

// testKeptAddress: an address outlives its Service until its Service comes back.
func testKeptAddress(t *testing.T, s *site) {
	s.create(t, service("kept", annotated(keepAnnotation, "true")))
	address := s.addresses(t, "kept")[0]
	s.remove(t, "kept")
	s.awaitGone(t, "kept")
	s.restart(t)
	s.create(t, service("thief", annotated(requestAnnotation, address.String())))
	t.Log(s.expectEvent(t, "Service", "thief", "Warning", address.String(), namespace+"/kept"))
	s.pending(t, "thief")
	s.create(t, service("kept"))
	if got := s.addresses(t, "kept")[0]; got != address {
		t.Errorf("it came back and has %s, want %s", got, address)
	}
	s.reaches(t, target(address, 80))
	s.remove(t, "kept") // without the annotation
	if got := s.addresses(t, "thief")[0]; got != address {
		t.Errorf("thief has %s", got)
	}
}

// testTwoClaims: somebody wrote the address of one Service into the status of another while no controller ran. The elder
// keeps it, the other is told and served elsewhere.
func testTwoClaims(t *testing.T, s *site) {
	s.create(t, service("elder"))
	address := s.addresses(t, "elder")[0]
	s.create(t, service("younger")) // within the same second the name decides
	s.addresses(t, "younger")
	held := s.hold(t, 10, target(address, 80))
	must(t, s.controller.Stop())
	_, err := s.Kubectl(t.Context(), "patch", "service", "younger", "--subresource=status", "--type=merge", "-p",
		fmt.Sprintf(`{"status":{"loadBalancer":{"ingress":[{"ip":%q}]}}}`, address))
	must(t, err)
	s.start(t)
	t.Log(s.expectEvent(t, "Service", "younger", "Warning", "AddressTaken", address.String(), namespace+"/elder"))
	s.await(t, "the younger Service to have an address of its own", func(context.Context) error {
		if got := s.addresses(t, "younger")[0]; got == address {
			return fmt.Errorf("it has %s", got)
		}
		return nil
	})
	s.reaches(t, target(s.addresses(t, "younger")[0], 80))
	if got := s.addresses(t, "elder")[0]; got != address {
		t.Errorf("the elder has %s, want %s", got, address)
	}
	uncut(t, held)
}
