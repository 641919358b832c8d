package e2e

import (
	"context"
	"net"
	"sync"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/test/lab"
)

const agentSocket = "/run/gatewayctl/agent.sock"

// startOtherAgent puts an agent of a later build, which speaks another schema of State, in the place of a host's agent.
func (s *site) startOtherAgent(t *testing.T, h *lab.Host) (stop func()) {
	t.Helper()
	s.end(t, h, "-TERM", agentProcess)
	listener, err := h.Listen(t.Context(), "unix", agentSocket)
	must(t, err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false) // the path is the host's, not this process's
	s.run(t, h, "chown", "root:gatewayctl", agentSocket)
	s.run(t, h, "chmod", "0660", agentSocket)
	stopped, hangUp := context.WithCancel(context.WithoutCancel(t.Context()))
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(stopped, func() { _ = conn.Close() })
			serving.Go(func() { answerAsOther(conn, h.Name) })
		}
	})
	return func() {
		hangUp()
		_ = listener.Close()
		serving.Wait()
		s.run(t, h, "rm", "-f", agentSocket)
	}
}

// answerAsOther answers every request of a connection as an agent with a later schema does.
func answerAsOther(conn net.Conn, name string) {
	defer conn.Close()
	var preamble wire.Preamble
	if wire.ReadFrame(conn, &preamble) != nil {
		return
	}
	for {
		var request wire.Request
		if wire.ReadFrame(conn, &request) != nil {
			return
		}
		reply := wire.Reply{Version: wire.Version, Refusal: &wire.Refusal{Code: wire.CodeVersion, Message: "another schema"}}
		if request.Verb == wire.VerbHello {
			reply.Refusal = nil
			reply.Hello = &wire.Hello{Gateway: name, Agent: "later", Role: preamble.Role, Schema: desired.Schema + 1}
		}
		if wire.WriteFrame(conn, reply) != nil {
			return
		}
	}
}
