package agent

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// A second HAProxy on our ports is told with its process, when it is still there a minute later; our own workers, also two of them
// during a reload, are none.
func TestSecondHAProxyIsTold(t *testing.T) {
	const mine = `LISTEN 0 511 127.0.0.1:7480 0.0.0.0:* users:(("haproxy",pid=101,fd=6),("haproxy",pid=100,fd=6))` + "\n"
	const other = `LISTEN 0 511 127.0.0.1:7480 0.0.0.0:* users:(("haproxy",pid=4242,fd=6))` + "\n"
	const unnamed = "LISTEN 0 511 127.0.0.1:7480 0.0.0.0:*\nLISTEN 0 511 [::1]:7480 [::]:*\n"
	for _, test := range []struct{ name, first, then, pidof, want string }{
		{"ours", mine, mine, "", ""},
		{"for a moment", mine + other, mine, "", ""},
		{"named", mine + other, mine + other, "", "run: kill 4242"},
		{"ours twice, one for each thread group", mine + mine, mine + mine, "100 101 4243\n", ""},
		{"ours twice, and one that is not", mine + mine + other, mine + mine + other, "100 101\n", "run: kill 4242"},
		{"not named", unnamed + unnamed, unnamed + unnamed, "100 101 4243\n", "perhaps one of the other processes called haproxy (4243) listens"},
		{"not named, two could be", unnamed + unnamed, unnamed + unnamed, "100 4244 101 4243\n", "haproxy (4243, 4244) listens"},
		{"not named, ours twice", unnamed + unnamed, unnamed + unnamed, "100 101\n", ""},
		{"not named and alone", unnamed, unnamed, "100 101\n", ""},
		{"nobody can say", unnamed + unnamed, unnamed + unnamed, "fails", "`ss -ltnp sport = :7480`"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
				m.files["/proc/100/task/100/children"] = "101\n"
				m.listening, m.haproxies = test.first, test.pidof
				a := started(t, m)
				m.verdict = func(command string) error {
					if command == "pidof haproxy" && test.pidof == "fails" {
						return &CommandError{Argv: []string{"pidof", "haproxy"}, Code: -1, Err: errStruck}
					}
					return nil
				}
				watching(t, a.watchDaemons)
				time.Sleep(foreignEvery / 2)
				m.meanwhile(func() { m.listening = test.then })
				time.Sleep(foreignEvery + 2*daemonsEvery)
				synctest.Wait()
				got := warning(a.status(t.Context(), wire.RoleController), "SecondHAProxy")
				if (got == "") != (test.want == "") || !strings.Contains(got, test.want) {
					t.Errorf("warned %q, want %q", got, test.want)
				}
			})
		})
	}
}
