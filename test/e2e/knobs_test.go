package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testKnobs turns what a Service may ask for, one after the other: each is set, changed and removed on a Service under traffic, and
// what clients, pods and checked ports see has to change with it. A neighbour, which nobody touches, loses nothing all the while.
// HAProxy is reloaded where README.md says so and nowhere else.
func testKnobs(t *testing.T, s *site) {
	s.create(t, service("quiet", families(corev1.IPFamilyPolicyRequireDualStack)))
	var quiet []string
	for _, a := range s.addresses(t, "quiet") {
		quiet = append(quiet, target(a, 80))
	}
	plain := s.turned(t, service("turned", withDNS))
	headed := s.turned(t, s.behindHeaders(t, "headed"))
	checked := checkedWorkers(t, s)
	neighbour := s.neighbour(t, quiet...)
	for _, of := range []struct {
		subject *turned
		knobs   []knob
	}{
		{plain, slices.Concat(plain.spreading(), plain.limiting(), plain.timing(), plain.checking(checked))},
		{headed, headed.heading()},
	} {
		for _, k := range of.knobs {
			t.Run(strings.TrimPrefix(k.key, prefix), func(t *testing.T) {
				begun := time.Now()
				neighbour.reloads += of.subject.turn(t, k)
				t.Logf("took %v", time.Since(begun).Round(time.Millisecond))
			})
		}
	}
	t.Run("reloads-wait", func(t *testing.T) { neighbour.reloads += testReloadsWait(t, plain) })
	t.Run("spec.publishNotReadyAddresses", func(t *testing.T) { testNotReady(t, s) })
	neighbour.unharmed(t, s)
}

// knob is an annotation or a field of a Service.
type knob struct {
	key string
	// beside are annotations that stay as they are meanwhile.
	beside map[string]string
	steps  []step
	// reloads says that HAProxy has to be reloaded for it.
	reloads bool
}

// step gives the annotation a value, or makes another change.
type step struct {
	value  string
	change func(*corev1.Service)
	// shows fails unless what clients, pods or checked ports see is what the step means.
	shows func(*testing.T)
}

// turned is a Service whose knobs are turned.
type turned struct {
	*site
	name string
	// at is its port 80.
	at       string
	original *corev1.Service
	// before is where gateways sent its connections before the newest step, by gateway.
	before map[string]string
}

// turned makes a Service and waits until it is served.
func (s *site) turned(t *testing.T, svc *corev1.Service) *turned {
	t.Helper()
	s.create(t, svc)
	u := &turned{site: s, name: svc.Name, at: target(s.addresses(t, svc.Name)[0], 80)}
	s.await(t, u.name+" to be served by all nodes", func(context.Context) error { return u.reachesNodes(workers(s.Lab)...) })
	var err error
	u.original, err = s.Client.CoreV1().Services(namespace).Get(t.Context(), svc.Name, metav1.GetOptions{})
	must(t, err)
	return u
}

// turn makes the steps of a knob and tells how often HAProxy was reloaded meanwhile.
func (u *turned) turn(t *testing.T, k knob) uint64 {
	t.Helper()
	if k.reloads {
		u.forgetWishes(t)
	}
	before := u.count(t).reloads
	defer func() {
		if t.Failed() { // and may have given up in the middle
			u.restore(t)
			u.isPlain(t)
		}
	}()
	for _, one := range k.steps {
		u.before = u.routes(t)
		u.change(t, u.name, func(svc *corev1.Service) {
			svc.Annotations = map[string]string{}
			for key, value := range k.beside {
				svc.Annotations[key] = value
			}
			if one.value != "" {
				svc.Annotations[k.key] = one.value
			}
			if one.change != nil {
				one.change(svc)
			}
		})
		one.shows(t)
	}
	u.restore(t)
	u.isPlain(t)
	reloads := u.count(t).reloads - before
	if (reloads > 0) != k.reloads {
		t.Errorf("HAProxy was reloaded %d times, want it reloaded: %t", reloads, k.reloads)
	}
	return reloads
}

