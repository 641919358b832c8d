package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
)

// Terminal is where the operator is asked. Without one every question is an error.
type Terminal interface {
	// Confirm asks a question that is answered with yes or no.
	Confirm(ctx context.Context, question string) (bool, error)
	// Secret asks for something that is not shown.
	Secret(ctx context.Context, prompt string) (string, error)
}

// Login is how the operator gets into the machines.
type Login struct {
	User string
	// Identities are private key files; those that do not exist are left out. AgentSocket is ssh-agent's; empty: none.
	// Explicit says that the operator named them: they are tried before the agent's keys, so that sshd's MaxAuthTries is not
	// used up by those.
	Identities  []string
	Explicit    bool
	AgentSocket string
	// KnownHosts are files with host keys that are believed; those that do not exist are left out. The first one is the
	// controller's, and decides alone on a host that it knows.
	KnownHosts []string
	// AcceptNew believes the key of a host that no file knows, without a question.
	AcceptNew bool
	Terminal  Terminal
	// Dial makes the TCP connection; nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	once     sync.Once
	keys     []ssh.Signer
	tried    []string // what they are called
	password string   // typed for a machine before: tried first on the next one
}

// dialTimeout bounds the TCP connection, and after it what comes up to the host key; typing has no limit.
const dialTimeout = 10 * time.Second

// connect logs in to a machine whose host key is believed.
func (l *Login) connect(ctx context.Context, g desired.Gateway) (*ssh.Client, ssh.PublicKey, error) {
	algorithms, accept, err := l.trust(ctx, g)
	if err != nil {
		return nil, nil, err
	}
	var shown ssh.PublicKey
	config := &ssh.ClientConfig{
		User: l.User, Auth: l.methods(ctx, g), HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			shown = key
			return accept(name, remote, key)
		},
	}
	client, err := l.handshake(ctx, g, config)
	if err != nil {
		return nil, nil, l.explain(g, err)
	}
	return client, shown, nil
}

// explain says what a person can do about a login that failed.
func (l *Login) explain(g desired.Gateway, err error) error {
	var hostKey *gateway.HostKeyError
	if errors.As(err, &hostKey) {
		hostKey.Gateway = g.Name
		return hostKey
	}
	var negotiation *ssh.AlgorithmNegotiationError
	if errors.As(err, &negotiation) && negotiation.What == "host key" {
		return fmt.Errorf("gateway %s (%s) has no host key of the kind that is known of it: %w; compare the fingerprints on its console, and correct the known hosts file",
			g.Name, g.SSHAddress, err)
	}
	var network net.Error
	if errors.As(err, &network) {
		return fmt.Errorf("gateway %s (%s) is unreachable: %w; %s", g.Name, g.SSHAddress, err, reachRemedy(err))
	}
	return fmt.Errorf("gateway %s (%s) does not let %s in, %s: %w; give --login and --identity, load the key into ssh-agent, or type the password on a terminal",
		g.Name, g.SSHAddress, l.User, l.offered(), err)
}

// reachRemedy is what can be done about a connection that was not made.
func reachRemedy(err error) string {
	var name *net.DNSError
	switch {
	case errors.As(err, &name):
		return "correct sshAddress in the cloud configuration, or the name server"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "the machine is there and nothing listens on this port: start sshd, or correct sshPort in the cloud configuration"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "nothing answers: check that the machine is up, that it is sshd's port, and that no firewall is between"
	}
	return "check that the machine is up and that sshd listens there"
}

// offered says with which keys it was tried.
func (l *Login) offered() string {
	if len(l.tried) == 0 {
		return "without any key"
	}
	return "with none of the keys " + strings.Join(l.tried, ", ")
}

func (l *Login) handshake(ctx context.Context, g desired.Gateway, config *ssh.ClientConfig) (*ssh.Client, error) {
	dial := l.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	tcp, err := dial(dialing, "tcp", g.SSHAddress)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	defer stop()
	if err := tcp.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return nil, errors.Join(err, ignoreClosed(tcp.Close()))
	}
	judge := config.HostKeyCallback
	config.HostKeyCallback = func(name string, remote net.Addr, key ssh.PublicKey) error {
		return errors.Join(judge(name, remote, key), tcp.SetDeadline(time.Time{}))
	}
	connection, channels, requests, err := ssh.NewClientConn(tcp, g.SSHAddress, config)
	if err != nil {
		return nil, errors.Join(context.Cause(ctx), err, ignoreClosed(tcp.Close()))
	}
	return ssh.NewClient(connection, channels, requests), nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// methods are tried in this order: keys, then what is typed.
func (l *Login) methods(ctx context.Context, g desired.Gateway) []ssh.AuthMethod {
	const tries = 3
	first := true
	ask := func(prompt string) (string, error) {
		if first && l.password != "" {
			first = false
			return l.password, nil
		}
		first = false
		typed, err := l.Terminal.Secret(ctx, prompt)
		if err == nil {
			l.password = typed
		}
		return typed, err
	}
	// A one-time code is no password for the next machine, nor for sudo.
	isPassword := func(questions []string, echos []bool) bool {
		return len(questions) == 1 && !echos[0] && strings.Contains(strings.ToLower(questions[0]), "password")
	}
	prompt := fmt.Sprintf("Password of %s on %s: ", l.User, g.Name)
	return []ssh.AuthMethod{
		ssh.PublicKeysCallback(func() ([]ssh.Signer, error) { return l.signers(ctx), nil }),
		ssh.RetryableAuthMethod(ssh.PasswordCallback(func() (string, error) { return ask(prompt) }), tries),
		ssh.RetryableAuthMethod(ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
			var answers []string
			put := l.Terminal.Secret
			if isPassword(questions, echos) {
				put = func(_ context.Context, prompt string) (string, error) { return ask(prompt) }
			}
			for _, question := range questions {
				answer, err := put(ctx, fmt.Sprintf("%s (%s on %s) ", question, l.User, g.Name))
				if err != nil {
					return nil, err
				}
				answers = append(answers, answer)
			}
			return answers, nil
		}), tries),
	}
}

