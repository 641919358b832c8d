package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

const (
	// expelPause is the least time between two looks: with 100000 connections one takes half a second of a core.
	expelPause = time.Second
	// expelRetry is the time to the next try when the kernel has not told of the connections, or ended none.
	expelRetry = 30 * time.Second
	// expelAtOnce bounds the command line that ends connections.
	expelAtOnce = 100
)

// connection is one that this machine has with a client of a Service.
type connection struct {
	vip, client netip.AddrPort
	// ofHAProxy is set when HAProxy's user has it. Then it may also be one to a server: vip is an address of this machine, client the
	// server.
	ofHAProxy bool
}

func (c connection) compare(d connection) int {
	if order := c.vip.Compare(d.vip); order != 0 {
		return order
	}
	return c.client.Compare(d.client)
}

// expelUnwelcome ends connections that the State has no place for any more, a while after: whose client may not connect, whose port
// or server is gone. No new one is made, so that what it finds once grows less only. Nothing is remembered for the next agent: that
// one begins to count anew.
func (a *Agent) expelUnwelcome(ctx context.Context) {
	since := map[connection]time.Time{}
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.admission:
		case <-again:
		}
		if wait := a.expel(ctx, since); wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(expelPause):
		}
	}
}

// expel looks once, and says after how long to look again; 0: when admission has changed. since says when each connection was
// found to have to end.
func (a *Agent) expel(ctx context.Context, since map[connection]time.Time) (again time.Duration) {
	judge, all, err := a.ending(ctx)
	if err != nil {
		a.log.Warn("looking for connections that have to end", "error", err)
		return expelRetry
	}
	maps.DeleteFunc(since, func(c connection, _ time.Time) bool {
		_, still := slices.BinarySearchFunc(all, c, connection.compare)
		return !still
	})
	now := time.Now()
	due := map[string][]connection{}
	for _, c := range all {
		patience, why := judge.patience(c)
		found, known := since[c]
		if !known {
			since[c], found = now, now
		}
		if now.Sub(found) >= patience {
			due[why] = append(due[why], c)
			found = now.Add(expelRetry - patience) // should it survive, it is tried again
			since[c] = found
		}
		if left := found.Add(patience).Sub(now); again == 0 || left < again {
			again = left
		}
	}
	for _, why := range []string{unwelcomeClient, outlivedState} {
		if err := a.endAll(ctx, due[why], why); err != nil {
			a.log.Warn("ending connections", "because", why, "error", err)
		}
	}
	return again
}

// guests are who may connect to one port of a VIP, and for how long those stay who are connected and may not any more.
type guests struct {
	allow, deny []netip.Prefix
	drain       time.Duration
}

func guestsAt(s *desired.State, lb *desired.LoadBalancer, vip netip.Addr) guests {
	allow, deny := lb.AdmittedTo(vip)
	return guests{allow, deny, drainTimeOf(s, lb)}
}

func (g guests) equal(h guests) bool {
	return slices.Equal(g.allow, h.allow) && slices.Equal(g.deny, h.deny) && g.drain == h.drain
}

func (g guests) welcome(client netip.Addr) bool {
	contains := func(p netip.Prefix) bool { return p.Contains(client) }
	return slices.ContainsFunc(g.allow, contains) && !slices.ContainsFunc(g.deny, contains)
}

// guestsOf are those of the ports that not everybody may connect to.
func guestsOf(s *desired.State) map[netip.AddrPort]guests {
	all := map[netip.AddrPort]guests{}
	for i := range s.LoadBalancers {
		lb := &s.LoadBalancers[i]
		if len(lb.AllowSources)+len(lb.DenySources) == 0 {
			continue
		}
		for _, door := range doorsOf(lb) {
			all[door] = guestsAt(s, lb, door.Addr())
		}
	}
	return all
}

