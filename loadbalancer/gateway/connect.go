package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/wire"
)

// open connects, opens the session and exchanges the first hello.
func (c *Client) open(ctx context.Context) (*session, error) {
	dialing, done := context.WithTimeoutCause(ctx, c.config.DialTimeout, &noAnswerError{c.config.DialTimeout})
	defer done()
	connection, err := c.connect(dialing)
	if err != nil {
		return nil, err
	}
	s, err := newSession(dialing, connection, c.config.KeepAlive)
	if err != nil {
		return nil, c.unreachable(dialing, "opening a session", true, err)
	}
	if err := c.greet(ctx, s); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// greet exchanges the first hello: is this an agent, of our version, and of the gateway that we mean?
func (c *Client) greet(ctx context.Context, s *session) error {
	reply, err := s.ask(ctx, wire.Request{Verb: wire.VerbHello})
	if err != nil {
		return c.explain(ctx, s, "waiting for the agent's hello", err)
	}
	switch {
	case reply.Refusal != nil:
		return fmt.Errorf("gateway %s refused hello: %w", c.config.Name, reply.Refusal)
	case reply.Hello == nil:
		return &AgentMissingError{Gateway: c.config.Name, Address: c.config.Address, User: c.config.User,
			Err: errors.New("hello was answered by something else")}
	case reply.Hello.Gateway != c.config.Name:
		return &NameError{Gateway: c.config.Name, Address: c.config.Address, Agent: reply.Hello.Gateway}
	}
	s.schema = reply.Hello.Schema
	return nil
}

// connect makes an SSH connection to a host whose key is known, or says what is wrong.
func (c *Client) connect(ctx context.Context) (*ssh.Client, error) {
	known, err := c.config.KnownHosts.read()
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", c.config.Name, err)
	}
	want, err := known.lookUp(c.config.Address)
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", c.config.Name, err)
	}
	shown := false // the host has shown a key that we accept
	config := &ssh.ClientConfig{
		User:              c.config.User,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(c.config.Signers...)},
		HostKeyAlgorithms: want.algorithms(), // nil: all, and none is accepted
		HostKeyCallback: func(_ string, remote net.Addr, key ssh.PublicKey) error {
			err := known.accept(want, remote, key)
			shown = err == nil
			return err
		},
	}
	client, err := c.handshake(ctx, config)
	if err == nil {
		return client, nil
	}
	var hostKey *HostKeyError
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &hostKey):
		hostKey.Gateway = c.config.Name
		return nil, hostKey
	case errors.As(err, &negotiation) && negotiation.What == "host key":
		return nil, c.learn(ctx, known, want)
	case ctx.Err() != nil || !shown || isLost(err):
		return nil, c.unreachable(ctx, "connecting", false, err)
	}
	// What is left after the host key was accepted and without a lost connection is authentication.
	refused := &KeyRefusedError{Gateway: c.config.Name, Address: c.config.Address, User: c.config.User, Err: err}
	for _, signer := range c.config.Signers {
		refused.Keys = append(refused.Keys, describeKey(signer.PublicKey()))
	}
	return nil, refused
}

// isLost tells a broken connection from an answer. x/crypto has no type for a refused key, so what remains is one.
func isLost(err error) bool {
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
}

// learn asks for the host key of a host that has none of the known types, for the message. It never authenticates.
func (c *Client) learn(ctx context.Context, known *hostKeys, want *expected) error {
	mismatch := &HostKeyError{Gateway: c.config.Name, Address: c.config.Address, Expected: want.describe(), Files: known.files}
	client, err := c.handshake(ctx, &ssh.ClientConfig{
		User: c.config.User,
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			mismatch.Got = describeKey(key)
			return mismatch
		},
	})
	if err == nil { // cannot be: the callback refuses every key
		err = errors.Join(errors.New("the host key was not asked for"), client.Close())
	}
	if mismatch.Got == "" {
		return c.unreachable(ctx, "asking for the host key", false, err)
	}
	return mismatch
}

// handshake dials and shakes hands; the end of ctx closes the connection.
func (c *Client) handshake(ctx context.Context, config *ssh.ClientConfig) (*ssh.Client, error) {
	tcp, err := c.config.Dial(ctx, "tcp", c.config.Address)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { tcp.Close() })
	connection, channels, requests, err := ssh.NewClientConn(tcp, c.config.Address, config)
	if err != nil {
		stop()
		tcp.Close()
		return nil, err
	}
	client := ssh.NewClient(connection, channels, requests)
	if !stop() {
		client.Close()
		return nil, context.Cause(ctx)
	}
	return client, nil
}

// explain turns a failure of session.ask into a typed error.
func (c *Client) explain(ctx context.Context, s *session, doing string, err error) error {
	var version *wire.VersionError
	if errors.As(err, &version) {
		return c.versionError("wire version", version.Got, version.Want, nil)
	}
	if ctx.Err() == nil {
		s.awaitEnd(ctx)
	}
	var exit *exitError
	end := context.Cause(s.over)
	switch {
	case ctx.Err() != nil:
		return c.unreachable(ctx, doing, true, err)
	case errors.As(end, &exit):
		return &AgentMissingError{Gateway: c.config.Name, Address: c.config.Address, User: c.config.User, Output: s.output(), Err: end}
	case end != nil:
		return c.unreachable(ctx, doing, true, end)
	case !s.answered:
		return &AgentMissingError{Gateway: c.config.Name, Address: c.config.Address, User: c.config.User, Output: s.output(),
			Err: fmt.Errorf("something else talks there: %w", err)}
	}
	return fmt.Errorf("gateway %s: %s: %w", c.config.Name, doing, err)
}

// unreachable tells a gateway's silence from a caller who gave up: only the former is an *UnreachableError.
func (c *Client) unreachable(ctx context.Context, doing string, connected bool, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause // what the closed connection then said explains nothing
		if !errors.Is(cause, context.DeadlineExceeded) {
			return fmt.Errorf("gateway %s: %s: %w", c.config.Name, doing, err)
		}
	}
	return &UnreachableError{Gateway: c.config.Name, Address: c.config.Address, Doing: doing, Connected: connected, Err: err}
}

func (c *Client) versionError(subject string, agent, build int, err error) error {
	return &VersionError{Gateway: c.config.Name, Address: c.config.Address, Subject: subject, Agent: agent, Build: build, Err: err}
}
