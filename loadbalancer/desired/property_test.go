package desired_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// These tests walk State by reflection where they can, so that a field added later is tested without being named here.

// states draws valid States of every size and shape.
func states(t *rapid.T) *desired.State {
	s := valid()
	s.Gateways = nil
	for i := range rapid.IntRange(1, 4).Draw(t, "gateways") {
		s.Gateways = append(s.Gateways, desired.Gateway{
			Name: fmt.Sprintf("gateway-%d", i), SSHAddress: fmt.Sprintf("10.0.0.%d:22", i+2),
			VRRPAddress: addr(fmt.Sprintf("10.0.0.%d", i+2)), Interface: "eth0",
		})
	}
	instances, err := desired.Instances(s.Gateways, rapid.IntRange(1, 244).Draw(t, "first"))
	if err != nil {
		t.Fatal(err)
	}
	s.Instances = instances
	s.VIPs = []desired.VIP{{Address: s.ControlPlane.Address, RouterID: desired.Spread(s.ControlPlane.Address, instances)}}
	if rapid.Bool().Draw(t, "no control plane") {
		s.ControlPlane = nil
	}
	s.Nodes = s.Nodes[:rapid.IntRange(0, 2).Draw(t, "nodes")]
	s.LoadBalancers = nil
	for i := range rapid.IntRange(0, 6).Draw(t, "load balancers") {
		s.LoadBalancers = append(s.LoadBalancers, loadBalancer(t, s, i))
	}
	s.Releasing = s.Releasing[:rapid.IntRange(0, 3).Draw(t, "releasing")]
	shareDeparted(t, s)
	s.Reserved = s.Reserved[:rapid.IntRange(0, 2).Draw(t, "reserved")]
	s.Quarantined = s.Quarantined[:rapid.IntRange(0, 2).Draw(t, "quarantined")]
	return s
}

// shareDeparted lets Services that are gone give up ports of addresses that others have: none that anybody serves.
func shareDeparted(t *rapid.T, s *desired.State) {
	for i, lb := range s.LoadBalancers {
		for j := range rapid.IntRange(0, 2).Draw(t, "departed partners") {
			s.Releasing = append(s.Releasing, desired.Releasing{
				Address: lb.Addresses[0], Owner: desired.Key{Namespace: lb.Namespace, Name: fmt.Sprintf("partner-%d-%d", i, j)},
				Ports:      []desired.Port{{Protocol: desired.TCP, Port: uint16(1000 + 2*j)}, {Protocol: desired.UDP, Port: uint16(1001 + 2*j)}},
				SinceEpoch: 1, SinceSequence: 1,
			})
		}
	}
	s.Normalize()
}

func loadBalancer(t *rapid.T, s *desired.State, i int) desired.LoadBalancer {
	lb := desired.LoadBalancer{Key: desired.Key{Namespace: rapid.SampledFrom([]string{"a", "b", "z"}).Draw(t, "namespace"), Name: fmt.Sprintf("service-%d", i)}}
	families := rapid.SampledFrom([][]string{{"198.51.100.%d"}, {"2001:db8:9::%d"}, {"198.51.100.%d", "2001:db8:9::%d"}, {"2001:db8:9::%d", "198.51.100.%d"}})
	for _, form := range families.Draw(t, "families") {
		a := addr(fmt.Sprintf(form, i))
		lb.Addresses = append(lb.Addresses, a)
		s.VIPs = append(s.VIPs, desired.VIP{Address: a, RouterID: desired.Spread(a, s.Instances)})
	}
	protocols := rapid.SampledFrom([]desired.Protocol{desired.TCP, desired.UDP, desired.SCTP})
	for port := range rapid.IntRange(1, 4).Draw(t, "ports") {
		lb.Frontends = append(lb.Frontends, desired.Frontend{
			Protocol: protocols.Draw(t, "protocol"), Port: uint16(port + 1), NodePort: rapid.Uint16Min(1).Draw(t, "node port"),
		})
	}
	if rapid.Bool().Draw(t, "pool") {
		lb.Pool = valid().LoadBalancers[1].Clone().Pool
	}
	lb.UDPIdleSeconds = rapid.IntRange(0, 86400).Draw(t, "idle")
	lb.AllowSources = rapid.SliceOfN(prefixes(), 0, 4).Draw(t, "allow")
	lb.DenySources = rapid.SliceOfN(prefixes(), 0, 4).Draw(t, "deny")
	return lb
}

// ordered are the lists whose order means something; all others are sets.
var ordered = map[string]bool{"Instance.Gateways": true, "LoadBalancer.Addresses": true}

// walk calls visit for every value inside v with a path for people, and the path's last step by type ("Node.Addresses").
func walk(v reflect.Value, path, step string, visit func(v reflect.Value, path, step string)) {
	visit(v, path, step)
	switch {
	case v.Type() == reflect.TypeFor[netip.Addr](), v.Type() == reflect.TypeFor[netip.AddrPort](), v.Type() == reflect.TypeFor[netip.Prefix]():
	case v.Kind() == reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), path, step, visit)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i), step+"[]", visit)
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			walk(v.Field(i), path+"."+name, v.Type().Name()+"."+name, visit)
		}
	}
}

func walkState(s *desired.State, visit func(v reflect.Value, path, step string)) {
	walk(reflect.ValueOf(s).Elem(), "State", "State", visit)
}

// shuffle permutes every set of s.
func shuffle(t *rapid.T, s *desired.State) {
	walkState(s, func(v reflect.Value, path, step string) {
		if v.Kind() != reflect.Slice || ordered[step] {
			return
		}
		swap := reflect.Swapper(v.Interface())
		for i := v.Len() - 1; i > 0; i-- {
			swap(i, rapid.IntRange(0, i).Draw(t, path))
		}
	})
}

func TestDrawnStatesAreValidInAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := states(t)
		shuffle(t, s)
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCanonicalKnowsNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := states(t)
		want, err := s.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		shuffle(t, s)
		before := s.Clone()
		got, err := s.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want, got) {
			t.Fatalf("the order shows:\n%s\n%s", want, got)
		}
		if diff := cmp.Diff(before, s, exact); diff != "" {
			t.Fatalf("Canonical changed the State:\n%s", diff)
		}
	})
}

func TestNormalizeIsIdempotentAndRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := states(t)
		shuffle(t, s)
		b, err := s.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		s.Normalize()
		again := s.Clone()
		again.Normalize()
		if diff := cmp.Diff(s, again, exact); diff != "" {
			t.Fatalf("normalized twice:\n%s", diff)
		}
		decoded, err := desired.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(s, decoded, exact); diff != "" {
			t.Fatalf("decoded:\n%s", diff)
		}
	})
}

func TestCloneSharesNothing(t *testing.T) {
	s := valid()
	s.Releasing[0].Owner.Name = "x"
	c := s.Clone()
	if diff := cmp.Diff(s, c, exact); diff != "" {
		t.Fatalf("clone differs:\n%s", diff)
	}
	shared := map[uintptr]string{}
	walkState(s, func(v reflect.Value, path, _ string) {
		if (v.Kind() == reflect.Slice || v.Kind() == reflect.Pointer) && !v.IsNil() {
			shared[v.Pointer()] = path
		}
	})
	if len(shared) < 15 {
		t.Fatalf("only %d lists and pointers were found in the fixture", len(shared))
	}
	walkState(c, func(v reflect.Value, path, _ string) {
		if v.Kind() == reflect.Map {
			t.Errorf("%s is a map: its order is not canonical", path)
		}
		if (v.Kind() == reflect.Slice || v.Kind() == reflect.Pointer) && !v.IsNil() && shared[v.Pointer()] != "" {
			t.Errorf("%s is shared with the original", path)
		}
	})
}

// The fixture must have something in every field, or the tests that walk it miss some.
func TestFixtureIsFull(t *testing.T) {
	zero := map[string]bool{}
	full := map[string]bool{}
	walkState(valid(), func(v reflect.Value, _, step string) {
		if v.IsZero() {
			zero[step] = true
		} else {
			full[step] = true
		}
	})
	for step := range zero {
		if !full[step] {
			t.Errorf("%s is empty everywhere in the fixture", step)
		}
	}
}

// mutate gives a copy of valid() for every leaf that change accepts, changed there, with the leaf's path.
func mutate(t *testing.T, change func(leaf reflect.Value) bool, check func(path string, s *desired.State)) {
	t.Helper()
	leaves := 0
	walkState(valid(), func(_ reflect.Value, wanted, _ string) {
		s := valid()
		changed := false
		walkState(s, func(v reflect.Value, path, _ string) {
			if path == wanted && change(v) {
				changed = true
			}
		})
		if changed {
			leaves++
			check(wanted, s)
		}
	})
	if leaves < 10 {
		t.Errorf("only %d leaves were changed", leaves)
	}
}

// No value may end a line, a word or a quoted string in haproxy.cfg, a map, keepalived.conf, an nft script or a
// runtime command, in whatever field of the State it comes.
func TestValidateRefusesDangerousTextInEveryField(t *testing.T) {
	for _, dangerous := range []string{" ", "\t", "\n", "\r", "\x00", "\x7f", `"`, "'", "`", "|", "#", ";", "\\", "$", "{", "}", "<", "!", "*", "é", "\u2028", "\xff"} {
		for place, put := range map[string]func(text string) string{
			"before": func(text string) string { return dangerous + text },
			"inside": func(text string) string { return text[:len(text)/2] + dangerous + text[len(text)/2:] },
			"behind": func(text string) string { return text + dangerous },
		} {
			mutate(t, func(leaf reflect.Value) bool {
				if leaf.Kind() != reflect.String {
					return false
				}
				leaf.SetString(put(leaf.String()))
				return true
			}, func(path string, s *desired.State) {
				if dangerous == " " && place == "inside" && strings.HasSuffix(path, ".By") {
					return // a description, for people alone
				}
				if s.Validate() == nil {
					t.Errorf("%q is allowed %s the text of %s", dangerous, place, path)
				}
			})
		}
	}
}

func TestValidateRefusesBadAddressesInEveryField(t *testing.T) {
	for _, bad := range []netip.Addr{{}, addr("0.0.0.0"), addr("::"), addr("127.0.0.1"), addr("::1"), addr("224.0.0.18"), addr("ff02::12"), addr("::ffff:10.0.0.1"), addr("2001:db8::1%eth0"), addr("255.255.255.255"), addr("169.254.1.1")} {
		mutate(t, func(leaf reflect.Value) bool {
			switch leaf.Interface().(type) {
			case netip.Addr:
				leaf.Set(reflect.ValueOf(bad))
				return true
			case netip.AddrPort:
				leaf.Set(reflect.ValueOf(netip.AddrPortFrom(bad, 80)))
				return true
			}
			return false
		}, func(path string, s *desired.State) {
			if s.Validate() == nil {
				t.Errorf("%s is allowed in %s", bad, path)
			}
		})
	}
}

func TestValidateRefusesNumbersOutOfRangeInEveryField(t *testing.T) {
	for _, number := range []int64{-1, 1 << 40} {
		mutate(t, func(leaf reflect.Value) bool {
			if leaf.CanInt() {
				leaf.SetInt(number)
			}
			return leaf.CanInt()
		}, func(path string, s *desired.State) {
			if s.Validate() == nil {
				t.Errorf("%d is allowed in %s", number, path)
			}
		})
	}
}
