package keepalived

import (
	"errors"
	"net/netip"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Local is what the gateway knows about itself and State does not tell.
type Local struct {
	Gateway    string // its name in State.Gateways
	ConfigFile string // where the rendered configuration is installed
	AliveFile  string // track file: 100 while HAProxy answers, else 0
	ReadyFile  string // track file: 50 while the State is confirmed current, else 0
	Version    string // of keepalived, "2.2.7"
}

// DebianLocal gives the paths of a Debian gateway.
func DebianLocal(gateway string) Local { return Local{Gateway: gateway} }

// Render gives keepalived.conf of the gateway.
func Render(s *desired.State, l Local) ([]byte, error) { return nil, errors.ErrUnsupported }

// CheckArgv checks the file without touching what runs. Its exit code is 0 when the file is good.
func CheckArgv(file string) []string { return nil }

// Message is one complaint of keepalived. Line is 0 when it names none.
type Message struct {
	Line int
	Text string
}

// ParseCheck reads what CheckArgv's command wrote (stdout and stderr together).
func ParseCheck(output []byte) []Message { return nil }

// AddressArgv lists the machine's addresses for Held.
func AddressArgv() []string { return nil }

// Holding is what this machine holds now.
type Holding struct {
	VIPs      []netip.Addr // of State.VIPs, on the interface where they belong, sorted
	RouterIDs []int        // instances whose anchor is here: this machine is their MASTER
}

// Held reads the output of AddressArgv.
func Held(addresses []byte, s *desired.State, l Local) (Holding, error) {
	return Holding{}, errors.ErrUnsupported
}

// HeldVIPs is Held's VIPs.
func HeldVIPs(addresses []byte, s *desired.State, l Local) ([]netip.Addr, error) {
	return nil, errors.ErrUnsupported
}
