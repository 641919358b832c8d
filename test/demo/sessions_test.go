package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The demo's verdict must be able to fail: HAProxy's table, and counts that are not even.
func TestSessions(t *testing.T) {
	const table = "# pxname,svname,qcur,stot,\n" +
		"front,FRONTEND,0,9,\nnodes,w1,0,4,\nnodes,w2,0,5,\nnodes,BACKEND,0,9,\nnodes-open,w1,0,7,\n"
	got := sessions{}
	for range 2 { // two gateways
		if err := got.add(table); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(sessions{"w1": 8, "w2": 10}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, test := range []struct {
		name   string
		counts sessions
		want   string // "" for none
	}{
		{"even", sessions{"w1": 100, "w2": 100, "w3": 100}, ""},
		{"within one", sessions{"w1": 100, "w2": 101, "w3": 101}, ""},
		{"not even", sessions{"w1": 99, "w2": 101, "w3": 100}, "w1 99, w2 101, w3 100"},
		{"one is missing", sessions{"w1": 150, "w2": 150}, "has 2 workers, want 3"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := even(test.counts, 3)
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
