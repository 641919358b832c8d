package keepalived

import (
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// A gateway that returns, however it was away, takes its VIPs back after the delay. Nobody waits for it who has to take over: neither
// an heir, nor the gateway itself when the one that stands in is gone.
func TestPairDelaysTheReturnAlone(t *testing.T) {
	t.Parallel()
	const delay = 3 * time.Second
	s := crossed("10.0.0.0")
	s.VRRP = desired.VRRP{AdvertIntervalMillis: 100, PreemptDelaySeconds: int(delay / time.Second)}
	p := startPair(t, s)
	all := []string{first, first6, second}
	taken := func(m *machine, how string) {
		t.Helper()
		took := eventually(t, m.name+" holds all: "+how, func() bool { return same(m.held(t, s).VIPs, all) })
		if t.Logf("%s: taken over after %v", how, took); took > delay/2 {
			t.Errorf("%s: taken over after %v, as if it had to wait", how, took)
		}
	}
	tell := func(m *machine, file, content, how string) (heir *machine) {
		t.Helper()
		m.write(t, file, content)
		if heir = p.b; m == p.b {
			heir = p.a
		}
		taken(heir, how)
		return heir
	}
	returned := func(how string) {
		t.Helper()
		begun := time.Now()
		p.settle(t)
		if took := time.Since(begun); took < delay-500*time.Millisecond {
			t.Errorf("%s: the VIPs are back after %v", how, took)
		} else {
			t.Logf("%s: the VIPs are back after %v", how, took)
		}
	}
	alive, ready := p.a.local().AliveFile, p.a.local().ReadyFile

	tell(p.a, alive, Not, "a's HAProxy is dead, and it has not left")
	p.a.write(t, alive, Alive)
	returned("a's HAProxy answers")
	tell(p.a, ready, ReadyDrained, "a is drained")
	p.a.write(t, ready, Ready)
	returned("a is undrained")
	tell(p.a, ready, Not, "a is stale")
	p.a.write(t, ready, Ready)
	returned("a is ready")
	ip(t, "-n", p.a.namespace, "link", "set", "eth0", "down")
	taken(p.b, "a is cut off")
	ip(t, "-n", p.a.namespace, "link", "set", "eth0", "up")
	returned("a is connected")

	// The one that stands in goes while a waits.
	wait := func() {
		t.Helper()
		tell(p.a, alive, Leave, "a leaves")
		p.a.write(t, alive, Alive)
		eventually(t, "a waits", func() bool { return p.a.waits(t) })
	}
	wait()
	tell(p.b, p.b.local().ReadyFile, Leave, "b leaves while a waits")
	p.b.write(t, p.b.local().ReadyFile, Ready)
	returned("b is back") // for its own
	wait()
	p.b.kill(t)
	taken(p.a, "b is killed while a waits")
	p.b.start(t)
	returned("b is started")

	// The delay is taken away: a reload, and no transition but the one that it was about.
	wait()
	s.VRRP.PreemptDelaySeconds = 0
	for _, m := range []*machine{p.b, p.a} {
		m.configure(t, s)
		m.reload(t)
	}
	begun := time.Now()
	p.settle(t)
	if took := time.Since(begun); took > delay/2 {
		t.Errorf("without a delay the VIPs are back after %v", took)
	}
}
