package desired

import (
	"fmt"
	"strings"
)

// Fault is one thing wrong with a State. Owner is set when one load balancer alone is at fault: the State without it
// and the VIPs that nobody else has would not have this fault.
type Fault struct {
	Owner   *Key
	Field   string // e.g. loadBalancers[default/web].frontends[0].nodePort
	Problem string // what is wrong and what is allowed
}

// String gives "field: problem".
func (f Fault) String() string { return f.Field + ": " + f.Problem }

// Faults is the error of Validate.
type Faults []Fault

// toldFaults bounds the text of Faults: it ends in logs and Events. The slice itself is always complete.
const toldFaults = 20

func (f Faults) Error() string {
	told := make([]string, 0, min(len(f), toldFaults)+1)
	for _, fault := range f[:min(len(f), toldFaults)] {
		told = append(told, fault.String())
	}
	if more := len(f) - toldFaults; more > 0 {
		told = append(told, fmt.Sprintf("and %d more", more))
	}
	return "invalid state: " + strings.Join(told, "; ")
}
