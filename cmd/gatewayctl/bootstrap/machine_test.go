package bootstrap

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// machine is an sshd that plays one machine: it answers the few commands that bootstrap runs.
type machine struct {
	t        *testing.T
	gateway  desired.Gateway
	hostKey  ssh.Signer
	password string // "": keys only
	key      ssh.PublicKey
	uid      string // of the login
	sudo     string // the password that sudo asks for; "": none
	arch     string

	mu       sync.Mutex
	commands []string
	uploaded []byte
	plans    []prepare.Plan
	// answer gives the report to a plan.
	answer func(prepare.Plan) prepare.Report
}

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	m := &machine{t: t, hostKey: newSigner(t), password: "right", uid: "0", arch: "x86_64"}
	m.gateway = desired.Gateway{Name: name}
	peer := site.Key{PublicKey: newSigner(t).PublicKey()}.String()
	m.answer = func(p prepare.Plan) prepare.Report {
		return prepare.Report{Facts: prepare.Facts{Family: site.Debian, PeerKey: peer}, Steps: []prepare.Step{{What: string(p.Action), Outcome: prepare.Done}}}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.gateway.SSHAddress = listener.Addr().String()
	config := &ssh.ServerConfig{
		PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if m.password == "" || string(password) != m.password {
				return nil, errors.New("wrong password")
			}
			return nil, nil
		},
		PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if m.key == nil || !bytes.Equal(key.Marshal(), m.key.Marshal()) {
				return nil, errors.New("another key")
			}
			return nil, nil
		},
	}
	config.AddHostKey(m.hostKey)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { m.serve(conn, config) })
		}
	})
	t.Cleanup(func() { listener.Close(); serving.Wait() })
	return m
}

func (m *machine) serve(conn net.Conn, config *ssh.ServerConfig) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			if r.Type != "exec" {
				r.Reply(false, nil)
				continue
			}
			r.Reply(true, nil)
			var exec struct{ Command string }
			if err := ssh.Unmarshal(r.Payload, &exec); err != nil {
				return
			}
			status := m.run(exec.Command, channel, channel)
			channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
			channel.Close()
		}
	}
}

// known are all commands that may ever be run over SSH.
var known = regexp.MustCompile(`^(uname -sm && id -u|sha256sum /usr/local/sbin/gatewayctl|sudo -n true|` +
	`umask 077 && cat > (\./\.gatewayctl-[0-9a-f]{32}) && chmod 700 (\./\.gatewayctl-[0-9a-f]{32})|rm -f \./\.gatewayctl-[0-9a-f]{32}|` +
	`(sudo -n -- |sudo -k -S -p '' -- )?(\./\.gatewayctl-[0-9a-f]{32}|/usr/local/sbin/gatewayctl) bootstrap-local)$`)

func (m *machine) run(command string, in io.Reader, out io.Writer) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands = append(m.commands, command)
	if !known.MatchString(command) {
		m.t.Errorf("bootstrap ran %q", command)
	}
	switch {
	case strings.HasPrefix(command, "uname"):
		fmt.Fprintf(out, "Linux %s\n%s\n", m.arch, m.uid)
	case strings.HasPrefix(command, "sha256sum"):
		return 1
	case command == "sudo -n true" && m.sudo != "":
		return 1
	case strings.HasPrefix(command, "umask"):
		m.uploaded, _ = io.ReadAll(in)
	case strings.HasSuffix(command, "bootstrap-local"):
		input, _ := io.ReadAll(in)
		if strings.Contains(command, "-S") {
			password, rest, _ := bytes.Cut(input, []byte("\n"))
			if string(password) != m.sudo {
				return 1
			}
			input = rest
		}
		var plan prepare.Plan
		if err := json.Unmarshal(input, &plan); err != nil {
			m.t.Errorf("the plan: %v", err)
		}
		m.plans = append(m.plans, plan)
		if err := json.NewEncoder(out).Encode(m.answer(plan)); err != nil {
			return 1
		}
	}
	return 0
}

// did are the actions that the machine was asked for.
func (m *machine) did() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	for _, p := range m.plans {
		list = append(list, string(p.Action))
	}
	return strings.Join(list, " ")
}

// operator answers on the terminal.
type operator struct {
	secrets []string
	asked   []string
	yes     bool
}

func (o *operator) Confirm(_ context.Context, question string) (bool, error) {
	o.asked = append(o.asked, question)
	return o.yes, nil
}

