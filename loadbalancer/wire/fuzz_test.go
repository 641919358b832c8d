package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// Whatever comes, in whatever form: no panic, no message taken from a frame that is none, and what was read can be
// sent again and is the same.
func FuzzReadFrame(f *testing.F) {
	for _, message := range messages {
		b := write(f, message)
		f.Add(b)
		f.Add(b[:len(b)-3])
		f.Add(append(bytes.Clone(b), b...))
	}
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x1f, 0x8b})
	f.Add(framed([]byte("{}")))
	f.Fuzz(func(t *testing.T, input []byte) {
		stream := bytes.NewReader(input)
		for {
			var reply wire.Reply
			err := wire.ReadFrame(stream, &reply)
			var malformed *wire.MalformedError
			var version *wire.VersionError
			switch {
			case errors.As(err, &malformed), errors.As(err, &version):
				continue
			case err != nil:
				return
			}
			resent(t, &reply)
		}
	})
}

// FuzzMessage fuzzes the JSON inside a frame, which FuzzReadFrame seldom gets past gzip's checksum.
func FuzzMessage(f *testing.F) {
	for _, message := range messages {
		b, err := json.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Fuzz(func(t *testing.T, plain string) {
		var reply wire.Reply
		if wire.ReadFrame(bytes.NewReader(frame(t, plain)), &reply) == nil {
			resent(t, &reply)
		}
		if tolerated, err := wire.ReadReply(bytes.NewReader(frame(t, plain))); err == nil {
			resent(t, tolerated)
		}
		var request wire.Request
		if wire.ReadFrame(bytes.NewReader(frame(t, plain)), &request) == nil {
			write(t, &request)
			askable(t, request.Probe)
		}
	})
}

// askable looks at a question that has no fault: whoever asks it may take each address for one that a machine can have.
func askable(t *testing.T, probe *wire.Probe) {
	t.Helper()
	if probe == nil || len(probe.Faults()) > 0 {
		return
	}
	if len(probe.Targets) > wire.MaxProbeTargets {
		t.Fatalf("%d targets are no fault", len(probe.Targets))
	}
	for _, target := range probe.Targets {
		a := target.Address
		if !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() || a.Zone() != "" || a.Is4In6() || len(target.Interface) > 15 {
			t.Fatalf("%+v is no fault", target)
		}
	}
}

func resent(t *testing.T, reply *wire.Reply) {
	t.Helper()
	first := write(t, reply)
	var again wire.Reply
	if err := wire.ReadFrame(bytes.NewReader(first), &again); err != nil {
		t.Fatalf("own frame is refused: %v", err)
	}
	if second := write(t, &again); !bytes.Equal(first, second) {
		t.Fatalf("sent again it differs: %+v, %+v", reply, again)
	}
}

// request5000 carries a State of 5000 Services with two ports each.
func request5000(t testing.TB) *wire.Request {
	t.Helper()
	s := &desired.State{Schema: desired.Schema}
	a := netip.MustParseAddr("198.18.0.1")
	for i := range 5000 {
		s.VIPs = append(s.VIPs, desired.VIP{Address: a, RouterID: 51 + i%2})
		s.LoadBalancers = append(s.LoadBalancers, desired.LoadBalancer{
			Key:       desired.Key{Namespace: fmt.Sprintf("team-%d", i%50), Name: fmt.Sprintf("service-%d", i)},
			UID:       fmt.Sprintf("%08x-0000-4000-8000-%012x", uint32(i)*2654435761, uint64(i)*11400714819323198485>>16),
			Addresses: []netip.Addr{a},
			Frontends: []desired.Frontend{
				{Name: "http", Protocol: desired.TCP, Port: 80, NodePort: uint16(10000 + 2*i)},
				{Name: "https", Protocol: desired.TCP, Port: 443, NodePort: uint16(10001 + 2*i)},
			},
		})
		a = a.Next()
	}
	b, err := s.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Request{Version: wire.Version, Verb: wire.VerbApply, Apply: &wire.Apply{Signed: desired.Signed{State: b, Signature: make([]byte, 83), Signer: "SHA256:x"}}}
}

func BenchmarkFrame5000(b *testing.B) {
	request := request5000(b)
	sent := write(b, request)
	b.Run(fmt.Sprintf("Write/%dkB-of-%dkB", len(sent)/1000, len(request.Apply.Signed.State)/1000), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := wire.WriteFrame(io.Discard, request); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := wire.ReadFrame(bytes.NewReader(sent), new(wire.Request)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
