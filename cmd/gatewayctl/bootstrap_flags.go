package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/cmd/gatewayctl/bootstrap"
	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/provider/config"
)

// siteFlags say what the gateways' files are made of, beside the cloud configuration.
type siteFlags struct {
	cloudConfig    string
	controllerKeys []string
	serverPrefixes []string
	agentSettings  string
	peerKeys       map[string]string
}

func (f *siteFlags) add(command *cobra.Command, keysFlag string) {
	flags := command.Flags()
	flags.StringVar(&f.cloudConfig, "cloud-config", "", "the controller's configuration; its known hosts file need not exist yet")
	flags.StringSliceVar(&f.controllerKeys, keysFlag, nil, "file with the public key of a controller; several while a key is being replaced (default that of ssh.privateKeyFile)")
	flags.StringSliceVar(&f.serverPrefixes, "server-prefix", nil, "network that traffic may be sent to, beside nodes.cidrs, nodes.addresses and the control plane's endpoints; the pods', if gateways reach those")
	flags.StringVar(&f.agentSettings, "agent-settings", "", "file with further settings for every agent.yaml, such as maxConn: 50000")
	flags.StringToStringVar(&f.peerKeys, "peer-key", nil, "NAME=FILE: the public half of /etc/gatewayctl/peer_ed25519 of a gateway that is not asked itself")
}

// loaded is what the flags name.
type loaded struct {
	config       *config.Config
	site         *site.Site
	hostKeysFile string
	peerKeys     map[string]ssh.PublicKey
}

// load reads everything, and tells every fault.
func (f *siteFlags) load() (*loaded, error) {
	text, err := os.ReadFile(f.cloudConfig)
	if err != nil {
		return nil, fmt.Errorf("reading the cloud configuration: %w", err)
	}
	// Not config.Load: the files that it wants are what bootstrap is there to make.
	c, err := config.Decode(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.cloudConfig, err)
	}
	var faults []error
	collect := func(err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	options := site.Options{}
	options.ControllerKeys, err = f.readControllerKeys(c)
	collect(err)
	for _, text := range f.serverPrefixes {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			collect(fmt.Errorf("--server-prefix: %w", err))
			continue
		}
		options.ServerPrefixes = append(options.ServerPrefixes, prefix)
	}
	if f.agentSettings != "" {
		options.AgentSettings, err = os.ReadFile(f.agentSettings)
		collect(err)
	}
	l := &loaded{config: c, hostKeysFile: f.beside(c.SSH.KnownHostsFile), peerKeys: map[string]ssh.PublicKey{}}
	for name, file := range f.peerKeys {
		key, err := readPublicKey(file)
		if err != nil {
			collect(fmt.Errorf("--peer-key %s: %w", name, err))
			continue
		}
		l.peerKeys[name] = key.PublicKey
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	l.site, err = site.New(c, options)
	return l, err
}

// beside is where a relative path of the cloud configuration starts.
func (f *siteFlags) beside(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(filepath.Dir(f.cloudConfig), path)
}

// readControllerKeys reads the files that are named; for none the configured key's public half.
func (f *siteFlags) readControllerKeys(c *config.Config) ([]string, error) {
	var lines []string
	var faults []error
	for _, file := range f.controllerKeys {
		key, err := readPublicKey(file)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		lines = append(lines, key.String())
	}
	if len(f.controllerKeys) > 0 {
		return lines, errors.Join(faults...)
	}
	file := f.beside(c.SSH.PrivateKeyFile)
	signer, err := gateway.LoadSigner(file)
	if key, unread := readPublicKey(file + ".pub"); unread == nil {
		if err == nil && !slices.Equal(signer.PublicKey().Marshal(), key.Marshal()) {
			return nil, fmt.Errorf("ssh.privateKeyFile: %s.pub is not the public half of %s: remove it, or make it anew (`ssh-keygen -yf %s > %s.pub`)", file, file, file, file)
		}
		return []string{key.String()}, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ssh.privateKeyFile: %w; make it (`ssh-keygen -t ed25519 -N '' -C controller -f %s`), or give the public half's file with --controller-key", err, file)
	}
	if err != nil {
		return nil, fmt.Errorf("ssh.privateKeyFile: %w", err)
	}
	return []string{site.Key{PublicKey: signer.PublicKey(), Comment: "controller"}.String()}, nil
}

