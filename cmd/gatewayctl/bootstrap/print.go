package bootstrap

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// printed is the README of --print.
const printed = `# Files of the gateways

Written by ` + "`gatewayctl bootstrap --print`" + `, for puppet, ansible or by hand: what ` + "`gatewayctl bootstrap`" + ` would install, byte for byte.
GATEWAY/ is the tree as it is to be on that gateway; GATEWAY.permissions has a line for each directory and file: mode, owner,
group, path.

What is to be done besides, once and in this order:

1. Packages: haproxy (2.6 or newer), keepalived (2.2), nftables (1.0), and a running sshd.
2. The static program gatewayctl as %[1]s, 0755 root root.
3. The user, who owns nothing:
   useradd --system --user-group --shell /bin/sh --home-dir / --password '*' %[2]s
4. The directories and files.
5. The gateway's own key, which never leaves it; its public half goes into authorized_keys on the other gateways
   (--peer-key NAME=FILE.pub for --print):
   ssh-keygen -t ed25519 -N '' -f %[3]s
6. modprobe --all %[6]s; sysctl --system
7. sshd -t && systemctl reload ssh       (sshd on RHEL-like systems)
8. systemctl daemon-reload; systemctl enable haproxy keepalived; systemctl enable --now gatewayctl-agent

After a change of %[4]s: systemctl restart gatewayctl-agent. All other files of
%[5]s are read anew when they are needed.
`

// Print writes what the gateways would get into a directory, which must not hold anything of them yet. known is as for
// site.Files.
func Print(directory string, s *site.Site, names []string, family site.Family, known map[string]site.Acquaintance) error {
	for _, name := range names {
		files, err := s.Files(name, family, known)
		if err != nil {
			return err
		}
		tree := filepath.Join(directory, name)
		if _, err := os.Stat(tree); err == nil {
			return fmt.Errorf("%s is there already: remove it, or give another directory, so that nothing of before stays in it", tree)
		}
		var permissions strings.Builder
		for _, d := range s.Directories() {
			fmt.Fprintf(&permissions, "%04o root %s %s\n", d.Mode, cmp.Or(d.Group, "root"), d.Path)
			if err := os.MkdirAll(filepath.Join(tree, d.Path), 0o755); err != nil {
				return err
			}
		}
		for _, f := range files {
			fmt.Fprintf(&permissions, "%04o root %s %s\n", f.Mode, cmp.Or(f.Group, "root"), f.Path)
			if err := write(filepath.Join(tree, f.Path), f.Content); err != nil {
				return err
			}
		}
		if err := write(tree+".permissions", []byte(permissions.String())); err != nil {
			return err
		}
	}
	var modules []string
	for _, m := range nftables.Modules() {
		modules = append(modules, m.Name)
	}
	return write(filepath.Join(directory, "README.md"), fmt.Appendf(nil, printed, site.Program, s.User, site.PeerKeyFile,
		site.AgentFile, site.ConfigDirectory, strings.Join(modules, " ")))
}

func write(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
