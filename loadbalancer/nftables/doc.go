// Package nftables is the front door of a gateway: one nftables table, inet cloud_provider_haproxy, that hands TCP connections to a
// VIP's open ports to HAProxy's transparent sockets on loopback, spreads flows of UDP and SCTP over the nodes itself, and refuses
// everything else that comes to a VIP.
//
// It owns the table's script, reading it back, finding foreign firewalls that would drop what the table lets in, and the kernel
// settings of a gateway. It runs nothing: the agent does, with the argv slices given here. It must not know HAProxy's or
// keepalived's configuration, nor files of this machine.
//
// Invariants (DESIGN.md section 5): 10, the script depends on the content of the State only, not on its fence or order;
// 11, a Service is an element of a set; and a wrong or dead part refuses at once instead of hanging (section 3).
//
// What must stay as it is:
//   - `socket transparent` of chain front, which spares the packets of HAProxy's connections the sets, is not asked of a bare SYN:
//     one that meets a connection in TIME_WAIT would end at a port where nobody listens, and be answered a second later.
//   - The guard asks of a bare SYN whether its socket is bound to an address (`socket wildcard 0`). HAProxy's listeners are; a
//     socket in TIME_WAIT has no answer. Without it a client whose port was closed, or whose source is not allowed any more, and
//     that came again from the port of its last connection, reached a daemon of this machine that has the port on the wildcard.
//   - The tproxy rules are for every packet that is left, not for SYNs or ct state new only: of a client that was answered by a
//     SYN cookie they see the ACK first.
//   - The guard refuses bare SYNs only: an answer to a connection that this machine itself opened to a VIP has the VIP as its
//     destination too. ICMPv6 passes: neighbour discovery of a VIP is that.
//   - Who may connect is asked before the packet has a socket: deny sets first, then the ports that are open to everybody, then pairs
//     of port and range. A port is in one of the two latter. Ranges of one port must not overlap (desired.MergePrefixes), or nft
//     refuses the whole table; a client that is left goes on to the guard, which refuses it as it does an unknown port.
//   - HAProxy's port for its peers is bound transparent too. Who may connect is asked before the rule that lets such sockets in: the
//     other gateways' VRRP addresses, and loopback, where a worker tells the next one. A gateway without others listens on loopback.
//   - VRRP of anybody but a peer is dropped, and its source noted by the rules themselves in a set that ends by itself (Strangers).
//     That set is part of no comparison. A counter would say that there is a stranger, not who.
//   - Rules do not depend on the State, but for whether it has UDP or SCTP at all (Flows), nor elements on anything else but which
//     servers are fit (Local.Unfit). So the whole table can be judged against a State.
//   - Without UDP and SCTP no rule mentions ct or NAT: one makes the kernel track every connection of the machine.
//   - Tracking may begin while connections are established (the first Service of UDP, a hand-over, a firewall of the site). HAProxy
//     asks conntrack for the destination of an IPv4 connection (SO_ORIGINAL_DST): an entry that was made half-way from a packet of
//     ours says the client's address, also for the client's next connection from that port, minutes later. Hence
//     nf_conntrack_tcp_loose=0 (Sysctls).
//
// UDP and SCTP: the first packet of a flow is DNATed to a node's NodePort, and its source becomes the VIP, not the gateway: so the
// node sees the same client when another gateway has taken over. The node is that of a slot, the slot a hash of the client's
// address and port with a fixed seed: every gateway finds the same one, without telling each other. Slots are filled like
// Maglev's (spread.go), and those of a node that fails its check are given to others without moving any more. Services share the
// slots of all nodes; a port with a Pool (its load balancer's or its own) has 61 slots for each address, so that no more than 61
// servers get flows. All that is elements, whatever the number of Services: NodePort and node are two lookups, a server with its
// port is one, since pods of one Service may listen on different ports. It costs as much as two maps did.
//   - With affinity the hash is that of the client's address alone, for ever: it needs no memory, and so no time to forget in.
//   - Of a Pool the backups have the slots while none of the others is fit, and they alone; what drains has none. A backup that
//     leaves while others serve so moves no flow. Nobody checks a Frontend's own servers: EndpointSlices say who serves.
//   - Families stay apart, since the kernel translates addresses, not IPv6 to IPv4: a VIP without a node of its family refuses.
//   - Our NAT comes before everybody else's (priority - 10): a published port of Docker's or a masquerade of the site's takes no flow.
//   - Chain forward drops what is no flow of a Service, because the agent turns the kernel's forwarding on for these flows; not where
//     the machine forwarded before (Local.Routes4). A `ct status dnat` is somebody's wish on this machine, so it passes.
//   - A flow that began while a node was found failing stays where it went, and another gateway would give it to that node again.
//   - The kernel limits the ICMP errors that one client gets: of many refused datagrams only some are answered.
//   - The idle time is the kernel's (nf_conntrack_udp_timeout: 30 s, 120 s once answers came), or the next longer one of a few that
//     the rules have: nft has no map of times, and a time for each Service would be an object of the State. It needs a kernel with
//     CONFIG_NF_CONNTRACK_TIMEOUT, which Debian's, Ubuntu's and RHEL's have. It begins when a flow is two seconds old.
//   - A VIP, a node and its NodePort share 64511 ports between all clients, as long as flows are remembered.
//   - Rejected: a chain for each Service (rules would depend on the State); mod N over the list of nodes (one that leaves moves
//     nearly all flows: here at most 47 of 1021 slots of others, with 100 nodes); more slots (each costs a transaction 50
//     microseconds to read back); a map for each pool of nodes (rules again).
//
// Servers that see their clients' addresses (ClientSource) answer to these, which are not this machine's. Rules for them are there when the
// owner allows it (Local.ClientSourceProbes): what has a transparent socket, is for no VIP and not for this machine is marked, and a
// routing rule leads it in (ClientSourceArgvs); flows of UDP and SCTP keep their source by `snat` to itself, since a later rule of
// the site's would give them another one after `accept`. The nodes themselves are refused: they are answered past us.
//
// How what runs is compared with what is wanted: elements come from the State (Want), rules from this machine's nft, which loads
// the table without elements into a namespace that ends at once and echoes it (RulesArgv, 10 ms, once per start of the agent).
// Nothing is remembered from a load, so a restarted agent sees every difference. Rejected:
//   - JSON recorded after each load: a file more, and blind to what changed between load and record.
//   - Rules' JSON written here: its form changes with nft (`tcp flags & (a|b) != c` is listed in another form than it is given).
//   - The echo of the whole table: 0.28 s for 5000 Services, 1.2 s for 20000 ports, and ENOBUFS at 60000 elements.
//   - The echo of a table that one transaction adds and deletes, which would need no namespace: nft 1.0.6 leaves its rules out.
//   - Rules' comments alone: blind to a rule whose text was changed and whose comment was kept.
//
// Measured (Debian 12, two cores that were busy with other work): rendering 5000 Services 5 to 17 ms; loading 1000 Services 28 to
// 45 ms, 5000 Services 90 to 140 ms, nft's start included; reading back and comparing 40 and 250 ms, most of it nft's. With five
// ranges of clients each, 1000 Services load in 90 ms and 5000 in 0.4 s; reading 1000 back takes 0.28 s. 1000 UDP Services of both
// families over 100 nodes: rendering 25 ms, loading 60 ms of processor, reading back 80 ms; 100 with a Pool each (12200 elements): 7, 160 and 250 ms.
//
// Traps of nft 1.0.6: with --json a script on a piped stdin is silently not loaded (see RulesArgv); `list` inside a script shows
// nft's cache, without rules; the listing leaves out `meta l4proto tcp` before a concatenation, the kernel has it (--debug=netlink).
package nftables