func readPublicKey(file string) (site.Key, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return site.Key{}, fmt.Errorf("reading a public key: %w", err)
	}
	key, err := site.ParseKey(string(text))
	if err != nil {
		return site.Key{}, fmt.Errorf("%s: %w", file, err)
	}
	return key, nil
}

// chosen gives the named gateways; all for no name.
func (l *loaded) chosen(names []string) ([]desired.Gateway, error) {
	if len(names) == 0 {
		return l.site.Gateways, nil
	}
	var known []string
	for _, g := range l.site.Gateways {
		known = append(known, g.Name)
	}
	var list []desired.Gateway
	for _, name := range names {
		g, ok := l.site.Gateway(name)
		if !ok {
			return nil, fmt.Errorf("no gateway %s in the cloud configuration; it has %s", name, strings.Join(known, ", "))
		}
		if !slices.ContainsFunc(list, func(other desired.Gateway) bool { return other.Name == name }) {
			list = append(list, g)
		}
	}
	return list, nil
}

// loginFlags say how to get in.
type loginFlags struct {
	user       string
	identities []string
	knownHosts []string
	acceptNew  bool
	binary     string
}

func (f *loginFlags) add(command *cobra.Command) {
	flags := command.Flags()
	flags.StringVarP(&f.user, "login", "l", "", "who to log in as: root, or a user who may use sudo (default your own name)")
	flags.StringSliceVarP(&f.identities, "identity", "i", nil, "private key file, beside the keys of ssh-agent (default ~/.ssh/id_ed25519, id_ecdsa, id_rsa)")
	flags.StringSliceVar(&f.knownHosts, "known-hosts", nil, "file with host keys that are believed, beside the cloud configuration's (default ~/.ssh/known_hosts, /etc/ssh/ssh_known_hosts)")
	flags.BoolVar(&f.acceptNew, "accept-new-host-keys", false, "believe the key of a host that no file knows, without asking; a known host's is checked all the same")
	flags.StringVar(&f.binary, "binary", "", "gatewayctl for the gateways' processor (default this program itself)")
}

// login is how to get in; hostKeysFile is believed, too.
func (f *loginFlags) login(hostKeysFile string) (*bootstrap.Login, error) {
	l := &bootstrap.Login{
		User: f.user, Identities: f.identities, Explicit: len(f.identities) > 0, AgentSocket: os.Getenv("SSH_AUTH_SOCK"), AcceptNew: f.acceptNew, Terminal: terminal{},
		KnownHosts: append([]string{hostKeysFile}, f.knownHosts...),
	}
	if l.User == "" {
		me, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("finding out who you are: %w; give --login", err)
		}
		l.User = me.Username
	}
	for _, file := range f.knownHosts {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("--known-hosts: %w", err)
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return l, nil // then there are no files of one's own
	}
	if len(f.knownHosts) == 0 {
		l.KnownHosts = append(l.KnownHosts, filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts")
	}
	for _, file := range f.identities {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("--identity: %w", err)
		}
	}
	if len(f.identities) == 0 {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			l.Identities = append(l.Identities, filepath.Join(home, ".ssh", name))
		}
	}
	return l, nil
}

// program reads what is to be installed.
func (f *loginFlags) program() (*bootstrap.Program, error) {
	file := f.binary
	if file == "" {
		file = "/proc/self/exe"
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the program for the gateways: %w", err)
	}
	sum := sha256.Sum256(content)
	return bootstrap.NewProgram(content, hex.EncodeToString(sum[:]))
}
