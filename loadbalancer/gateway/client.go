package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Config says which gateway, who we are, and how patient.
type Config struct {
	Name    string // of the gateway in the configuration; its agent must call itself so
	Address string // host:port of its sshd
	User    string // whose authorized_keys hold the forced command
	// Signers are the keys that are offered, in order. See LoadSigner.
	Signers    []ssh.Signer
	KnownHosts *KnownHosts
	// DialTimeout bounds connecting up to an open session. 0 means 5 s.
	DialTimeout time.Duration
	// CallTimeout bounds one call, a first connection included; a context can only shorten it. 0 means 60 s.
	CallTimeout time.Duration
	// KeepAlive is how often an open connection is probed between calls, and how long an answer may take. 0 means 3 s.
	KeepAlive time.Duration
	// Dial makes the TCP connection; nil means net.Dialer. For tests and for a lab's namespaces.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client asks one gateway's agent. Calls may come from any goroutine; they are answered one after the other.
type Client struct {
	config Config
	// turn holds a token while a call runs; a channel, so that waiting ends with the context. It guards session.
	turn    chan struct{}
	session *session // nil, or open after an answered hello; it may have died since
	// closing ends whatever call runs when Close is called.
	closing   context.Context
	close     context.CancelCauseFunc
	closeOnce sync.Once
}

// New makes a client. It does not connect: the first call does.
func New(config Config) (*Client, error) {
	var faults []error
	if config.Name == "" {
		faults = append(faults, errors.New("name is empty"))
	}
	if host, port, err := net.SplitHostPort(config.Address); err != nil || host == "" || port == "" {
		faults = append(faults, fmt.Errorf("address %q is not host:port", config.Address))
	}
	if config.User == "" {
		faults = append(faults, errors.New("user is empty"))
	}
	if len(config.Signers) == 0 {
		faults = append(faults, errors.New("no private key is given"))
	}
	if config.KnownHosts == nil {
		faults = append(faults, errors.New("no known hosts are given: host keys are always checked"))
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("client of gateway %q: %w", config.Name, errors.Join(faults...))
	}
	config.Signers = slices.Clone(config.Signers)
	if config.DialTimeout == 0 {
		config.DialTimeout = 5 * time.Second
	}
	if config.CallTimeout == 0 {
		config.CallTimeout = 60 * time.Second
	}
	if config.KeepAlive == 0 {
		config.KeepAlive = 3 * time.Second
	}
	if config.Dial == nil {
		config.Dial = new(net.Dialer).DialContext
	}
	c := &Client{config: config, turn: make(chan struct{}, 1)}
	c.closing, c.close = context.WithCancelCause(context.Background())
	return c, nil
}

// Name is the gateway's name.
func (c *Client) Name() string { return c.config.Name }

// Hello asks who the gateway is and what it runs. An agent of another State schema is a *VersionError.
func (c *Client) Hello(ctx context.Context) (*wire.Hello, error) {
	reply, err := c.call(ctx, wire.Request{Verb: wire.VerbHello})
	if err != nil {
		return nil, err
	}
	if reply.Hello.Schema != desired.Schema {
		return nil, c.versionError("State schema", reply.Hello.Schema, desired.Schema, nil)
	}
	return reply.Hello, nil
}

// State asks for the State that the gateway holds; nil when it never got one.
func (c *Client) State(ctx context.Context) (*desired.Signed, error) {
	reply, err := c.call(ctx, wire.Request{Verb: wire.VerbState})
	if err != nil {
		return nil, err
	}
	return reply.State, nil
}

// Apply makes the State true on the gateway. Applying a State that the gateway holds already changes nothing, so a call
// whose end is unknown may be repeated.
func (c *Client) Apply(ctx context.Context, signed desired.Signed) (*wire.Result, error) {
	return c.result(ctx, wire.VerbApply, wire.Apply{Signed: signed})
}

// ApplyAfter is Apply unless the gateway holds a State of another controller that is newer than read, the newest that the caller
// has read: then it is refused with wire.CodeUnread.
func (c *Client) ApplyAfter(ctx context.Context, signed desired.Signed, read desired.Fence) (*wire.Result, error) {
	return c.result(ctx, wire.VerbApply, wire.Apply{Signed: signed, Read: &read})
}

// Plan tells what Apply would do.
func (c *Client) Plan(ctx context.Context, signed desired.Signed) (*wire.Result, error) {
	return c.result(ctx, wire.VerbPlan, wire.Apply{Signed: signed})
}

func (c *Client) result(ctx context.Context, verb wire.Verb, apply wire.Apply) (*wire.Result, error) {
	reply, err := c.call(ctx, wire.Request{Verb: verb, Apply: &apply})
	if err != nil {
		return nil, err
	}
	return reply.Result, nil
}

// Status asks what is true on the gateway now.
func (c *Client) Status(ctx context.Context) (*wire.Status, error) {
	reply, err := c.call(ctx, wire.Request{Verb: wire.VerbStatus})
	if err != nil {
		return nil, err
	}
	return reply.Status, nil
}

// Probe asks who on the gateway's networks answers for addresses, at most wire.MaxProbeTargets. It gives one answer for each
// target, in their order, and takes the gateway less than a second. The gateway says in an answer, not by an error, what it
// could not ask.
func (c *Client) Probe(ctx context.Context, targets []wire.ProbeTarget) (*wire.Probed, error) {
	reply, err := c.call(ctx, wire.Request{Verb: wire.VerbProbe, Probe: &wire.Probe{Targets: targets}})
	if err != nil {
		return nil, err
	}
	return reply.Probed, nil
}

// Drain has the gateway hand its VIPs to the others, and keep away from them until Undrain, over reboots too. It returns when
// they are gone. A *wire.Refusal with wire.CodeNoHeir says that nothing was changed because nobody else can hold them.
//
// A rollout that must restart something on every gateway goes: Drain; restart; Status until the gateway is well; Undrain, but only
// when Drained.Changed said that the mark is its own; and on to the next one, whose Drain is refused as long as this one could
// not take over. What fails stops it with this gateway drained and the others untouched.
func (c *Client) Drain(ctx context.Context, drain wire.Drain) (*wire.Drained, error) {
	reply, err := c.call(ctx, wire.Request{Verb: wire.VerbDrain, Drain: &drain})
	if err != nil {
		return nil, err
	}
	return reply.Drained, nil
}

// Undrain takes the mark of Drain away, whoever made it. The VIPs return within seconds.
func (c *Client) Undrain(ctx context.Context) (*wire.Drained, error) {
	reply, err := c.call(ctx, wire.Request{Verb: wire.VerbUndrain})
	if err != nil {
		return nil, err
	}
	return reply.Drained, nil
}

// Close ends a running call, closes the connection and waits until nothing of the client runs any more. Later calls
// fail with ErrClosed.
func (c *Client) Close() error {
	c.closeOnce.Do(func() {
		c.close(ErrClosed)
		c.turn <- struct{}{} // the last turn, never given back
		c.drop()
	})
	return nil
}

// call has one request answered, over the open session or a new one.
func (c *Client) call(ctx context.Context, request wire.Request) (*wire.Reply, error) {
	doing := "waiting for the reply to " + string(request.Verb)
	if err := context.Cause(c.closing); err != nil {
		return nil, fmt.Errorf("gateway %s: %w", c.config.Name, err)
	}
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, fmt.Errorf("gateway %s: waiting for an earlier call to end: %w", c.config.Name, context.Cause(ctx))
	case <-c.closing.Done():
		return nil, fmt.Errorf("gateway %s: %w", c.config.Name, context.Cause(c.closing))
	}
	ctx, done := context.WithTimeoutCause(ctx, c.config.CallTimeout, &noAnswerError{c.config.CallTimeout})
	defer done()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.closing, func() { cancel(ErrClosed) })()

	if c.session != nil && c.session.over.Err() != nil {
		c.drop() // it died between calls
	}
	if c.session == nil {
		opened, err := c.open(ctx)
		if err != nil {
			return nil, err
		}
		c.session = opened
	}
	reply, err := c.session.ask(ctx, request)
	if err != nil {
		err = c.explain(ctx, c.session, doing, err)
		c.drop()
		return nil, err
	}
	return c.read(request, reply)
}

