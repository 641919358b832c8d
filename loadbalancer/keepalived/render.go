package keepalived

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// Local is what the gateway knows about itself and State does not tell.
type Local struct {
	Gateway    string // its name in State.Gateways
	ConfigFile string // where the rendered configuration is installed
	AliveFile  string // track file: 100 while HAProxy answers, else 0
	ReadyFile  string // track file: 50 while the State is confirmed current, else 0; 25 less while the gateway is drained
	Version    string // of keepalived, "2.2.7"
}

// DebianLocal gives the paths of a Debian gateway.
func DebianLocal(gateway string) Local {
	return Local{
		Gateway:    gateway,
		ConfigFile: "/etc/keepalived/keepalived.conf",
		AliveFile:  "/run/gatewayctl/track/alive",
		ReadyFile:  "/run/gatewayctl/track/ready",
		Version:    "2.2.7",
	}
}

// What the agent writes into the track files, by rename. keepalived multiplies it with the weight (1) and adds it to the
// priority of every instance.
const (
	Alive = "100\n" // AliveFile: HAProxy answers
	Ready = "50\n"  // ReadyFile: the State is confirmed current
	Not   = "0\n"   // either file: it is not so; a file that is absent counts the same

	ReadyDrained = "25\n"  // ReadyFile instead of Ready: confirmed current, and asked to hand its VIPs to the others
	NotDrained   = "-25\n" // ReadyFile instead of Not: drained, and not confirmed current

	// Leave makes every instance FAULT: it says goodbye (priority 0) and the next heir takes over after a sixteenth of the
	// advert interval (skew time), instead of after three adverts, which is what a sunken priority takes. In FAULT a gateway
	// takes nothing, even when it is the last: write Not as soon as its VIPs are gone.
	Leave = "-254\n"
)

//go:embed keepalived.conf.tmpl
var configText string

var configTemplate = template.Must(template.New("keepalived.conf").Parse(configText))

// The priorities of one instance. AliveFile adds 100, ReadyFile 50 and a drain takes 25, so a base must stay below 105 (254 is
// VRRP's highest), and two bases less than 25 apart: a drain then outweighs the order of heirs, being ready outweighs a drain
// (a stale gateway takes nothing from a fresh one that is drained), and being alive outweighs all three: a drained gateway
// still serves when nobody else does.
// The distance of 10 keeps two heirs from timing out in the same moment (skew time, RFC 9568 section 6.1).
const (
	highestBase = 100
	widestStep  = 10
	widestSpan  = 24
)

type config struct {
	Local
	Instances []instance
}

type instance struct {
	Name, Heirs, Interface, AdvertInterval string
	RouterID, Priority                     int
	PreemptDelay                           int // seconds; 0: none
	Source                                 netip.Addr
	Peers                                  []string // addresses with the hop limit they must have left
	Anchor                                 netip.Prefix
	VIPs                                   []vip
}

type vip struct {
	Prefix    netip.Prefix
	Interface string
}

// Render gives the keepalived.conf of gateway l.Gateway. It is an error when State does not name that gateway, or names
// something that keepalived could not use: all of it is reported together.
func Render(s *desired.State, l Local) ([]byte, error) {
	if _, err := s.Gateway(l.Gateway); err != nil {
		return nil, fmt.Errorf("rendering keepalived.conf: %w", err)
	}
	gateways := make(map[string]desired.Gateway, len(s.Gateways))
	for _, g := range s.Gateways {
		gateways[g.Name] = g
	}
	c := config{Local: l}
	faults := []error{quotable(l.AliveFile), quotable(l.ReadyFile)}
	for _, i := range s.Instances {
		in, err := newInstance(s, gateways, i, l.Gateway)
		faults = append(faults, err)
		in.RouterID = i.RouterID // also when it failed: its VIPs are not at fault
		c.Instances = append(c.Instances, in)
	}
	faults = append(faults, addVIPs(&c, s.VIPs))
	if err := errors.Join(faults...); err != nil {
		return nil, fmt.Errorf("rendering keepalived.conf: %w", err)
	}
	var out bytes.Buffer
	if err := configTemplate.Execute(&out, c); err != nil {
		return nil, fmt.Errorf("rendering keepalived.conf: %w", err)
	}
	return out.Bytes(), nil
}

