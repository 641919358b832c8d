package nftables

import (
	"errors"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Local is what the gateway knows about itself and State does not tell.
type Local struct {
	Gateway          string // its name in State.Gateways
	ServicesPort     int    // HAProxy's transparent bind for all Services, on loopback
	ControlPlanePort int    // the same for the control plane
}

// DebianLocal gives the ports of a Debian gateway.
func DebianLocal(gateway string) Local {
	return Local{Gateway: gateway, ServicesPort: 7480, ControlPlanePort: 7481}
}

// Render gives a script for LoadArgv that replaces our whole table in one transaction, whether it exists or not.
func Render(s *desired.State, l Local) ([]byte, error) { return nil, errors.ErrUnsupported }

// CheckArgv reads a script on stdin and checks it without loading it.
func CheckArgv() []string { return nil }

// LoadArgv reads a script on stdin and loads it, all or nothing.
func LoadArgv() []string { return nil }

// ListArgv prints our table for ReadTable. It exits 1 when there is none, see Absent.
func ListArgv() []string { return nil }

// Absent says whether stderr of ListArgv means that the table is not there (run it with LC_ALL=C).
func Absent(stderr []byte) bool { return false }

// RulesScript is the script of our table without any element: the rules never depend on the State. RulesArgv loads it
// (stdin) into a network namespace that ends with the command, and prints the rules as this machine's nft and kernel
// spell them: once per start of the agent, for Want.
func RulesScript(l Local) []byte { return nil }

func RulesArgv() []string { return nil }

// Want is the table that Render's script makes. rules is the output of RulesArgv.
func Want(s *desired.State, l Local, rules []byte) (*Table, error) { return nil, errors.ErrUnsupported }

// Table is what can be compared: sets with elements, chains with rules.
type Table struct{}

// ReadTable reads the output of ListArgv. Empty input is the absent table.
func ReadTable(jsonListTable []byte) (*Table, error) { return nil, errors.ErrUnsupported }

// Diff says in words what has to change to make t into want; empty when they are equal.
func (t *Table) Diff(want *Table) []string { return nil }

// RulesetArgv prints everybody's tables for ForeignDrops.
func RulesetArgv() []string { return nil }

// Finding is a foreign input chain that would drop what our table lets in.
type Finding struct {
	Family, Table, Chain string
	Problem              string   // one sentence
	Commands             []string // exactly what to run, as root, in this order
}

// ForeignDrops finds input chains of other tables that drop or reject what no rule of theirs accepts.
func ForeignDrops(jsonListRuleset []byte) ([]Finding, error) { return nil, errors.ErrUnsupported }

// Sysctl is one kernel setting that a gateway needs.
type Sysctl struct {
	Name    string // net.ipv4.tcp_tw_reuse
	Value   string
	AtLeast bool // a larger number is as good
	Why     string
}

// Sysctls are the settings of manifests/gateway/sysctl.d.
func Sysctls() []Sysctl { return nil }

// File is where the kernel shows the setting, below /proc/sys. It is absent while its module is not loaded.
func (c Sysctl) File() string { return "" }

// Met says whether the content of File satisfies the setting.
func (c Sysctl) Met(current string) bool { return false }

// SysctlFile is the content of /etc/sysctl.d/90-cloud-provider-haproxy.conf, ModulesFile that of
// /etc/modules-load.d/cloud-provider-haproxy.conf.
func SysctlFile() []byte { return nil }

func ModulesFile() []byte { return nil }
