package wire_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// frame makes a frame of raw bytes, compressed.
func frame(t testing.TB, plain string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return framed(b.Bytes())
}

// framed puts the length in front.
func framed(body []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

func write(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := wire.WriteFrame(&b, v); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var messages = []any{
	&wire.Preamble{Role: wire.RoleController},
	&wire.Request{Version: 1, Verb: wire.VerbHello},
	&wire.Request{Version: 1, Verb: wire.VerbApply, Apply: &wire.Apply{Signed: desired.Signed{State: []byte(`{"schema":1}`), Signature: []byte{0, 255}, Signer: "SHA256:x"}}},
	&wire.Reply{Version: 1, Empty: true},
	&wire.Reply{Version: 1, Refusal: &wire.Refusal{
		Code: wire.CodeEpoch, Message: "the State is old", Remedy: "claim again", Fence: &desired.Fence{Epoch: 3},
		Faults: []wire.Fault{{LoadBalancer: &desired.Key{Namespace: "a", Name: "b"}, Field: "x", Message: "y"}},
	}},
	&wire.Reply{Version: 1, Result: &wire.Result{
		Outcome: wire.Runtime, Held: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		Stages: []wire.Stage{{Name: "render", Duration: 3 * time.Millisecond}},
	}},
	&wire.Reply{Version: 1, Status: &wire.Status{
		Applied: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Reloads: map[string]uint64{"slots": 2}, Rounds: map[wire.Outcome]uint64{wire.Reloaded: 1},
		Nodes: []wire.NodeStatus{{Name: "w", State: "UP", StateIPv6: "DOWN", Sessions: 1 << 60}},
	}},
	&wire.Request{Version: 1, Verb: wire.VerbProbe, Probe: &wire.Probe{Targets: []wire.ProbeTarget{
		{Address: netip.MustParseAddr("192.0.2.70")}, {Address: netip.MustParseAddr("2001:db8::70"), Interface: "eth1"},
	}}},
	&wire.Reply{Version: 1, Hello: &wire.Hello{Gateway: "gw1", Links: []wire.Link{{Interface: "eth0",
		Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Routers: []netip.Addr{netip.MustParseAddr("192.0.2.254")}}}}},
	&wire.Request{Version: 1, Verb: wire.VerbDrain, Drain: &wire.Drain{Reason: "new kernel", Grace: time.Minute, Force: true}},
	&wire.Reply{Version: 1, Hello: &wire.Hello{Gateway: "gw1", Heir: &wire.Heir{Problem: "is drained itself"}}},
	&wire.Reply{Version: 1, Drained: &wire.Drained{Changed: true, Held: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Drain: &wire.DrainStatus{
		Since: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), By: wire.RoleOperator, Reason: "new kernel",
		Until: time.Date(2026, 1, 2, 3, 5, 5, 6, time.UTC), Connections: 25}}},
	&wire.Reply{Version: 1, Probed: &wire.Probed{Answers: []wire.ProbeAnswer{
		{Address: netip.MustParseAddr("192.0.2.70"), Asked: true, Neighbors: []wire.Neighbor{{MAC: "02:00:00:00:00:30", Gateway: "gw2"}}},
		{Address: netip.MustParseAddr("2001:db8::70"), Problem: "interface eth1 is down"},
	}}},
}

func TestFramesRoundTrip(t *testing.T) {
	var stream bytes.Buffer
	for _, message := range messages {
		stream.Write(write(t, message))
	}
	// One byte at a time: a connection gives what it has.
	r := iotest.OneByteReader(&stream)
	for _, want := range messages {
		got := newOf(want)
		if err := wire.ReadFrame(r, got); err != nil {
			t.Fatalf("%T: %v", want, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("%T (-sent +received):\n%s", want, diff)
		}
	}
	if err := wire.ReadFrame(r, new(wire.Reply)); err != io.EOF {
		t.Errorf("after the last frame: %v, want io.EOF", err)
	}
}

func newOf(message any) any {
	switch message.(type) {
	case *wire.Preamble:
		return new(wire.Preamble)
	case *wire.Request:
		return new(wire.Request)
	}
	return new(wire.Reply)
}

// countingWriter counts Write calls.
type countingWriter struct{ calls int }

func (w *countingWriter) Write(p []byte) (int, error) { w.calls++; return len(p), nil }

func TestWriteFrame(t *testing.T) {
	var once countingWriter
	if err := wire.WriteFrame(&once, messages[2]); err != nil || once.calls != 1 {
		t.Errorf("%d writes for one frame, error %v", once.calls, err)
	}
	tooLarge := &wire.Request{Apply: &wire.Apply{Signed: desired.Signed{State: make([]byte, wire.MaxFrame*3/4)}}}
	var nothing countingWriter
	var bound *wire.TooLargeError
	if err := wire.WriteFrame(&nothing, tooLarge); !errors.As(err, &bound) || nothing.calls != 0 {
		t.Errorf("too large: error %v after %d writes", err, nothing.calls)
	}
	if err := wire.WriteFrame(io.Discard, make(chan int)); err == nil || !strings.HasPrefix(err.Error(), "encode frame: ") {
		t.Errorf("a channel was sent: %v", err)
	}
	r, w := io.Pipe()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := wire.WriteFrame(w, messages[0]); !errors.Is(err, io.ErrClosedPipe) || !strings.HasPrefix(err.Error(), "send frame: ") {
		t.Errorf("on a closed pipe: %v", err)
	}
}

// After these the connection is in step: the frame behind is read.
func TestReadFrameRefusesAndStaysInStep(t *testing.T) {
	good := frame(t, `{"version":1,"verb":"hello"}`)
	tests := []struct {
		name  string
		frame []byte
		want  string
	}{
		{"no body", framed(nil), "decompress frame: unexpected EOF"},
		{"not gzip", framed([]byte("GET / HTTP/1.1\r\n\r\n")), "decompress frame: gzip: invalid header"},
		{"gzip cut", framed(good[4 : len(good)-9]), "decompress frame: unexpected EOF"},
		{"wrong checksum", framed(append(bytes.Clone(good[4:len(good)-8]), make([]byte, 8)...)), "decompress frame: gzip: invalid checksum"},
		{"two gzip members", framed(append(bytes.Clone(good[4:]), good[4:]...)), "decompress frame: data after the compressed part"},
		{"bytes behind", framed(append(bytes.Clone(good[4:]), make([]byte, 10_000)...)), "decompress frame: data after the compressed part"},
		{"nothing inside", frame(t, ""), "decode frame: unexpected EOF"},
		{"not JSON", frame(t, "hello"), "decode frame: invalid character"},
		{"JSON cut", frame(t, `{"version":1`), "decode frame: unexpected EOF"},
		{"two values", frame(t, `{"version":1}{}`), "decode frame: data after the message"},
		{"unknown field", frame(t, `{"version":1,"verb":"hello","sudo":true}`), `decode frame: json: unknown field "sudo"`},
		{"unknown field, no version", frame(t, `{"verb":"hello","sudo":true}`), `unknown field "sudo"`},
		{"wrong type", frame(t, `{"version":"1"}`), "decode frame: json: cannot unmarshal string"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			stream := bytes.NewReader(append(bytes.Clone(test.frame), good...))
			err := wire.ReadFrame(stream, new(wire.Request))
			var malformed *wire.MalformedError
			if !errors.As(err, &malformed) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %T %v, want *MalformedError with %q", err, err, test.want)
			}
			if errors.Is(err, io.EOF) {
				t.Errorf("%v is taken for the end of the connection", err)
			}
			var next wire.Request
			if err := wire.ReadFrame(stream, &next); err != nil || next.Verb != wire.VerbHello {
				t.Errorf("the next frame: %+v, error %v", next, err)
			}
		})
	}
}

