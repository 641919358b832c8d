package loadbalancer

import (
	"crypto/rand"
)

// newInstance is the random name of this Manager.
func newInstance() string { return rand.Text() }
