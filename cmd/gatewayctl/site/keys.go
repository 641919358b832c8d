package site

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Key is a public key and what its owner calls it.
type Key struct {
	ssh.PublicKey
	Comment string
}

// String is the key as a line of a .pub file, on one line whatever its comment was.
func (k Key) String() string {
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k.PublicKey)))
	comment := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, k.Comment)
	return strings.TrimSpace(line + " " + comment)
}

// ParseKey reads one line of a .pub file. Options, which authorized_keys may have, are refused.
func ParseKey(line string) (Key, error) {
	key, comment, options, rest, err := ssh.ParseAuthorizedKey([]byte(line))
	switch {
	case err != nil:
		return Key{}, fmt.Errorf("%.40q is no public key (the content of a .pub file): %w", line, err)
	case strings.Contains(key.Type(), "-cert-v01@") || strings.HasPrefix(key.Type(), "sk-"):
		return Key{}, fmt.Errorf("public key %s is of type %s: neither a certificate nor a key on a token can sign what a controller sends; give a plain one (ssh-keygen -t ed25519)",
			ssh.FingerprintSHA256(key), key.Type())
	case len(options) > 0:
		return Key{}, fmt.Errorf("public key %s has options (%s): give the key alone", ssh.FingerprintSHA256(key), options[0])
	case len(bytes.TrimSpace(rest)) > 0:
		return Key{}, fmt.Errorf("after public key %s there is more: give one key", ssh.FingerprintSHA256(key))
	}
	return Key{PublicKey: key, Comment: comment}, nil
}

func parseKeys(lines []string) ([]Key, error) {
	if len(lines) == 0 {
		return nil, errors.New("no controller's public key is given: nobody could send a State")
	}
	var keys []Key
	var faults []error
	seen := map[string]bool{}
	for _, line := range lines {
		key, err := ParseKey(line)
		if err != nil {
			faults = append(faults, fmt.Errorf("the controller's key: %w", err))
			continue
		}
		if id := string(key.Marshal()); !seen[id] {
			seen[id] = true
			keys = append(keys, key)
		}
	}
	return keys, errors.Join(faults...)
}

// forced is a line of authorized_keys: the key may run this and nothing else.
func forced(role string, key Key) string {
	return fmt.Sprintf("restrict,command=\"%s agent pipe --role=%s\" %s\n", Program, role, key)
}

// authorizedKeys is the file of one gateway.
func (s *Site) authorizedKeys(name string, known map[string]Acquaintance) string {
	var text strings.Builder
	fmt.Fprintf(&text, "# %s: who may reach the agent over SSH, and as what. The command is what runs, whatever\n"+
		"# the other side asks for. Made by gatewayctl bootstrap, which overwrites an edit with --adopt alone; gatewayctl adopt\n"+
		"# replaces the controllers' keys.\n", AuthorizedKeysFile)
	for _, key := range s.controllers {
		text.WriteString(forced("controller", key))
	}
	var named []Key
	missing := false
	for _, other := range s.Gateways {
		if other.Name == name {
			continue
		}
		if peer := known[other.Name].PeerKey; peer != nil {
			named = append(named, Key{PublicKey: peer, Comment: other.Name})
			text.WriteString(forced("peer", named[len(named)-1]))
		} else {
			missing = true
			fmt.Fprintf(&text, "# %s: no key is known under this name.\n", other.Name)
		}
	}
	if !missing {
		return text.String()
	}
	// One that was let in by hand under another name may be the one whose key is not known.
	for _, peer := range known[name].Peers {
		if !slices.ContainsFunc(named, func(k Key) bool { return bytes.Equal(k.Marshal(), peer.Marshal()) }) {
			text.WriteString(forced("peer", peer))
		}
	}
	return text.String()
}

// signers is the file of keys whose States are believed.
func (s *Site) signers() string {
	text := fmt.Sprintf("# %s: the keys whose States this gateway believes. Made by gatewayctl bootstrap,\n"+
		"# which overwrites an edit with --adopt alone; gatewayctl adopt replaces them.\n", SignersFile)
	for _, key := range s.controllers {
		text += key.String() + "\n"
	}
	return text
}

// PeersIn are the keys of other gateways in an authorized_keys file of ours; their comments are the gateways' names.
func PeersIn(authorizedKeys []byte) []Key {
	var peers []Key
	for line := range bytes.Lines(authorizedKeys) {
		key, comment, options, _, err := ssh.ParseAuthorizedKey(line)
		if err == nil && slices.Contains(options, fmt.Sprintf("command=\"%s agent pipe --role=peer\"", Program)) {
			peers = append(peers, Key{PublicKey: key, Comment: comment})
		}
	}
	return peers
}
