package nftables

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// from says who answers a connection from one of the client machine's addresses.
func (w wire) from(t *testing.T, source, target string) string {
	t.Helper()
	c, err := w.dialFrom(t, source, 0, target)
	if err != nil {
		return outcome(err)
	}
	return readGreeting(c)
}

func (w wire) dialFrom(t *testing.T, source string, port int, target string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source), Port: port}}
	c, err := inside(w.client, func() (net.Conn, error) { return dialer.DialContext(ctx, "tcp", target) })
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

// Who may connect reaches HAProxy; who may not is refused at once, by no daemon of the gateway either.
func TestFrontDoorKnowsSources(t *testing.T) {
	w := newWire(t)
	for _, port := range []string{"22", "53", "80", "81"} {
		listen(t, w.gateway, "wildcard", "tcp", ":"+port, false)
	}
	w.haproxy(t)
	w.load(t, ranged())
	const refused = "refused"
	for _, test := range []struct {
		source, vip, port, want string
	}{
		{client4, vip4, "80", "services"}, {peer4, vip4, "80", refused},
		{client6, vip6, "80", "services"}, {peer6, vip6, "80", refused},
		{client4, vip4, "22", "services"}, {peer4, vip4, "22", "services"},
		{client6, vip6, "22", refused}, {peer6, vip6, "22", refused}, // only IPv4 ranges
		{client4, vip4, "53", refused}, {peer4, vip4, "53", "services"},
		{client6, vip6, "53", refused}, {peer6, vip6, "53", "services"},
		{client4, vip4, "81", refused}, {peer4, vip4, "81", refused}, // all of IPv4 denied
		{client6, vip6, "81", refused}, {peer6, vip6, "81", "services"},
		{client4, vip4, "84", "services"}, {peer6, vip6, "84", "services"},
		{client4, vip4, "82", refused}, {client6, vip6, "82", refused}, // nobody serves it
	} {
		target, want := door(test.vip, test.port), test.want
		if want != refused {
			want += " " + target
		}
		begun := time.Now()
		if got := w.from(t, test.source, target); got != want {
			t.Errorf("%s to %s: %q, want %q", test.source, target, got, want)
		}
		if took := time.Since(begun); took > time.Second/2 {
			t.Errorf("%s to %s: answered after %v only", test.source, target, took)
		}
	}
}

// A range that is narrowed ends no connection, and lets none begin, not even one from the port of a connection that ended
// just now, which meets its socket in TIME_WAIT.
func TestNarrowedSources(t *testing.T) {
	w := newWire(t)
	for _, port := range []string{"80", "53"} {
		listen(t, w.gateway, "wildcard", "tcp", ":"+port, false)
	}
	w.haproxy(t)
	for _, c := range []struct{ client, vip, port string }{{peer4, vip4, "80"}, {peer6, vip6, "80"}, {client4, vip4, "53"}, {client6, vip6, "53"}} {
		t.Run(fmt.Sprintf("%s to %s", c.client, door(c.vip, c.port)), func(t *testing.T) {
			w.load(t, pair())
			target := door(c.vip, c.port)
			if c.vip == vip6 && c.port == "53" {
				s := pair()
				s.LoadBalancers = ranged().LoadBalancers[:3]
				s.LoadBalancers[2].DenySources = nil
				w.load(t, s)
			}
			kept, err := w.dialFrom(t, c.client, 0, target)
			if err != nil {
				t.Fatal(err)
			}
			if got := readGreeting(kept); got != "services "+target {
				t.Fatalf("%s answered %q", target, got)
			}
			const port = 41000
			ended, err := w.dialFrom(t, c.client, port, target)
			if err != nil {
				t.Fatal(err)
			}
			closeFirst(t, ended)
			w.load(t, ranged())
			if _, err := fmt.Fprintln(kept, "still here"); err != nil {
				t.Error(err)
			}
			if got := readGreeting(kept); got != "still here" {
				t.Errorf("an established connection read %q", got)
			}
			if got := w.from(t, c.client, target); got != "refused" {
				t.Errorf("a new connection: %q, want it refused", got)
			}
			if again, err := w.dialFrom(t, c.client, port, target); outcome(err) != "refused" {
				answer := ""
				if err == nil {
					answer = readGreeting(again)
				}
				t.Errorf("a connection from a port in TIME_WAIT: %v %q, want it refused", err, answer)
			}
		})
	}
}

