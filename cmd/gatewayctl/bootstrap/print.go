package bootstrap

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/nftables"
)

// PrintedGuide is the file of --print for people.
const PrintedGuide = "GATEWAYS.md"

// printed is what it says.
const printed = `# Files of the gateways

Written by ` + "`gatewayctl bootstrap --print`" + `, for puppet, ansible or by hand: what ` + "`gatewayctl bootstrap`" + ` would install, byte for byte.
GATEWAY/ is the tree as it is to be on that gateway; GATEWAY.permissions has a line for each directory and file: mode, owner,
group, path.

What is to be done besides, once and in this order:

1. Packages: {{.Packages}}, and a running sshd that reads
   /etc/ssh/sshd_config.d/*.conf. HAProxy must be 2.6 or newer, keepalived 2.2, nftables 1.0.
2. The static program gatewayctl as {{.Program}}, 0755 root root.
3. The user, who owns nothing:
   useradd --system --user-group --shell /bin/sh --home-dir / --password '*' {{.User}}
4. The directories and files.
5. The gateway's own key, which never leaves it; its public half goes into authorized_keys on the other gateways
   (--peer-key NAME=FILE.pub for --print):
   ssh-keygen -t ed25519 -N '' -f {{.PeerKey}}
6. The gateways' host keys, compared on their consoles, in the cloud configuration's ssh.knownHostsFile, before --print: it puts
   them into known_hosts of the other gateways.
7. modprobe --all {{.Modules}}; sysctl --system{{if .RedHat}}
   systemd-tmpfiles --create {{.Temporary}}
   Where SELinux is enforcing: setsebool -P haproxy_connect_any=1
   /etc/haproxy/conf.d/*.cfg, which HAProxy reads beside its own file, has to be empty.{{end}}
8. sshd -t && systemctl reload {{if .RedHat}}sshd{{else}}ssh{{end}}
9. systemctl daemon-reload; systemctl enable haproxy keepalived; systemctl enable --now gatewayctl-agent

After a change of {{.AgentFile}}: systemctl restart gatewayctl-agent. All other files of
{{.Configuration}} are read anew when they are needed.

Before limits.yaml gets narrower than before, the controller must have the narrower configuration and no Service an address outside:
a gateway refuses every State that is outside of it.
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
	return guide(directory, s, family)
}

func guide(directory string, s *site.Site, family site.Family) error {
	var modules []string
	for _, m := range nftables.Modules() {
		modules = append(modules, m.Name)
	}
	form, err := template.New(PrintedGuide).Parse(printed)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	err = form.Execute(&text, map[string]any{
		"Packages": strings.Join(prepare.Packages(family), ", "), "Program": site.Program, "User": s.User, "PeerKey": site.PeerKeyFile,
		"Modules": strings.Join(modules, " "), "RedHat": family == site.RedHat, "Temporary": site.TemporaryFile, "AgentFile": site.AgentFile,
		"Configuration": site.ConfigDirectory,
	})
	if err != nil {
		return err
	}
	return write(filepath.Join(directory, PrintedGuide), text.Bytes())
}

func write(path string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
