package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

type fakeKeepalived struct {
	pid       int
	addresses map[int][]string // by router ID
}

func (m *machine) loadKeepalived(start bool) error {
	if !start && m.keepalived == nil {
		return errors.New("no process")
	}
	k := &fakeKeepalived{addresses: map[int][]string{}}
	if start {
		k.pid = m.begin("/run/keepalived.pid", "keepalived")
	} else {
		k.pid = m.keepalived.pid
	}
	id := 0
	for line := range strings.Lines(m.files["/etc/keepalived/keepalived.conf"]) {
		words := strings.Fields(line)
		if len(words) == 2 && words[0] == "virtual_router_id" {
			fmt.Sscan(words[1], &id)
		}
		if len(words) == 3 && words[1] == "dev" {
			k.addresses[id] = append(k.addresses[id], netip.MustParsePrefix(words[0]).Addr().String())
		}
	}
	m.keepalived = k
	return nil
}

// held are the addresses that keepalived has put on the interface.
func (m *machine) held() []string {
	var held []string
	if m.keepalived == nil {
		return nil
	}
	for id, addresses := range m.keepalived.addresses {
		if m.masters[id] {
			held = append(held, addresses...)
		}
	}
	slices.Sort(held)
	return held
}

func (m *machine) listAddresses() []byte {
	type address struct {
		Local string `json:"local"`
		Bits  int    `json:"prefixlen"`
	}
	type link struct {
		Index     int       `json:"ifindex"`
		Name      string    `json:"ifname"`
		Flags     []string  `json:"flags"`
		Type      string    `json:"link_type"`
		MAC       string    `json:"address"`
		Addresses []address `json:"addr_info"`
	}
	up := []string{"BROADCAST", "MULTICAST", "UP", "LOWER_UP"}
	eth0 := link{Index: 2, Name: "eth0", Flags: up, Type: "ether", MAC: ownMAC}
	if !m.addressless {
		eth0.Addresses = append(eth0.Addresses, address{"10.0.0.2", 16}, address{"192.0.2.2", 24}, address{"2001:db8::2", 64}, address{"fe80::2", 64})
	}
	for _, a := range append(m.held(), m.added...) {
		eth0.Addresses = append(eth0.Addresses, address{a, 32})
	}
	eth1 := link{Index: 3, Name: "eth1", Flags: up, Type: "ether", MAC: ownSecondMAC, Addresses: []address{{"198.51.100.2", 24}}}
	for _, a := range m.strays {
		eth1.Addresses = append(eth1.Addresses, address{a, 32})
	}
	lo := link{Index: 1, Name: "lo", Flags: []string{"LOOPBACK", "UP", "LOWER_UP"}, Addresses: []address{{"127.0.0.1", 8}}}
	eth2 := link{Index: 4, Name: "eth2", Flags: []string{"BROADCAST", "MULTICAST"}, Type: "ether", MAC: "02:00:00:00:00:03", Addresses: []address{{"203.0.113.2", 24}}}
	text, err := json.Marshal([]link{lo, eth2, eth1, eth0})
	if err != nil {
		panic(err)
	}
	return text
}

// The MACs of the machine's own cards.
const (
	ownMAC       = "02:00:00:00:00:01"
	ownSecondMAC = "02:00:00:00:00:02"
)

// changesKernel is what corrects settings and addresses.
func (m *machine) changesKernel(argv []string) bool {
	command := strings.Join(argv, " ")
	if address, ok := strings.CutPrefix(command, "ip address delete "); ok {
		m.added = slices.DeleteFunc(m.added, func(a string) bool { return a+"/32 dev eth0" == address })
		return true
	}
	return false
}
