package agent

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// flow is one of UDP or SCTP that conntrack keeps at its node.
type flow struct {
	protocol    desired.Protocol
	client, vip netip.AddrPort
	node        netip.AddrPort
	// ours is set when the node saw the VIP as its client, as our table has it (chain back).
	ours bool
}

// sweeper finds flows that conntrack still sends where our table would not. Nothing is remembered for the next agent.
type sweeper struct {
	// of and health are what was looked at last.
	of     *rendering
	health health
	// since says when each flow was found to have to end.
	since map[flow]time.Time
	again time.Time
}

// unfinished says whether there may be flows to end: also when the newest State has no more ports of UDP and SCTP.
func (s *sweeper) unfinished() bool {
	return len(s.since) > 0 || s.of != nil && servesDatagrams(s.of.revision.state)
}

// cull is one deletion: every flow of the protocol to a server, whatever is its zero value aside: its port, the VIP's port it came for, the
// client.
type cull struct {
	protocol desired.Protocol
	node     netip.Addr
	nodePort uint16
	vip      netip.AddrPort
	client   netip.Addr
}

// wider are the deletions that end a flow with all others to its server, and to that port of it.
func (f flow) wider() []cull {
	return []cull{{protocol: f.protocol, node: f.node.Addr()}, {protocol: f.protocol, node: f.node.Addr(), nodePort: f.node.Port()}}
}

// walks are the deletions that end the flows which are due, sorted. Each walks through all of conntrack's table, so a server all of whose
// flows have to end, as those of a node that died, is one walk, however many Services had flows there.
func walks(all []flow, due map[flow]cull) []cull {
	there, ending := map[cull]int{}, map[cull]int{}
	for _, f := range all {
		_, ends := due[f]
		for _, wide := range f.wider() {
			there[wide]++
			if ends {
				ending[wide]++
			}
		}
	}
	needed := map[cull]bool{}
	for f, c := range due {
		for _, wide := range slices.Backward(f.wider()) {
			if there[wide] == ending[wide] {
				c = wide
			}
		}
		needed[c] = true
	}
	return slices.SortedFunc(maps.Keys(needed), cull.compare)
}

func (c cull) compare(other cull) int {
	return cmp.Or(cmp.Compare(c.protocol, other.protocol), c.node.Compare(other.node), cmp.Compare(c.nodePort, other.nodePort),
		c.vip.Compare(other.vip), c.client.Compare(other.client))
}

// cullLimit is how long one look ends flows: who follows the nodes' health waits for it.
const cullLimit = time.Second

// sweep looks when the State or somebody's health has changed, and when a drain time is over. A dead node's flows end at once: the
// next datagram makes a new one; so do those of a port or a pod that is gone. The others end when connections in their place would (flowJudge.patience).
func (a *Agent) sweep(ctx context.Context, s *sweeper) error {
	current, health, now := a.rendered(), a.healthNow(), time.Now()
	if current == nil {
		return nil
	}
	changed := current != s.of || !health.equal(s.health)
	if !changed && (len(s.since) == 0 || now.Before(s.again)) {
		return nil
	}
	flows, err := a.flows(ctx)
	if err != nil {
		return err
	}
	judge := newFlowJudge(current, health)
	due, waiting, since := map[flow]cull{}, map[flow]time.Time{}, map[flow]time.Time{}
	var again time.Time
	for _, f := range flows {
		verdict := judge.of(f)
		if verdict == stays {
			continue
		}
		found, known := s.since[f]
		if !known {
			found = now
		}
		end := found.Add(judge.patience(f, verdict))
		if !now.Before(end) {
			due[f], waiting[f] = judge.cull(f), found
			continue
		}
		since[f] = found
		if again.IsZero() || end.Before(again) {
			again = end
		}
	}
	done, err := a.cull(ctx, walks(flows, due))
	if err != nil {
		return err
	}
	s.of, s.health, s.since, s.again = current, health, since, again
	if !done {
		s.of = nil // the rest at the next look
		maps.Copy(since, waiting)
	}
	return nil
}

