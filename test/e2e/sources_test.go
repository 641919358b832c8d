package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
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

// testSourceRanges: who may connect reaches the Service over TCP and UDP, who may not is refused at once; the ranges change while it is served,
// without a reload of HAProxy. Who may not connect any more keeps a connection for the Service's drain time. What cannot be read changes nothing,
// and a new Service with it is not served.
func testSourceRanges(t *testing.T, s *site) {
	friend, stranger := s.client, s.Lab.Controller
	friends := []string{single(friend.Addr4), single(friend.Addr6)}
	narrowed := s.narrow(t, friends) // and the rest meanwhile
	s.create(t, service("ranged", withDNS, families(corev1.IPFamilyPolicyRequireDualStack), func(svc *corev1.Service) {
		svc.Spec.LoadBalancerSourceRanges = append(friends, "10.0.0.0/8", "10.1.0.0/16") // one inside another
	}))
	v4, v6 := s.doors(t, "ranged")
	all := slices.Concat(v4, v6)
	s.awaitServed(t, friend, all...)
	refused(t, stranger, all...)
	held := s.hold(t, 10, v4[0], v6[0])
	before := s.count(t)

	s.change(t, "ranged", func(svc *corev1.Service) {
		svc.Spec.LoadBalancerSourceRanges = []string{single(stranger.Addr4), single(stranger.Addr6)}
	})
	s.awaitRefused(t, friend, all...)
	s.awaitServed(t, stranger, all...)

	s.change(t, "ranged", func(svc *corev1.Service) {
		svc.Spec.LoadBalancerSourceRanges = nil
		svc.Annotations = map[string]string{denyAnnotation: single(stranger.Addr4)}
	})
	s.awaitServed(t, friend, all...)
	s.awaitRefused(t, stranger, v4...)
	s.awaitServed(t, stranger, v6...)
	uncut(t, held) // their client may connect again

	s.change(t, "ranged", func(svc *corev1.Service) { svc.Annotations[denyAnnotation] = "everybody" })
	t.Log(s.expectEvent(t, "Service", "ranged", "Warning", denyAnnotation, `"everybody" is not a range`, "192.0.2.0/24"))
	refused(t, stranger, v4...)
	s.awaitServed(t, friend, v4...)

	s.change(t, "ranged", func(svc *corev1.Service) {
		svc.Annotations = map[string]string{requestAnnotation: "nonsense"} // another fault, that does not wait for anybody
		svc.Spec.LoadBalancerSourceRanges = friends[:1]
	})
	t.Log(s.expectEvent(t, "Service", "ranged", "Warning", requestAnnotation, `"nonsense" is not an address`))
	s.awaitServed(t, friend, v4...)
	s.awaitRefused(t, friend, v6...)

	s.change(t, "ranged", func(svc *corev1.Service) { svc.Annotations = nil })
	t.Log(s.expectEvent(t, "Service", "ranged", "Warning", "NoSourceAllowed", "has no IPv6 range"))
	refused(t, stranger, all...)

	s.change(t, "ranged", func(svc *corev1.Service) { svc.Spec.LoadBalancerSourceRanges = nil })
	s.awaitServed(t, friend, all...)
	s.awaitServed(t, stranger, all...)
	if reloads := s.count(t).reloads - before.reloads; reloads != 0 {
		t.Errorf("changes of who may connect reloaded HAProxy %d times, want 0", reloads)
	}

	s.create(t, service("ranged-wrong", annotated(denyAnnotation, "198.51.100.7")))
	t.Log(s.expectEvent(t, "Service", "ranged-wrong", "Warning", denyAnnotation, `"198.51.100.7" is not a range`))
	s.pending(t, "ranged-wrong")
	t.Run("source-address", func(t *testing.T) { testSourceAddress(t, s) }) // meanwhile, too
	narrowed()
}

// doors are TCP port 80 and UDP port 53 of a Service's addresses.
func (s *site) doors(t *testing.T, name string) (v4, v6 []string) {
	t.Helper()
	for _, a := range s.addresses(t, name) {
		if both := []string{target(a, 80), overUDP + target(a, 53)}; a.Is4() {
			v4 = both
		} else {
			v6 = both
		}
	}
	return v4, v6
}

// narrow lets a Service be reached by its friends alone, while they and a stranger are connected, and have a flow of UDP each. What is
// given waits until those of the stranger have ended.
func (s *site) narrow(t *testing.T, friends []string) (await func()) {
	t.Helper()
	friend, stranger := s.client, s.Lab.Controller
	const drain = 10 * time.Second
	s.create(t, service("narrowed", withDNS, annotated(drainAnnotation, drain.String())))
	address := s.addresses(t, "narrowed")[0]
	at, dns := target(address, 80), target(address, 53)
	s.awaitServed(t, stranger, at, overUDP+dns)
	theirs, ours := dial(t, stranger, at), dial(t, friend, at)
	must(t, theirs.SetReadDeadline(time.Now().Add(90*time.Second)))
	theirFlow, ourFlow := flowFrom(t, stranger, dns), flowFrom(t, friend, dns)
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
	s.awaitRefused(t, stranger, at, overUDP+dns)
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
		s.await(t, "the stranger's flow of UDP to end", func(context.Context) error {
			if lasts := time.Since(theirFlow.lastAnswer()); lasts < time.Second {
				return fmt.Errorf("it was answered %v ago", lasts)
			}
			return nil
		})
		if lived := theirFlow.lastAnswer().Sub(begun); lived < drain-time.Second { // the last of its questions
			t.Errorf("an established flow of UDP whose client may not connect any more ended after %v, want %v: %v", lived, drain, theirFlow.stop())
		} else {
			t.Logf("the flow of UDP whose client may not connect any more ended after %v", lived.Round(time.Millisecond))
		}
		if ourFlow.stop(); ourFlow.lost > 0 {
			t.Errorf("a flow of UDP whose client may connect: %v; want none lost", ourFlow)
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

// overUDP begins a target that is asked with a datagram.
const overUDP = "udp "

// ask connects to a target, or sends it a datagram, and tells who answered.
func ask(h *lab.Host, target string, limit time.Duration) (who string, err error) {
	if at, datagram := strings.CutPrefix(target, overUDP); datagram {
		return datagramFrom(h, at)
	}
	return h.Ask(target, limit)
}

// isRefused is nil when a host's connection is refused, and at once: the client sends the next SYN after a second.
func isRefused(h *lab.Host, target string) error {
	begun := time.Now()
	who, err := ask(h, target, 2*time.Second)
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
			_, err := ask(h, target, time.Second)
			return err
		})
	}
}
