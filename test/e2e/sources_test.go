package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
)

const (
	denyAnnotation  = prefix + "deny-source-ranges"
	drainAnnotation = prefix + "drain-timeout"
)

// testSourceRanges: who may connect reaches the Service, who may not is refused at once; the ranges change while it is served,
// without a reload of HAProxy. Who may not connect any more keeps a connection for the Service's drain time. What cannot be read changes nothing,
// and a new Service with it is not served.
func testSourceRanges(t *testing.T, s *site) {
	friend, stranger := s.client, s.Lab.Controller
	friends := []string{single(friend.Addr4), single(friend.Addr6)}
	narrowed := s.narrow(t, friends) // and the rest meanwhile
	s.create(t, service("ranged", families(corev1.IPFamilyPolicyRequireDualStack), func(svc *corev1.Service) {
		svc.Spec.LoadBalancerSourceRanges = append(friends, "10.0.0.0/8", "10.1.0.0/16") // one inside another
	}))
	var v4, v6 string
	for _, a := range s.addresses(t, "ranged") {
		if s.reaches(t, target(a, 80)); a.Is4() {
			v4 = target(a, 80)
		} else {
			v6 = target(a, 80)
		}
	}
	refused(t, stranger, v4, v6)
	held := s.hold(t, 10, v4, v6)
	before := s.count(t)

	s.change(t, "ranged", func(svc *corev1.Service) {
		svc.Spec.LoadBalancerSourceRanges = []string{single(stranger.Addr4), single(stranger.Addr6)}
	})
	s.awaitRefused(t, friend, v4, v6)
	s.awaitServed(t, stranger, v4, v6)

	s.change(t, "ranged", func(svc *corev1.Service) {
		svc.Spec.LoadBalancerSourceRanges = nil
		svc.Annotations = map[string]string{denyAnnotation: single(stranger.Addr4)}
	})
	s.awaitServed(t, friend, v4, v6)
	s.awaitRefused(t, stranger, v4)
	s.awaitServed(t, stranger, v6)
	uncut(t, held) // their client may connect again

	s.change(t, "ranged", func(svc *corev1.Service) { svc.Annotations[denyAnnotation] = "everybody" })
	t.Log(s.expectEvent(t, "Service", "ranged", "Warning", denyAnnotation, `"everybody" is not a range`, "192.0.2.0/24"))
	refused(t, stranger, v4)
	s.awaitServed(t, friend, v4)

	s.change(t, "ranged", func(svc *corev1.Service) {
		svc.Annotations = map[string]string{requestAnnotation: "nonsense"} // another fault, that does not wait for anybody
		svc.Spec.LoadBalancerSourceRanges = friends[:1]
	})
	t.Log(s.expectEvent(t, "Service", "ranged", "Warning", requestAnnotation, `"nonsense" is not an address`))
	s.awaitServed(t, friend, v4)
	s.awaitRefused(t, friend, v6)

	s.change(t, "ranged", func(svc *corev1.Service) { svc.Annotations = nil })
	t.Log(s.expectEvent(t, "Service", "ranged", "Warning", "NoSourceAllowed", "has no IPv6 range"))
	refused(t, stranger, v4, v6)

	s.change(t, "ranged", func(svc *corev1.Service) { svc.Spec.LoadBalancerSourceRanges = nil })
	s.awaitServed(t, friend, v4, v6)
	s.awaitServed(t, stranger, v4, v6)
	if reloads := s.count(t).reloads - before.reloads; reloads != 0 {
		t.Errorf("changes of who may connect reloaded HAProxy %d times, want 0", reloads)
	}

	s.create(t, service("ranged-wrong", annotated(denyAnnotation, "198.51.100.7")))
	t.Log(s.expectEvent(t, "Service", "ranged-wrong", "Warning", denyAnnotation, `"198.51.100.7" is not a range`))
	s.pending(t, "ranged-wrong")
	narrowed()
}

// narrow lets a Service be reached by its friends alone, while they and a stranger are connected. What is given waits until the
// stranger's connection is reset.
func (s *site) narrow(t *testing.T, friends []string) (await func()) {
	t.Helper()
	friend, stranger := s.client, s.Lab.Controller
	const drain = 10 * time.Second
	s.create(t, service("narrowed", annotated(drainAnnotation, drain.String())))
	at := target(s.addresses(t, "narrowed")[0], 80)
	s.awaitServed(t, stranger, at)
	theirs, ours := dial(t, stranger, at), dial(t, friend, at)
	must(t, theirs.SetReadDeadline(time.Now().Add(90*time.Second)))
	type end struct {
		when time.Time
		err  error
	}
	ended, begun := make(chan end, 1), time.Now()
	go func() {
		_, err := theirs.Read(make([]byte, 1))
		ended <- end{time.Now(), err}
	}()
	s.change(t, "narrowed", func(svc *corev1.Service) { svc.Spec.LoadBalancerSourceRanges = friends })
	s.awaitRefused(t, stranger, at)
	return func() {
		t.Helper()
		switch e := <-ended; {
		case !errors.Is(e.err, syscall.ECONNRESET) || e.when.Sub(begun) < drain:
			t.Errorf("an established connection whose client may not connect any more ended after %v: %v; want it reset after %v", e.when.Sub(begun), e.err, drain)
		default:
			t.Logf("the connection whose client may not connect any more ended after %v", e.when.Sub(begun).Round(time.Millisecond))
		}
		must(t, ours.SetReadDeadline(time.Now().Add(time.Second)))
		if _, err := ours.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a connection whose client may connect: %v, want it to live", err)
		}
	}
}

func single(a netip.Addr) string { return netip.PrefixFrom(a, a.BitLen()).String() }

// dial opens a connection on which nobody says anything.
func dial(t *testing.T, h *lab.Host, target string) net.Conn {
	t.Helper()
	c, err := h.Dial(t.Context(), "tcp", target)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// change updates a Service.
func (s *site) change(t *testing.T, name string, change func(*corev1.Service)) {
	t.Helper()
	s.await(t, "the API server to take a change of Service "+name, func(ctx context.Context) error {
		svc, err := s.Client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(svc)
		_, err = s.Client.CoreV1().Services(namespace).Update(ctx, svc, metav1.UpdateOptions{})
		return err // somebody else changed it: again
	})
}

// isRefused is nil when a host's connection is refused, and at once: the client sends the next SYN after a second.
func isRefused(h *lab.Host, target string) error {
	begun := time.Now()
	who, err := h.Ask(target, 2*time.Second)
	switch took := time.Since(begun); {
	case err == nil:
		return fmt.Errorf("%s reaches %s of %s", h.Name, target, who)
	case !errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s is not refused at %s: %w", h.Name, target, err)
	case took > 900*time.Millisecond:
		return fmt.Errorf("%s is refused at %s after %v only", h.Name, target, took)
	}
	return nil
}

func refused(t *testing.T, h *lab.Host, targets ...string) {
	t.Helper()
	for _, target := range targets {
		if err := isRefused(h, target); err != nil {
			t.Error(err)
		}
	}
}

func (s *site) awaitRefused(t *testing.T, h *lab.Host, targets ...string) {
	t.Helper()
	for _, target := range targets {
		s.await(t, h.Name+" to be refused at "+target, func(context.Context) error { return isRefused(h, target) })
	}
}

func (s *site) awaitServed(t *testing.T, h *lab.Host, targets ...string) {
	t.Helper()
	for _, target := range targets {
		s.await(t, h.Name+" to be served at "+target, func(context.Context) error {
			_, err := h.Ask(target, time.Second)
			return err
		})
	}
}
