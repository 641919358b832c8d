package agent

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/wire"
)

func delayed(s *desired.State) { s.VRRP.PreemptDelaySeconds = 600 }

// A peer that waits until it may preempt heeds no lower priority. It takes over when this gateway leaves; when it does not even then,
// all is as before.
func TestDrainToAGatewayThatWaits(t *testing.T) {
	for _, test := range []struct {
		name              string
		change            func(*desired.State)
		takes, left, done bool
	}{
		{"it waits", delayed, true, true, true},
		{"it does not take", delayed, false, true, false},
		{"there is no delay", func(*desired.State) {}, true, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := sample(5, web, db, test.change)
				a, m := peered(t, s, fit(t, s))
				a.confirm("the test says so")
				left, until := false, time.Time{}
				m.strike = func(int, string) strike {
					m.meanwhile(func() {
						if m.files[ready] == keepalived.Leave {
							left, until = true, time.Now().Add(310*time.Millisecond) // three adverts and the skew
						}
						m.masters[51] = !left || !test.takes && time.Now().After(until)
					})
					return passes
				}
				a.peers.meet(a.peerAddresses())
				a.peers.ask(t.Context(), time.Second)
				got, refusal := a.drain(t.Context(), wire.RoleController, &wire.Drain{})
				if done := refusal == nil && len(got.Held) == 0; done != test.done || done != (a.drainMark() != nil) || left != test.left {
					t.Errorf("left: %t; got %+v, %v", left, got, refusal)
				}
				agree(t, a, m, "then")
			})
		})
	}
}

// HAProxy died when nobody could take over: this gateway leaves, once, when somebody can.
func TestLeavesToAnHeirThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sample(1, service("web", "192.0.2.10", 51))
		m := holding(t, s)
		a := started(t, m)
		west := &peer{answered: true, fence: &s.Fence, heir: &wire.Heir{Problem: "runs no keepalived"}}
		a.peers.all = []*peer{west}
		m.files[alive] = keepalived.Alive
		m.haproxy = nil
		watching(t, a.watchHAProxy)
		var told []string
		for _, fit := range []bool{false, true, true, false, true} {
			a.peers.mu.Lock()
			west.heir = &wire.Heir{Fit: fit, Problem: "runs no keepalived"}
			a.peers.mu.Unlock()
			time.Sleep(noticed)
			synctest.Wait()
			told = append(told, m.file(alive))
			time.Sleep(2 * leaveFor)
		}
		if want := []string{keepalived.Not, keepalived.Leave, keepalived.Not, keepalived.Not, keepalived.Leave}; !slices.Equal(told, want) {
			t.Errorf("the track file said %q, want %q", told, want)
		}
	})
}

// VIPs return as late as the configuration says, and connections are handed on until then and as long as before after that.
func TestHopReturnsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := sample(5, web, delayed)
		a, _ := hopping(t, s, &fakePeer{})
		a.returnHop(t.Context(), &mark{Since: time.Now(), Until: time.Now().Add(time.Minute)})
		time.Sleep(11*time.Minute - time.Second)
		if yes, _ := a.hop.returns(); !yes {
			t.Error("nothing is handed on any more")
		}
		time.Sleep(time.Second)
		if yes, _ := a.hop.returns(); yes {
			t.Error("it is handed on for ever")
		}
	})
}
