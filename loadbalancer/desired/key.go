package desired

import (
	"cmp"
	"fmt"
	"strings"
)

// Key and Fence have no MarshalText or MarshalJSON on purpose: LoadBalancer embeds Key and would inherit it, and with
// it a JSON form that is nothing but the key.

// String gives namespace/name, as HAProxy's map and every message show it.
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Compare orders by namespace, then name.
func (k Key) Compare(other Key) int {
	return cmp.Or(strings.Compare(k.Namespace, other.Namespace), strings.Compare(k.Name, other.Name))
}

// Compare orders by protocol, then number.
func (p Port) Compare(other Port) int {
	return cmp.Or(strings.Compare(string(p.Protocol), string(other.Protocol)), cmp.Compare(p.Port, other.Port))
}

// String gives "TCP port 80".
func (p Port) String() string { return fmt.Sprintf("%s port %d", p.Protocol, p.Port) }

func (f Frontend) port() Port { return Port{f.Protocol, f.Port} }

// Compare orders two fences of one cluster by epoch, then sequence. Whether two fences may be compared at all (same
// cluster; same instance within an epoch) is the agent's decision.
func (f Fence) Compare(other Fence) int {
	return cmp.Or(cmp.Compare(f.Epoch, other.Epoch), cmp.Compare(f.Sequence, other.Sequence))
}

// NewTo says that somebody who has read a State with that fence, and whatever was before, may not know one with this fence: it is
// newer, or of another controller that claimed the same epoch (its object was deleted, or is an older one).
func (f Fence) NewTo(read Fence) bool {
	return f.Compare(read) > 0 || f.Epoch == read.Epoch && f.Instance != read.Instance
}

// String gives "epoch 3, sequence 17".
func (f Fence) String() string { return fmt.Sprintf("epoch %d, sequence %d", f.Epoch, f.Sequence) }