// testReloadsWait: who changes his mind again and again does not have HAProxy reloaded each time. What he had stays, he is told until
// when, and then it comes.
func testReloadsWait(t *testing.T, u *turned) uint64 {
	u.forgetWishes(t)
	before := u.count(t).reloads
	wish := func(millis int) string {
		u.change(t, u.name, func(svc *corev1.Service) {
			svc.Annotations = map[string]string{prefix + "timeout-connect": fmt.Sprintf("%dms", millis)}
		})
		return fmt.Sprintf("timeout connect %dms", millis)
	}
	for had := 1; had <= 5; had++ {
		u.awaitConfigured(t, wish(100*had))
	}
	line := wish(600)
	u.expectEvent(t, "Service", u.name, "ReloadWaits", namespace+"/"+u.name, "until then")
	reaches := u.reachesNodes(workers(u.Lab)...)
	if reloads := u.count(t).reloads - before; reloads != 5*uint64(len(u.Lab.Gateways)) || reaches != nil {
		t.Errorf("HAProxy was reloaded %d times; what was there before: %v", reloads, reaches)
	}
	u.forgetWishes(t)
	u.awaitConfigured(t, line)
	u.restore(t)
	u.isPlain(t)
	return u.count(t).reloads - before
}

// forgetWishes starts the gateways' agents anew: how often HAProxy was reloaded for wishes of Services, and may be before the next ones
// wait, is what an agent has seen itself.
func (u *turned) forgetWishes(t *testing.T) {
	t.Helper()
	for _, g := range u.Lab.Gateways {
		u.end(t, g, "-KILL", agentProcess)
		_, err := g.StartAgent(t.Context())
		must(t, err)
	}
	u.awaitInSync(t)
}

// restore gives the Service the form that it had.
func (u *turned) restore(t *testing.T) {
	t.Helper()
	u.change(t, u.name, func(svc *corev1.Service) { svc.Spec, svc.Annotations = *u.original.Spec.DeepCopy(), nil })
}

// isPlain waits until the Service is one of the shared pool like others again.
func (u *turned) isPlain(t *testing.T) {
	t.Helper()
	u.awaitMapped(t, "nodes|", "|0|0|0|0")
	u.await(t, u.name+" to be served by all nodes again", func(context.Context) error { return u.reachesNodes(workers(u.Lab)...) })
}

// routes are what the gateways' maps have for the Service's port 80, by gateway.
func (u *turned) routes(t *testing.T) map[string]string {
	t.Helper()
	routes := map[string]string{}
	for _, g := range u.Lab.Gateways {
		lines, err := g.ReadFile("/etc/haproxy/services.map")
		must(t, err)
		for line := range strings.Lines(string(lines)) {
			if route, ours := strings.CutPrefix(line, u.at+" "); ours {
				routes[g.Name] = strings.TrimSpace(route)
			}
		}
	}
	return routes
}

// awaitMapped waits until the line of the Service's port 80 in every gateway's map has all words.
func (u *turned) awaitMapped(t *testing.T, words ...string) {
	t.Helper()
	u.awaitRoutes(t, fmt.Sprintf("%q for %s", words, u.at), func(_, route string) bool { return lacks(route, words) == "" })
}

// awaitMoved waits until no gateway sends connections where it did before the newest step.
func (u *turned) awaitMoved(t *testing.T) {
	t.Helper()
	u.awaitRoutes(t, "another slot for "+u.at, func(gateway, route string) bool { return route != u.before[gateway] })
}

func (u *turned) awaitRoutes(t *testing.T, what string, is func(gateway, route string) bool) {
	t.Helper()
	u.await(t, "every gateway to have "+what, func(context.Context) error {
		for gateway, route := range u.routes(t) {
			if !is(gateway, route) {
				return fmt.Errorf("%s has %q", gateway, route)
			}
		}
		return nil
	})
}

// awaitConfigured waits until every gateway's haproxy.cfg has a line.
func (u *turned) awaitConfigured(t *testing.T, line string) {
	t.Helper()
	for _, g := range u.Lab.Gateways {
		u.await(t, fmt.Sprintf("%s to have a line %q", g.Name, line), func(context.Context) error {
			config, err := g.ReadFile("/etc/haproxy/haproxy.cfg")
			if err == nil && !strings.Contains(string(config), line) {
				err = errors.New("it has not")
			}
			return err
		})
	}
	u.awaitMapped(t, "slot-")
}

// lets time pass: that nothing happens meanwhile is what is looked at.
func (u *turned) lets(t *testing.T, pass time.Duration) {
	t.Helper()
	select {
	case <-time.After(pass):
	case <-t.Context().Done():
	}
}
