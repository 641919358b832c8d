package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

// events are the Events of one object, newest last.
func (s *site) events(ctx context.Context, kind, name string) string {
	list, err := s.Client.CoreV1().Events(metav1.NamespaceAll).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name,
	})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	for _, e := range list.Items {
		fmt.Fprintf(&b, "\n  %s %s: %s", e.Type, e.Reason, e.Message)
	}
	return b.String()
}

// expectEvent waits for one Event of the object that has all words, and gives it.
func (s *site) expectEvent(t *testing.T, kind, name string, words ...string) string {
	t.Helper()
	var found string
	s.await(t, fmt.Sprintf("an Event of %s %s that says %q", kind, name, words), func(ctx context.Context) error {
		all := s.events(ctx, kind, name)
		for _, event := range strings.Split(all, "\n  ") {
			if lacks(event, words) == "" {
				found = event
				return nil
			}
		}
		return fmt.Errorf("its Events: %s", all)
	})
	return found
}

// lacks is the first word that a text does not have.
func lacks(text string, words []string) string {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return word
		}
	}
	return ""
}

// reaches waits until the client is served at the target, and tells by whom.
func (s *site) reaches(t *testing.T, target string) string {
	t.Helper()
	var who string
	s.await(t, "the client to reach "+target, func(context.Context) (err error) {
		who, err = s.client.Ask(target, time.Second)
		return err
	})
	return who
}

func target(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// hold opens connections that have to live on.
func (s *site) hold(t *testing.T, count int, targets ...string) *lab.Running[traffic.HoldReport] {
	t.Helper()
	held, err := s.client.StartHold(t.Context(), traffic.Hold{Targets: targets, Count: count, Timeout: 5 * time.Second})
	must(t, err)
	return held
}

// uncut ends held connections, none of which may have been lost.
func uncut(t *testing.T, held *lab.Running[traffic.HoldReport]) {
	t.Helper()
	report, err := held.Stop()
	must(t, err)
	for _, cut := range report.Cut {
		t.Errorf("a held connection to %s was cut after %v: %s", cut.Target, cut.After, cut.Error)
	}
	t.Logf("%d connections held, %d cut", report.Held, len(report.Cut))
}

// count are counters of all gateways together.
type count struct{ reloads, rounds, runtime uint64 }

func (s *site) count(t *testing.T) count {
	t.Helper()
	all, err := s.Status(t.Context())
	must(t, err)
	var sum count
	for _, g := range all {
		if g.Status == nil {
			t.Fatalf("%s cannot be asked: %s", g.Gateway, g.Error)
		}
		for _, n := range g.Status.Reloads {
			sum.reloads += n
		}
		for _, n := range g.Status.Rounds {
			sum.rounds += n
		}
		sum.runtime += g.Status.RuntimeUpdates
	}
	return sum
}

// since is what has been counted since an earlier count, on each gateway (rounded up).
func (c count) since(before count, gateways int) count {
	per := func(now, then uint64) uint64 { return (now - then + uint64(gateways) - 1) / uint64(gateways) }
	return count{per(c.reloads, before.reloads), per(c.rounds, before.rounds), per(c.runtime, before.runtime)}
}

func (s *site) awaitInSync(t *testing.T) {
	t.Helper()
	s.await(t, "every gateway to be in sync", s.InSync)
}

// awaitReleased waits until no gateway has any of the addresses.
func (s *site) awaitReleased(t *testing.T, addresses ...netip.Addr) {
	t.Helper()
	s.await(t, "the gateways to let go of the addresses", func(ctx context.Context) error {
		for _, a := range addresses {
			holders, err := s.Holders(ctx, a)
			if err != nil {
				return err
			}
			if len(holders) != 0 {
				return fmt.Errorf("%s still holds %v", holders[0].Name, a)
			}
		}
		return nil
	})
}

// await waits for something that may take a minute at most.
func (s *site) await(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	must(t, s.WaitFor(context.WithoutCancel(t.Context()), what, try))
}

// end sends a signal to the processes of a host whose command line is the pattern until there are none.
func (s *site) end(t *testing.T, h *lab.Host, signal, pattern string) {
	t.Helper()
	s.await(t, pattern+" to end on "+h.Name, func(ctx context.Context) error {
		_, err := h.Run(ctx, "pkill", signal, "-f", pattern)
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 { // there was none
			return nil
		}
		return cmp.Or(err, errors.New("it still ran"))
	})
}
