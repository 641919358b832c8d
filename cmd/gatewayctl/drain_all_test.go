package main

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// turning is a gateway that is drained and undrained as it should be, and refuses as often as it is told.
type turning struct {
	name     string
	held     int
	refuses  int
	status   func(*wire.Status)
	silent   bool
	draining *[]string // who is drained now
}

func (g *turning) Name() string { return g.name }

func (g *turning) Status(context.Context) (*wire.Status, error) {
	if g.silent {
		return nil, errors.New("gateway " + g.name + " is unreachable")
	}
	s := well(g.name, g.status).status
	s.Held = addrs("192.0.2.1", "192.0.2.2", "192.0.2.3")[:g.held]
	return s, nil
}

func (g *turning) Drain(context.Context, wire.Drain) (*wire.Drained, error) {
	if g.refuses--; g.refuses >= 0 {
		return nil, &wire.Refusal{Code: wire.CodeNoHeir, Message: "no other gateway can take over"}
	}
	*g.draining = append(*g.draining, g.name)
	return &wire.Drained{Changed: true, Drain: &wire.DrainStatus{}}, nil
}

func (g *turning) Undrain(context.Context) (*wire.Drained, error) {
	*g.draining = slices.DeleteFunc(*g.draining, func(name string) bool { return name == g.name })
	return &wire.Drained{Changed: true}, nil
}

// One gateway after the other, fewest addresses first; nothing begins when one is not well, and everything ends when one fails.
func TestDrainInTurn(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(gw1, gw2, gw3 *turning)
		fails  string // the gateway where the command fails
		did    []string
		stays  []string // drained in the end
		err    []string
		took   time.Duration
	}{
		{name: "all well", did: []string{"gw2", "gw3", "gw1"}},
		{name: "one is silent", change: func(_, gw2, _ *turning) { gw2.silent = true }, err: []string{"nothing was done", "gw2 is unreachable"}},
		{name: "two are not well", change: func(gw1, _, gw3 *turning) {
			gw1.status = func(s *wire.Status) { s.KeepalivedUp = false }
			gw3.status = func(s *wire.Status) { s.Drain = &wire.DrainStatus{} }
		}, err: []string{"nothing was done", "gateway gw1: keepalived does not run", "gateway gw3 is drained already"}},
		{name: "the second fails", fails: "gw3", did: []string{"gw2", "gw3"}, stays: []string{"gw3"}, err: []string{"gateway gw3 stays drained: no such package", "left as they were: gw1"}},
		{name: "the last fails", fails: "gw1", did: []string{"gw2", "gw3", "gw1"}, stays: []string{"gw1"}, err: []string{"gateway gw1 stays drained"}},
		{name: "the heir has just come back", change: func(_, _, gw3 *turning) { gw3.refuses = 3 }, did: []string{"gw2", "gw3", "gw1"}, took: 3 * waitEvery},
		{name: "no heir comes back", change: func(_, _, gw3 *turning) { gw3.refuses = 1000 }, did: []string{"gw2"}, err: []string{"no other gateway", "left as they were: gw1"},
			took: heirPatience + waitEvery},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var draining, did []string
				gw1, gw2, gw3 := &turning{name: "gw1", held: 3, draining: &draining}, &turning{name: "gw2", draining: &draining}, &turning{name: "gw3", held: 1, draining: &draining}
				if test.change != nil {
					test.change(gw1, gw2, gw3)
				}
				begun := time.Now()
				err := inTurn(t.Context(), []drainable{gw1, gw2, gw3}, wire.Drain{}, false, func(name string) func(context.Context) error {
					return func(context.Context) error {
						did = append(did, name)
						if !slices.Equal(draining, []string{name}) {
							t.Errorf("while it is done to %s %q are drained", name, draining)
						}
						if name == test.fails {
							return errors.New("no such package")
						}
						return nil
					}
				}, new(bytes.Buffer))
				if took := time.Since(begun); !slices.Equal(did, test.did) || !slices.Equal(draining, test.stays) || took != test.took {
					t.Errorf("done to %q, drained in the end %q, after %v", did, draining, took)
				}
				if (err == nil) != (test.err == nil) {
					t.Errorf("got %v", err)
				}
				for _, words := range test.err {
					if err != nil && !strings.Contains(err.Error(), words) {
						t.Errorf("got %v, want %q", err, words)
					}
				}
			})
		})
	}
}

func TestAddressed(t *testing.T) {
	argv := []string{"ssh", "root@{}", "echo {} {}"}
	if got := addressed(argv, "gw1"); !slices.Equal(got, []string{"ssh", "root@gw1", "echo gw1 gw1"}) || argv[1] != "root@{}" {
		t.Errorf("%q of %q", got, argv)
	}
}

func TestDrainAllFlags(t *testing.T) {
	for args, words := range map[string]string{
		"--cloud-config x --all":               "say behind -- what",
		"--cloud-config x --all gw1 -- true":   "give no name beside it",
		"--local --all -- true":                "none of the others can be",
		"--cloud-config /absent --all -- true": "no such file",
	} {
		root := newRootCommand()
		root.SetArgs(append([]string{"drain"}, strings.Fields(args)...))
		root.SetOut(new(bytes.Buffer))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: got %v, want %q", args, err, words)
		}
	}
}
