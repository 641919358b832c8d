// Package neighbor finds out who else is on the networks of this machine: which links it has, and who answers there for an
// address, by ARP (RFC 826, RFC 5227) and by neighbour discovery (RFC 4861).
//
// It owns the frames, the socket, and how insistently is asked. It must not know why somebody asks, what State says of a
// machine, or who may ask: that is package agent's. It imports nothing of ours.
//
// What holds:
//   - Asking changes nothing: no cache of anybody learns a wrong owner, and no machine that is about to take an address gives
//     it up. An address that this machine holds itself may be asked for; its own stack does not hear the question.
//   - Everybody who answers is told, not the first one: two machines with one address are what is looked for. So it takes the
//     same time whatever comes.
//   - All addresses of one family on one link share one socket, and the questions are paced: 1024 of them are 3072 frames in
//     0.4 s.
//   - "Nobody" means that every question went out. Otherwise it is an error.
//
// What nobody can find out this way: a machine that is off, or behind a switch that drops what is asked (ARP inspection drops
// or limits probes on some). A Linux router with proxy_arp does not answer probes, which ask without a sender's address.
//
// Tried and rejected:
//   - arping and ndisc6, one process for each address: a second for a free address, and 1024 processes.
//   - A raw ICMPv6 socket instead of packet sockets for IPv6: it needs an address, and a firewall may hide what it hears.
//   - mdlayher's packet and ndp: what is left of them beside os.File and gopacket are five system calls and one frame.
//   - To take somebody else's probe for an address as an answer (RFC 5227 does, for a host about to claim it): a scanner for
//     free addresses would look like the owner of all of them.
package neighbor