// cull ends flows, and says whether there was time for all of them.
func (a *Agent) cull(ctx context.Context, culls []cull) (done bool, err error) {
	begun := time.Now()
	for i, c := range culls {
		if time.Since(begun) >= cullLimit {
			a.log.Info("ended flows of UDP and SCTP whose node or client is out, not all yet", "groups", i, "left", len(culls)-i)
			return false, nil
		}
		output, err := a.host.Run(ctx, c.argv(), nil)
		// conntrack(8) fails when nothing was left to delete.
		if err != nil && !strings.Contains(string(output.Stderr), "have been deleted") {
			return false, fmt.Errorf("ending flows to %s: %w", c.node, err)
		}
	}
	if len(culls) > 0 {
		a.log.Info("ended flows of UDP and SCTP whose node or client is out", "groups", len(culls))
	}
	return true, nil
}

func familyOf(address netip.Addr) string {
	if address.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

func (c cull) argv() []string {
	argv := []string{"conntrack", "-D", "-f", familyOf(c.node), "-p", strings.ToLower(string(c.protocol)), "--reply-src", c.node.String()}
	if c.nodePort != 0 {
		argv = append(argv, "--reply-port-src", strconv.Itoa(int(c.nodePort)))
	}
	if c.vip.IsValid() {
		argv = append(argv, "--orig-dst", c.vip.Addr().String(), "--orig-port-dst", strconv.Itoa(int(c.vip.Port())))
	}
	if c.client.IsValid() {
		argv = append(argv, "--orig-src", c.client.String())
	}
	return append(argv, "-g") // not this machine's own to that server
}

// flowsArgv lists the flows that have a destination other than the one they came for.
func flowsArgv(family string, protocol desired.Protocol) []string {
	return []string{"conntrack", "-L", "-f", family, "-p", strings.ToLower(string(protocol)), "-g"}
}

// flows lists what conntrack keeps.
func (a *Agent) flows(ctx context.Context) ([]flow, error) {
	var all []flow
	for _, family := range []string{"ipv4", "ipv6"} {
		for _, protocol := range []desired.Protocol{desired.UDP, desired.SCTP} {
			output, err := a.host.Run(ctx, flowsArgv(family, protocol), nil)
			if err != nil {
				return nil, err
			}
			for line := range strings.Lines(string(output.Stdout)) {
				f, err := parseFlow(line, protocol)
				if err != nil {
					return nil, err
				}
				all = append(all, f)
			}
		}
	}
	return all, nil
}

// parseFlow reads a line of conntrack(8), which has each of src, dst, sport and dport twice: as the client sent, and as the
// answer comes.
func parseFlow(line string, protocol desired.Protocol) (flow, error) {
	values := map[string][]string{}
	for word := range strings.FieldsSeq(line) {
		if name, value, ok := strings.Cut(word, "="); ok {
			values[name] = append(values[name], value)
		}
	}
	end := func(address, port string, i int) (netip.AddrPort, error) {
		if len(values[address]) != 2 || len(values[port]) != 2 {
			return netip.AddrPort{}, fmt.Errorf("reading what conntrack says: %q is no flow", strings.TrimSpace(line))
		}
		a, err := netip.ParseAddr(values[address][i])
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("reading what conntrack says: %w", err)
		}
		p, err := strconv.ParseUint(values[port][i], 10, 16)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("reading what conntrack says: %w", err)
		}
		return netip.AddrPortFrom(a, uint16(p)), nil
	}
	f := flow{protocol: protocol, ours: len(values["dst"]) == 2 && values["dst"][0] == values["dst"][1]}
	var err error
	for _, e := range []struct {
		to            *netip.AddrPort
		address, port string
		i             int
	}{{&f.client, "src", "sport", 0}, {&f.vip, "dst", "dport", 0}, {&f.node, "src", "sport", 1}} {
		if *e.to, err = end(e.address, e.port, e.i); err != nil {
			return flow{}, err
		}
	}
	return f, nil
}
