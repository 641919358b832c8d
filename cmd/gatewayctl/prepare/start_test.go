package prepare

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// A dry run tells what would be restarted, which is what matters on a gateway that serves.
func TestDryRunTellsWhatFollows(t *testing.T) {
	m := newMachine(t)
	installed(t, m.do(plan(t, Install, nil)))
	for path, want := range map[string][]string{
		site.AgentFile:          {"agent"},
		site.UnitFile:           {"systemd's units", "agent"},
		site.SSHDFile:           {"sshd"},
		site.KeepalivedUnitFile: {"systemd's units"},
		site.LimitsFile:         nil,
	} {
		r := m.do(plan(t, Install, func(p *Plan) {
			p.DryRun = true
			for i := range p.Files {
				if p.Files[i].Path == path {
					p.Files[i].Content = append(slices.Clone(p.Files[i].Content), "# next\n"...)
				}
			}
		}))
		installed(t, r)
		var would []string
		for _, s := range r.Steps {
			if s.Outcome == WouldDo && !strings.HasPrefix(s.What, "/") && s.What != "kernel modules" && s.What != peerKeyStep {
				would = append(would, s.What)
			}
		}
		if diff := cmp.Diff(want, would); diff != "" {
			t.Errorf("for another %s a dry run tells (-want +got):\n%s", path, diff)
		}
	}
	r := m.do(plan(t, Install, func(p *Plan) { p.DryRun, p.Program = true, "another" }))
	if !slices.ContainsFunc(r.Steps, func(s Step) bool { return s.What == "agent" && s.Outcome == WouldDo }) {
		t.Errorf("for another program: %+v", r.Steps)
	}
}

// An agent that is not what it was before its restart stops the run: the next gateway's would be lost to the same fault.
func TestAgentIsWellBeforeTheNext(t *testing.T) {
	well := wire.Status{InSync: true, Current: true, KeepalivedUp: true, Fence: desired.Fence{Epoch: 3, Sequence: 7}}
	change := func(f func(*wire.Status)) wire.Status {
		s := well
		f(&s)
		return s
	}
	notCurrent := change(func(s *wire.Status) { s.Current = false })
	for name, test := range map[string]struct {
		statuses []wire.Status // before, then after
		want     string
	}{
		"well":             {[]wire.Status{well, well}, ""},
		"after a while":    {[]wire.Status{well, notCurrent, notCurrent, well}, ""},
		"never was":        {[]wire.Status{notCurrent, notCurrent}, ""},
		"no State yet":     {[]wire.Status{{}, {}}, ""},
		"stale":            {[]wire.Status{well, notCurrent}, "newest"},
		"out of sync":      {[]wire.Status{well, change(func(s *wire.Status) { s.InSync, s.Drift = false, []string{"VIP missing"} })}, "VIP missing"},
		"lost its State":   {[]wire.Status{well, change(func(s *wire.Status) { s.Fence = desired.Fence{} })}, "and held"},
		"keepalived stays": {[]wire.Status{well, change(func(s *wire.Status) { s.KeepalivedUp = false })}, "keepalived does not run"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMachine(t)
				installed(t, m.do(plan(t, Install, nil)))
				m.put(site.Program, "an older one")
				m.statuses = test.statuses
				r := m.do(plan(t, Install, nil))
				if (r.Error == "") != (test.want == "") || !strings.Contains(r.Error, test.want) {
					t.Errorf("%q, want %q", r.Error, test.want)
				}
			})
		})
	}
}

// Two bootstraps do not change one machine at once; looking is for everybody.
func TestTwoAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	release, err := HoldLock(file, "process 1, of a colleague")
	if err != nil {
		t.Fatal(err)
	}
	if _, err = HoldLock(file, "process 2"); err == nil || !strings.Contains(err.Error(), "another bootstrap changes this machine (process 1, of a colleague)") {
		t.Errorf("the second one: %v", err)
	}
	if err := TryLock(file); err == nil || !strings.Contains(err.Error(), "of a colleague") {
		t.Errorf("one who asks: %v", err)
	}
	m := newMachine(t)
	m.locked = "somebody is there"
	before := m.tree()
	for _, action := range []Action{Check, MakeKey, Install, Adopt} {
		if r := m.do(plan(t, action, nil)); r.Error != m.locked {
			t.Errorf("%s: %q", action, r.Error)
		}
	}
	installed(t, m.do(plan(t, Look, nil)))
	for _, action := range []Action{Check, Install} {
		installed(t, m.do(plan(t, action, func(p *Plan) { p.DryRun = true })))
	}
	if diff := cmp.Diff(before, m.tree()); diff != "" {
		t.Errorf("changed (-before +after):\n%s", diff)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if err := TryLock(file); err != nil {
		t.Errorf("nobody has it: %v", err)
	}
	again, err := HoldLock(file, "process 3")
	if err != nil {
		t.Fatal(err)
	}
	if err := again(); err != nil {
		t.Error(err)
	}
}
