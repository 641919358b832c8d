package wire_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"cloud-provider-haproxy/loadbalancer/wire"
)

var update = flag.Bool("update", false, "write the golden files anew")

// filled gives a message in which every field says something.
func filled[T any](t *testing.T) *T {
	t.Helper()
	message, next := new(T), 0
	fill(t, reflect.ValueOf(message).Elem(), &next)
	return message
}

func fill(t *testing.T, v reflect.Value, next *int) {
	t.Helper()
	*next++
	n := *next
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 1, 2, 3, 4, n, 0, time.UTC)))
		return
	case netip.Addr:
		v.Set(reflect.ValueOf(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})))
		return
	case netip.Prefix:
		v.Set(reflect.ValueOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 32)))
		return
	case []byte:
		v.SetBytes([]byte{byte(n)})
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), next)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), next)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), next)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, next)
		fill(t, value, next)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(n))
	case reflect.Uint16, reflect.Uint64:
		v.SetUint(uint64(n))
	default:
		t.Fatalf("the test cannot fill a %s", v.Type())
	}
}

// What the present release writes is what every later one has to read: a field that changes or goes is a new Version. One that
// is added to a reply is passed over by older releases; one that is added to a request is refused by them.
func TestMessagesOfThisRelease(t *testing.T) {
	const golden = "testdata/messages.json"
	request, reply := filled[wire.Request](t), filled[wire.Reply](t)
	request.Version, reply.Version = wire.Version, wire.Version
	got, err := json.MarshalIndent(struct {
		Preamble *wire.Preamble
		Request  *wire.Request
		Reply    *wire.Reply
	}{filled[wire.Preamble](t), request, reply}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-golden +written) if it is meant, write %s with -update:\n%s", golden, diff)
	}
	var messages struct{ Request, Reply json.RawMessage }
	if err := json.Unmarshal(want, &messages); err != nil {
		t.Fatal(err)
	}
	equal := cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})
	read := new(wire.Request)
	if err := wire.ReadFrame(bytes.NewReader(frame(t, string(messages.Request))), read); err != nil {
		t.Errorf("the golden request: %v", err)
	} else if diff := cmp.Diff(request, read, equal); diff != "" {
		t.Errorf("request (-written +read):\n%s", diff)
	}
	if read, err := wire.ReadReply(bytes.NewReader(frame(t, string(messages.Reply)))); err != nil {
		t.Errorf("the golden reply: %v", err)
	} else if diff := cmp.Diff(reply, read, equal); diff != "" {
		t.Errorf("reply (-written +read):\n%s", diff)
	}
}

// A reply of the next release tells more, at any depth; what this one knows of it counts. A request that tells more is refused.
func TestReplyWithAFieldMore(t *testing.T) {
	for name, test := range map[string]struct {
		plain string
		right func(*wire.Reply) bool
	}{
		"a hello from the next release": {`{"version":1,"hello":{"gateway":"gw2","agent":"v9","fence":{"epoch":3,"sequence":4,"term":1},"heir":{"fit":true,"load":0.5},"zone":{"name":"a"}}}`,
			func(r *wire.Reply) bool {
				return r.Hello.Gateway == "gw2" && r.Hello.Fence.Sequence == 4 && r.Hello.Heir.Fit
			}},
		"a status": {`{"version":1,"status":{"hello":{"gateway":"gw2"},"fence":{"epoch":3,"sequence":4},"inSync":true,"temperature":40,"peers":[{"gateway":"gw1","answers":true,"rtt":3}]}}`,
			func(r *wire.Reply) bool { return r.Status.InSync && r.Status.Peers[0].Answers }},
		"a result": {`{"version":1,"result":{"outcome":"Runtime","fence":{"epoch":3,"sequence":4},"digest":"d","cost":{"cpu":1}}}`,
			func(r *wire.Reply) bool { return r.Result.Outcome == wire.Runtime }},
		"a refusal": {`{"version":1,"refusal":{"code":"epoch","message":"m","hint":"h"},"trace":"t"}`,
			func(r *wire.Reply) bool { return r.Refusal.Code == wire.CodeEpoch }},
	} {
		stream := bytes.NewReader(append(frame(t, test.plain), frame(t, `{"version":1,"empty":true}`)...))
		reply, err := wire.ReadReply(stream)
		if err != nil || !test.right(reply) {
			t.Errorf("%s: %+v, %v", name, reply, err)
		}
		if next, err := wire.ReadReply(stream); err != nil || !next.Empty {
			t.Errorf("behind %s: %+v, %v", name, next, err)
		}
	}
	for _, plain := range []string{`{"version":1,"hello":{"gateway":7}}`, `{"version":1`, `{"version":1}{}`, `[]`} {
		if reply, err := wire.ReadReply(bytes.NewReader(frame(t, plain))); err == nil {
			t.Errorf("%s was read as %+v", plain, reply)
		}
	}
	apply := `{"version":1,"verb":"apply","apply":{"signed":{"state":"e30=","signature":"","signer":"s"},"unless":"dusk"}}`
	if err := wire.ReadFrame(bytes.NewReader(frame(t, apply)), new(wire.Request)); err == nil || !strings.Contains(err.Error(), `"unless"`) {
		t.Errorf("a request with a condition that nobody here knows: %v", err)
	}
}
