package neighbor

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// segment is a bridge in a network namespace, and hosts of their own namespaces on it.
type segment struct {
	t      *testing.T
	prefix string
}

func newSegment(t *testing.T) *segment {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("this test makes network namespaces and CI must run it as root")
		}
		t.Skip("this test makes network namespaces, which needs root")
	}
	s := &segment{t: t, prefix: "nb" + rand.Text()[:8]}
	s.namespace("br")
	s.ip("br", "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
	s.ip("br", "link", "set", "br0", "up")
	return s
}

func (s *segment) namespace(name string) {
	s.t.Helper()
	run(s.t, "", "ip", "netns", "add", s.prefix+name)
	s.t.Cleanup(func() { run(s.t, "", "ip", "netns", "delete", s.prefix+name) })
	s.ip(name, "link", "set", "lo", "up")
}

func run(t *testing.T, input string, argv ...string) []byte {
	t.Helper()
	command := exec.Command(argv[0], argv[1:]...)
	command.Stdin = strings.NewReader(input)
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, stderr.String())
	}
	return out
}

func (s *segment) ip(host string, argv ...string) {
	s.t.Helper()
	run(s.t, "", append([]string{"ip", "-n", s.prefix + host}, argv...)...)
}

// host is a machine with eth0 on the segment and these addresses with prefix lengths, usable at once.
func (s *segment) host(name, mac string, addresses ...string) {
	s.t.Helper()
	s.namespace(name)
	s.plug(name, "eth0", mac)
	for _, address := range addresses {
		s.ip(name, "address", "add", address, "dev", "eth0", "nodad")
	}
}

// plug adds a network card to a host. Its link-local address is usable at once, too.
func (s *segment) plug(host, card, mac string) {
	s.t.Helper()
	port := host + "-" + card
	s.ip(host, "link", "add", card, "address", mac, "type", "veth", "peer", "name", port, "netns", s.prefix+"br")
	s.sysctl(host, "net/ipv6/conf/"+card+"/accept_dad", "0")
	s.sysctl(host, "net/ipv6/conf/all/accept_dad", "0")
	s.ip("br", "link", "set", port, "master", "br0", "up")
	s.ip(host, "link", "set", card, "up")
}

func (s *segment) sysctl(host, key, value string) {
	s.t.Helper()
	run(s.t, value, "ip", "netns", "exec", s.prefix+host, "tee", "/proc/sys/"+key)
}

// link is a host's link as the host itself reads it.
func (s *segment) link(host, name string) Link {
	s.t.Helper()
	links, err := ReadLinks(run(s.t, "", append([]string{"ip", "netns", "exec", s.prefix + host}, AddressArgv()...)...))
	if err != nil {
		s.t.Fatal(err)
	}
	at := slices.IndexFunc(links, func(l Link) bool { return l.Name == name })
	if at < 0 {
		s.t.Fatalf("%s has no %s but %+v", host, name, links)
	}
	return links[at]
}

// openOn opens sockets inside a host. They belong to its namespace for ever, whoever uses them.
func (s *segment) openOn(host string) func(Link, bool) (socket, error) {
	return func(l Link, ipv6 bool) (socket, error) {
		type opened struct {
			socket socket
			err    error
		}
		result := make(chan opened)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
			file, err := os.Open("/run/netns/" + s.prefix + host)
			if err == nil {
				defer file.Close()
				err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
			}
			if err != nil {
				result <- opened{nil, err}
				return
			}
			socket, err := open(l, ipv6)
			result <- opened{socket, err}
		}()
		o := <-result
		return o.socket, o.err
	}
}

// usual is how an agent asks.
func usual() Patience {
	return Patience{Times: 3, Pause: 150 * time.Millisecond, Listen: 200 * time.Millisecond}
}

func (s *segment) ask(ctx context.Context, host string, addresses ...string) Answers {
	s.t.Helper()
	var wanted []netip.Addr
	for _, a := range addresses {
		wanted = append(wanted, netip.MustParseAddr(a))
	}
	answers, err := ask(ctx, s.openOn(host), s.link(host, "eth0"), wanted, usual())
	if err != nil {
		s.t.Fatal(err)
	}
	return answers
}

const (
	own      = "02:00:00:00:00:01"
	ownToo   = "02:00:00:00:00:11"
	stranger = "02:00:00:00:00:02"
	twin     = "02:00:00:00:00:03"
)

