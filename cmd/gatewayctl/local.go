package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// localAgent is the agent of this machine, asked over its socket by its operator.
type localAgent struct{ socket string }

// Name is what this machine calls itself; the agent's own name comes with its answer.
func (l localAgent) Name() string {
	name, err := os.Hostname()
	if err != nil {
		return "this gateway"
	}
	return name
}

// localPatience is how long the agent may take to answer; gateway.Client has the same.
const localPatience = time.Minute

// Status asks the agent.
func (l localAgent) Status(ctx context.Context) (*wire.Status, error) {
	reply, err := l.answer(ctx, wire.Request{Verb: wire.VerbStatus}, func(r *wire.Reply) bool { return r.Status != nil })
	if err != nil {
		return nil, err
	}
	return reply.Status, nil
}

// Drain asks the agent to hand its VIPs over.
func (l localAgent) Drain(ctx context.Context, drain wire.Drain) (*wire.Drained, error) {
	return l.drained(ctx, wire.Request{Verb: wire.VerbDrain, Drain: &drain})
}

// Undrain asks the agent to take them back.
func (l localAgent) Undrain(ctx context.Context) (*wire.Drained, error) {
	return l.drained(ctx, wire.Request{Verb: wire.VerbUndrain})
}

// Adopt has the agent forget which cluster it belongs to.
func (l localAgent) Adopt(ctx context.Context) (*wire.Adopted, error) {
	reply, err := l.answer(ctx, wire.Request{Verb: wire.VerbAdopt}, func(r *wire.Reply) bool { return r.Adopted != nil })
	if err != nil {
		return nil, err
	}
	return reply.Adopted, nil
}

func (l localAgent) drained(ctx context.Context, request wire.Request) (*wire.Drained, error) {
	reply, err := l.answer(ctx, request, func(r *wire.Reply) bool {
		return r.Drained != nil && (r.Drained.Drain != nil) == (request.Verb == wire.VerbDrain)
	})
	if err != nil {
		return nil, err
	}
	return reply.Drained, nil
}

// answer gives the reply to a request, when it is one.
func (l localAgent) answer(ctx context.Context, request wire.Request, answers func(*wire.Reply) bool) (*wire.Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, localPatience)
	defer cancel()
	request.Version = wire.Version
	reply, err := l.ask(ctx, request)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: no agent runs here; see `systemctl status gatewayctl-agent`, or give --cloud-config to ask the gateways of a cluster", err)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: --local is for root", err)
	case err != nil:
		return nil, err
	case reply.Refusal != nil:
		return nil, reply.Refusal
	case !answers(reply):
		return nil, fmt.Errorf("the agent answered something else than %s: is it of this binary's version? restart gatewayctl-agent", request.Verb)
	}
	return reply, nil
}

func (l localAgent) ask(ctx context.Context, request wire.Request) (*wire.Reply, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", l.socket)
	if err != nil {
		return nil, fmt.Errorf("connecting to the agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var reply *wire.Reply
	err = wire.WriteFrame(conn, wire.Preamble{Role: wire.RoleOperator})
	if err == nil {
		err = wire.WriteFrame(conn, request)
	}
	if err == nil {
		reply, err = wire.ReadReply(conn)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if err != nil {
		return nil, fmt.Errorf("asking the agent for %s: %w", request.Verb, err)
	}
	return reply, nil
}