// closeFirst lets the gateway end a connection first, so that its socket stays there in TIME_WAIT.
func closeFirst(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := fmt.Fprintln(c, "close"); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 256)
	for {
		if _, err := c.Read(buffer); err != nil {
			break
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Any State's prefixes make a table that nft takes and that reads back as wanted, whatever overlaps.
func TestOverlappingSourcesAreOneTable(t *testing.T) {
	w := newWire(t)
	s := ranged()
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		lb.AllowSources = append(lb.AllowSources, lb.DenySources...)
		lb.DenySources = append(lb.DenySources, ranged().LoadBalancers[(i+1)%len(s.LoadBalancers)].AllowSources...)
	}
	w.load(t, s)
	if d := read(t, w.gateway).Diff(want(t, s)); d != nil {
		t.Errorf("right after loading it differs:\n%s", strings.Join(d, "\n"))
	}
}

// What nft refuses is the line of an element: whose it is can be told.
func TestRefusedElementIsFound(t *testing.T) {
	w := newWire(t)
	good, err := Render(ranged(), DebianLocal("a"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(good), "\n")
	at := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, vip4+" . tcp . 80 . ") })
	for _, test := range []struct{ name, line, says string }{
		{"range overlaps", vip4 + " . tcp . 80 . 0.0.0.0/0,", "Could not process rule: File exists"},
		{"no port", vip4 + " . tcp . 99999 . 10.0.0.0/8,", "Service out of range"},
		{"syntax", vip4 + " . tcp . 80 . 10.0.0.0/8 9,", "syntax error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad := strings.Join(slices.Insert(slices.Clone(lines), at+1, test.line), "\n")
			argv := append([]string{"netns", "exec", w.gateway}, CheckArgv()...)
			command := exec.CommandContext(t.Context(), "ip", argv...)
			command.Stdin = strings.NewReader(bad)
			out, err := command.CombinedOutput()
			messages := ParseCheck(out)
			if err == nil || len(messages) == 0 || !strings.Contains(messages[0].Text, test.says) {
				t.Fatalf("%v, %+v; nft said:\n%s", err, messages, out)
			}
			// Of two that overlap nft names the one or the other.
			if vip, _ := Behind([]byte(bad), messages[0].Line); vip.String() != vip4 || messages[0].Line < at {
				t.Errorf("behind line %d is %s; nft said:\n%s", messages[0].Line, vip, out)
			}
		})
	}
	if vip, port := Behind(good, at+1); vip.String() != vip4 || port != (desired.Port{Protocol: desired.TCP, Port: 80}) {
		t.Errorf("behind %q is %s port %v", lines[at], vip, port)
	}
	if vip, port := Behind(good, 1); vip.IsValid() || port != (desired.Port{}) {
		t.Errorf("behind a comment is %s port %v", vip, port)
	}
}

// What stands behind a map's value is not part of the element, and protocols are told apart.
func TestBehindElementOfAMap(t *testing.T) {
	for line, want := range map[string]desired.Port{
		"\t\t\t192.0.2.10 . udp . 53 : 30053,":           {Protocol: desired.UDP, Port: 53},
		"\t\t\t192.0.2.10 . tcp . 53,":                   {Protocol: desired.TCP, Port: 53},
		"\t\t\t192.0.2.10 . udp . 53 . 7 : 10.0.2.1,":    {Protocol: desired.UDP, Port: 53},
		"\t\t\t192.0.2.10 . sctp . 9 : jump idle30,":     {Protocol: desired.SCTP, Port: 9},
		"\t\t\t192.0.2.10 . tcp . 80 . 198.51.100.0/24,": {Protocol: desired.TCP, Port: 80},
		"\t\t\t192.0.2.10,":                              {},
	} {
		if vip, port := Behind([]byte("table {\n"+line+"\n}\n"), 2); vip.String() != "192.0.2.10" || port != want {
			t.Errorf("%q is read as %v, %+v", line, vip, port)
		}
	}
}

// The port of an answer is a server's, which may be the number of another Service's door at the same address.
func TestBehindAnAnswerIsNoDoor(t *testing.T) {
	script := []byte("table {\n\tset answers4 {\n\t\t192.0.2.10 . udp . 30053,\n\t}\n\tset ownanswers4 {\n\t\t192.0.2.10 . udp . 53 . 10.1.0.1,\n" +
		"\t}\n\tmap own4 {\n\t\t192.0.2.10 . udp . 53 . 7 : 10.1.0.1 . 53,\n\t}\n}\n")
	for line, want := range map[int]desired.Port{3: {}, 6: {}, 9: {Protocol: desired.UDP, Port: 53}} {
		if vip, port := Behind(script, line); vip.String() != "192.0.2.10" || port != want {
			t.Errorf("line %d is read as %v, %+v", line, vip, port)
		}
	}
}
