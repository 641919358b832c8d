package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// limiting are the knobs that refuse connections, or tell of them.
func (u *turned) limiting() []knob {
	before := 0 // lines in the logs
	return []knob{
		{key: "cloud-provider-haproxy/connection-limit", steps: []step{
			{value: "3", shows: func(t *testing.T) { u.takesAtOnce(t, 3) }},
			{value: "5", shows: func(t *testing.T) { u.takesAtOnce(t, 5) }},
		}},
		{key: "cloud-provider-haproxy/connection-rate-limit", steps: []step{
			{value: "2", shows: u.takesTwoASecond},
			{value: "1000", shows: func(t *testing.T) {
				u.awaitMapped(t, "|0|0|1000|0")
				u.takesAll(t, 40)
			}},
		}},
		{key: "cloud-provider-haproxy/log", steps: []step{
			{value: "true", shows: func(t *testing.T) {
				before = len(u.logged(t))
				u.awaitMapped(t, "|0|0|0|1")
				u.awaitInSync(t)
				u.takesAll(t, 5)
				u.awaitLogged(t, before+5)
			}},
			{value: "false", shows: func(t *testing.T) {
				u.awaitMapped(t, "|0|0|0|0")
				u.awaitInSync(t)
				u.takesAll(t, 7)
			}},
			{value: "true", shows: func(t *testing.T) {
				u.awaitMapped(t, "|0|0|0|1")
				u.awaitInSync(t)
				u.takesAll(t, 3)
				u.awaitLogged(t, before+5+3)
			}},
		}},
	}
}

// takesAtOnce opens connections until one is refused.
func (u *turned) takesAtOnce(t *testing.T, want int) {
	t.Helper()
	u.awaitMapped(t, fmt.Sprintf("|0|%d|0|0", want))
	u.await(t, fmt.Sprintf("%s to take %d connections and no more", u.name, want), func(context.Context) error {
		taken, err := u.keepMany(u.at, want+3)
		defer taken.close()
		if len(taken) != want || err == nil {
			return fmt.Errorf("it takes %d, then %v", len(taken), err)
		}
		for _, l := range taken {
			if err := l.says(); err != nil {
				return fmt.Errorf("one that it took: %w", err)
			}
		}
		return nil
	})
}

// takesAll wants so many connections to come about, one right after the other.
func (u *turned) takesAll(t *testing.T, count int) {
	t.Helper()
	if all, err := u.meetings(u.at, count); err != nil {
		t.Errorf("connection %d of %d: %v", len(all)+1, count, err)
	}
}

// takesTwoASecond: in ten seconds a client may open twenty, another one has twenty of its own.
func (u *turned) takesTwoASecond(t *testing.T) {
	u.awaitMapped(t, "|0|0|2|0")
	count := func() (taken int) {
		for range 60 {
			if _, err := u.meet(u.client, u.at); err == nil {
				taken++
			}
		}
		return taken
	}
	begun := time.Now()
	taken := count()
	// More than twenty when it took long: the window slides. The first ones may have come before HAProxy had its map.
	if most := 28 + 2*int(time.Since(begun)/time.Second); taken < 18 || taken > most {
		t.Errorf("with two a second %d of 60 connections were taken, want 20 or a few more", taken)
	}
	for range 5 {
		if _, err := u.meet(u.Lab.Controller, u.at); err != nil {
			t.Errorf("another client: %v", err)
		}
	}
}

// awaitLogged waits until so many connections are in the logs, each on a line with the Service and the client.
func (u *turned) awaitLogged(t *testing.T, want int) {
	t.Helper()
	u.await(t, "connections to be logged", func(context.Context) error {
		if lines := u.logged(t); len(lines) != want {
			return fmt.Errorf("%d are, want %d: %q", len(lines), want, lines)
		}
		return nil
	})
}

// logged are the lines of the Service and the client in the gateways' logs.
func (u *turned) logged(t *testing.T) (lines []string) {
	t.Helper()
	files, err := u.Lab.Logs()
	must(t, err)
	for _, file := range files {
		if filepath.Base(file) != "syslog" || !strings.HasPrefix(filepath.Base(filepath.Dir(file)), "gw") {
			continue
		}
		text, err := os.ReadFile(file)
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if lacks(line, []string{" " + namespace + "/" + u.name + " ", u.client.Addr4.String() + ":", " " + u.at + " "}) == "" {
				lines = append(lines, line)
			}
		}
	}
	return lines
}