func newInstance(s *desired.State, gateways map[string]desired.Gateway, i desired.Instance, self string) (instance, error) {
	g := gateways[self]
	position := slices.Index(i.Gateways, self)
	if position < 0 {
		return instance{}, fmt.Errorf("instance %d does not name gateway %s", i.RouterID, self)
	}
	priority, err := base(position, len(i.Gateways))
	if err != nil {
		return instance{}, fmt.Errorf("instance %d: %w", i.RouterID, err)
	}
	interval, err := advertInterval(s.VRRP.AdvertIntervalMillis)
	if err != nil {
		return instance{}, err
	}
	var faults []error
	peers := make([]string, 0, len(i.Gateways))
	for _, name := range i.Gateways {
		peer := gateways[name]
		switch {
		case name == self:
		case peer.VRRPAddress.Is4() != g.VRRPAddress.Is4() || !peer.VRRPAddress.IsValid():
			faults = append(faults, fmt.Errorf("instance %d: VRRP address %s of gateway %s is not of the family of %s",
				i.RouterID, peer.VRRPAddress, name, g.VRRPAddress))
		default:
			peers = append(peers, peer.VRRPAddress.String()+" min_ttl 255 max_ttl 255")
		}
	}
	slices.Sort(peers)
	if len(i.Gateways) == 1 {
		// Without a peer keepalived falls back to multicast and -t complains. A peer on loopback keeps the
		// instance unicast, and nothing leaves the machine: the socket is bound to Interface.
		peers = []string{loopback(g.VRRPAddress).String()}
	}
	// An heir has no delay: keepalived would count it too when the holder's priority sinks, because its HAProxy is dead or it is drained.
	delay := 0
	if position == 0 && len(i.Gateways) > 1 {
		delay = s.VRRP.PreemptDelaySeconds
	}
	return instance{
		Name:           "instance_" + strconv.Itoa(i.RouterID),
		Heirs:          strings.Join(i.Gateways, ", then "),
		Interface:      g.Interface,
		AdvertInterval: interval,
		PreemptDelay:   delay,
		RouterID:       i.RouterID,
		Priority:       priority,
		Source:         g.VRRPAddress,
		Peers:          peers,
		Anchor:         host(Anchor(i.RouterID, g.VRRPAddress.Is4())),
	}, errors.Join(append(faults, wordsOf(self, g.Interface, i.Gateways))...)
}

// addVIPs gives every VIP to its instance.
func addVIPs(c *config, vips []desired.VIP) error {
	var faults []error
	for _, v := range vips {
		at := slices.IndexFunc(c.Instances, func(i instance) bool { return i.RouterID == v.RouterID })
		if at < 0 {
			faults = append(faults, fmt.Errorf("VIP %s: State has no instance with router ID %d", v.Address, v.RouterID))
			continue
		}
		on := v.Interface
		if on == "" {
			on = c.Instances[at].Interface
		}
		if err := word(on); err != nil {
			faults = append(faults, fmt.Errorf("VIP %s: interface: %w", v.Address, err))
		}
		c.Instances[at].VIPs = append(c.Instances[at].VIPs, vip{Prefix: host(v.Address), Interface: on})
	}
	return errors.Join(faults...)
}

// base is the priority of the gateway at a position among n heirs.
func base(position, n int) (int, error) {
	if n == 1 {
		return highestBase, nil
	}
	step := min(widestStep, widestSpan/(n-1))
	if step == 0 {
		return 0, fmt.Errorf("%d gateways are more than the %d that VRRP's priorities can order", n, widestSpan+1)
	}
	return highestBase - position*step, nil
}

// advertInterval turns milliseconds into seconds with decimals, as advert_int wants them.
func advertInterval(millis int) (string, error) {
	if millis < 10 || millis > 40950 || millis%10 != 0 {
		return "", fmt.Errorf("advert interval of %d ms: VRRPv3 counts 10 to 40950 ms in steps of 10", millis)
	}
	return strconv.FormatFloat(float64(millis)/1000, 'f', -1, 64), nil
}

// Anchor is the one address that an instance advertises. It is derived from the router ID alone, so that it never changes:
// gateways whose virtual_ipaddress differ refuse each other's adverts. Link-local, so that nobody routes it.
func Anchor(routerID int, ipv4 bool) netip.Addr {
	if ipv4 {
		return netip.AddrFrom4([4]byte{169, 254, byte(routerID), 1})
	}
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: 'V', 9: 'R', 10: 'R', 11: 'P', 15: byte(routerID)})
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func loopback(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

var wordPattern = regexp.MustCompile(`^[A-Za-z0-9_.@+-]+$`)

// word refuses what would not stay one word of keepalived.conf: blanks, quotes, braces, comments, $VARIABLES. Validate
// refuses it too; here it is what stands between a State and a notify script that runs as root.
func word(s string) error {
	if !wordPattern.MatchString(s) {
		return fmt.Errorf("%q: only letters, digits and _.@+- may stand in keepalived.conf", s)
	}
	return nil
}

func wordsOf(gateway, iface string, others []string) error {
	faults := []error{word(gateway), word(iface)}
	for _, o := range others {
		faults = append(faults, word(o))
	}
	return errors.Join(faults...)
}

func quotable(path string) error {
	if !strings.HasPrefix(path, "/") || strings.ContainsAny(path, "\"\\\n$") {
		return fmt.Errorf("track file %q must be an absolute path without quotes, backslashes and $", path)
	}
	return nil
}
