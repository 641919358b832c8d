package wire_test

import (
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

func TestDrainFaults(t *testing.T) {
	for _, test := range []struct {
		drain wire.Drain
		want  string // fields
	}{
		{wire.Drain{}, ""},
		{wire.Drain{Reason: strings.Repeat("ä", 200), Grace: wire.MaxGrace, Force: true}, ""},
		{wire.Drain{Grace: -time.Nanosecond}, "grace"},
		{wire.Drain{Grace: wire.MaxGrace + 1, Reason: strings.Repeat("x", 201)}, "grace reason"},
		{wire.Drain{Reason: "two\nlines"}, "reason"},
		{wire.Drain{Reason: "\x1b[2J\x1b[2J"}, "reason"},
	} {
		var fields []string
		for _, f := range test.drain.Faults() {
			fields = append(fields, f.Field)
		}
		if got := strings.Join(fields, " "); got != test.want {
			t.Errorf("%+v: faults in %q, want %q", test.drain, got, test.want)
		}
	}
}
