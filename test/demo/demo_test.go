package main

import (
	"testing"

	"cloud-provider-haproxy/test/lab"
)

// `make demo` is what a stranger tries first: it is run whole, and every promise that it shows it also checks.
func TestDemo(t *testing.T) {
	lab.Require(t)
	if err := tell(t.Context(), false); err != nil {
		t.Fatal(err)
	}
}
