package wire

import (
	"fmt"
	"net/netip"
	"time"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxGrace is the longest that connections which lost their VIP are left alone.
	MaxGrace = 24 * time.Hour
	// maxReason bounds Drain.Reason, in characters.
	maxReason = 200
)

// Drain asks a gateway to hand its VIPs to the others, and to keep away from them over reboots until undrain.
type Drain struct {
	// Reason is for people, one line, at most 200 characters; it may be empty.
	Reason string `json:"reason,omitempty"`
	// Grace is how long connections of VIPs that have left are kept before they are reset, at most MaxGrace; nanoseconds.
	Grace time.Duration `json:"grace,omitempty"`
	// Force drains also when no other gateway can take over; VIPs that nobody takes stay.
	Force bool `json:"force,omitempty"`
}

// Faults are what is wrong with the request, all of it.
func (d *Drain) Faults() []Fault {
	var faults []Fault
	if d.Grace < 0 || d.Grace > MaxGrace {
		faults = append(faults, Fault{Field: "grace", Message: fmt.Sprintf("%s: give 0s to %s", d.Grace, MaxGrace)})
	}
	if n := utf8.RuneCountInString(d.Reason); n > maxReason {
		faults = append(faults, Fault{Field: "reason", Message: fmt.Sprintf("%d characters are more than %d", n, maxReason)})
	}
	for _, r := range d.Reason {
		if !unicode.IsPrint(r) { // it is shown on terminals
			faults = append(faults, Fault{Field: "reason", Message: fmt.Sprintf("the character %q cannot be shown", r)})
			break
		}
	}
	return faults
}

// Drained is what became of drain or undrain.
type Drained struct {
	// Changed is false when the gateway was drained (or was not) before. Whoever drains for a while takes the mark away only if
	// it was made by that call: another one's stays.
	Changed bool `json:"changed"`
	// Held are the VIPs that this gateway has now. After a drain only a forced one leaves some; after an undrain the addresses
	// come back seconds later.
	Held []netip.Addr `json:"held,omitempty"`
	// Drain is the mark that stands now; nil after undrain.
	Drain *DrainStatus `json:"drain,omitempty"`
}

// DrainStatus is the mark of a drained gateway.
type DrainStatus struct {
	Since  time.Time `json:"since"`
	By     Role      `json:"by,omitempty"`
	Reason string    `json:"reason,omitempty"`
	// Until is when connections that are left are reset.
	Until time.Time `json:"until"`
	// Connections are those that clients have through VIPs that this gateway has no more. The new holders hand on to this one
	// what comes in them, until Until.
	Connections int `json:"connections"`
}

// Heir says whether a gateway could take VIPs over now.
type Heir struct {
	Fit bool `json:"fit"`
	// Problem is why not, in words that follow "it": "is drained itself".
	Problem string `json:"problem,omitempty"`
}

// Hop is how a gateway takes part in hand-overs between living gateways: who gets a VIP hands on, for a while, the packets of
// connections that only the former holder knows.
type Hop struct {
	// Addresses are where this gateway takes such packets, at most one of each family.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// Leaving is set while VIPs leave this gateway or have just left it and their connections may live on. Moving is set then
	// too, as long as it is drained, and for a while after.
	Leaving bool `json:"leaving,omitempty"`
	Moving  bool `json:"moving,omitempty"`
	// For names the gateways whose VIPs this one is ready to take over without a reset, sorted.
	For []string `json:"for,omitempty"`
}