func (o *operator) Secret(_ context.Context, prompt string) (string, error) {
	o.asked = append(o.asked, prompt)
	if len(o.secrets) == 0 {
		return "", errors.New("nobody is there")
	}
	secret := o.secrets[0]
	o.secrets = o.secrets[1:]
	return secret, nil
}

const controllerKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJRYAcEbpfFb2mYUFnpYPq3wIOc5xVL9nkKMtg3eVzgp controller"

// order is for all machines.
func order(t *testing.T, terminal Terminal, machines ...*machine) Order {
	t.Helper()
	text := "{apiVersion: cloud-provider-haproxy/v1, kind: CloudConfig, ssh: {privateKeyFile: k, knownHostsFile: h}, nodes: {cidrs: [10.0.0.0/8]}, pools: [{name: a, addresses: [192.0.2.64/27]}], gateways: ["
	listeners := map[string]string{}
	for i, m := range machines {
		address := fmt.Sprintf("192.0.2.%d", i+1)
		text += fmt.Sprintf("{name: %s, sshAddress: %s, interface: eth0},", m.gateway.Name, address)
		listeners[address+":22"] = m.gateway.SSHAddress
	}
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, listeners[address])
	}
	c, err := config.Decode([]byte(text + "]}"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := site.New(c, site.Options{ControllerKeys: []string{controllerKey}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "known_hosts")
	return Order{Site: s, Gateways: s.Gateways, Program: &Program{content: []byte("program"), digest: "digest", machine: elf.EM_X86_64},
		Login: &Login{User: "op", Terminal: terminal, KnownHosts: []string{file}, Dial: dial}, HostKeysFile: file}
}

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
	if _, err := os.Stat(o.HostKeysFile); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("host keys were written down: %v", err)
	}
}

// Root is reached by sudo, with a password where it wants one.
func TestSudo(t *testing.T) {
	for _, password := range []string{"", "right"} {
		m := newMachine(t, "gw1")
		m.uid, m.sudo = "1000", password
		o := &operator{yes: true, secrets: []string{"right"}}
		if _, err := Run(t.Context(), order(t, o, m)); err != nil {
			t.Fatalf("sudo with password %q: %v", password, err)
		}
		if !slices.ContainsFunc(m.commands, func(c string) bool { return strings.HasPrefix(c, "sudo") && strings.HasSuffix(c, "bootstrap-local") }) {
			t.Errorf("ran %q", m.commands)
		}
	}
	m := newMachine(t, "gw1")
	m.uid, m.sudo, m.key = "1000", "right", nil
	file, public := identity(t, "")
	m.key = public
	o := order(t, &operator{yes: true}, m)
	o.Login.Identities = []string{file}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "sudo asks for a password") {
		t.Errorf("nobody to type sudo's password: %v", err)
	}
}

// identity writes a private key.
func identity(t *testing.T, passphrase string) (string, ssh.PublicKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if passphrase != "" {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return file, signer.PublicKey()
}

// A key with a passphrase is asked for once for all gateways.
func TestPassphrase(t *testing.T) {
	file, public := identity(t, "open sesame")
	a, b := newMachine(t, "gw1"), newMachine(t, "gw2")
	for _, m := range []*machine{a, b} {
		m.password, m.key = "", public
	}
	terminal := &operator{yes: true, secrets: []string{"open sesame"}}
	o := order(t, terminal, a, b)
	o.Login.Identities, o.Login.AcceptNew = []string{file, file + ".absent"}, true
	if _, err := Run(t.Context(), o); err != nil || len(terminal.asked) != 1 || !strings.Contains(terminal.asked[0], file) {
		t.Errorf("asked %q: %v", terminal.asked, err)
	}
}

// A host key is confirmed or known; one that differs is refused whatever is accepted.
func TestHostKeys(t *testing.T) {
	m := newMachine(t, "gw1")
	o := order(t, &operator{secrets: []string{"right"}}, m)
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "was not confirmed") || len(m.commands) > 0 {
		t.Errorf("not confirmed: %v", err)
	}
	o.Login.AcceptNew = true
	if _, err := Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	recorded, err := os.ReadFile(o.HostKeysFile)
	if err != nil || !strings.Contains(string(recorded), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(m.hostKey.PublicKey())))) {
		t.Errorf("recorded %q: %v", recorded, err)
	}
	other := site.Key{PublicKey: newSigner(t).PublicKey()}
	if err := os.WriteFile(o.HostKeysFile, fmt.Appendf(nil, "192.0.2.1 %s\n", other), 0o644); err != nil {
		t.Fatal(err)
	}
	before := len(m.commands)
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "another host key than the known one") || len(m.commands) != before {
		t.Errorf("another key: %v", err)
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
