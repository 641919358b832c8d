package gateway

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// asAgent makes this test binary the program of a forced command.
const asAgent = "GATEWAY_TEST_AGENT"

func TestMain(m *testing.M) {
	if os.Getenv(asAgent) != "" {
		os.Exit(agent(nil)(standardStreams{}, os.Stderr))
	}
	os.Exit(m.Run())
}

type standardStreams struct{}

func (standardStreams) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (standardStreams) Write(p []byte) (int, error) { return os.Stdout.Write(p) }

// openSSH is a real sshd on a loopback port, with our own keys and the login of whoever runs the test.
type openSSH struct {
	directory string
	address   string
	user      string
	key       ssh.Signer
	stop      func()
}

// startOpenSSH starts sshd with host keys of all types and one user's key.
func startOpenSSH(t testing.TB) *openSSH {
	t.Helper()
	const sshd = "/usr/sbin/sshd"
	lab.RequirePrograms(t, sshd, "ssh-keygen", "ssh-keyscan")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" { // sshd as root wants the directory that its service file would have made
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	key := newEd25519(t)
	s := &openSSH{directory: t.TempDir(), user: me.Username, key: signerOf(t, key, nil)}
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		run(t, "ssh-keygen", "-q", "-t", kind, "-N", "", "-f", s.file("host_"+kind))
	}
	run(t, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.file("authority"))
	s.authorize(t, "restrict,command="+quote(agentCommand(t)))
	port := freePort(t)
	s.address = "127.0.0.1:" + port
	s.write(t, "sshd_config", strings.Join([]string{
		"ListenAddress " + s.address,
		"HostKey " + s.file("host_rsa"), "HostKey " + s.file("host_ecdsa"), "HostKey " + s.file("host_ed25519"),
		"AuthorizedKeysFile " + s.file("authorized_keys"),
		"PidFile none", "StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password", "LogLevel VERBOSE",
	}, "\n"))
	t.Cleanup(func() {
		if said, err := os.ReadFile(s.file("log")); t.Failed() && err == nil {
			t.Logf("sshd said:\n%s", said)
		}
	})
	s.start(t, sshd)
	return s
}

// start runs sshd until stop. Its log goes to a file: sessions that outlive sshd would hold a pipe open.
func (s *openSSH) start(t testing.TB, sshd string) {
	t.Helper()
	log, err := os.OpenFile(s.file("log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(sshd, "-D", "-e", "-f", s.file("sshd_config"))
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(s.stop)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not listen: %v", err)
		}
	}
}

func (s *openSSH) file(name string) string { return filepath.Join(s.directory, name) }

