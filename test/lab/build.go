package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// programs are what the hosts run and Debian does not have. They are linked statically: a host needs nothing but the file.
var programs = []string{
	"cloud-provider-haproxy/test/lab/hostinit",
	"cloud-provider-haproxy/test/lab/backend",
	"cloud-provider-haproxy/test/lab/client",
}

// product is what gateways and operators run.
const product = "cloud-provider-haproxy/cmd/gatewayctl"

// build compiles programs into dir. They are kept in the checkout's bin/lab, where `go install`, unlike `go build -o`, leaves
// alone what is up to date: linking is most of the time.
func build(ctx context.Context, module, dir string, withProduct bool) error {
	wanted := programs
	if withProduct {
		wanted = append(slices.Clone(programs), product)
	}
	kept := filepath.Join(module, "bin", "lab")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(kept, ".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	cmd := exec.CommandContext(ctx, "go", append([]string{"install", "-buildvcs=false"}, wanted...)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+kept)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", strings.Join(wanted, ", "), err, out)
	}
	for _, p := range wanted {
		if err := copyProgram(filepath.Join(kept, path.Base(p)), filepath.Join(dir, path.Base(p))); err != nil {
			return err
		}
	}
	return nil
}

// lock keeps another lab, whose start may be at the same point, from building and copying at the same time.
func lock(file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", file, err)
	}
	return func() { _ = f.Close() }, nil // the lock goes with the descriptor
}

func copyProgram(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, content, 0o755)
}

// moduleDir is where our go.mod is: the lab is started from anywhere inside.
func moduleDir(ctx context.Context) (string, error) {
	file, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("asking for the module's directory: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(file))), nil
}

// ErrNotRoot is what Missing says to a user who is not root.
var ErrNotRoot = errors.New("the lab needs root: it makes namespaces, mounts and network interfaces of its own")

// packages are the Debian package of each program that the lab or a test runs, when it is called otherwise.
var packages = map[string]string{
	"ip": "iproute2", "nft": "nftables", "sshd": "openssh-server", "ssh-keygen": "openssh-client", "ssh-keyscan": "openssh-client",
	"pkill": "procps", "sysctl": "procps", "useradd": "passwd", "setpriv": "util-linux", "unshare": "util-linux",
	"ping": "iputils-ping", "mkfs.ext4": "e2fsprogs", "systemd-analyze": "systemd",
}

// Missing says what this machine lacks for a lab; nil: nothing. The error tells what to do.
func Missing() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	return missing("the lab", []string{"ip", "nft", "haproxy", "keepalived", "sshd", "ssh-keygen", "pkill", "useradd"})
}

// missing says which packages who needs and this machine lacks.
func missing(who string, programs []string) error {
	var names []string
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			names = append(names, cmp.Or(packages[path.Base(program)], path.Base(program)))
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fmt.Errorf("%s needs Debian packages: apt-get install -y --no-install-recommends %s", who, strings.Join(slices.Compact(names), " "))
}
