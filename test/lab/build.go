package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// programs are what the hosts run and Debian does not have. They are linked statically: a host needs nothing but the file.
var programs = []string{
	"cloud-provider-haproxy/test/lab/hostinit",
	"cloud-provider-haproxy/test/lab/backend",
	"cloud-provider-haproxy/test/lab/client",
}

// product is what gateways and operators run.
const product = "cloud-provider-haproxy/cmd/gatewayctl"

// build compiles programs into dir; Go's own cache makes a second time cheap. It tells the directory of our module.
func build(ctx context.Context, dir string, withProduct bool) (module string, err error) {
	wanted := programs
	if withProduct {
		wanted = append(slices.Clone(programs), product)
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", dir + "/"}, wanted...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", strings.Join(wanted, ", "), err, out)
	}
	file, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("asking for the module's directory: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(file))), nil
}

// ErrNotRoot is what Missing says to a user who is not root.
var ErrNotRoot = errors.New("the lab needs root: it makes namespaces, mounts and network interfaces of its own")

// packages are the Debian package of each program that the lab runs.
var packages = []struct{ program, name string }{
	{"ip", "iproute2"}, {"nft", "nftables"}, {"haproxy", "haproxy"}, {"keepalived", "keepalived"},
	{"sshd", "openssh-server"}, {"ssh-keygen", "openssh-client"}, {"pkill", "procps"}, {"useradd", "passwd"},
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
