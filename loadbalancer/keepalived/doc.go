// Package keepalived is the floating addresses of a gateway: State to keepalived.conf, what `keepalived -t` says, and which VIPs
// a machine holds. It runs nothing and reads no file: the agent does, with the argv slices given here. It must not know HAProxy,
// nftables or Services; a VIP is an address, an interface and an instance.
//
// Invariants (DESIGN.md section 5): 6, a gateway with stale State never takes a VIP from a fresh one, by the arithmetic of base,
// Alive and Ready (TestPriorities); 7, text of a State cannot leave its word in the file; 10, same content, same bytes.
//
// Decisions, each seen on keepalived 2.2.7:
//   - virtual_ipaddress holds the anchor only and never changes; VIPs stand in virtual_ipaddress_excluded, IPv6 ones too. So
//     gateways that differ in their VIPs believe each other, and a reload is no transition (0 in 20, TestPairReloads...).
//   - The anchor has global scope. With `scope link` it became the source of connections on routes that name none.
//   - IPv6 VIPs are deprecated and nodad by keepalived itself, because they are /128.
//   - unicast_ttl 255 and min_ttl 255: an advert from behind a router is none. IPv6 adverts leave with 64 unless told.
//   - A single gateway has a peer on loopback. Without a peer -t complains and adverts go out by multicast; with this one nothing
//     leaves the machine.
//   - dynamic_interfaces: without it keepalived ends for good when one VIP's interface is missing; with it the instance waits in
//     FAULT and another gateway takes it. -t no longer sees a wrong interface: Holding.Missing does.
//   - Track files need no init_file: an absent file counts 0 and is watched. But their DIRECTORY must exist when keepalived
//     starts or reloads, else it forgets the file until the next reload.
//   - A lower priority hands over only after three adverts (0.6 s at 0.2 s), during which the old holder serves on: the heir
//     has the addresses before they are taken off, so this is what a drain uses. Leave does it in 20 to 36 ms, in which
//     nobody has them: for a gateway that serves no more.
//   - A drain is a smaller number in the ready file, not a file of its own: the same configuration, so no reload.
//   - vrrp_strict refuses unicast; nopreempt would leave all VIPs on one gateway; vrrp_rt_priority got the child killed.
//
// Traps for whoever runs it: -t exits with 0 when the file does not exist (see CheckArgv). A keepalived that is started while
// its source address is missing or tentative stays in FAULT until a reload (see Holding.Source). After kill -9 a pid file whose
// process nobody reaped stops the next start ("daemon is already running"): remove the pid files first.
package keepalived