func (s *openSSH) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(s.file(name), []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// authorize writes authorized_keys with the user's key behind options.
func (s *openSSH) authorize(t testing.TB, options string) {
	t.Helper()
	s.write(t, "authorized_keys", strings.TrimSpace(options+" "+keyText(s.key)))
}

// hostKey gives one of the host's public keys as known_hosts has it.
func (s *openSSH) hostKey(t testing.TB, kind string) string {
	t.Helper()
	text, err := os.ReadFile(s.file(kind + ".pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text))[:2], " ")
}

func (s *openSSH) name() string {
	_, port, _ := net.SplitHostPort(s.address)
	return "[127.0.0.1]:" + port
}

// config is a client's that is let in.
func (s *openSSH) config(t testing.TB) Config {
	t.Helper()
	return Config{Name: "gw1", Address: s.address, User: s.user, Signers: []ssh.Signer{s.key},
		KnownHosts: knownHosts(t, s.name()+" "+s.hostKey(t, "host_ed25519"))}
}

func agentCommand(t testing.TB) string {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return asAgent + "=1 exec " + binary
}

// quote is how authorized_keys wants an option's value (sshd(8)).
func quote(value string) string { return `"` + strings.ReplaceAll(value, `"`, `\"`) + `"` }

func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func run(t testing.TB, argv ...string) string {
	t.Helper()
	output, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, output)
	}
	return string(output)
}

func TestOpenSSH(t *testing.T) {
	s := startOpenSSH(t)
	call := func(t *testing.T, config Config) error {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := newClient(t, config).Hello(ctx)
		return err
	}
	// says wants an error of target's type with words in it.
	says := func(t *testing.T, err error, target any, words ...string) {
		t.Helper()
		if !errors.As(err, target) {
			t.Fatalf("got %T: %v", err, err)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error does not say %q:\n%v", w, err)
			}
		}
	}

	t.Run("every verb over one connection", func(t *testing.T) {
		c := newClient(t, s.config(t))
		if _, err := c.Hello(t.Context()); err != nil {
			t.Fatal(err)
		}
		big := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB, over every window of SSH
		result, err := c.Apply(t.Context(), desired.Signed{State: big})
		if err != nil || result.Digest != string(big) {
			t.Fatalf("a large State: %v", err)
		}
		if _, err := c.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("known by each type of key alone", func(t *testing.T) {
		for _, kind := range []string{"host_rsa", "host_ecdsa", "host_ed25519"} {
			config := s.config(t)
			config.KnownHosts = knownHosts(t, s.name()+" "+s.hostKey(t, kind))
			if err := call(t, config); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	})
	t.Run("hashed by ssh-keyscan", func(t *testing.T) {
		host, port, _ := net.SplitHostPort(s.address)
		output, err := exec.Command("ssh-keyscan", "-H", "-p", port, host).Output()
		if err != nil || !bytes.Contains(output, []byte("|1|")) {
			t.Fatalf("ssh-keyscan: %v\n%s", err, output)
		}
		config := s.config(t)
		config.KnownHosts = knownHosts(t, string(output))
		if err := call(t, config); err != nil {
			t.Error(err)
		}
	})
	t.Run("an RSA key of ours", func(t *testing.T) {
		config := s.config(t)
		mine := rsaKey(t)
		config.Signers = []ssh.Signer{mine}
		s.write(t, "authorized_keys", "restrict,command="+quote(agentCommand(t))+" "+keyText(mine))
		defer s.authorize(t, "restrict,command="+quote(agentCommand(t)))
		if err := call(t, config); err != nil {
			t.Error(err)
		}
	})
	t.Run("wrong host key", func(t *testing.T) {
		config := s.config(t)
		config.KnownHosts = knownHosts(t, s.name()+" "+s.hostKey(t, "authority"))
		got, expected := fingerprint(t, s.file("host_ed25519.pub")), fingerprint(t, s.file("authority.pub"))
		says(t, call(t, config), new(*HostKeyError), "expected ssh-ed25519 "+expected, "got ssh-ed25519 "+got, s.name())
	})
	t.Run("revoked host key", func(t *testing.T) {
		config := s.config(t)
		config.KnownHosts = knownHosts(t, s.name()+" "+s.hostKey(t, "host_ed25519"), "@revoked * "+s.hostKey(t, "host_ed25519"))
		says(t, call(t, config), new(*HostKeyError), "revoked", "line 2")
	})
	t.Run("our key is not in authorized_keys", func(t *testing.T) {
		config := s.config(t)
		stranger := ed25519Key(t)
		config.Signers = []ssh.Signer{stranger}
		says(t, call(t, config), new(*KeyRefusedError), ssh.FingerprintSHA256(stranger.PublicKey()), "for user "+s.user, "authorized_keys")
	})
	t.Run("many keys of ours, more than sshd's MaxAuthTries", func(t *testing.T) {
		config := s.config(t)
		config.Signers = nil
		for range 8 {
			config.Signers = append(config.Signers, ed25519Key(t))
		}
		says(t, call(t, config), new(*KeyRefusedError), "authentication")
	})
	t.Run("no forced command", func(t *testing.T) {
		s.authorize(t, "restrict")
		defer s.authorize(t, "restrict,command="+quote(agentCommand(t)))
		says(t, call(t, s.config(t)), new(*AgentMissingError), "exit status 127", "not found", "restrict,command=")
	})
	t.Run("forced command not installed", func(t *testing.T) {
		s.authorize(t, `restrict,command="/absent/gatewayctl agent pipe --role=controller"`)
		defer s.authorize(t, "restrict,command="+quote(agentCommand(t)))
		says(t, call(t, s.config(t)), new(*AgentMissingError), "exit status 127", "/absent/gatewayctl", "systemctl status gatewayctl-agent")
	})
	t.Run("pipe without an agent", func(t *testing.T) {
		s.authorize(t, `restrict,command="echo 'dial unix /run/gatewayctl/agent.sock: connect: no such file or directory' >&2; exit 1"`)
		defer s.authorize(t, "restrict,command="+quote(agentCommand(t)))
		says(t, call(t, s.config(t)), new(*AgentMissingError), "exit status 1", "/run/gatewayctl/agent.sock")
	})
	t.Run("nologin", func(t *testing.T) {
		s.authorize(t, `restrict,command="/usr/sbin/nologin"`)
		defer s.authorize(t, "restrict,command="+quote(agentCommand(t)))
		says(t, call(t, s.config(t)), new(*AgentMissingError), "exit status 1", "not available")
	})
	t.Run("nothing listens", func(t *testing.T) {
		config := s.config(t)
		config.Address = "127.0.0.1:" + freePort(t)
		says(t, call(t, config), new(*UnreachableError), "connection refused", "check that the machine is up")
	})
}

// A host certificate made by ssh-keygen, and one that has expired.
func TestOpenSSHHostCertificate(t *testing.T) {
	s := startOpenSSH(t)
	s.stop()
	for validity, words := range map[string]string{"+1h": "", "20200101:20200102": "expired"} {
		run(t, "ssh-keygen", "-q", "-s", s.file("authority"), "-I", "gw1", "-h", "-n", "127.0.0.1", "-V", validity, s.file("host_ed25519.pub"))
		text, err := os.ReadFile(s.file("sshd_config"))
		if err != nil {
			t.Fatal(err)
		}
		s.write(t, "sshd_config", string(text)+"HostCertificate "+s.file("host_ed25519-cert.pub"))
		s.start(t, "/usr/sbin/sshd")
		config := s.config(t)
		config.KnownHosts = knownHosts(t, "@cert-authority "+s.name()+" "+s.hostKey(t, "authority"))
		_, err = newClient(t, config).Hello(t.Context())
		s.stop()
		switch {
		case words == "" && err != nil:
			t.Errorf("a good certificate: %v", err)
		case words != "" && (err == nil || !strings.Contains(err.Error(), words)):
			t.Errorf("valid %s: %v", validity, err)
		}
	}
}

// sshd is killed under an open session and comes back: the call between tells, the next works.
func TestOpenSSHRestarts(t *testing.T) {
	s := startOpenSSH(t)
	c := newClient(t, s.config(t))
	if _, err := c.State(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.session.client.Close() // the connection breaks, and its sshd child ends with it
	<-c.session.over.Done()
	s.stop()
	if _, err := c.State(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("without an sshd: %v", err)
	}
	s.start(t, "/usr/sbin/sshd")
	if _, err := c.State(t.Context()); err != nil {
		t.Errorf("sshd is back: %v", err)
	}
}

// ssh-keygen's fingerprint, to compare with what errors say.
func fingerprint(t *testing.T, file string) string {
	t.Helper()
	return strings.Fields(run(t, "ssh-keygen", "-lf", file))[1]
}

// BenchmarkOpenSSH measures one status request with its reply through the real sshd: over the kept session, and with
// a connection for each, which is what was rejected.
func BenchmarkOpenSSH(b *testing.B) {
	s := startOpenSSH(b)
	for name, keep := range map[string]bool{"kept": true, "connection each": false} {
		b.Run(name, func(b *testing.B) {
			c := newClient(b, s.config(b))
			for b.Loop() {
				if _, err := c.Status(b.Context()); err != nil {
					b.Fatal(err)
				}
				if !keep {
					c.drop()
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}
