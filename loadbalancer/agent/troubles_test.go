package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// A program that is missing is told to people, with its package, and to the log once; not twice a second for ever. So is a kernel
// that cannot be let forward.
func TestMissingProgramsAreWarnedOf(t *testing.T) {
	for program, says := range map[string]string{"conntrack -L": "package conntrack", "sysctl": "UDP and SCTP are not served"} {
		synctest.Test(t, func(t *testing.T) {
			m := holding(t, sample(1, service("dns", "192.0.2.10", 51), datagrams("dns")))
			m.files["/proc/sys/net/ipv4/ip_forward"] = "0\n"
			var log strings.Builder
			a := started(t, m)
			a.log = slog.New(slog.NewTextHandler(&log, nil))
			missing := true
			m.verdict = func(command string) error {
				if missing && strings.HasPrefix(command, program) {
					return &CommandError{Argv: strings.Fields(command), Code: -1, Err: errors.New("executable file not found in $PATH")}
				}
				return nil
			}
			watching(t, a.followFlows)
			time.Sleep(20*flowsEvery + time.Millisecond)
			synctest.Wait()
			if got := warning(a.status(t.Context(), wire.RoleController), "Datagrams"); !strings.Contains(got, says) || !strings.Contains(got, "not found") {
				t.Errorf("without %s the warning is %q", program, got)
			}
			if n := strings.Count(log.String(), "level=WARN"); n != 1 {
				t.Errorf("without %s the log has %d warnings:\n%s", program, n, &log)
			}
			m.meanwhile(func() { missing = false })
			time.Sleep(2 * flowsEvery)
			synctest.Wait()
			if got := warning(a.status(t.Context(), wire.RoleController), "Datagrams"); got != "" {
				t.Errorf("with %s there is still %q", program, got)
			}
		})
	}
}

// Where no Service has UDP, what still fails is told once too. A log that does not move holds nobody up who waits for the agent's facts.
func TestTroublesAreToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		a := started(t, m)
		told := 0
		a.log = slog.New(logged{func() {
			told++
			if !a.mu.TryLock() {
				t.Error("the log is written to while the agent's facts are locked")
				return
			}
			a.mu.Unlock()
		}})
		m.strike = func(_ int, operation string) strike {
			if operation == "read /proc/sys/net/ipv4/ip_forward" {
				return failsBefore
			}
			return passes
		}
		watching(t, a.followFlows)
		time.Sleep(20*flowsEvery + time.Millisecond)
		synctest.Wait()
		if told != 1 {
			t.Errorf("told %d times", told)
		}
		status := a.status(t.Context(), wire.RoleController)
		if warning(status, "Forwarding") == "" || warning(status, "Datagrams") != "" {
			t.Errorf("status warns %+v", status.Warnings)
		}
		a.noteDifference(wire.Difference{Changes: []string{"one"}})
		a.setHanging("it hangs")
		if told != 3 {
			t.Errorf("told %d times", told)
		}
	})
}

// So is a rule of routing that cannot be made, and it is no trouble of datagrams.
func TestRoutingOfAnswersFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
		m.files["/etc/gatewayctl/limits.yaml"] += "clientSourceProbes: [203.0.113.1]\n"
		var log strings.Builder
		a := started(t, m)
		a.log = slog.New(slog.NewTextHandler(&log, nil))
		m.verdict = func(command string) error {
			if strings.HasPrefix(command, "ip -4 rule add") {
				return &CommandError{Argv: strings.Fields(command), Code: 2, Err: errors.New("operation not supported")}
			}
			return nil
		}
		watching(t, a.keepClientSource)
		watching(t, a.followFlows) // which has other troubles to forget
		time.Sleep(10 * clientSourceAgain)
		synctest.Wait()
		warnings := a.status(t.Context(), wire.RoleController).Warnings
		if got := warningOf(warnings, "ClientSource"); !strings.Contains(got, "source-address: client") || !strings.Contains(got, "not supported") || warningOf(warnings, "Datagrams") != "" {
			t.Errorf("status warns %+v", warnings)
		}
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("the log has %d warnings:\n%s", n, &log)
		}
	})
}

// logged is a log whose writer looks around.
type logged struct{ look func() }

func (l logged) Enabled(context.Context, slog.Level) bool  { return true }
func (l logged) Handle(context.Context, slog.Record) error { l.look(); return nil }
func (l logged) WithAttrs([]slog.Attr) slog.Handler        { return l }
func (l logged) WithGroup(string) slog.Handler             { return l }
