package neighbor

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// question is one frame that was sent, and when.
type question struct {
	at      time.Duration
	address netip.Addr
}

// street is a link in memory. Its machines answer what they are asked by answer: how late, and with which MACs.
type street struct {
	answer func(q question) []reply
	asked  []question
	opened []bool // IPv6?
	done   chan struct{}
}

type reply struct {
	late time.Duration
	of   netip.Addr
	mac  net.HardwareAddr
}

// open is for one socket at a time.
func (s *street) open(_ Link, ipv6 bool) (socket, error) {
	ours, theirs := net.Pipe()
	s.opened = append(s.opened, ipv6)
	s.done = make(chan struct{})
	begun := time.Now()
	go func() {
		defer close(s.done)
		frame := make([]byte, 2048)
		for {
			n, err := theirs.Read(frame)
			if err != nil {
				return
			}
			q := question{time.Since(begun), targetOf(frame[:n])}
			s.asked = append(s.asked, q)
			for _, r := range s.answer(q) {
				time.AfterFunc(r.late, func() { _, _ = theirs.Write(arpAnswer(r)) }) // nobody may be listening any more
			}
		}
	}()
	return ours, nil
}

func targetOf(frame []byte) netip.Addr {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		return netip.AddrFrom4([4]byte(arp.DstProtAddress))
	}
	return netip.AddrFrom16([16]byte(packet.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation).TargetAddress))
}

func arpAnswer(r reply) []byte {
	frame := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(frame, gopacket.SerializeOptions{FixLengths: true},
		&layers.Ethernet{SrcMAC: r.mac, DstMAC: r.mac, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPReply,
			SourceHwAddress: r.mac, SourceProtAddress: r.of.AsSlice(), DstHwAddress: r.mac, DstProtAddress: make([]byte, 4)})
	if err != nil {
		panic(err)
	}
	return frame.Bytes()
}

func silent(question) []reply { return nil }

func us() Link { return Link{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}} }

func mac(last int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(last >> 8), byte(last)} }

func many(count int) []netip.Addr {
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.0")}
	for len(addresses) < count {
		addresses = append(addresses, addresses[len(addresses)-1].Next())
	}
	return addresses
}

// One address is asked for at 0, 150 and 300 ms, and an answer after 499 ms counts.
func TestSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		address := many(1)[0]
		s := &street{answer: func(q question) []reply {
			return []reply{{499*time.Millisecond - q.at, address, mac(2)}}
		}}
		begun := time.Now()
		answers, err := ask(t.Context(), s.open, us(), many(1), usual())
		if took := time.Since(begun); err != nil || took != 500*time.Millisecond+lastLook || usual().Takes(1) != 500*time.Millisecond {
			t.Errorf("%v after %v", err, took)
		}
		expect(t, answers, map[string][]string{"10.0.0.0": {"02:00:00:00:00:02"}})
		<-s.done
		want := []question{{0, address}, {150 * time.Millisecond, address}, {300 * time.Millisecond, address}}
		if !slices.Equal(s.asked, want) {
			t.Errorf("asked %v, want %v", s.asked, want)
		}
	})
}

// Many are asked in bursts, each of them three times, and each gets its time to answer the last one.
func TestManyArePaced(t *testing.T) {
	for _, patience := range []Patience{usual(), {Times: 3, Pause: 20 * time.Millisecond, Listen: 100 * time.Millisecond}} {
		synctest.Test(t, func(t *testing.T) { paced(t, patience) })
	}
}

func paced(t *testing.T, patience Patience) {
	s := &street{answer: silent}
	begun := time.Now()
	answers, err := ask(t.Context(), s.open, us(), many(1024), patience)
	took := time.Since(begun)
	if err != nil || len(answers) != 0 || took != patience.Takes(1024)+lastLook || took > 600*time.Millisecond {
		t.Errorf("%v, %v after %v", answers, err, took)
	}
	<-s.done
	times, at := map[netip.Addr]int{}, map[time.Duration]int{}
	for _, q := range s.asked {
		times[q.address]++
		at[q.at]++
	}
	for _, address := range many(1024) {
		if times[address] != 3 {
			t.Errorf("%s was asked for %d times", address, times[address])
		}
	}
	moments := slices.Sorted(maps.Keys(at))
	for n, moment := range moments {
		if at[moment] > burst || n > 0 && moment-moments[n-1] < gap {
			t.Errorf("%d questions at %v, too many or too soon", at[moment], moment)
		}
	}
	if last := moments[len(moments)-1]; took-last < patience.Listen {
		t.Errorf("the last question at %v had %v to be answered", last, took-last)
	}
}

