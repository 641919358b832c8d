package desired_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestDescription(t *testing.T) {
	for text, want := range map[string]string{
		"52:54:00:12:34:56":                 "52:54:00:12:34:56",
		"52:54:00:aa:bb:cc (node worker-1)": "52:54:00:aa:bb:cc (node worker-1)",
		"":                                  "unknown",
		" \n\t":                             "unknown",
		" Bob's\nold  printer ":             "Bob_s old printer",
		"Küche \x00\xff":                    "K_che __",
		strings.Repeat("x", 127) + " y":     strings.Repeat("x", 127),
		strings.Repeat("é", 200):            strings.Repeat("_", 128),
	} {
		if got := desired.Description(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// Whatever a person writes into the object with quarantined addresses, the State stays valid.
func TestDescriptionIsAlwaysAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := valid()
		s.Quarantined[0].By = desired.Description(rapid.String().Draw(t, "text"))
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}
