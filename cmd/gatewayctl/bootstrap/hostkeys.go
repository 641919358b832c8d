package bootstrap

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/google/renameio/v2"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/gateway"
)

// HostKeys are the keys that a known_hosts file has for gateways, by name. A file that does not exist has none.
func HostKeys(file string, gateways []desired.Gateway) (map[string][]ssh.PublicKey, error) {
	keys := map[string][]ssh.PublicKey{}
	files, err := existing([]string{file})
	if err != nil || len(files) == 0 {
		return keys, err
	}
	known, err := gateway.LoadKnownHosts(files...)
	if err != nil {
		return nil, err
	}
	for _, g := range gateways {
		host, err := known.Host(g.SSHAddress)
		if err != nil {
			return nil, err
		}
		keys[g.Name] = host.Keys
	}
	return keys, nil
}

// recordHostKeys adds the keys that the machines have proven to a known_hosts file, where it does not know them.
func recordHostKeys(file string, remotes []*remote) error {
	text, err := os.ReadFile(file)
	absent := errors.Is(err, fs.ErrNotExist)
	if err != nil && !absent {
		return fmt.Errorf("recording host keys: %w", err)
	}
	before := len(text)
	if before > 0 && text[before-1] != '\n' {
		text = append(text, '\n')
	}
	for _, r := range remotes {
		var host *gateway.Host
		if !absent {
			known, err := gateway.LoadKnownHosts(file)
			if err != nil {
				return fmt.Errorf("recording host keys: %w", err)
			}
			if host, err = known.Host(r.gateway.SSHAddress); err != nil {
				return fmt.Errorf("recording host keys: %w", err)
			}
		}
		if host == nil || !host.Known() {
			text = fmt.Appendln(text, knownhosts.Line([]string{r.gateway.SSHAddress}, r.hostKey))
		} else if err := host.Accept("", r.client.RemoteAddr(), r.shown); err != nil {
			// Another file knows it by this key, and the controller would refuse it.
			return fmt.Errorf("%s, which the controller goes by, knows another key: %w", file, r.login.explain(r.gateway, err))
		}
	}
	if len(text) == before {
		return nil
	}
	if err := renameio.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("recording host keys: %w", err)
	}
	return nil
}
