package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/neighbor"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// allowed says whether a role may use a verb. A peer hands States on, so it may read ours and nothing else.
func allowed(role wire.Role, verb wire.Verb) bool {
	switch role {
	case wire.RoleController, wire.RoleOperator:
		if verb == wire.VerbAdopt { // a controller may not take a gateway from another cluster
			return role == wire.RoleOperator
		}
		return slices.Contains([]wire.Verb{wire.VerbHello, wire.VerbState, wire.VerbApply, wire.VerbPlan,
			wire.VerbStatus, wire.VerbProbe, wire.VerbDrain, wire.VerbUndrain}, verb)
	case wire.RolePeer:
		return verb == wire.VerbHello || verb == wire.VerbState
	}
	return false
}

// admit believes the role that the preamble names. The forced command names controller or peer; an operator is whoever
// is root on this machine.
func admit(role wire.Role, uid uint32) (wire.Role, *wire.Refusal) {
	switch role {
	case wire.RoleController, wire.RolePeer:
		return role, nil
	case wire.RoleOperator:
		if uid == 0 {
			return role, nil
		}
		return "", &wire.Refusal{Code: wire.CodeRole, Message: "only root is an operator", Remedy: "run the command as root on the gateway"}
	}
	return "", &wire.Refusal{Code: wire.CodeRole, Message: fmt.Sprintf("there is no role %q", role)}
}

// reply answers one request. ctx ends when the agent is told to end.
func (a *Agent) reply(ctx context.Context, log *slog.Logger, role wire.Role, request *wire.Request) *wire.Reply {
	if request.Verb != wire.VerbHello && request.Version != wire.Version {
		return &wire.Reply{Refusal: &wire.Refusal{Code: wire.CodeVersion,
			Message: fmt.Sprintf("the request is of version %d and this agent (%s) speaks version %d", request.Version, a.version, wire.Version),
			Remedy:  "run the same release of controller and agent"}}
	}
	if !allowed(role, request.Verb) {
		return &wire.Reply{Refusal: &wire.Refusal{Code: wire.CodeRole, Message: fmt.Sprintf("the role %s may not ask for %q", role, request.Verb),
			Remedy: "if the key is a controller's, its line in authorized_keys on the gateway has to say --role=controller"}}
	}
	switch request.Verb {
	case wire.VerbHello:
		return &wire.Reply{Hello: a.hello(ctx, role)}
	case wire.VerbState:
		held := a.held()
		if held == nil || role != wire.RolePeer && a.orphan() {
			return &wire.Reply{Empty: true}
		}
		return &wire.Reply{State: &held.signed}
	case wire.VerbStatus:
		return &wire.Reply{Status: a.status(ctx, role)}
	case wire.VerbProbe:
		probed, refusal := a.probe(ctx, request.Probe)
		return &wire.Reply{Probed: probed, Refusal: refusal}
	case wire.VerbDrain:
		drained, refusal := a.drain(ctx, role, request.Drain)
		return &wire.Reply{Drained: drained, Refusal: refusal}
	case wire.VerbUndrain:
		drained, refusal := a.undrain(ctx)
		return &wire.Reply{Drained: drained, Refusal: refusal}
	case wire.VerbAdopt:
		adopted, refusal := a.adopt(ctx)
		return &wire.Reply{Adopted: adopted, Refusal: refusal}
	}
	return a.replyToState(ctx, log, request)
}

// replyToState answers apply and plan.
func (a *Agent) replyToState(ctx context.Context, log *slog.Logger, request *wire.Request) *wire.Reply {
	if request.Apply == nil {
		return &wire.Reply{Refusal: &wire.Refusal{Code: wire.CodeMalformed, Message: fmt.Sprintf("%s carries no State", request.Verb)}}
	}
	act := func() (*wire.Result, *wire.Refusal) {
		return a.applyAfter(ctx, request.Apply.Signed, request.Apply.Read)
	}
	if request.Verb == wire.VerbPlan {
		act = func() (*wire.Result, *wire.Refusal) { return a.plan(ctx, request.Apply.Signed) }
	}
	result, refusal := act()
	if refusal != nil {
		log.Warn("refused", "verb", request.Verb, "code", refusal.Code, "message", refusal.Message)
		return &wire.Reply{Refusal: refusal}
	}
	logResult(log, request.Verb, result)
	return &wire.Reply{Result: result}
}

func logResult(log *slog.Logger, verb wire.Verb, result *wire.Result) {
	level := slog.LevelInfo
	switch result.Outcome {
	case wire.Unchanged:
		level = slog.LevelDebug
	case wire.RolledBack, wire.Refused:
		level = slog.LevelWarn
	case wire.Stuck:
		level = slog.LevelError
	}
	log.Log(context.Background(), level, "transaction", "verb", verb, "outcome", result.Outcome, "epoch", result.Fence.Epoch,
		"sequence", result.Fence.Sequence, "reasons", result.Reasons, "changes", result.Changes, "faults", result.Faults)
}

// hello tells what runs here.
func (a *Agent) hello(ctx context.Context, role wire.Role) *wire.Hello {
	versions := a.programs()
	hello := &wire.Hello{Gateway: a.config.Gateway, Agent: a.version, Role: role, Schema: desired.Schema,
		HAProxy: versions.haproxy, Keepalived: versions.keepalived, NFTables: versions.nftables}
	if role != wire.RolePeer { // who asks every two seconds and needs no links, which take three programs to find
		links, err := a.helloLinks(ctx)
		if err != nil {
			a.log.Warn("telling the networks that this gateway is on", "error", err) // the rest of hello is worth more
		}
		hello.Links = links
	}
	if role == wire.RolePeer {
		hello.Held = a.lastHeld()
	}
	hello.Heir, hello.Hop = a.heir(), a.hop.tell(a.drainMark())
	if held := a.held(); held != nil && (role == wire.RolePeer || !a.orphan()) {
		fence := held.state.Fence
		hello.Fence = &fence
	}
	return hello
}

func (a *Agent) helloLinks(ctx context.Context) ([]wire.Link, error) {
	links, err := a.links(ctx)
	if err != nil {
		return nil, err
	}
	var outputs [][]byte
	for _, argv := range neighbor.RouteArgvs() {
		output, err := a.host.Run(ctx, argv, nil)
		if err != nil {
			return nil, fmt.Errorf("reading the machine's routes: %w", err)
		}
		outputs = append(outputs, output.Stdout)
	}
	routers, err := neighbor.ReadRouters(outputs...)
	if err != nil {
		return nil, err
	}
	var told []wire.Link
	for _, l := range links {
		told = append(told, wire.Link{Interface: l.Name, Prefixes: l.Prefixes, Routers: routers[l.Name]})
	}
	return told, nil
}
