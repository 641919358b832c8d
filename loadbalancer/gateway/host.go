package gateway

import (
	"net"

	"golang.org/x/crypto/ssh"
)

// Host is what known_hosts files say of one address, for those who speak SSH to a gateway otherwise than as its Client.
type Host struct {
	// Keys are its own. Algorithms are what to offer for its host key, preferred first; empty: the host is unknown.
	Keys       []ssh.PublicKey
	Algorithms []string

	known *hostKeys
	want  *expected
}

// Host looks an address up, as host:port.
func (k *KnownHosts) Host(address string) (*Host, error) {
	known, err := k.read()
	if err != nil {
		return nil, err
	}
	want, err := known.lookUp(address)
	if err != nil {
		return nil, err
	}
	h := &Host{Algorithms: want.algorithms(), known: known, want: want}
	for _, entry := range want.keys {
		h.Keys = append(h.Keys, entry.Key)
	}
	return h, nil
}

// Known says whether there is any entry for the host, a key of an unsupported type included: then an answer with another one
// is a mismatch and not a new host.
func (h *Host) Known() bool { return len(h.want.keys)+len(h.want.signers) > 0 }

// Accept is an ssh.HostKeyCallback. It gives a *HostKeyError without the gateway's name for a key that is not the host's.
func (h *Host) Accept(_ string, remote net.Addr, key ssh.PublicKey) error {
	return h.known.accept(h.want, remote, key)
}

// Mismatch is the error of a host that is known and showed a key of another type.
func (h *Host) Mismatch(key ssh.PublicKey) error {
	e := &HostKeyError{Address: h.want.address, Expected: h.want.describe(), Files: h.known.files}
	if key != nil {
		e.Got = describeKey(key)
	}
	return e
}

// DescribeKey gives type and fingerprint as `ssh-keygen -l` prints it.
func DescribeKey(key ssh.PublicKey) string { return describeKey(key) }
