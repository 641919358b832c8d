package bootstrap

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// Program is this program, for the machines.
type Program struct {
	content []byte
	digest  string // SHA-256
	machine elf.Machine
}

// NewProgram looks at a program's file.
func NewProgram(content []byte, digest string) (*Program, error) {
	file, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("reading the program for the gateways: %w", err)
	}
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_INTERP {
			return nil, errors.New("the program for the gateways is linked dynamically, and may not run there: build it with CGO_ENABLED=0 (`make build`), or give --binary")
		}
	}
	return &Program{content: content, digest: digest, machine: file.Machine}, nil
}

// processor is what Go's linker calls a machine that uname -m names so; false: one that we do not know.
func processor(name string) (elf.Machine, bool) {
	switch name {
	case "x86_64":
		return elf.EM_X86_64, true
	case "aarch64":
		return elf.EM_AARCH64, true
	case "ppc64le":
		return elf.EM_PPC64, true
	case "s390x":
		return elf.EM_S390, true
	case "riscv64":
		return elf.EM_RISCV, true
	case "armv7l":
		return elf.EM_ARM, true
	case "i686":
		return elf.EM_386, true
	}
	return 0, false
}

// remote is a machine that we are logged in to, with the program on it.
type remote struct {
	gateway desired.Gateway
	client  *ssh.Client
	// shown is what the machine presented and proved: its host key, or a certificate of it. hostKey is the key itself.
	shown, hostKey ssh.PublicKey
	login          *Login
	program        *Program
	// path is the program there; uploaded says that it is a temporary copy.
	path     string
	uploaded bool
	become   become
}

// become is how root is reached.
type become int

const (
	asRoot become = iota
	bySudo
	bySudoWithPassword
)

// The only commands that are ever run over SSH; the last parts of some are a file name of ours.
const (
	commandSystem = "uname -sm && id -u"
	commandDigest = "sha256sum " + site.Program
	commandSudo   = "sudo -k -n true" // -k: a ticket of before may run out in between
	commandTry    = "sudo -k -S -p '' true"
)

// open logs in and gets the program there.
func open(ctx context.Context, login *Login, g desired.Gateway, program *Program) (_ *remote, err error) {
	client, key, err := login.connect(ctx, g)
	if err != nil {
		return nil, err
	}
	r := &remote{gateway: g, client: client, shown: key, hostKey: key, login: login, program: program}
	if certificate, ok := key.(*ssh.Certificate); ok {
		r.hostKey = certificate.Key
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("gateway %s: %w", g.Name, err), r.close(ctx))
		}
	}()
	if err := r.identify(ctx); err != nil {
		return nil, err
	}
	return r, r.bring(ctx)
}

// identify finds out whether the program can run there, and as whom.
func (r *remote) identify(ctx context.Context) error {
	out, err := r.run(ctx, commandSystem, nil)
	if err != nil {
		return fmt.Errorf("asking what machine it is: %w", err)
	}
	fields := strings.Fields(string(out))
	fields = fields[max(0, len(fields)-3):]
	if len(fields) != 3 || fields[0] != "Linux" {
		return fmt.Errorf("it is no Linux: `%s` says %q", commandSystem, out)
	}
	if machine, known := processor(fields[1]); known && machine != r.program.machine {
		return fmt.Errorf("its processor is %s, and this program is for %s; build it for that (GOARCH=...) and give --binary", fields[1], r.program.machine)
	}
	if fields[2] == "0" {
		return nil
	}
	r.become = bySudo
	_, err = r.run(ctx, commandSudo, nil)
	switch {
	case err == nil:
		return nil
	case exitStatus(err) == commandNotFound:
		return fmt.Errorf("user %s is not root there, and there is no sudo: log in as root (--login root)", r.login.User)
	case mayNot(err):
		return r.sudoRefuses(err)
	}
	r.become = bySudoWithPassword
	return r.askForSudo(ctx)
}

// commandNotFound is a shell's exit status (sh(1)).
const commandNotFound = 127

// askForSudo has sudo try the password before any plan is sent behind it: that would be taken for the next try.
func (r *remote) askForSudo(ctx context.Context) error {
	const tries = 3
	var refused error
	for try := 0; try < tries; try++ {
		password := r.login.password
		if password == "" || try > 0 {
			var err error
			if password, err = r.login.Terminal.Secret(ctx, fmt.Sprintf("Password of %s for sudo on %s: ", r.login.User, r.gateway.Name)); err != nil {
				return errors.Join(fmt.Errorf("user %s is not root there and sudo asks for a password: %w; log in as root (--login root), or allow sudo without a password",
					r.login.User, err), refused)
			}
		}
		_, refused = r.run(ctx, commandTry, strings.NewReader(password+"\n"))
		if refused == nil {
			r.login.password = password
			return nil
		}
		if mayNot(refused) || ctx.Err() != nil {
			break
		}
	}
	return r.sudoRefuses(refused)
}

func (r *remote) sudoRefuses(err error) error {
	return fmt.Errorf("sudo does not make user %s root there: %w; log in as root (--login root), or allow the user to run everything by sudo", r.login.User, err)
}

