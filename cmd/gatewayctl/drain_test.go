package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// toldDrain is a gateway that answers what it was made with; each status has the next number of connections.
type toldDrain struct {
	drained     wire.Drained
	err         error
	connections []int
	undrained   bool           // by somebody, when the connections are told
	states      []*wire.Status // told instead, one after the other; nil: the agent does not answer
	given       int            // undrains
	asked       wire.Drain
}

func (g *toldDrain) Name() string { return "gw1" }

func (g *toldDrain) Drain(_ context.Context, d wire.Drain) (*wire.Drained, error) {
	g.asked = d
	return &g.drained, g.err
}

func (g *toldDrain) Undrain(context.Context) (*wire.Drained, error) {
	g.given++
	return &g.drained, g.err
}

func (g *toldDrain) Status(context.Context) (*wire.Status, error) {
	if len(g.states) > 0 {
		state := g.states[0]
		if len(g.states) > 1 {
			g.states = g.states[1:]
		}
		if state == nil {
			return nil, errors.New("no agent runs here")
		}
		return state, nil
	}
	if g.undrained {
		return &wire.Status{}, nil
	}
	d := *g.drained.Drain
	d.Connections = g.connections[0]
	if len(g.connections) > 1 {
		g.connections = g.connections[1:]
	}
	return &wire.Status{Drain: &d}, nil
}

func TestDrain(t *testing.T) {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	mark := func(connections int) *wire.DrainStatus {
		return &wire.DrainStatus{Since: noon, By: wire.RoleController, Reason: "new kernel", Until: noon.Add(30 * time.Second), Connections: connections}
	}
	for _, test := range []struct {
		name    string
		gateway toldDrain
		wait    bool
		want    string // of what is printed
		err     string
		took    time.Duration
	}{
		{name: "moved", gateway: toldDrain{drained: wire.Drained{Changed: true, Drain: mark(25)}},
			want: "gw1: drained; it holds no address\ngw1: drained since 2026-03-01 12:00:00Z by controller (new kernel); " +
				"25 connections of addresses that it handed over are left, reset at 2026-03-01 12:00:30Z\n"},
		{name: "before", gateway: toldDrain{drained: wire.Drained{Drain: mark(0)}}, want: "gw1: is drained already; it holds no address\n"},
		{name: "forced", gateway: toldDrain{drained: wire.Drained{Changed: true, Held: addrs("192.0.2.10"), Drain: mark(0)}},
			want: "nobody took 1 of its addresses, which it goes on serving"},
		{name: "refused", gateway: toldDrain{err: &wire.Refusal{Code: wire.CodeNoHeir, Message: "no other gateway", Remedy: "use --force"}}, err: "no other gateway: use --force"},
		{name: "waits", gateway: toldDrain{drained: wire.Drained{Changed: true, Drain: mark(25)}, connections: []int{20, 1, 0}}, wait: true,
			want: "gw1: no connection is left\n", took: 3 * waitEvery},
		{name: "nothing to wait for", gateway: toldDrain{drained: wire.Drained{Changed: true, Drain: mark(0)}}, wait: true, want: "gw1: no connection is left\n"},
		{name: "waits for nothing", gateway: toldDrain{drained: wire.Drained{Changed: true, Drain: mark(25)}, connections: []int{3}}, wait: true,
			err: "3 connections are left", took: 30*time.Second + waitLonger + waitEvery},
		{name: "undrained meanwhile", gateway: toldDrain{drained: wire.Drained{Changed: true, Drain: mark(25)}, undrained: true}, wait: true,
			err: "somebody has undrained it", took: waitEvery},
	} {
		synctest.Test(t, func(t *testing.T) {
			out, begun := new(bytes.Buffer), time.Now()
			_, err := startDrain(t.Context(), &test.gateway, wire.Drain{Reason: "new kernel"}, test.wait, out)
			if took := time.Since(begun); took != test.took {
				t.Errorf("%s: took %v, want %v", test.name, took, test.took)
			}
			if (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: got %v, want %q", test.name, err, test.err)
			}
			if !strings.Contains(out.String(), test.want) || test.gateway.asked.Reason != "new kernel" {
				t.Errorf("%s: printed %q, want %q", test.name, out, test.want)
			}
		})
	}
}

