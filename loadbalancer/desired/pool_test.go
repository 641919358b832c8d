package desired_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

func TestActiveServers(t *testing.T) {
	ready, backup := desired.Server{Name: "ready", Weight: 1}, desired.Server{Name: "backup", Weight: 1, Backup: true}
	drains := desired.Server{Name: "drains", Weight: 1, Drains: true}
	for name, test := range map[string]struct{ servers, want []desired.Server }{
		"nobody":          {nil, nil},
		"ready first":     {[]desired.Server{backup, drains, ready}, []desired.Server{ready}},
		"backups only":    {[]desired.Server{backup, drains}, []desired.Server{backup}},
		"all are leaving": {[]desired.Server{drains}, nil},
	} {
		pool := desired.Pool{Servers: test.servers}
		if got := pool.Active(); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", name, got, test.want)
		}
	}
}

func TestTargets(t *testing.T) {
	s := valid()
	shared, own := &s.LoadBalancers[0], &s.LoadBalancers[1]
	own.Pool.Servers = own.Pool.Servers[2:] // a backup, and one that drains
	for _, test := range []struct {
		lb      *desired.LoadBalancer
		address string
		want    bool
	}{
		{shared, "10.0.2.1", true}, {shared, "2001:db8:2::1", true}, {shared, "10.0.2.3", false},
		{own, "10.0.2.1", false}, {own, "10.0.2.3", true}, {own, "10.0.2.4", true},
	} {
		if got := s.Targets(test.lb, addr(test.address)); got != test.want {
			t.Errorf("%s to %s: got %v", test.lb.Key, test.address, got)
		}
	}
}

func TestDrainTime(t *testing.T) {
	for seconds, want := range map[int]time.Duration{0: 5 * time.Minute, 1: time.Second, 86400: 24 * time.Hour} {
		if got := (&desired.State{DrainSeconds: seconds}).DrainTime(); got != want {
			t.Errorf("%d: got %s", seconds, got)
		}
	}
	for _, seconds := range []int{-1, 86401} {
		s := valid()
		s.DrainSeconds = seconds
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "drainSeconds: is ") {
			t.Errorf("%d: %v", seconds, err)
		}
	}
}

func TestAServerIsBackupOrDrains(t *testing.T) {
	s := valid()
	s.LoadBalancers[1].Pool.Servers[2].Drains = true
	if err := s.Validate(); err == nil || !strings.Contains(err.Error(), "loadBalancers[default/local].pool.servers[2].drains") {
		t.Error(err)
	}
}
