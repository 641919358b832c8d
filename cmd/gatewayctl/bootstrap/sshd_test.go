package bootstrap

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"regexp"
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
	t         *testing.T
	gateway   desired.Gateway
	hostKey   ssh.Signer
	secondKey ssh.Signer // of another type; one that nobody knows is asked for the first
	password  string     // "": keys only
	key       ssh.PublicKey
	uid       string // of the login
	sudo      string // the password that sudo asks for; "": none
	arch      string
	banner    string // what its .bashrc prints
	digest    string // of the program that it has

	noSudo, notSudoer bool
	sudoTries         int
	// silent says at which command the connection is lost.
	silent func(command string) bool

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

func newECDSASigner(t *testing.T, curve elliptic.Curve) ssh.Signer {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
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
	m := &machine{t: t, hostKey: newSigner(t), secondKey: newECDSASigner(t, elliptic.P256()), password: "right", uid: "0", arch: "x86_64"}
	m.gateway = desired.Gateway{Name: name}
	m.silent = func(string) bool { return false }
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
	config.AddHostKey(m.secondKey)
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
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for offered := range channels {
		sessions.Go(func() { m.session(conn, offered) })
	}
}

func (m *machine) session(conn net.Conn, offered ssh.NewChannel) {
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
		if m.silent(exec.Command) {
			conn.Close()
			return
		}
		status := m.run(exec.Command, channel, channel, channel.Stderr())
		channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		channel.Close()
	}
}

// known are all commands that may ever be run over SSH.
var known = regexp.MustCompile(`^(uname -sm && id -u|sha256sum /usr/local/sbin/gatewayctl|sudo -k -n true|sudo -k -S -p '' true|` +
	`umask 077 && cat > (\./\.gatewayctl-[0-9a-f]{32}) && chmod 700 (\./\.gatewayctl-[0-9a-f]{32})|rm -f \./\.gatewayctl-[0-9a-f]{32}|` +
	`(sudo -n -- |sudo -k -S -p '' -- )?(\./\.gatewayctl-[0-9a-f]{32}|/usr/local/sbin/gatewayctl) bootstrap-local)$`)

// refuseSudo is sudo, when the password is missing or wrong, or when the user may not use it.
func (m *machine) refuseSudo(stderr io.Writer) uint32 {
	switch {
	case m.noSudo:
		return commandNotFound
	case m.notSudoer:
		fmt.Fprintln(stderr, "op is not in the sudoers file.")
	default:
		fmt.Fprintln(stderr, "sudo: no password was provided")
	}
	return 1
}

func (m *machine) run(command string, in io.Reader, out, stderr io.Writer) uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commands = append(m.commands, command)
	if !known.MatchString(command) {
		m.t.Errorf("bootstrap ran %q", command)
	}
	fmt.Fprintln(out, m.banner)
	switch {
	case strings.HasPrefix(command, "uname"):
		fmt.Fprintf(out, "Linux %s\n%s\n", m.arch, m.uid)
	case strings.HasPrefix(command, "sha256sum"):
		if m.digest == "" {
			return 1
		}
		fmt.Fprintln(out, m.digest+"  /usr/local/sbin/gatewayctl")
	case command == commandSudo && m.sudo != "":
		return m.refuseSudo(stderr)
	case command == commandTry:
		input, _ := io.ReadAll(in)
		m.sudoTries++
		if string(input) != m.sudo+"\n" {
			return m.refuseSudo(stderr)
		}
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
