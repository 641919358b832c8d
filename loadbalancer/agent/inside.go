package agent

import (
	"context"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// RunInside is Run without the lock and the socket, for a machine that is in memory (test/simulation): requests come through
// Enter. ready is called when keepalived may start, as systemd is told.
func (a *Agent) RunInside(ctx context.Context, ready func()) error {
	if err := a.open(ctx); err != nil {
		return err
	}
	ready()
	return a.live(ctx, func(ctx context.Context) error { <-ctx.Done(); return nil })
}

// Session is a conversation with an Agent of the same process.
type Session struct {
	agent *Agent
	role  wire.Role
}

// Enter begins a session, which counts like one of the socket. *wire.Refusal when there are too many.
func (a *Agent) Enter(role wire.Role) (*Session, error) {
	select {
	case a.places[role] <- struct{}{}:
		return &Session{agent: a, role: role}, nil
	default:
		return nil, crowded(role)
	}
}

// Ask is answered like a request that came over the socket. ctx is the agent's life, not the asker's patience.
func (s *Session) Ask(ctx context.Context, request *wire.Request) *wire.Reply {
	return s.agent.reply(ctx, s.agent.log, s.role, request)
}

// Close ends the session, once.
func (s *Session) Close() { <-s.agent.places[s.role] }