// read gives the reply when it answers the request, and the error that it stands for otherwise.
func (c *Client) read(request wire.Request, reply *wire.Reply) (*wire.Reply, error) {
	verb := request.Verb
	if refusal := reply.Refusal; refusal != nil {
		if refusal.Code == wire.CodeVersion && c.session.schema != desired.Schema {
			return nil, c.versionError("State schema", c.session.schema, desired.Schema, refusal)
		}
		return nil, fmt.Errorf("gateway %s refused %s: %w", c.config.Name, verb, refusal)
	}
	var answered bool
	switch verb {
	case wire.VerbHello:
		answered = reply.Hello != nil
	case wire.VerbState:
		answered = (reply.State != nil) != reply.Empty
	case wire.VerbApply, wire.VerbPlan:
		answered = reply.Result != nil
	case wire.VerbStatus:
		answered = reply.Status != nil
	case wire.VerbDrain:
		answered = reply.Drained != nil && reply.Drained.Drain != nil
	case wire.VerbUndrain:
		answered = reply.Drained != nil && reply.Drained.Drain == nil
	case wire.VerbProbe:
		answered = reply.Probed != nil && slices.EqualFunc(request.Probe.Targets, reply.Probed.Answers,
			func(t wire.ProbeTarget, a wire.ProbeAnswer) bool { return t.Address == a.Address })
	}
	if !answered {
		c.drop() // replies may be out of step with requests
		return nil, fmt.Errorf("gateway %s: the reply to %s answers something else: is gatewayctl on the gateway of the same version?",
			c.config.Name, verb)
	}
	return reply, nil
}

// drop closes the session, if there is one. The caller has the turn.
func (c *Client) drop() {
	if c.session != nil {
		c.session.close()
		c.session = nil
	}
}

// noAnswerError is the cause of a context that our own patience ended.
type noAnswerError struct{ after time.Duration }

func (e *noAnswerError) Error() string { return fmt.Sprintf("no answer within %s", e.after) }
func (e *noAnswerError) Unwrap() error { return context.DeadlineExceeded }
