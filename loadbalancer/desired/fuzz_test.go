package desired_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Whatever comes: no panic, and what is accepted has one canonical form that is read back as the same.
func FuzzDecode(f *testing.F) {
	good, err := valid().Canonical()
	if err != nil {
		f.Fatal(err)
	}
	text := string(good)
	for _, seed := range []string{
		text, text[:len(text)/2], text + text, "", "null", "{}", "[]", `{"schema":2}`, `{"schema":1}`, `{"schema":1,"pool":{}}`,
		strings.ToUpper(text), strings.ReplaceAll(text, "192.0.2.", "::ffff:192.0.2."), strings.ReplaceAll(text, "/16", "/8"), strings.ReplaceAll(text, "/32", "/0"), strings.ReplaceAll(text, `"198.51.100.7/32"`, `""`), strings.ReplaceAll(text, `"api"`, `"\u0000"`),
		strings.ReplaceAll(text, `"pool":{`, `"pool":null,"pool":{`), `{"schema":1,"loadBalancers":[{"pool":{"servers":[]}}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, input []byte) {
		s, err := desired.Decode(input)
		if err != nil {
			return
		}
		b := canonical(t, s)
		again, err := desired.Decode(b)
		if err != nil {
			t.Fatalf("own bytes are refused: %v\n%s", err, b)
		}
		if diff := cmp.Diff(s, again, exact); diff != "" {
			t.Fatalf("read back differently:\n%s", diff)
		}
		if !bytes.Equal(b, canonical(t, again)) {
			t.Fatalf("two canonical forms of one State:\n%s\n%s", b, canonical(t, again))
		}
		var faults desired.Faults
		if err := s.Validate(); err != nil && (!errors.As(err, &faults) || len(faults) == 0) {
			t.Fatalf("Validate gave %T: %v", err, err)
		}
	})
}

func BenchmarkState5000(b *testing.B) {
	s := many(5000)
	bytes, err := s.Canonical()
	if err != nil {
		b.Fatal(err)
	}
	for name, operation := range map[string]func() error{
		"Canonical": func() error { _, err := s.Canonical(); return err },
		"Digest":    func() error { _, err := s.Digest(); return err },
		"Decode":    func() error { _, err := desired.Decode(bytes); return err },
		"Clone":     func() error { s.Clone(); return nil },
	} {
		b.Run(fmt.Sprintf("%s/%dkB", name, len(bytes)/1000), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := operation(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
