package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// FuzzRequest asks an agent anything, as anybody whom sshd lets in: it answers one thing, what it refuses changes nothing, and
// nothing that a peer asks changes anything. (Frames are fuzzed in package wire, States in package desired.)
func FuzzRequest(f *testing.F) {
	web := service("web", "192.0.2.10", 51)
	next := sign(f, sample(2, web, service("db", "192.0.2.11", 51)))
	forged := next
	forged.Signature = bytes.ToUpper(next.Signature)
	roles := []wire.Role{wire.RoleController, wire.RolePeer, wire.RoleOperator, "root"}
	for role := range roles {
		for _, request := range []wire.Request{
			{Version: wire.Version, Verb: wire.VerbHello}, {Version: wire.Version + 1, Verb: wire.VerbHello},
			{Version: wire.Version, Verb: wire.VerbState}, {Version: wire.Version, Verb: wire.VerbStatus}, {Version: wire.Version, Verb: "sudo"},
			{Version: wire.Version, Verb: wire.VerbApply}, {Version: wire.Version, Verb: wire.VerbApply, Apply: &wire.Apply{Signed: next}},
			{Version: wire.Version, Verb: wire.VerbApply, Apply: &wire.Apply{Signed: forged}},
			{Version: wire.Version, Verb: wire.VerbPlan, Apply: &wire.Apply{Signed: next}},
			{Version: wire.Version, Verb: wire.VerbProbe, Probe: &wire.Probe{Targets: []wire.ProbeTarget{{Address: addr("192.0.2.99"), Interface: "eth0"}}}},
			{Version: wire.Version, Verb: wire.VerbProbe}, {Version: wire.Version, Verb: wire.VerbDrain, Drain: &wire.Drain{Reason: "new kernel"}},
			{Version: wire.Version, Verb: wire.VerbDrain}, {Version: wire.Version, Verb: wire.VerbUndrain},
		} {
			text, err := json.Marshal(request)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(uint8(role), text)
		}
	}
	f.Fuzz(func(t *testing.T, who uint8, text []byte) {
		var request wire.Request
		if json.Unmarshal(text, &request) != nil {
			return
		}
		// A drain waits for VIPs: nobody's clock goes faster than synctest's.
		synctest.Test(t, func(t *testing.T) { askAnything(t, roles[int(who)%len(roles)], &request) })
	})
}

func askAnything(t *testing.T, role wire.Role, request *wire.Request) {
	m := holding(t, sample(1, service("web", "192.0.2.10", 51)))
	a := started(t, m)
	a.asker = (&town{}).ask
	before := m.moment()
	reply := a.reply(context.Background(), slog.New(slog.NewTextHandler(io.Discard, nil)), role, request)
	answers := 0
	for _, told := range []bool{reply.Refusal != nil, reply.Hello != nil, reply.State != nil, reply.Empty, reply.Result != nil,
		reply.Status != nil, reply.Probed != nil, reply.Drained != nil} {
		if told {
			answers++
		}
	}
	if answers != 1 {
		t.Errorf("%s asked %q and got %d answers: %+v", role, request.Verb, answers, reply)
	}
	mayChange := reply.Refusal == nil && request.Verb == wire.VerbApply && role != wire.RolePeer
	if diff := cmp.Diff(before, m.moment()); diff != "" && !mayChange {
		t.Errorf("%s changed the machine by %q, answered with %+v:\n%s", role, request.Verb, reply, diff)
	}
	if role == wire.RolePeer && reply.Refusal == nil && request.Verb != wire.VerbHello && request.Verb != wire.VerbState {
		t.Errorf("a peer was answered to %q", request.Verb)
	}
	if err := wire.WriteFrame(io.Discard, reply); err != nil {
		t.Errorf("the answer cannot be sent: %v", err)
	}
}
