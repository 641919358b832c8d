package machine

import (
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"
)

// Datagram is what happens to the first datagram of a client's flow that comes to this machine: the kernel sends it to a server,
// as chains admit and spread say. What conntrack keeps of a flow is not modelled.
func (m *Machine) Datagram(client, to netip.AddrPort) (server netip.AddrPort, refusal Refusal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if refusal = m.enter(client, "udp", to); refusal != Taken {
		return server, refusal
	}
	if strings.TrimSpace(string(m.memory[forwardFile])) != "1" {
		return server, NotForwarded
	}
	return m.table.spread(client, to)
}

// The kernel's file, and the setting that the agent writes to it.
const (
	forwardFile    = "/proc/sys/net/ipv4/ip_forward"
	forwardSetting = "net/ipv4/ip_forward=1"
)

// spread is chain spread: a hash of the client over the slots of the shared pool, or of the port's own servers.
func (t *table) spread(client, to netip.AddrPort) (server netip.AddrPort, refusal Refusal) {
	hash := fnv.New32a()
	hash.Write([]byte(client.String()))
	slot := func(slots int) string { return strconv.Itoa(int(hash.Sum32()) % slots) }
	door := doorOf("udp", to)
	if port, pooled := t.maps["nodeports4"][door]; pooled {
		return joined(t.maps["nodes4"][slot(sharedSlots)], port)
	}
	address, port, _ := strings.Cut(t.maps["own4"][door+" . "+slot(ownSlots)], " . ")
	return joined(address, port)
}

// How many slots the rules hash over.
const (
	sharedSlots = 1021
	ownSlots    = 61
)

func joined(address, port string) (server netip.AddrPort, refusal Refusal) {
	server, err := netip.ParseAddrPort(address + ":" + port)
	if err != nil {
		return server, NoServer
	}
	return server, Taken
}