// ending gives the connections that have to end according to the State, sorted, and who knows when.
func (a *Agent) ending(ctx context.Context) (ends, []connection, error) {
	a.mu.Lock()
	held, former := a.committed, a.former
	a.mu.Unlock()
	if held == nil {
		return ends{}, nil, nil
	}
	judge := newEnds(held.state, former)
	all, err := a.connections(ctx, func(c connection) bool {
		_, why := judge.patience(c)
		return why != ""
	})
	return judge, all, err
}

// connections lists those of this machine that count, sorted.
func (a *Agent) connections(ctx context.Context, counts func(connection) bool) ([]connection, error) {
	output, err := a.host.Run(ctx, connectionsArgv(), nil)
	if err != nil {
		return nil, err
	}
	user, vips := a.haproxyUser(), a.vipsOfRoot()
	var found []connection
	for line := range strings.Lines(string(output.Stdout)) {
		c, err := parseConnection(line)
		if err != nil {
			return nil, err
		}
		c.ofHAProxy = user != "" && slices.Contains(strings.Fields(line), user) || vips[c.vip.Addr()] && !strings.Contains(line, "uid:")
		if counts(c) {
			found = append(found, c)
		}
	}
	slices.SortFunc(found, connection.compare)
	return found, nil
}

// connectionsArgv lists the connections that a client can still use: one that has sent its last byte may go on to read.
func connectionsArgv() []string {
	return []string{"ss", "--no-header", "--tcp", "--numeric", "--extended", "state", "established", "state", "close-wait"}
}

// parseConnection reads a line of ss(8): state, two queues, this machine's end, the client's end, and whose it is.
func parseConnection(line string) (connection, error) {
	words := strings.Fields(line)
	if len(words) < 5 {
		return connection{}, fmt.Errorf("reading what ss says: %q is no connection", line)
	}
	local, err := parseEnd(words[3])
	if err != nil {
		return connection{}, fmt.Errorf("reading what ss says: %w", err)
	}
	client, err := parseEnd(words[4])
	if err != nil {
		return connection{}, fmt.Errorf("reading what ss says: %w", err)
	}
	return connection{vip: local, client: client}, nil
}

// parseEnd drops the interface that ss adds to a link-local address, or to a socket that is bound to one.
func parseEnd(text string) (netip.AddrPort, error) {
	if host, rest, bound := strings.Cut(text, "%"); bound {
		_, port, _ := strings.Cut(rest, ":")
		if strings.HasPrefix(host, "[") {
			host = strings.TrimSuffix(host, "]") + "]"
		}
		text = host + ":" + port
	}
	end, err := netip.ParseAddrPort(text)
	return netip.AddrPortFrom(end.Addr().Unmap(), end.Port()), err
}

// endArgv closes exactly these sockets (SOCK_DESTROY): HAProxy and the client see the connection reset. ss prints what it
// closed, and nothing where the kernel was built without CONFIG_INET_DIAG_DESTROY.
func endArgv(all []connection) []string {
	argv := []string{"ss", "--no-header", "--kill", "--tcp", "--numeric", "state", "established", "state", "close-wait"}
	for i, c := range all {
		if i > 0 {
			argv = append(argv, "or")
		}
		argv = append(argv, "(", "src", c.vip.String(), "and", "dst", c.client.String(), ")")
	}
	return argv
}

// endAll goes on with the rest when some cannot be ended.
func (a *Agent) endAll(ctx context.Context, all []connection, why string) error {
	var faults []error
	for some := range slices.Chunk(all, expelAtOnce) {
		faults = append(faults, a.end(ctx, some, why))
	}
	return errors.Join(faults...)
}

func (a *Agent) end(ctx context.Context, all []connection, why string) error {
	output, err := a.host.Run(ctx, endArgv(all), nil)
	if err != nil {
		return err
	}
	ended := strings.Count(string(output.Stdout), "\n")
	if ended == 0 {
		return fmt.Errorf("ss ended none of %d; the kernel needs CONFIG_INET_DIAG_DESTROY for it", len(all))
	}
	a.log.Info("ended connections", "because", why, "connections", ended, "first", all[0].client, "at", all[0].vip)
	return nil
}
