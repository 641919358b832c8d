package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	checkProtocol = prefix + "health-check-protocol"
	checkPort     = prefix + "health-check-port"
	checkPath     = prefix + "health-check-path"
	checkInterval = prefix + "health-check-interval"
)

// checking are the knobs of health checks; the workers answer at ports of their own.
func (u *turned) checking(workers []*checkedWorker) []knob {
	c := &checking{u, workers}
	beside := map[string]string{checkProtocol: "http", checkPort: strconv.Itoa(checkedPort), checkInterval: "200ms"}
	without := func(key string, more ...string) map[string]string {
		left := maps.Clone(beside)
		delete(left, key)
		for i := 0; i < len(more); i += 2 {
			left[more[i]] = more[i+1]
		}
		return left
	}
	return []knob{
		{key: "cloud-provider-haproxy/health-check-protocol", beside: without(checkProtocol), steps: []step{
			{value: "http", shows: func(t *testing.T) { c.asks(t, "http", "/", checkedPort) }},
			{value: "https", shows: func(t *testing.T) { c.asks(t, "https", "/", checkedPort) }},
			{value: "tcp", shows: c.connects},
			{value: "none", change: unchecked, shows: func(t *testing.T) {
				c.asksNothing(t)
				defer c.closes(t, c.last().Host, checkedPort, "input", "reject with tcp reset")()
				u.lets(t, time.Second)
				c.allServe(t)
			}},
		}},
		// No pod answers this path over HTTP: at its NodePort the check fails everywhere.
		{key: "cloud-provider-haproxy/health-check-port", beside: without(checkPort, checkPath, "/echo"), steps: []step{
			{value: strconv.Itoa(checkedPort), shows: func(t *testing.T) { c.asks(t, "http", "/echo", checkedPort) }},
			{value: strconv.Itoa(otherPort), shows: func(t *testing.T) { c.asks(t, "http", "/echo", otherPort) }},
			{value: "http", shows: func(t *testing.T) { u.awaitRefusedBySlot(t) }}, // the port of the Service
			{value: strconv.Itoa(checkedPort), shows: func(t *testing.T) { c.asks(t, "http", "/echo", checkedPort) }},
			{shows: func(t *testing.T) { u.awaitRefusedBySlot(t) }}, // the same by default
		}},
		{key: "cloud-provider-haproxy/health-check-path", beside: without(checkPath), steps: []step{
			{value: "/up", shows: func(t *testing.T) { c.asks(t, "http", "/up", checkedPort) }},
			{value: "/ready?full=1", shows: c.failsByPath},
			{shows: func(t *testing.T) { c.asks(t, "http", "/", checkedPort) }},
		}},
		{key: "cloud-provider-haproxy/health-check-interval", beside: without(checkInterval), steps: []step{
			{value: "150ms", shows: func(t *testing.T) { c.every(t, 150*time.Millisecond, 8) }},
			{value: "1s", shows: func(t *testing.T) { c.every(t, time.Second, 2) }},
			{shows: func(t *testing.T) { c.every(t, 250*time.Millisecond, 5) }}, // the configuration's
		}},
		{key: "cloud-provider-haproxy/health-check-timeout", beside: beside, reloads: true, steps: []step{
			{value: "100ms", shows: func(t *testing.T) { c.waits(t, false) }},
			{value: "1s", shows: func(t *testing.T) { c.waits(t, true) }},
			{shows: func(t *testing.T) { c.waits(t, true) }}, // the default, two seconds
		}},
		{key: "cloud-provider-haproxy/health-check-healthy-threshold", beside: beside, steps: []step{
			{value: "1", shows: func(t *testing.T) { c.passes(t, 1) }},
			{value: "6", shows: func(t *testing.T) { c.passes(t, 6) }},
			{shows: func(t *testing.T) { c.passes(t, 2) }}, // the configuration's
		}},
		{key: "cloud-provider-haproxy/health-check-unhealthy-threshold", beside: beside, steps: []step{
			{value: "1", shows: func(t *testing.T) { c.fails(t, 1) }},
			{value: "6", shows: func(t *testing.T) { c.fails(t, 6) }},
			{shows: func(t *testing.T) { c.fails(t, 2) }}, // the configuration's
		}},
	}
}