// mayNot says whether sudo refuses a user whatever the password is. In another language than English it is asked for once more.
func mayNot(err error) bool {
	text := err.Error()
	return strings.Contains(text, "not in the sudoers") || strings.Contains(text, "not allowed to")
}

// exitStatus is that of a command that ended; 0: it did not end by itself.
func exitStatus(err error) int {
	var exit *ssh.ExitError
	if errors.As(err, &exit) {
		return exit.ExitStatus()
	}
	return 0
}

// UploadPrefix begins the name of the program while it is not installed.
const UploadPrefix = ".gatewayctl-"

// bring uploads the program unless it is installed already.
func (r *remote) bring(ctx context.Context) error {
	if out, err := r.run(ctx, commandDigest, nil); err == nil && bytes.HasPrefix(lastLine(out), []byte(r.program.digest+" ")) {
		r.path = site.Program
		return nil
	}
	suffix := make([]byte, 16) // nobody can guess the name and be there first
	if _, err := rand.Read(suffix); err != nil {
		return fmt.Errorf("making a name: %w", err)
	}
	r.path = "./" + UploadPrefix + hex.EncodeToString(suffix)
	r.uploaded = true
	if _, err := r.run(ctx, "umask 077 && cat > "+r.path+" && chmod 700 "+r.path, bytes.NewReader(r.program.content)); err != nil {
		return fmt.Errorf("uploading this program: %w", err)
	}
	return nil
}

// carryOut has a plan carried out on the machine. An error says that there is no report.
func (r *remote) carryOut(ctx context.Context, plan prepare.Plan) (*prepare.Report, error) {
	plan.Gateway, plan.Program, plan.Sent = r.gateway.Name, r.program.digest, time.Now()
	input, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	command := r.path + " bootstrap-local"
	switch r.become {
	case bySudo:
		command = "sudo -n -- " + command
	case bySudoWithPassword:
		// -k: it asks in any case, so that the line is not taken for the plan's.
		command = "sudo -k -S -p '' -- " + command
		input = append([]byte(r.login.password+"\n"), input...)
	}
	out, err := r.run(ctx, command, bytes.NewReader(input))
	if err != nil {
		return nil, r.unreported(ctx, plan, err)
	}
	report := &prepare.Report{}
	if err := json.Unmarshal(lastLine(out), report); err != nil {
		return nil, fmt.Errorf("gateway %s: %s: reading what was reported: %w", r.gateway.Name, plan.Action, err)
	}
	return report, nil
}

// unreported says what is known of a plan whose report did not come.
func (r *remote) unreported(ctx context.Context, plan prepare.Plan, err error) error {
	writes := !plan.DryRun && plan.Action != prepare.Look && plan.Action != prepare.Check
	var gone *ssh.ExitMissingError
	switch {
	case writes && (ctx.Err() != nil || errors.As(err, &gone)):
		return fmt.Errorf("gateway %s: %s: %w; what was begun there goes on to its end without us: run the same command again when it has ended",
			r.gateway.Name, plan.Action, err)
	case errors.As(err, &gone):
		return fmt.Errorf("gateway %s: the connection was lost: %w; run the same command again", r.gateway.Name, err)
	}
	return fmt.Errorf("gateway %s: %s: %w", r.gateway.Name, plan.Action, err)
}

// lastLine is what a command printed itself: a .bashrc that prints something comes first.
func lastLine(out []byte) []byte {
	out = bytes.TrimSpace(out)
	return out[bytes.LastIndexByte(out, '\n')+1:]
}

// close removes the uploaded program and ends the connection.
func (r *remote) close(ctx context.Context) error {
	var err error
	if r.uploaded {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dialTimeout)
		defer cancel()
		if _, err = r.run(ctx, "rm -f "+r.path, nil); err != nil {
			err = fmt.Errorf("gateway %s: removing the uploaded program %s: %w", r.gateway.Name, r.path, err)
		}
	}
	return errors.Join(err, ignoreClosed(r.client.Close()))
}

// run runs a command of ours and gives its standard output. When it is interrupted, what runs there goes on to its end; the connection
// stays, so that what was uploaded can be removed.
func (r *remote) run(ctx context.Context, command string, stdin io.Reader) ([]byte, error) {
	type end struct {
		out []byte
		err error
	}
	ended := make(chan end, 1)
	go func() { // ends with the connection at the latest
		out, err := r.session(command, stdin)
		ended <- end{out, err}
	}()
	select {
	case e := <-ended:
		return e.out, e.err
	case <-ctx.Done():
		return nil, fmt.Errorf("interrupted: %w", context.Cause(ctx))
	}
}

func (r *remote) session(command string, stdin io.Reader) ([]byte, error) {
	session, err := r.client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	defer session.Close()
	var stdout, stderr bytes.Buffer
	session.Stdin, session.Stdout, session.Stderr = stdin, &stdout, &stderr
	if err := session.Run(command); err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return stdout.Bytes(), err
	}
	return stdout.Bytes(), nil
}
