package agent

import (
	"fmt"
	"net"
	"time"
)

// Peers is how this gateway asks the others for a newer State. Who they are and where, the State says that it holds. When
// PrivateKeyFile does not exist, nobody is asked, and status says so.
type Peers struct {
	// PrivateKeyFile is this gateway's own key, as ssh-keygen writes it. The others let it in with --role=peer: it may read
	// the State. Default /etc/gatewayctl/peer_ed25519.
	PrivateKeyFile string `json:"privateKeyFile"`
	// KnownHostsFile has the host keys of the others. Default /etc/gatewayctl/known_hosts.
	KnownHostsFile string `json:"knownHostsFile"`
	// User is whose login the others' forced command belongs to. Default gatewayctl.
	User string `json:"user"`
	// Interval is the time between two questions whether somebody has a newer State. Default 2s, 500ms to 1m.
	Interval Duration `json:"interval"`
	// Gateways are asked as long as this gateway has never had a State.
	Gateways []PeerAddress `json:"gateways"`
}

// PeerAddress is where another gateway is asked.
type PeerAddress struct {
	Name string `json:"name"`
	// SSHAddress is its sshd's host:port; without a port 22.
	SSHAddress string `json:"sshAddress"`
}

// Duration is a time span, written as Go writes it: 2s, 500ms.
type Duration time.Duration

// UnmarshalText reads 2s, 500ms.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no time span such as 2s", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText is UnmarshalText's inverse.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// validate tells every fault.
func (p Peers) validate(fault func(field, problem string)) {
	if p.User == "" {
		fault("peers.user", "is empty")
	}
	if d := time.Duration(p.Interval); d < 500*time.Millisecond || d > time.Minute {
		fault("peers.interval", fmt.Sprintf("%s is not from 500ms to 1m", d))
	}
	seen := map[string]bool{}
	for i, g := range p.Gateways {
		field := fmt.Sprintf("peers.gateways[%d]", i)
		if g.Name == "" || seen[g.Name] {
			fault(field+".name", fmt.Sprintf("%q is empty or listed twice", g.Name))
		}
		seen[g.Name] = true
		if host, port, err := net.SplitHostPort(withPort(g.SSHAddress)); err != nil || host == "" || port == "" {
			fault(field+".sshAddress", fmt.Sprintf("%q is no host:port", g.SSHAddress))
		}
	}
}

// withPort adds sshd's port to a host or address that has none.
func withPort(address string) string {
	if net.ParseIP(address) != nil {
		return net.JoinHostPort(address, "22")
	}
	if _, _, err := net.SplitHostPort(address); err != nil && address != "" {
		return address + ":22"
	}
	return address
}
