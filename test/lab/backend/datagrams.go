package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sync/errgroup"
)

// answerDatagrams answers each UDP datagram with "NAME SOURCE" and what it says, until ctx ends.
func answerDatagrams(ctx context.Context, group *errgroup.Group, name, address string) error {
	socket, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = socket.Close() })
	group.Go(func() error {
		for buffer := make([]byte, 2048); ; {
			n, from, err := socket.ReadFrom(buffer)
			switch {
			case errors.Is(err, net.ErrClosed):
				return nil
			case err != nil:
				return fmt.Errorf("serving UDP %s: %w", address, err)
			}
			// A client that is gone is none of ours.
			_, _ = socket.WriteTo(fmt.Appendf(nil, "%s %s %s", name, from, buffer[:n]), from)
		}
	})
	return nil
}
