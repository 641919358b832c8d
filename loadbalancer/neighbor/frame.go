package neighbor

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// hopLimit proves that an IPv6 packet has crossed no router (RFC 4861 section 7.1).
const hopLimit = 255

// question is the frame that asks who has an address.
func (l Link) question(address netip.Addr) ([]byte, error) {
	build := l.solicitation
	if address.Is4() {
		build = l.arpProbe
	}
	frame := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(frame, options, build(address)...); err != nil {
		return nil, fmt.Errorf("making the question for %s: %w", address, err)
	}
	return frame.Bytes(), nil
}

// arpProbe is an ARP probe (RFC 5227 section 2.1.1): its sender protocol address is zero, so that nobody learns from it who
// has the address. Linux answers it for any address of its own, on any link (arp_ignore 0), and never as a proxy.
func (l Link) arpProbe(address netip.Addr) []gopacket.SerializableLayer {
	broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	return []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: l.MAC, DstMAC: broadcast, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, Operation: layers.ARPRequest,
			SourceHwAddress: l.MAC, SourceProtAddress: make([]byte, 4),
			DstHwAddress: make([]byte, 6), DstProtAddress: address.AsSlice(),
		},
	}
}

// solicitation is a neighbour solicitation (RFC 4861 section 4.3) from the link-local address. One without a source, as in
// duplicate address detection (RFC 4862 section 5.4.2), would make a machine that is just taking the address give it up; it
// is for links that have no link-local address.
func (l Link) solicitation(address netip.Addr) []gopacket.SerializableLayer {
	target := address.As16()
	// The solicited-node group (RFC 4291 section 2.7.1), and its Ethernet address (RFC 2464 section 7).
	group := net.IP{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xff, target[13], target[14], target[15]}
	ethernet := &layers.Ethernet{SrcMAC: l.MAC, DstMAC: append(net.HardwareAddr{0x33, 0x33}, group[12:]...), EthernetType: layers.EthernetTypeIPv6}
	header := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: hopLimit, SrcIP: net.IPv6unspecified, DstIP: group}
	question := &layers.ICMPv6NeighborSolicitation{TargetAddress: target[:]}
	if l.LinkLocal.IsValid() {
		header.SrcIP = l.LinkLocal.AsSlice()
		question.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: l.MAC}}
	}
	message := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborSolicitation, 0)}
	_ = message.SetNetworkLayerForChecksum(header) // fails for other layers than IPv4 and IPv6 only
	return []gopacket.SerializableLayer{ethernet, header, message, question}
}

// claim reads who claims which address in a frame; ok is false when it is no ARP and no neighbour advertisement, or a broken one.
//
// Any ARP packet claims its sender's address (RFC 5227 section 2.1.1), an announcement and a question too. A probe of somebody
// else for the address claims nothing: those who look for free addresses all day would look like owners.
func claim(frame []byte) (address netip.Addr, mac net.HardwareAddr, ok bool) {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	if arp, ok := packet.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		sender, _ := netip.AddrFromSlice(arp.SourceProtAddress)
		isIPv4 := arp.AddrType == layers.LinkTypeEthernet && arp.Protocol == layers.EthernetTypeIPv4 && sender.Is4() && len(arp.SourceHwAddress) == 6
		return sender, arp.SourceHwAddress, isIPv4 && !sender.IsUnspecified()
	}
	advertisement, ok := packet.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !ok || packet.ErrorLayer() != nil {
		return netip.Addr{}, nil, false
	}
	// What RFC 4861 section 7.1.2 asks of a valid one. The packet has these layers, or it would not be one.
	header := packet.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	message := packet.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if !intact(message, header) || header.HopLimit != hopLimit || message.TypeCode.Code() != 0 {
		return netip.Addr{}, nil, false
	}
	mac = packet.Layer(layers.LayerTypeEthernet).(*layers.Ethernet).SrcMAC
	option := slices.IndexFunc(advertisement.Options, func(o layers.ICMPv6Option) bool {
		return o.Type == layers.ICMPv6OptTargetAddress && len(o.Data) == len(mac)
	})
	if option >= 0 {
		mac = advertisement.Options[option].Data
	}
	address, ok = netip.AddrFromSlice(advertisement.TargetAddress)
	return address, mac, ok
}

func intact(message *layers.ICMPv6, header *layers.IPv6) bool {
	if err := message.SetNetworkLayerForChecksum(header); err != nil {
		return false
	}
	err, sum := message.VerifyChecksum()
	return err == nil && sum.Valid
}
