package site

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/nftables"
	manifests "cloud-provider-haproxy/manifests/gateway"
)

// Where things are on a gateway.
const (
	Program            = "/usr/local/sbin/gatewayctl"
	ConfigDirectory    = "/etc/gatewayctl"
	StateDirectory     = "/var/lib/gatewayctl"
	AgentFile          = ConfigDirectory + "/agent.yaml"
	LimitsFile         = ConfigDirectory + "/limits.yaml"
	SignersFile        = ConfigDirectory + "/signers"
	AuthorizedKeysFile = ConfigDirectory + "/authorized_keys"
	KnownHostsFile     = ConfigDirectory + "/known_hosts"
	PeerKeyFile        = ConfigDirectory + "/peer_ed25519"
	SysctlFile         = "/etc/sysctl.d/90-cloud-provider-haproxy.conf"
	ModulesFile        = "/etc/modules-load.d/cloud-provider-haproxy.conf"
	SSHDFile           = "/etc/ssh/sshd_config.d/gatewayctl.conf"
	UnitFile           = "/etc/systemd/system/gatewayctl-agent.service"
	TemporaryFile      = "/etc/tmpfiles.d/cloud-provider-haproxy.conf"
	HAProxyUnitFile    = "/etc/systemd/system/haproxy.service.d/cloud-provider-haproxy.conf"
	KeepalivedUnitFile = "/etc/systemd/system/keepalived.service.d/cloud-provider-haproxy.conf"
)

// Family is what distributions have in common: their packages' names, tools and habits.
type Family string

const (
	Debian Family = "debian" // and Ubuntu
	RedHat Family = "rhel"   // and Rocky, Alma, CentOS Stream, Fedora
)

// Acquaintance is what the other gateways have to know of one.
type Acquaintance struct {
	// PeerKey is the public half of its peer_ed25519; nil: not known.
	PeerKey ssh.PublicKey
	// HostKeys are those of its sshd.
	HostKeys []ssh.PublicKey
	// Peers are the gateways that it lets in already, as it calls them.
	Peers []Key
}

// File is a file of root's on a gateway.
type File struct {
	Path string      `json:"path"`
	Mode fs.FileMode `json:"mode"`
	// Group may read it, when Mode says so; empty: root.
	Group   string `json:"group,omitempty"`
	Content []byte `json:"content"`
}

// Directory is a directory of root's on a gateway.
type Directory struct {
	Path  string      `json:"path"`
	Mode  fs.FileMode `json:"mode"`
	Group string      `json:"group,omitempty"`
}

// Directories are made before the files.
func (s *Site) Directories() []Directory {
	return []Directory{
		{Path: ConfigDirectory, Mode: 0o750, Group: s.User},
		{Path: StateDirectory, Mode: 0o700},
	}
}

// Files are those of one gateway, in the order in which they are to be installed. What is not known of another gateway is left
// out of them.
func (s *Site) Files(name string, family Family, known map[string]Acquaintance) ([]File, error) {
	g, ok := s.Gateway(name)
	if !ok {
		return nil, fmt.Errorf("no gateway %s in the cloud configuration", name)
	}
	others := slices.DeleteFunc(slices.Clone(s.Gateways), func(other desired.Gateway) bool { return other.Name == name })
	files := []File{
		{Path: ModulesFile, Mode: 0o644, Content: nftables.ModulesFile()},
		{Path: SysctlFile, Mode: 0o644, Content: nftables.SysctlFile()},
		{Path: AgentFile, Mode: 0o600, Content: []byte(s.agentConfig(g))},
		{Path: LimitsFile, Mode: 0o600, Content: []byte(s.limits(g))},
		{Path: SignersFile, Mode: 0o600, Content: []byte(s.signers())},
		{Path: AuthorizedKeysFile, Mode: 0o640, Group: s.User, Content: []byte(s.authorizedKeys(name, known))},
		{Path: KnownHostsFile, Mode: 0o600, Content: []byte(knownHosts(others, known))},
		{Path: SSHDFile, Mode: 0o600, Content: []byte(s.sshd())},
		{Path: UnitFile, Mode: 0o644, Content: []byte(manifests.Unit())},
		{Path: HAProxyUnitFile, Mode: 0o644, Content: []byte(manifests.HAProxyUnit())},
		{Path: KeepalivedUnitFile, Mode: 0o644, Content: []byte(manifests.KeepalivedUnit())},
	}
	if family == RedHat {
		// Debian's package makes the directory of HAProxy's socket itself.
		files = append(files, File{Path: TemporaryFile, Mode: 0o644, Content: []byte("d /run/haproxy 2775 haproxy haproxy -\n")})
	}
	return files, checkFiles(name, files)
}

func (s *Site) sshd() string {
	return strings.Replace(manifests.SSHD(), "Match User gatewayctl\n", "Match User "+s.User+"\n", 1)
}

// checkFiles has the files read by who will read them on the gateway.
func checkFiles(name string, files []File) error {
	for _, f := range files {
		var err error
		switch f.Path {
		case AgentFile:
			_, err = agent.DecodeConfig(f.Content)
		case LimitsFile:
			_, err = agent.DecodeLimits(f.Content)
		case SignersFile:
			_, err = gateway.NewVerifier(f.Content)
		}
		if err != nil {
			return fmt.Errorf("making %s for %s: %w", f.Path, name, err)
		}
	}
	return nil
}
