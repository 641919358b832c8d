package gateway

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/crypto/ssh/knownhosts"
)

// ErrClosed is the error of every call on a Client after Close.
var ErrClosed = errors.New("the client is closed")

// UnreachableError says that no agent's answer came: the machine, its sshd, the network or the agent is silent. Whether
// a request took effect is unknown; repeating it is safe.
type UnreachableError struct {
	Gateway string
	Address string // host:port of its sshd
	// Doing is what was going on: "connecting", "shaking hands", "waiting for the reply to apply".
	Doing string
	// Connected tells that sshd had let us in: then the agent is silent, or the connection was lost.
	Connected bool
	Err       error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("gateway %s (%s) is unreachable: %s: %v; %s", e.Gateway, e.Address, e.Doing, e.Err, e.Remedy())
}

// Remedy is what a person can do.
func (e *UnreachableError) Remedy() string {
	if e.Connected {
		return "look at `journalctl -u gatewayctl-agent` on the gateway and at the network between"
	}
	return "check that the machine is up, that sshd listens at this address, and that no firewall is between"
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// HostKeyError says that the host at a gateway's address could not prove that it is the gateway. Nothing was sent to it.
type HostKeyError struct {
	Gateway string
	Address string
	// Expected are the keys that known_hosts has for the address, each as "ssh-ed25519 SHA256:... (FILE line N)"; an
	// authority is shown as "certificate by SHA256:...". Empty: the host is unknown.
	Expected []string
	// Got is the key that the host presented, as "ssh-ed25519 SHA256:...". Empty when it presented none.
	Got string
	// Revoked is the place of the @revoked line that names the key, else empty.
	Revoked string
	// Files are the known_hosts files that were asked.
	Files []string
	// Err is the reason when a host certificate is no good (expired, another principal).
	Err error
}

func (e *HostKeyError) Error() string {
	who := fmt.Sprintf("gateway %s (%s)", e.Gateway, e.Address)
	switch {
	case e.Revoked != "":
		return fmt.Sprintf("%s presented the host key %s, which is revoked (%s); %s", who, e.Got, e.Revoked, e.Remedy())
	case e.Err != nil:
		return fmt.Sprintf("%s presented a host key that is not accepted: %s: %v; %s", who, e.Got, e.Err, e.Remedy())
	case len(e.Expected) == 0:
		return fmt.Sprintf("%s is an unknown host: no entry in %s; it presented %s; %s",
			who, strings.Join(e.Files, ", "), e.Got, e.Remedy())
	}
	return fmt.Sprintf("%s presented another host key than the known one: expected %s; got %s; %s",
		who, strings.Join(e.Expected, " or "), e.Got, e.Remedy())
}

// Remedy is what a person can do. It never says "delete the line and try again": that would defeat the check.
func (e *HostKeyError) Remedy() string {
	compare := "compare the fingerprint with `ssh-keygen -lf` of /etc/ssh/ssh_host_*_key.pub on the gateway's console"
	switch host := knownhosts.Normalize(e.Address); {
	case e.Revoked != "":
		return "make new host keys on the gateway (`rm /etc/ssh/ssh_host_*; ssh-keygen -A`) and put them into the known hosts file"
	case e.Err != nil:
		return "issue a new host certificate, or put the plain host key into the known hosts file"
	case len(e.Expected) == 0:
		return compare + ", then add the line that `" + keyscan(e.Address) + "` prints"
	default:
		return "somebody may be between this machine and the gateway; if it was reinstalled, " + compare +
			", then replace the lines of " + host + " in the known hosts file"
	}
}

func (e *HostKeyError) Unwrap() error { return e.Err }

// keyscan is the command that prints the host keys of address as known_hosts lines.
func keyscan(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil || port == "22" {
		return "ssh-keyscan " + host
	}
	return "ssh-keyscan -p " + port + " " + host
}

// KeyRefusedError says that sshd did not let our key in.
type KeyRefusedError struct {
	Gateway string
	Address string
	User    string
	Keys    []string // what was offered, as "ssh-ed25519 SHA256:..."
	Err     error
}

func (e *KeyRefusedError) Error() string {
	return fmt.Sprintf("gateway %s (%s) refused the key %s for user %s: %v; %s",
		e.Gateway, e.Address, strings.Join(e.Keys, ", "), e.User, e.Err, e.Remedy())
}

// Remedy is what a person can do.
func (e *KeyRefusedError) Remedy() string {
	return "on the gateway, check that the public key stands in the authorized_keys file of " + e.User +
		", that this file belongs to root or " + e.User + " alone, and what sshd logs (`journalctl -u ssh`)"
}

func (e *KeyRefusedError) Unwrap() error { return e.Err }

// AgentMissingError says that sshd let us in and something else than a working agent was there.
type AgentMissingError struct {
	Gateway string
	Address string
	User    string
	// Output is what the remote side wrote instead, shortened.
	Output string
	Err    error
}

func (e *AgentMissingError) Error() string {
	said := ""
	if e.Output != "" {
		said = fmt.Sprintf(" and said %q", e.Output)
	}
	return fmt.Sprintf("no agent answers on gateway %s (%s): %v%s; %s", e.Gateway, e.Address, e.Err, said, e.Remedy())
}

// Remedy is what a person can do.
func (e *AgentMissingError) Remedy() string {
	return "on the gateway, check `systemctl status gatewayctl-agent`, and that the key's line in the authorized_keys file of " +
		e.User + ` begins with restrict,command="/usr/local/sbin/gatewayctl agent pipe --role=controller" (--role=peer for another gateway's key)`
}

func (e *AgentMissingError) Unwrap() error { return e.Err }

// VersionError says that the agent and this program were built for different versions of the protocol or of State.
type VersionError struct {
	Gateway string
	Address string
	// Subject is what differs: "wire version" or "State schema".
	Subject string
	Agent   int // the agent's
	Build   int // ours
	Err     error
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("gateway %s (%s): the agent speaks %s %d, this build %d: %s",
		e.Gateway, e.Address, e.Subject, e.Agent, e.Build, e.Remedy())
}

// Remedy is what a person can do.
func (e *VersionError) Remedy() string {
	if e.Agent < e.Build {
		return "upgrade gatewayctl on the gateway to the version of this program, then `systemctl restart gatewayctl-agent`"
	}
	return "upgrade this program to the version of gatewayctl on the gateway"
}

func (e *VersionError) Unwrap() error { return e.Err }

// NameError says that the agent at a gateway's address is another gateway: a State would be rendered for the wrong machine.
type NameError struct {
	Gateway string
	Address string
	Agent   string // the name in the agent's own configuration
}

func (e *NameError) Error() string {
	return fmt.Sprintf("gateway %s (%s): the agent there calls itself %s; %s", e.Gateway, e.Address, e.Agent, e.Remedy())
}

// Remedy is what a person can do.
func (e *NameError) Remedy() string {
	return "correct this gateway's sshAddress in the cloud config, or the name in /etc/gatewayctl/agent.yaml on the machine"
}