// Everybody who answers is told once, in order; what was not asked for is not; nobody fills the answer with inventions.
func TestClaimsAreMerged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked, other := many(3), netip.MustParseAddr("10.9.9.9")
		s := &street{answer: func(q question) []reply {
			replies := []reply{{time.Millisecond, other, mac(9)}}
			switch q.address {
			case asked[0]:
				replies = append(replies, reply{2 * time.Millisecond, q.address, mac(3)}, reply{3 * time.Millisecond, q.address, mac(2)})
			case asked[1]:
				for n := range 1000 {
					replies = append(replies, reply{time.Millisecond, q.address, mac(n)})
				}
			}
			return replies
		}}
		answers, err := ask(t.Context(), s.open, us(), asked, usual())
		if err != nil {
			t.Fatal(err)
		}
		if len(answers[asked[1]]) != mostClaims {
			t.Errorf("%d machines for one address", len(answers[asked[1]]))
		}
		delete(answers, asked[1])
		expect(t, answers, map[string][]string{"10.0.0.0": {"02:00:00:00:00:02", "02:00:00:00:00:03"}})
		<-s.done
	})
}

func TestOneSocketForEachFamily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			addresses []netip.Addr
			want      []bool
		}{
			{nil, nil}, {many(3), []bool{false}}, {[]netip.Addr{netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}, []bool{true}},
		} {
			s := &street{answer: silent}
			if _, err := ask(t.Context(), s.open, us(), test.addresses, usual()); err != nil || !slices.Equal(s.opened, test.want) {
				t.Errorf("%v: sockets %v, %v, want %v", test.addresses, s.opened, err, test.want)
			}
		}
	})
}

// "Nobody" is never said of an address that was not asked for as often as it should.
func TestFailures(t *testing.T) {
	late := errors.New("it took too long")
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		open func(Link, bool) (socket, error)
		want error
		took time.Duration
	}{
		"no socket":         {func(Link, bool) (socket, error) { return nil, broken }, broken, 0},
		"it cannot send":    {func(Link, bool) (socket, error) { return faulty{silence(), broken, nil}, nil }, broken, lastLook},
		"it cannot hear":    {func(Link, bool) (socket, error) { return faulty{silence(), nil, broken}, nil }, broken, 0},
		"it takes no frame": {func(Link, bool) (socket, error) { return silence(), nil }, late, 400 * time.Millisecond},
		"no time is left":   {(&street{answer: silent}).open, late, 400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeoutCause(t.Context(), 400*time.Millisecond, late)
				defer cancel()
				begun := time.Now()
				answers, err := ask(ctx, test.open, us(), many(2), usual())
				if !errors.Is(err, test.want) || answers != nil {
					t.Errorf("got %v, %v", answers, err)
				}
				if took := time.Since(begun); took > test.took+lastLook {
					t.Errorf("told after %v", took)
				}
			})
		})
	}
}

// silence is a socket that neither gives nor takes a frame.
func silence() socket {
	ours, _ := net.Pipe()
	return ours
}

type faulty struct {
	socket
	write, read error
}

func (f faulty) Write(b []byte) (int, error) {
	if f.write == nil {
		return len(b), nil
	}
	return 0, f.write
}

func (f faulty) Read(b []byte) (int, error) {
	if f.read == nil {
		return f.socket.Read(b)
	}
	return 0, f.read
}

// An agent that is told to end does not finish its questions first.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(100*time.Millisecond, cancel)
		begun := time.Now()
		_, err := ask(ctx, (&street{answer: silent}).open, us(), many(1), usual())
		if took := time.Since(begun); !errors.Is(err, context.Canceled) || took > 100*time.Millisecond+lastLook {
			t.Errorf("%v after %v", err, took)
		}
	})
}