func TestReadFrameTellsAnotherVersion(t *testing.T) {
	stream := bytes.NewReader(append(frame(t, `{"version":2,"verb":"hello","warp":9}`), frame(t, `{"version":2,"verb":"hello"}`)...))
	err := wire.ReadFrame(stream, new(wire.Request))
	var version *wire.VersionError
	if !errors.As(err, &version) || *version != (wire.VersionError{Got: 2, Want: 1}) {
		t.Errorf("unreadable request of version 2: %T %v", err, err)
	}
	var hello wire.Request
	if err := wire.ReadFrame(stream, &hello); err != nil || hello.Version != 2 {
		t.Errorf("readable request of version 2: %+v, error %v", hello, err)
	}
}

func TestReadFrameTellsACutConnection(t *testing.T) {
	whole := write(t, messages[4])
	for n := range whole {
		err := wire.ReadFrame(bytes.NewReader(whole[:n]), new(wire.Reply))
		if n == 0 {
			if err != io.EOF {
				t.Errorf("nothing: %v, want io.EOF", err)
			}
			continue
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.HasPrefix(err.Error(), "receive frame: ") {
			t.Errorf("cut after %d of %d bytes: %v", n, len(whole), err)
		}
	}
	reset := errors.New("connection reset")
	err := wire.ReadFrame(io.MultiReader(bytes.NewReader(whole[:20]), iotest.ErrReader(reset)), new(wire.Reply))
	if !errors.Is(err, reset) || !strings.HasPrefix(err.Error(), "receive frame: ") {
		t.Errorf("reset in the middle: %v", err)
	}
}

func TestReadFrameNeverReadsIntoTheNext(t *testing.T) {
	first, second := write(t, messages[1]), write(t, messages[0])
	stream := bytes.NewReader(append(bytes.Clone(first), second...))
	if err := wire.ReadFrame(stream, new(wire.Request)); err != nil {
		t.Fatal(err)
	}
	if stream.Len() != len(second) {
		t.Errorf("%d bytes are left, want the %d of the second frame", stream.Len(), len(second))
	}
}

func TestReadFrameBounds(t *testing.T) {
	// 16 MiB of spaces around a message compress to 16 kB.
	exact := `{"version":1}` + strings.Repeat(" ", wire.MaxFrame-13)
	if err := wire.ReadFrame(bytes.NewReader(frame(t, exact)), new(wire.Request)); err != nil {
		t.Errorf("a message of exactly MaxFrame: %v", err)
	}
	tests := map[string]struct {
		stream io.Reader
		bytes  int64
	}{
		"announced":    {io.MultiReader(bytes.NewReader([]byte{0xff, 0xff, 0xff, 0xff}), neverRead{t}), 1<<32 - 1},
		"just over":    {io.MultiReader(bytes.NewReader(binary.BigEndian.AppendUint32(nil, wire.MaxFrame+1)), neverRead{t}), wire.MaxFrame + 1},
		"decompressed": {bytes.NewReader(frame(t, exact+" ")), wire.MaxFrame + 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := wire.ReadFrame(test.stream, new(wire.Request))
			var tooLarge *wire.TooLargeError
			if !errors.As(err, &tooLarge) || tooLarge.Bytes != test.bytes {
				t.Errorf("got %T %v, want *TooLargeError of %d bytes", err, err, test.bytes)
			}
		})
	}
}

