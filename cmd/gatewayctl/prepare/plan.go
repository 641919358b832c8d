package prepare

import (
	"net/netip"
	"time"

	"cloud-provider-haproxy/cmd/gatewayctl/site"
)

// Action is what is to be done on the machine.
type Action string

const (
	Look    Action = "look"    // tell what is there
	Check   Action = "check"   // tell what is in the way of the plan
	MakeKey Action = "key"     // make the gateway's own key pair, if there is none
	Install Action = "install" // check, and make it so
	Adopt   Action = "adopt"   // install the files alone, and have the agent forget its cluster
)

// Plan is all that the machine has to know.
type Plan struct {
	Action  Action `json:"action"`
	Gateway string `json:"gateway"`
	// User is the login of controllers and peers.
	User string `json:"user"`
	// Address is the one that VRRP adverts come from; it is on the first of Interfaces.
	Address    netip.Addr `json:"address"`
	Interfaces []string   `json:"interfaces"`
	// Listen is where controllers and the other gateways come to by SSH, From is one of those. Not valid: not known.
	Listen netip.AddrPort `json:"listen"`
	From   netip.Addr     `json:"from"`
	// Program is the SHA-256 of the program that runs the plan, and is to be installed.
	Program     string           `json:"program"`
	Directories []site.Directory `json:"directories"`
	Files       []site.File      `json:"files"`
	Options
	// Sent is the operator's clock when the plan was sent.
	Sent time.Time `json:"sent"`
}

// Options are the operator's.
type Options struct {
	InstallPackages bool     `json:"installPackages"`
	Adopt           bool     `json:"adopt"`
	DryRun          bool     `json:"dryRun"`
	Ignore          []string `json:"ignore,omitempty"`
}

// Report is all that the machine tells.
type Report struct {
	Facts    Facts     `json:"facts"`
	Findings []Finding `json:"findings,omitempty"`
	Steps    []Step    `json:"steps,omitempty"`
	// Notes are for people: what they have to do themselves.
	Notes []string `json:"notes,omitempty"`
	// Error says why the plan was not finished; the steps say how far it came.
	Error string `json:"error,omitempty"`
}

// Facts are what is there.
type Facts struct {
	System  string      `json:"system"` // "Debian GNU/Linux 12 (bookworm)"
	Family  site.Family `json:"family"` // empty: neither
	Systemd bool        `json:"systemd"`
	// PeerKey is the public half of the gateway's own key, a line of a .pub file; empty: it has none.
	PeerKey string `json:"peerKey,omitempty"`
	// Peers are the other gateways' keys that it lets in already, lines of .pub files with the gateway's name as comment.
	Peers []string  `json:"peers,omitempty"`
	Now   time.Time `json:"now"`
}

// Finding is something that is in the way.
type Finding struct {
	// Check is its name, for --ignore.
	Check string `json:"check"`
	// Problem is one sentence, Remedy another one: what to do.
	Problem string `json:"problem"`
	Remedy  string `json:"remedy,omitempty"`
	// Warning is set when it is told and stops nothing.
	Warning bool `json:"warning,omitempty"`
}

// Outcomes of a Step.
const (
	Unchanged = "unchanged"
	Created   = "created"
	Changed   = "changed"
	Done      = "done"
	WouldDo   = "would do"
	Failed    = "failed"
)

// Step is one thing that had to be so.
type Step struct {
	What    string `json:"what"`
	Outcome string `json:"outcome"`
	// Diff is what changed in a file, a line each, beginning with + or -.
	Diff []string `json:"diff,omitempty"`
}
