package bootstrap

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

// A pair, with a password that is typed once, and fingerprints that are confirmed once.
func TestPair(t *testing.T) {
	a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
	o := &operator{yes: true, secrets: []string{"wrong", "right"}}
	wanted := order(t, o, a, b)
	results, err := Run(t.Context(), wanted)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.asked) != 4 || !strings.Contains(o.asked[0], ssh.FingerprintSHA256(a.hostKey.PublicKey())) || !strings.HasPrefix(o.asked[1], "Password of op on gw1") {
		t.Errorf("asked %q", o.asked)
	}
	for i, m := range []*machine{a, b} {
		if m.did() != "look check key install" {
			t.Errorf("%s was asked for %s", m.gateway.Name, m.did())
		}
		if string(m.uploaded) != "program" || !strings.HasPrefix(m.commands[len(m.commands)-1], "rm -f") {
			t.Errorf("uploaded %q, ran %q", m.uploaded, m.commands)
		}
		if got := results[i].Report.Steps; len(got) != 2 || got[0].What != "key" || got[1].What != "install" {
			t.Errorf("steps %+v", got)
		}
		// Each knows the other.
		other := []*machine{b, a}[i]
		peer := other.answer(prepare.Plan{}).Facts.PeerKey
		for _, f := range m.plans[len(m.plans)-1].Files {
			if f.Path == site.AuthorizedKeysFile && !strings.Contains(string(f.Content), peer) || f.Path == site.KnownHostsFile &&
				!strings.Contains(string(f.Content), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(other.hostKey.PublicKey())))) {
				t.Errorf("%s of %s does not know the other:\n%s", f.Path, m.gateway.Name, f.Content)
			}
		}
	}
	o.asked = nil
	o.secrets = []string{"right"}
	wanted.Login = &Login{User: "op", Terminal: o, KnownHosts: []string{wanted.HostKeysFile}, Dial: wanted.Login.Dial}
	if _, err := Run(t.Context(), wanted); err != nil || len(o.asked) != 1 {
		t.Errorf("the second time: asked %q, %v", o.asked, err)
	}
}

// A program that is there already is not sent again, and a shell that greets is no answer.
func TestProgramIsThere(t *testing.T) {
	m := newMachine(t, "gw1")
	m.digest, m.banner = "digest", "Welcome to gw1! {\nLinux is fun"
	if _, err := Run(t.Context(), order(t, &operator{yes: true, secrets: []string{"right"}}, m)); err != nil {
		t.Fatal(err)
	}
	if m.uploaded != nil || !slices.Contains(m.commands, "/usr/local/sbin/gatewayctl bootstrap-local") {
		t.Errorf("ran %q", m.commands)
	}
}

// What is in the way of one gateway, or a gateway that cannot be reached, leaves all alone.
func TestNothingIsChanged(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*machine)
		want  error
		did   string
	}{
		"in the way": {func(m *machine) {
			good := m.answer
			m.answer = func(p prepare.Plan) prepare.Report {
				r := good(p)
				if p.Action == prepare.Check {
					r.Findings = []prepare.Finding{{Warning: true}, {Check: "foreign", Problem: "it serves something else"}}
				}
				return r
			}
		}, ErrInTheWay, "look check"},
		"processor": {func(m *machine) { m.arch = "aarch64" }, ErrUnreached, ""},
		"password":  {func(m *machine) { m.password = "other" }, ErrUnreached, ""},
		"broken": {func(m *machine) {
			m.answer = func(prepare.Plan) prepare.Report { return prepare.Report{Error: "disk full"} }
		}, ErrUnreached, "look"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
			test.spoil(b)
			results, err := Run(t.Context(), order(t, &operator{yes: true, secrets: slices.Repeat([]string{"right"}, 9)}, a, b))
			if !errors.Is(err, test.want) || a.did() != test.did || len(results) != 2 {
				t.Errorf("%v; gw1 was asked for %q, want %q", err, a.did(), test.did)
			}
			if len(a.commands) > 0 && len(a.uploaded) > 0 && !strings.HasPrefix(a.commands[len(a.commands)-1], "rm -f") {
				t.Errorf("left behind on gw1: %q", a.commands)
			}
		})
	}
}

// A gateway that fails while it is changed stops the rest.
func TestStopsAtTheFirst(t *testing.T) {
	a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
	good := a.answer
	a.answer = func(p prepare.Plan) prepare.Report {
		r := good(p)
		if p.Action == prepare.Install {
			r.Error = "the agent did not start"
		}
		return r
	}
	results, err := Run(t.Context(), order(t, &operator{yes: true, secrets: []string{"right"}}, a, b))
	if !errors.Is(err, ErrStopped) || !strings.Contains(err.Error(), "gw1: the agent did not start") || b.did() != "look check key" || results[1].Report != nil {
		t.Errorf("%v; gw2 was asked for %q", err, b.did())
	}
}