// unchecked leaves away what contradicts health-check-protocol none.
func unchecked(svc *corev1.Service) {
	delete(svc.Annotations, checkPort)
	delete(svc.Annotations, checkInterval)
}

// checking is a Service whose nodes are checked where the test answers.
type checking struct {
	*turned
	workers []*checkedWorker
}

// asks waits until all workers are checked so, and serve.
func (c *checking) asks(t *testing.T, how, path string, port int) {
	t.Helper()
	c.awaitChecks(t, c.workers, fmt.Sprintf("of %s by %s %s", c.name, how, path), func(one check) bool {
		return one.how == how && one.path == path && one.port == port
	})
	c.allServe(t)
}

func (c *checking) allServe(t *testing.T) {
	t.Helper()
	c.await(t, "all nodes to serve", func(context.Context) error { return c.reachesNodes(workers(c.Lab)...) })
}

// connects: HAProxy's check by connecting ends with the first answer, so that no program hears of it. It fails where the port is closed.
func (c *checking) connects(t *testing.T) {
	c.asksNothing(t)
	open := sync.OnceFunc(c.closes(t, c.last().Host, checkedPort, "input", "reject with tcp reset"))
	defer open()
	c.await(t, "a worker with a closed port to get nothing", func(context.Context) error { return c.reachesNodes(c.others()...) })
	open()
	c.allServe(t)
}

// asksNothing waits until nobody is asked anything any more, and all serve.
func (c *checking) asksNothing(t *testing.T) {
	c.await(t, "a second without a check", func(ctx context.Context) error {
		from := time.Now()
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		for _, w := range c.workers {
			if checks := w.since(from); len(checks) > 0 {
				return fmt.Errorf("%s was asked %d times, like %v", w.Name, len(checks), checks[0])
			}
		}
		return nil
	})
	c.allServe(t)
}

// awaitRefusedBySlot waits until every connection is refused, because no node passes its check.
func (u *turned) awaitRefusedBySlot(t *testing.T) {
	t.Helper()
	u.awaitMapped(t, "slot-")
	u.await(t, u.name+" to refuse", func(context.Context) error {
		for range 5 {
			if m, err := u.meet(u.client, u.at); err == nil {
				return fmt.Errorf("%s answers by way of %s", m.pod, m.node)
			}
		}
		return nil
	})
}

// last is the worker that some steps make ill.
func (c *checking) last() *checkedWorker { return c.workers[len(c.workers)-1] }

func (c *checking) others() (names []string) {
	for _, w := range c.workers[:len(c.workers)-1] {
		names = append(names, w.Name)
	}
	return names
}

// failsByPath: a worker that does not answer this path well gets nothing until it does.
func (c *checking) failsByPath(t *testing.T) {
	c.last().answers(func(path string) (int, time.Duration) {
		if path == "/ready?full=1" {
			return http.StatusServiceUnavailable, 0
		}
		return http.StatusOK, 0
	})
	c.await(t, "the ill worker to get nothing", func(context.Context) error { return c.reachesNodes(c.others()...) })
	c.last().answers(nil)
	c.asks(t, "http", "/ready?full=1", checkedPort)
}

// every measures the time between checks of one gateway at one worker.
func (c *checking) every(t *testing.T, want time.Duration, checks int) {
	t.Helper()
	c.await(t, fmt.Sprintf("checks every %v", want), func(ctx context.Context) error {
		from := time.Now()
		for gateway := c.Lab.Gateways[0].Addr4; ; {
			var first, last time.Time
			n := 0
			for _, one := range c.workers[0].since(from) {
				if one.gateway != gateway {
					continue
				}
				if n++; n == 1 {
					first = one.when
				}
				last = one.when
			}
			if n > checks {
				if mean := last.Sub(first) / time.Duration(n-1); mean < want*8/10 || mean > want*14/10 {
					return fmt.Errorf("%d came every %v", n, mean)
				}
				return nil
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
				return fmt.Errorf("only %d came", n)
			}
		}
	})
}