// signers are the agent's keys and those of the files; read once for all machines. A key that cannot be read is left out: another
// one may do.
func (l *Login) signers(ctx context.Context) []ssh.Signer {
	l.once.Do(func() {
		if l.Explicit {
			l.addIdentities(ctx)
		}
		if l.AgentSocket != "" {
			if connection, err := net.Dial("unix", l.AgentSocket); err == nil {
				held, err := agent.NewClient(connection).Signers() // the connection signs as long as we run
				if err == nil {
					l.keys = append(l.keys, held...)
					for _, key := range held {
						l.tried = append(l.tried, "of ssh-agent "+ssh.FingerprintSHA256(key.PublicKey()))
					}
				}
			}
		}
		if !l.Explicit {
			l.addIdentities(ctx)
		}
	})
	return l.keys
}

func (l *Login) addIdentities(ctx context.Context) {
	for _, file := range l.Identities {
		key, err := l.identity(ctx, file)
		switch {
		case err == nil:
			l.keys = append(l.keys, key)
			l.tried = append(l.tried, file)
		case !errors.Is(err, fs.ErrNotExist):
			l.tried = append(l.tried, fmt.Sprintf("%s (not read: %v)", file, err))
		}
	}
}

func (l *Login) identity(ctx context.Context, file string) (ssh.Signer, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(content)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) {
		passphrase, asked := l.Terminal.Secret(ctx, "Passphrase of "+file+": ")
		if asked != nil {
			return nil, fmt.Errorf("it has a passphrase, and %w", asked)
		}
		key, err = ssh.ParsePrivateKeyWithPassphrase(content, []byte(passphrase))
	}
	return key, err
}

// trust finds out which host key is right: a known one, or one that the operator confirms now.
func (l *Login) trust(ctx context.Context, g desired.Gateway) ([]string, ssh.HostKeyCallback, error) {
	for _, files := range [][]string{l.KnownHosts[:min(1, len(l.KnownHosts))], l.KnownHosts} {
		host, err := recall(files, g)
		switch {
		case err != nil:
			return nil, nil, err
		case host == nil:
		case len(host.Algorithms) > 0:
			return host.Algorithms, host.Accept, nil
		case host.Known():
			return nil, nil, l.explain(g, host.Mismatch(nil))
		}
	}
	key, err := l.learn(ctx, g)
	if err != nil {
		return nil, nil, err
	}
	if !l.AcceptNew {
		sure, err := l.Terminal.Confirm(ctx, fmt.Sprintf("Gateway %s (%s) is not known. Its host key is\n  %s\nCompare it with what "+
			"`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints on its console. Is it the same", g.Name, g.SSHAddress, gateway.DescribeKey(key)))
		if err != nil {
			return nil, nil, fmt.Errorf("gateway %s (%s) has the unknown host key %s: %w; give --known-hosts, or --accept-new-host-keys on a network that you trust",
				g.Name, g.SSHAddress, gateway.DescribeKey(key), err)
		}
		if !sure {
			return nil, nil, fmt.Errorf("gateway %s (%s): the host key %s was not confirmed", g.Name, g.SSHAddress, gateway.DescribeKey(key))
		}
	}
	algorithms := []string{key.Type()}
	if key.Type() == ssh.KeyAlgoRSA { // signs with SHA-2 (RFC 8332)
		algorithms = []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return algorithms, ssh.FixedHostKey(key), nil
}

// recall is what files know of a host; nil: there are no files.
func recall(files []string, g desired.Gateway) (*gateway.Host, error) {
	files, err := existing(files)
	if err != nil || len(files) == 0 {
		return nil, err
	}
	known, err := gateway.LoadKnownHosts(files...)
	if err != nil {
		return nil, err
	}
	return known.Host(g.SSHAddress)
}

// newHostAlgorithms are asked of a host that nobody knows: what ssh-keyscan -t ed25519 would find comes first.
func newHostAlgorithms() []string {
	return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
}

// errLearnt ends a handshake that was for the host key alone.
var errLearnt = errors.New("the host key is known now")

// learn asks for the host key and goes, before anybody is authenticated.
func (l *Login) learn(ctx context.Context, g desired.Gateway) (ssh.PublicKey, error) {
	var shown ssh.PublicKey
	client, err := l.handshake(ctx, g, &ssh.ClientConfig{
		User: l.User, HostKeyAlgorithms: newHostAlgorithms(),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			shown = key
			return errLearnt
		},
	})
	if err == nil {
		return nil, errors.Join(errors.New("the host key was not asked for"), client.Close())
	}
	if shown == nil {
		return nil, l.explain(g, err)
	}
	return shown, nil
}

// existing leaves out files that are not there.
func existing(files []string) ([]string, error) {
	var found []string
	for _, file := range files {
		switch _, err := os.Stat(file); {
		case err == nil:
			found = append(found, file)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("looking for known hosts: %w", err)
		}
	}
	return found, nil
}
