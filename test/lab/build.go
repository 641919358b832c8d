package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// programs are what the hosts run and Debian does not have. They are linked statically: a host needs nothing but the file.
var programs = []string{
	"cloud-provider-haproxy/test/lab/hostinit",
}

// build compiles programs into dir; Go's own cache makes a second time cheap.
func build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", dir + "/"}, programs...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", strings.Join(programs, ", "), err, out)
	}
	return nil
}

// ErrNotRoot is what Missing says to a user who is not root.
var ErrNotRoot = errors.New("the lab needs root: it makes namespaces, mounts and network interfaces of its own")

// packages are the Debian package of each program that the lab runs.
var packages = []struct{ program, name string }{
	{"ip", "iproute2"}, {"nft", "nftables"}, {"haproxy", "haproxy"}, {"keepalived", "keepalived"},
	{"sshd", "openssh-server"}, {"ssh-keygen", "openssh-client"},
}

// Missing says what this machine lacks for a lab; nil: nothing. The error tells what to do.
func Missing() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	var names []string
	for _, p := range packages {
		if _, err := exec.LookPath(p.program); err != nil {
			names = append(names, p.name)
		}
	}
	if len(names) != 0 {
		return fmt.Errorf("the lab needs Debian packages: apt-get install -y --no-install-recommends %s", strings.Join(names, " "))
	}
	return nil
}