// waits has one worker answer after four tenths of a second, which is in time or not.
func (c *checking) waits(t *testing.T, inTime bool) {
	t.Helper()
	c.awaitMapped(t, "slot-")
	c.last().answers(func(string) (int, time.Duration) { return http.StatusOK, 400 * time.Millisecond })
	defer c.last().answers(nil)
	if inTime {
		c.asks(t, "http", "/", checkedPort)
		return
	}
	c.await(t, "the slow worker to get nothing", func(context.Context) error { return c.reachesNodes(c.others()...) })
}

// verdict has one worker fail its checks, or pass them again, and connects until that has been heeded. It counts the checks with
// the new verdict, of the gateway that holds the address: by the last time when it had not been heeded, and by the first when it had.
func (c *checking) verdict(t *testing.T, status int, serves bool) (before, after int) {
	t.Helper()
	holder, err := c.Holder(t.Context(), netip.MustParseAddrPort(c.at).Addr())
	must(t, err)
	from := time.Now()
	checks := func(until time.Time) (n int) {
		for _, one := range c.last().since(from) {
			if one.gateway == holder.Addr4 && one.status == status && one.when.Before(until) {
				n++
			}
		}
		return n
	}
	c.last().answers(func(string) (int, time.Duration) { return status, 0 })
	for last := from; time.Since(from) < time.Minute; {
		begun := time.Now()
		all, err := c.meetings(c.at, len(c.workers)) // in turn, so that each gets one
		must(t, err)
		if nodesOf(all)[c.last().Name] > 0 == serves {
			return checks(last), checks(time.Now())
		}
		last = begun
	}
	t.Fatalf("%s answers checks by %d, and whether it gets connections is not: %t", c.last().Name, status, serves)
	return 0, 0
}

// passed waits until the workers have passed some checks of the newest kind: before that, one that fails is enough (haproxy/doc.go).
func (c *checking) passed(t *testing.T) {
	t.Helper()
	c.awaitMoved(t)
	from := time.Now()
	c.await(t, "checks to be passed", func(context.Context) error {
		for _, w := range c.workers {
			by := map[netip.Addr]int{}
			for _, one := range w.since(from) {
				by[one.gateway]++
			}
			for _, g := range c.Lab.Gateways {
				if by[g.Addr4] < 3 {
					return fmt.Errorf("%s checked %s %d times", g.Name, w.Name, by[g.Addr4])
				}
			}
		}
		return nil
	})
	c.allServe(t)
}

// passes: so many checks in a row pass before a worker gets connections again.
func (c *checking) passes(t *testing.T, want int) {
	t.Helper()
	c.passed(t)
	expectChecks(t, want, func() (before, after int) {
		c.verdict(t, http.StatusServiceUnavailable, false)
		return c.verdict(t, http.StatusOK, true)
	})
}

// fails: so many checks in a row fail before a worker gets no more connections.
func (c *checking) fails(t *testing.T, want int) {
	t.Helper()
	c.passed(t)
	expectChecks(t, want, func() (before, after int) {
		before, after = c.verdict(t, http.StatusServiceUnavailable, false)
		c.verdict(t, http.StatusOK, true)
		return before, after
	})
}

// expectChecks lets it be tried three times: a check that has not connected after its interval fails, without a word to the worker,
// and on a machine that is busy that happens.
func expectChecks(t *testing.T, want int, try func() (before, after int)) {
	t.Helper()
	for range 3 {
		before, after := try()
		t.Logf("%d checks had not been enough, %d were", before, after)
		if before <= want && want <= after {
			return
		}
	}
	t.Errorf("want %d checks to be enough", want)
}
