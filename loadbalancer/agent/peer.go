package agent

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Peer is another gateway's agent, asked with a key that may read its State and nothing else. A Peer that gave an error is
// closed and dialed anew.
type Peer interface {
	Hello(ctx context.Context) (*wire.Hello, error)
	State(ctx context.Context) (*desired.Signed, error)
	Close() error
}

const (
	// helloLimit and handOverLimit bound a question to a peer, connecting included.
	helloLimit    = 5 * time.Second
	handOverLimit = 30 * time.Second
	// unreachedLast is the longest pause before a peer that did not answer is asked again. A peer that refuses our key must
	// not be asked often: newer versions of sshd shut out who does (sshd_config(5), PerSourcePenalties).
	unreachedLast = 15 * time.Second
	// refusedFirst and refusedLast bound the pause after a newer State that was refused, which changed nothing.
	refusedFirst = 5 * time.Second
	refusedLast  = time.Minute
	// failedFirst and failedLast are the same for one that was tried and rolled back: each try may have reloaded HAProxy
	// (DESIGN.md invariant 11).
	failedFirst = time.Minute
	failedLast  = 10 * time.Minute
)

// peer is what this gateway knows of another one.
type peer struct {
	address PeerAddress
	client  Peer // nil: to be dialed

	// answered says whether the last question was answered; heard is when the last answer came, fence what it told.
	answered bool
	heard    time.Time
	fence    *desired.Fence // nil: it holds no State
	held     []netip.Addr   // the VIPs that it holds
	heir     *wire.Heir     // whether it could take our VIPs over; nil: it cannot tell
	hop      *wire.Hop      // how it takes part in hand-overs; nil: it cannot
	// failure is why the last question was not answered, askAt and pause when the next one is due.
	failure error
	askAt   time.Time
	pause   time.Duration

	// returned is true when it has just begun to answer: while it was silent we may have missed anything, so a State that it
	// has ahead of us is no rollout's that comes to us next.
	returned bool
	// ahead is since when it has held a newer State than we; zero when it has not.
	ahead time.Time
	// untaken is why its newer State could not be taken, takeAt and takePause when that is tried again.
	untaken   error
	takeAt    time.Time
	takePause time.Duration
	// disbelieved is a fence that it told and could not show by a State that we believe.
	disbelieved *desired.Fence
}

// ask asks which State it holds.
func (p *peer) ask(ctx context.Context, dial func(PeerAddress) (Peer, error), interval time.Duration) {
	hello, err := p.hello(ctx, dial)
	now := time.Now()
	if err != nil {
		p.failed(err, interval)
		return
	}
	p.returned = p.returned || !p.answered
	p.answered, p.fence, p.held, p.heir, p.hop, p.heard, p.failure, p.pause = true, hello.Fence, hello.Held, hello.Heir, hello.Hop, now, nil, 0
}

func (p *peer) hello(ctx context.Context, dial func(PeerAddress) (Peer, error)) (*wire.Hello, error) {
	if p.client == nil {
		client, err := dial(p.address)
		if err != nil {
			return nil, &unarmedError{err}
		}
		p.client = client
	}
	ctx, cancel := context.WithTimeout(ctx, helloLimit)
	defer cancel()
	return p.client.Hello(ctx)
}

// unarmedError says that this gateway has not what it takes to ask anybody: its key, the host keys.
type unarmedError struct{ error }

func (e *unarmedError) Unwrap() error { return e.error }

// failed notes that it did not answer.
func (p *peer) failed(err error, interval time.Duration) {
	p.answered, p.failure = false, err
	p.pause = min(max(2*p.pause, interval), unreachedLast)
	p.askAt = time.Now().Add(p.pause)
	p.close() // the next try reads key and known hosts anew
}

func (p *peer) close() {
	if p.client != nil {
		_ = p.client.Close() // nothing was written that could be lost
		p.client = nil
	}
}

// compare judges what it told against the State that we hold.
func (p *peer) compare(held *desired.Fence) standing {
	s := compareFences(held, p.fence)
	if s != ahead {
		p.returned, p.ahead, p.untaken, p.takeAt, p.takePause = false, time.Time{}, nil, time.Time{}, 0
		return s
	}
	if p.ahead.IsZero() {
		p.ahead = time.Now()
	}
	if p.disbelieved != nil && *p.disbelieved == *p.fence {
		return apart
	}
	return ahead
}

// fruitless notes that its newer State could not be taken. What was shown not to be a State to believe is no sign that
// ours is old; a State that is believed and refused here all the same is one.
func (p *peer) fruitless(err error) {
	p.untaken, p.disbelieved = err, nil
	first, last := failedFirst, failedLast
	if refusal := (*wire.Refusal)(nil); errors.As(err, &refusal) {
		first, last = refusedFirst, refusedLast
		switch refusal.Code {
		case wire.CodeSignature, wire.CodeMalformed, wire.CodeCluster, wire.CodeEpoch, wire.CodeSequence:
			told := *p.fence
			p.disbelieved = &told
		}
	}
	p.takePause = min(max(2*p.takePause, first), last)
	p.takeAt = time.Now().Add(p.takePause)
}