// A dry run asks for nothing else, and writes no host key down.
func TestDryRun(t *testing.T) {
	a := newMachine(t, "gw1")
	o := order(t, &operator{yes: true, secrets: []string{"right"}}, a)
	o.Options.DryRun = true
	if _, err := Run(t.Context(), o); err != nil || a.did() != "look check install" || !a.plans[2].DryRun {
		t.Errorf("%v, asked for %q", err, a.did())
	}
	good := a.answer
	a.answer = func(p prepare.Plan) prepare.Report {
		r := good(p)
		r.Findings = []prepare.Finding{{Check: "foreign"}}
		return r
	}
	if results, err := Run(t.Context(), o); !errors.Is(err, ErrInTheWay) || a.did() != "look check install look check install" || len(results[0].Report.Steps) == 0 {
		t.Errorf("with something in the way: %v, asked for %q", err, a.did())
	}
	if _, err := os.Stat(o.HostKeysFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("host keys were written down: %v", err)
	}
}

// A gateway that is prepared alone keeps what it knew of the one that is left alone.
func TestOneAlone(t *testing.T) {
	a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
	o := order(t, &operator{yes: true, secrets: []string{"right"}}, a, b)
	o.Gateways = o.Gateways[:1]
	known := site.Key{PublicKey: newSigner(t).PublicKey(), Comment: "gw2"}.String()
	good := a.answer
	a.answer = func(p prepare.Plan) prepare.Report {
		r := good(p)
		r.Facts.Peers = []string{known}
		return r
	}
	if _, err := Run(t.Context(), o); err != nil || len(b.commands) > 0 {
		t.Fatalf("%v; gw2 ran %q", err, b.commands)
	}
	for _, f := range a.plans[len(a.plans)-1].Files {
		if f.Path == site.AuthorizedKeysFile && !strings.Contains(string(f.Content), known) {
			t.Errorf("gw2's key is lost:\n%s", f.Content)
		}
	}
}

// A connection that is lost while a dry run looks ends it, with what is known.
func TestDryRunLosesAMachine(t *testing.T) {
	a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
	looks := 0
	b.silent = func(command string) bool {
		if strings.HasSuffix(command, "bootstrap-local") {
			looks++
		}
		return looks == 2
	}
	o := order(t, &operator{yes: true, secrets: []string{"right"}}, a, b)
	o.Options.DryRun = true
	results, err := Run(t.Context(), o)
	if !errors.Is(err, ErrUnreached) || !strings.Contains(err.Error(), "gateway gw2: the connection was lost") || len(results) != 2 || results[0].Report == nil || results[1].Report != nil {
		t.Errorf("%v; %+v", err, results)
	}
	if a.did() != "look check" {
		t.Errorf("gw1 was asked for %s", a.did())
	}
}

// Ctrl-C while a machine is changed: it is told that this goes on there, and what was uploaded is removed.
func TestInterrupted(t *testing.T) {
	m := newMachine(t, "gw1")
	ctx, interrupt := context.WithCancel(t.Context())
	good, goOn := m.answer, make(chan struct{})
	m.answer = func(p prepare.Plan) prepare.Report {
		if p.Action == prepare.Install {
			interrupt()
			<-goOn
		}
		return good(p)
	}
	removed := make(chan struct{})
	m.silent = func(command string) bool {
		if strings.HasPrefix(command, "rm -f") {
			close(removed)
		}
		return false
	}
	context.AfterFunc(ctx, func() { // what was begun ends some time later
		select {
		case <-removed:
		case <-time.After(time.Second):
		}
		close(goOn)
	})
	_, err := Run(ctx, order(t, &operator{yes: true, secrets: []string{"right"}}, m))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "goes on to its end without us") {
		t.Errorf("interrupted: %v", err)
	}
	select {
	case <-removed:
	default:
		t.Error("what was uploaded was left there")
	}
}

// A peer that was let in by hand under another name is not shut out while nobody knows the key of one that is configured.
func TestPeerUnderAnotherName(t *testing.T) {
	a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
	o := order(t, &operator{yes: true, secrets: []string{"right"}}, a, b)
	o.Gateways = o.Gateways[:1]
	byHand := site.Key{PublicKey: newSigner(t).PublicKey(), Comment: "host-17"}.String()
	good := a.answer
	a.answer = func(p prepare.Plan) prepare.Report {
		r := good(p)
		r.Facts.Peers = []string{byHand}
		return r
	}
	authorized := func() string {
		for _, f := range a.plans[len(a.plans)-1].Files {
			if f.Path == site.AuthorizedKeysFile {
				return string(f.Content)
			}
		}
		return ""
	}
	for _, run := range []func(context.Context, Order) ([]Result, error){Adopt, Run} {
		if _, err := run(t.Context(), o); err != nil || !strings.Contains(authorized(), "--role=peer\" "+byHand) {
			t.Errorf("%v; the peer is shut out:\n%s", err, authorized())
		}
	}
	o.Gateways = o.Site.Gateways
	o.Login.password = "right"
	if _, err := Run(t.Context(), o); err != nil || strings.Contains(authorized(), byHand) {
		t.Errorf("%v; all are known, and this one is let in still:\n%s", err, authorized())
	}
}

func TestNewProgram(t *testing.T) {
	if _, err := NewProgram([]byte("#!/bin/sh\n"), ""); err == nil {
		t.Error("a script was taken for the program")
	}
	if dynamic, err := os.ReadFile("/bin/ls"); err == nil {
		if _, err := NewProgram(dynamic, ""); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
			t.Errorf("a program that needs libraries: %v", err)
		}
	}
}
