package neighbor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// readBuffer holds the answers to everything that is asked in one go, at some 800 bytes that the kernel counts for each.
const readBuffer = 1 << 20

// open makes a packet socket (packet(7)) on the link that hears one family's answers. No firewall stands in its way, our own
// stack does not hear what it sends, and it needs no address: questions for what this very machine holds are questions to
// the others.
func open(l Link, ipv6 bool) (socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket: %w", err)
	}
	if err := tune(fd, l.Index, ipv6); err != nil {
		return nil, errors.Join(fmt.Errorf("opening a packet socket on %s: %w", l.Name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "neighbors on "+l.Name), nil
}

// tune binds last: a socket hears everything until its filter is there.
func tune(fd, index int, ipv6 bool) error {
	protocol := uint16(unix.ETH_P_ARP)
	if ipv6 {
		protocol = unix.ETH_P_IPV6
		filter := advertisementsOnly()
		if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
			return fmt.Errorf("attaching the filter: %w", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, readBuffer); err != nil {
		return fmt.Errorf("making room for the answers: %w", err)
	}
	inNetworkOrder := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, protocol))
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: inNetworkOrder, Ifindex: index})
}

// advertisementsOnly passes neighbour advertisements: a gateway's link has a lot of other IPv6 on it.
func advertisementsOnly() []unix.SockFilter {
	const (
		loadByte   = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		unlessSame = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		end        = unix.BPF_RET | unix.BPF_K
		nextHeader = 14 + 6  // behind the Ethernet header: IPv6's field
		icmpType   = 14 + 40 // behind the IPv6 header: no extension header is expected here (RFC 6980)
	)
	return []unix.SockFilter{
		{Code: loadByte, K: nextHeader},
		{Code: unlessSame, K: unix.IPPROTO_ICMPV6, Jf: 3},
		{Code: loadByte, K: icmpType},
		{Code: unlessSame, K: 136, Jf: 1},
		{Code: end, K: 1 << 16},
		{Code: end, K: 0},
	}
}
