package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
)

const agentSocket = "/run/gatewayctl/agent.sock"

// ask asks the agent of a gateway as its operator, on the machine itself: that works without sshd and without a network, and no
// gateway takes it for a controller.
func ask(ctx context.Context, g *lab.Host, request wire.Request) (*wire.Reply, error) {
	conn, err := g.Dial(ctx, "unix", agentSocket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	request.Version = wire.Version
	var reply *wire.Reply
	err = wire.WriteFrame(conn, wire.Preamble{Role: wire.RoleOperator})
	if err == nil {
		err = wire.WriteFrame(conn, request)
	}
	if err == nil {
		reply, err = wire.ReadReply(conn)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking the agent of %s for %s: %w", g.Name, request.Verb, errors.Join(err, context.Cause(ctx)))
	case reply.Refusal != nil:
		return nil, reply.Refusal
	}
	return reply, nil
}

const (
	settleLimit  = time.Minute
	attemptLimit = 5 * time.Second
	askEvery     = 50 * time.Millisecond
)

// announced is how long after a move keepalived announces the addresses for the second time. A neighbour that lost the first
// announcement goes on at the wrong gateway until then.
const announced = 1200 * time.Millisecond

// rest is settle, and nothing is under way any more.
func (p *pair) rest(ctx context.Context) error {
	if err := p.settle(ctx); err != nil {
		return err
	}
	if err := pass(ctx, announced); err != nil {
		return err
	}
	return p.settle(ctx)
}

// settle waits until both gateways are as they should be: in sync, current, and with the VIPs that are at home there.
func (p *pair) settle(ctx context.Context) error {
	return eventually(ctx, settleLimit, "both gateways to be well", func(ctx context.Context) error {
		for _, g := range p.Gateways {
			reply, err := ask(ctx, g, wire.Request{Verb: wire.VerbStatus})
			if err != nil {
				return err
			}
			if problem := p.unwell(g, reply.Status); problem != "" {
				return fmt.Errorf("%s %s", g.Name, problem)
			}
		}
		return nil
	})
}

func (p *pair) unwell(g *lab.Host, s *wire.Status) string {
	switch {
	case s == nil:
		return "answers something else than status"
	case !s.InSync:
		return fmt.Sprintf("is not in sync: %v", s.Drift)
	case !s.Current:
		return "is not confirmed current"
	case !s.KeepalivedUp || s.HAProxyUp.IsZero():
		return "lacks a daemon"
	case s.Drain != nil:
		return "is drained"
	case !slices.Equal(s.Held, p.homes[g]):
		return fmt.Sprintf("holds %d VIPs, not the %d that are at home there", len(s.Held), len(p.homes[g]))
	case slices.ContainsFunc(s.Peers, func(peer wire.PeerStatus) bool { return !peer.Answers }):
		return "gets no answer from its peer"
	}
	for _, n := range s.Nodes {
		if n.State != "UP" {
			return fmt.Sprintf("finds node %s %s", n.Name, n.State)
		}
	}
	return ""
}

// eventually tries until it works, ctx ends or the limit is over.
func eventually(ctx context.Context, limit time.Duration, what string, try func(context.Context) error) error {
	deadline := time.Now().Add(limit)
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptLimit)
		err := try(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return fmt.Errorf("waiting %v for %s: %w", limit, what, err)
		}
		if err := pass(ctx, askEvery); err != nil {
			return err
		}
	}
}

// pass lets time pass.
func pass(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