// A drain that nobody waits for any more stays; whoever stops waiting is told so.
func TestDrainWaitInterrupted(t *testing.T) {
	ctx, stop := context.WithCancelCause(t.Context())
	stop(errors.New("interrupted"))
	g := &toldDrain{drained: wire.Drained{Changed: true, Drain: &wire.DrainStatus{Connections: 2}}}
	if _, err := startDrain(ctx, g, wire.Drain{}, true, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "stays drained: interrupted") {
		t.Errorf("got %v", err)
	}
}

func TestDrainFlags(t *testing.T) {
	for args, words := range map[string]string{
		"":                            "cloud-config local",
		"--local --cloud-config x":    "none of the others can be",
		"--local gw1":                 "give no name beside it",
		"--cloud-config x":            "name one gateway",
		"--cloud-config x gw1 gw2":    "name one gateway",
		"--cloud-config /absent gw1":  "no such file",
		"--local --socket /absent/so": "no agent runs here",
	} {
		for _, command := range newRootCommand().Commands() {
			if name := command.Name(); name != "drain" && name != "undrain" {
				continue
			}
			root := newRootCommand()
			root.SetArgs(append([]string{command.Name()}, strings.Fields(args)...))
			root.SetOut(new(bytes.Buffer))
			if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%s %q: got %v, want %q", command.Name(), args, err, words)
			}
		}
	}
}

// A gateway gets its addresses back only when what was done has succeeded, it is well again, and nobody else had drained it.
func TestWhileDrained(t *testing.T) {
	fine := well("gw1", nil).status
	lacking := func(change func(*wire.Status)) *wire.Status { return well("gw1", change).status }
	dead := lacking(func(s *wire.Status) { s.HAProxyUp = time.Time{} })
	unheld := lacking(func(s *wire.Status) { s.KeepalivedUp = false })
	apart := lacking(func(s *wire.Status) { s.InSync, s.Drift = false, []string{"a map entry is missing"} })
	stale := lacking(func(s *wire.Status) { s.Current = false })
	for _, test := range []struct {
		name    string
		changed bool
		err     error // of what is done
		states  []*wire.Status
		given   bool
		took    time.Duration
		want    string
	}{
		{name: "well", changed: true, states: []*wire.Status{fine}, given: true},
		{name: "well in the end", changed: true, states: []*wire.Status{nil, dead, unheld, apart, stale, fine}, given: true, took: 5 * waitEvery},
		{name: "failed", changed: true, err: errors.New("no such package"), states: []*wire.Status{fine}, want: "gw1 stays drained: no such package"},
		{name: "never well", changed: true, states: []*wire.Status{apart}, took: wellLimit, want: "a map entry is missing"},
		{name: "drained before", states: []*wire.Status{fine}},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &toldDrain{drained: wire.Drained{Changed: test.changed, Drain: &wire.DrainStatus{}}, states: test.states}
			begun, done := time.Now(), false
			err := whileDrained(t.Context(), g, wire.Drain{}, false, func(context.Context) error { done = true; return test.err }, new(bytes.Buffer))
			if took := time.Since(begun); !done || (g.given > 0) != test.given || took != test.took {
				t.Errorf("%s: done %t, undrained %d times, after %v", test.name, done, g.given, took)
			}
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: got %v, want %q", test.name, err, test.want)
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		g := &toldDrain{err: &wire.Refusal{Code: wire.CodeNoHeir, Message: "no other gateway"}}
		err := whileDrained(t.Context(), g, wire.Drain{}, false, func(context.Context) error { t.Error("it is done all the same"); return nil }, new(bytes.Buffer))
		if err == nil || g.given > 0 {
			t.Errorf("got %v", err)
		}
	})
}

func TestDrainRuns(t *testing.T) {
	out := new(bytes.Buffer)
	if err := running([]string{"echo", "done", "it"}, out)(t.Context()); err != nil || out.String() != "done it\n" {
		t.Errorf("%q, %v", out, err)
	}
	if err := running([]string{"false", "x"}, out)(t.Context()); err == nil || !strings.Contains(err.Error(), "false x: exit status 1") {
		t.Errorf("got %v", err)
	}
}
