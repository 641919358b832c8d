package neighbor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// Many questions go out in bursts, a burst each gap: 1024 of them take 60 ms, no switch is flooded, and the answers fit the
	// socket.
	burst = 50
	gap   = 3 * time.Millisecond
	// lastLook is the time to read what has arrived while this process got no processor.
	lastLook = 10 * time.Millisecond
	// mostClaims bounds what one malicious machine on the link can make of an answer.
	mostClaims = 16
)

// Patience is how insistently is asked: each address Times times, at least Pause apart, and Listen is the wait for an answer
// after the last question.
type Patience struct {
	Times         int
	Pause, Listen time.Duration
}

// Takes is how long it takes by this schedule to ask for so many addresses of one family.
func (p Patience) Takes(count int) time.Duration {
	bursts := (count + burst - 1) / burst
	return time.Duration(p.Times-1)*p.round(count) + time.Duration(bursts-1)*gap + p.Listen
}

// round is the time from one question for an address to the next.
func (p Patience) round(count int) time.Duration {
	return max(p.Pause, time.Duration((count+burst-1)/burst)*gap)
}

// Answers are the MACs that claimed an address, sorted, lower case with colons. An address that nobody claimed is not in it.
type Answers map[netip.Addr][]string

// Ask asks everybody on the link who has the addresses, all of them at the same time, and takes as long as patience says
// whatever the answers: more than one machine may have an address. It needs CAP_NET_RAW and CAP_NET_ADMIN. An error means
// that not everything was asked.
func Ask(ctx context.Context, link Link, addresses []netip.Addr, patience Patience) (Answers, error) {
	return ask(ctx, open, link, addresses, patience)
}

// socket gives and takes whole Ethernet frames.
type socket interface {
	io.ReadWriteCloser
	SetDeadline(time.Time) error
	SetReadDeadline(time.Time) error
}

// ask is Ask with sockets of a test.
func ask(ctx context.Context, open func(l Link, ipv6 bool) (socket, error), link Link, addresses []netip.Addr, patience Patience) (Answers, error) {
	var claims [2]claims
	group, ctx := errgroup.WithContext(ctx)
	for family := range claims {
		ipv6 := family == 1
		own := slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return a.Is6() != ipv6 })
		if len(own) == 0 {
			continue
		}
		group.Go(func() (err error) {
			s, err := open(link, ipv6)
			if err != nil {
				return err
			}
			claims[family], err = converse(ctx, s, link, own, patience)
			return errors.Join(err, s.Close())
		})
	}
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("asking the neighbors on %s: %w", link.Name, err)
	}
	answers := Answers{}
	for _, c := range claims {
		for address, macs := range c {
			if len(macs) > 0 {
				answers[address] = slices.Sorted(maps.Keys(macs))
			}
		}
	}
	return answers, nil
}

// claims are the MACs that claimed an address, for each address that was asked for.
type claims map[netip.Addr]map[string]bool

// converse asks over one socket and gives every claim that was heard.
func converse(ctx context.Context, s socket, link Link, addresses []netip.Addr, patience Patience) (claims, error) {
	var questions [][]byte
	heard := claims{}
	for _, address := range addresses {
		question, err := link.question(address)
		if err != nil {
			return nil, err
		}
		questions = append(questions, question)
		heard[address] = map[string]bool{}
	}
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) }) // a link that takes no more frames
	defer stop()
	group, asking := errgroup.WithContext(ctx)
	group.Go(func() error { return heard.listen(s) })
	group.Go(func() error {
		err := speak(asking, s, questions, patience)
		return errors.Join(err, s.SetReadDeadline(time.Now().Add(lastLook)))
	})
	if err := group.Wait(); err != nil {
		return nil, cmp.Or(context.Cause(ctx), err)
	}
	return heard, nil
}

// speak asks everything as often as patience says, and waits for the answers to the last question.
func speak(ctx context.Context, s io.Writer, questions [][]byte, patience Patience) error {
	begun := time.Now()
	for n := range patience.Times {
		if err := waitUntil(ctx, begun.Add(time.Duration(n)*patience.round(len(questions)))); err != nil {
			return err
		}
		round := time.Now()
		for n, question := range questions {
			if err := waitUntil(ctx, round.Add(time.Duration(n/burst)*gap)); err != nil {
				return err
			}
			if _, err := s.Write(question); err != nil {
				return err
			}
		}
	}
	return waitUntil(ctx, time.Now().Add(patience.Listen))
}

func waitUntil(ctx context.Context, due time.Time) error {
	left := time.Until(due)
	if left <= 0 {
		return context.Cause(ctx)
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// listen reads until the socket's deadline.
func (c claims) listen(s io.Reader) error {
	frame := make([]byte, 2048)
	for {
		n, err := s.Read(frame)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		address, mac, ok := claim(frame[:n])
		if macs := c[address]; ok && macs != nil && len(macs) < mostClaims {
			macs[mac.String()] = true
		}
	}
}