// neverRead fails the test when a byte behind the header is asked for.
type neverRead struct{ t *testing.T }

func (r neverRead) Read([]byte) (int, error) {
	r.t.Error("the body of a frame that is too large was read")
	return 0, io.EOF
}

// An announced length costs nothing: not for a peer that then sends little, nor for one that sends a bomb.
func TestReadFrameAllocatesByArrival(t *testing.T) {
	tests := map[string]struct {
		stream []byte
		most   uint64
	}{
		"announced and cut": {append(binary.BigEndian.AppendUint32(nil, wire.MaxFrame), 0x1f, 0x8b, 8), 64 << 10},
		"bomb of 128 MiB":   {frame(t, strings.Repeat("\x00", 128<<20)), 8 * wire.MaxFrame},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if err := wire.ReadFrame(bytes.NewReader(test.stream), new(wire.Request)); err == nil {
				t.Error("no error")
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > test.most {
				t.Errorf("%d bytes allocated, want at most %d", got, test.most)
			}
		})
	}
}

func TestRefusalText(t *testing.T) {
	r := &wire.Refusal{Code: wire.CodeEpoch, Message: "the gateway holds epoch 4"}
	if got := r.Error(); got != "the gateway holds epoch 4" {
		t.Error(got)
	}
	r.Remedy = "claim the epoch again"
	if got := r.Error(); got != "the gateway holds epoch 4: claim the epoch again" {
		t.Error(got)
	}
}
