package agent

import (
	"fmt"
	"net"
)

// notify tells systemd about the service's state (sd_notify(3)); without a socket there is nobody to tell.
func notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	// A leading @ is an abstract address; package net reads it the same way.
	connection, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("reaching %s: %w", socket, err)
	}
	defer connection.Close()
	if _, err := connection.Write([]byte(state)); err != nil {
		return fmt.Errorf("writing to %s: %w", socket, err)
	}
	return nil
}