func expect(t *testing.T, got Answers, want map[string][]string) {
	t.Helper()
	told := map[string][]string{}
	for address, macs := range got {
		told[address.String()] = macs
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}

func TestWhoAnswers(t *testing.T) {
	s := newSegment(t)
	s.host("us", own, "192.0.2.1/24", "2001:db8::1/64", "192.0.2.60/32", "2001:db8::60/128", "192.0.2.61/32", "2001:db8::61/128")
	s.host("stranger", stranger, "192.0.2.2/24", "2001:db8::2/64", "192.0.2.50/32", "2001:db8::50/128", "192.0.2.61/32", "2001:db8::61/128")
	s.host("twin", twin, "192.0.2.3/24", "2001:db8::3/64", "192.0.2.50/32", "2001:db8::50/128")
	s.ip("twin", "address", "add", "192.0.2.70/32", "dev", "lo") // as kube-proxy in IPVS mode: on a link that leads nowhere

	begun := time.Now()
	got := s.ask(t.Context(), "us",
		"192.0.2.2", "2001:db8::2", // one machine
		"192.0.2.50", "2001:db8::50", // two
		"192.0.2.60", "2001:db8::60", // only ourselves
		"192.0.2.61", "2001:db8::61", // ourselves and another one
		"192.0.2.70",                 // behind the link
		"192.0.2.99", "2001:db8::99", // nobody
	)
	t.Logf("eleven addresses in %v", time.Since(begun))
	expect(t, got, map[string][]string{
		"192.0.2.2": {stranger}, "2001:db8::2": {stranger},
		"192.0.2.50": {stranger, twin}, "2001:db8::50": {stranger, twin},
		"192.0.2.61": {stranger}, "2001:db8::61": {stranger},
		"192.0.2.70": {twin},
	})
}

// Two cards of ours on one segment hear each other; the caller, who knows both, tells them from others.
func TestOwnSecondLinkAnswers(t *testing.T) {
	s := newSegment(t)
	s.host("us", own, "192.0.2.1/24")
	s.plug("us", "eth1", ownToo)
	expect(t, s.ask(t.Context(), "us", "192.0.2.1"), map[string][]string{"192.0.2.1": {ownToo}})
}

// Without a link-local address the answers come to everybody.
func TestWithoutLinkLocalAddress(t *testing.T) {
	s := newSegment(t)
	s.host("stranger", stranger, "2001:db8::2/64")
	s.namespace("us")
	s.sysctl("us", "net/ipv6/conf/default/addr_gen_mode", "1")
	s.plug("us", "eth0", own)
	s.ip("us", "address", "add", "2001:db8::1/64", "dev", "eth0", "nodad")
	if l := s.link("us", "eth0"); l.LinkLocal.IsValid() {
		t.Fatalf("it has one: %+v", l)
	}
	expect(t, s.ask(t.Context(), "us", "2001:db8::2", "2001:db8::99"), map[string][]string{"2001:db8::2": {stranger}})
}

// A machine that is just finding out whether it may have an address is not told that it may not, and nobody's cache learns
// that we have it.
func TestAskingChangesNothing(t *testing.T) {
	s := newSegment(t)
	s.host("us", own, "192.0.2.1/24", "2001:db8::1/64")
	s.host("newcomer", stranger, "192.0.2.2/24", "2001:db8::2/64")
	s.sysctl("newcomer", "net/ipv6/conf/all/accept_dad", "1")
	s.sysctl("newcomer", "net/ipv6/conf/eth0/accept_dad", "1")
	s.sysctl("newcomer", "net/ipv6/conf/eth0/dad_transmits", "3")
	s.ip("newcomer", "address", "add", "2001:db8::50/128", "dev", "eth0")
	s.ask(t.Context(), "us", "2001:db8::50", "192.0.2.60")
	state := func() string {
		return string(run(t, "", "ip", "-n", s.prefix+"newcomer", "address", "show", "to", "2001:db8::50"))
	}
	tick, deadline := time.NewTicker(10*time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for strings.Contains(state(), "tentative") && !strings.Contains(state(), "dadfailed") {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still undecided: %s", state())
		}
	}
	if strings.Contains(state(), "dadfailed") {
		t.Errorf("the newcomer gave its address up: %s", state())
	}
	known := string(run(t, "", "ip", "-n", s.prefix+"newcomer", "neighbor", "show"))
	if strings.Contains(known, "192.0.2.60") || strings.Contains(known, "2001:db8::50") {
		t.Errorf("the newcomer believes: %s", known)
	}
}

func TestMany(t *testing.T) {
	s := newSegment(t)
	s.host("us", own, "10.0.0.1/16", "2001:db8::ffff/64")
	s.host("stranger", stranger, "10.0.0.2/16")
	var script strings.Builder
	for n := range 1024 {
		fmt.Fprintf(&script, "address add 10.0.%d.%d/32 dev eth0\n", 1+n/256, n%256)
		fmt.Fprintf(&script, "address add 2001:db8::1:%x/128 dev eth0 nodad\n", n)
	}
	run(t, script.String(), "ip", "-n", s.prefix+"stranger", "-batch", "-")
	for _, count := range []int{1, 100, 1000, 1024} {
		for family, form := range map[string]func(n int) string{
			"IPv4": func(n int) string { return fmt.Sprintf("10.0.%d.%d", 1+n/256, n%256) },
			"IPv6": func(n int) string { return fmt.Sprintf("2001:db8::1:%x", n) },
		} {
			var addresses []string
			for n := range count {
				addresses = append(addresses, form(n))
			}
			begun := time.Now()
			got := s.ask(t.Context(), "us", addresses...)
			took := time.Since(begun)
			t.Logf("%d addresses of %s: %v", count, family, took)
			if len(got) != count {
				t.Errorf("%d of %d addresses answered", len(got), count)
			}
			if took > 3*time.Second { // broken, not slow today
				t.Errorf("%d addresses took %v", count, took)
			}
		}
	}
}

// Half an answer would be taken for "nobody is there".
func TestLinkThatGoesDown(t *testing.T) {
	s := newSegment(t)
	s.host("us", own, "192.0.2.1/24", "2001:db8::1/64")
	link := s.link("us", "eth0")
	enduring := Patience{Times: 100, Pause: 100 * time.Millisecond}
	for _, address := range []string{"192.0.2.99", "2001:db8::99"} {
		s.ip("us", "link", "set", "eth0", "up")
		time.AfterFunc(100*time.Millisecond, func() {
			if err := exec.Command("ip", "-n", s.prefix+"us", "link", "set", "eth0", "down").Run(); err != nil {
				t.Error(err)
			}
		})
		answers, err := ask(t.Context(), s.openOn("us"), link, []netip.Addr{netip.MustParseAddr(address)}, enduring)
		if err == nil || !strings.Contains(err.Error(), "eth0") {
			t.Errorf("%s: got %v, %v", address, answers, err)
		}
	}
	link.Index = 4711
	if _, err := ask(t.Context(), s.openOn("us"), link, []netip.Addr{netip.MustParseAddr("192.0.2.99")}, usual()); err == nil {
		t.Error("a link that is gone was asked")
	}
}
