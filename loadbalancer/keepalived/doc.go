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
//   - After a split (each gateway MASTER of all) the one that yields sends a last advert (vrrp_higher_prio_send_advert). Without
//     it the rightful holder may never learn that the neighbours heard somebody else last: a minute of clients at the wrong one.
//   - preempt_delay (VRRP.PreemptDelaySeconds) stands where a gateway is the first of an instance, and nowhere else.
//
// What preempt_delay does, by its source (vrrp_state_backup) and seen with 4 s at 0.1 s: a BACKUP believes whoever has a lower priority
// for that long, counted from the first such advert. So a gateway is back 4.3 s after its keepalived was started, its link came up, it
// left FAULT, its HAProxy answered, it was ready or undrained; at the start of both, too, unless they begin within three adverts. It
// counts neither missed adverts (0.3 s when the holder dies or is cut off, also while it waits) nor a goodbye (20 ms). But it does
// count when the holder's priority sinks: in all instances, an heir was 4.3 s late when HAProxy died without a goodbye, or at a drain or
// a stale holder. Hence for the first gateway alone: 0.3 s. What is left of that, and what is done about it:
//
//   - A gateway that waits heeds no lower priority of the one that stands in (3.6 s, the rest of 4). So that one leaves: a drain for
//     what remains after the usual time, and a dead HAProxy as always, also when an heir is fit only later (package agent). Left: HAProxy
//     dies on a stand-in that does not know a fit heir (no SSH between them); the rest of the delay, 1000 s at most. A stale one
//     that stands in serves on as long: a delay never lets a stale gateway take anything (invariant 6).
//   - It begins anew when the gateway that waits reloads its keepalived, as for each VIP that comes or goes: where that
//     happens more often than the delay is long, it does not return by itself. A reload of the other one changes nothing.
//   - Of three gateways, an heir that returns takes at once what a later heir holds.
//
// How fast a death is noticed. Measured with test/chaos: 1000 VIPs on a crossed pair, the holder loses its power, longest time in
// which a client got no answer from the VIP that moves last; two cores, load 10 to 19:
//
//	advert_int 0.2                      0.48 to 0.64 s
//	advert_int 0.1 (the default)        0.27 to 0.34 s, two of six 0.6 and 1.0 s
//	advert_int 0.05                     0.15 to 0.20 s, one of six 0.95 s
//	advert_int 0.03                     0.10 to 0.29 s; two of six took VIPs from a living gateway
//	0.1, BFD 3 x 20 ms, weight 0 reverse    0.40 to 0.54 s
//	0.1, BFD 3 x 20 ms, weight 50 reverse   0.33 to 0.37 s, one of four 0.57 s
//
// So no track_bfd. keepalived's BFD can put an instance into FAULT, take it out, or change its priority; none makes a BACKUP
// MASTER. An instance that leaves FAULT waits three adverts like any other (try_up_instance), so BFD's time comes on top; while
// BFD is up such an heir is in FAULT, deaf to a hand-over by priority; and a priority alone does not shorten the wait for adverts.
// BFD's sessions of 60 ms also broke without a cause. The advert interval is the mechanism, and its risk is that a gateway is
// taken for dead when its keepalived gets no processor for three intervals, or moves hundreds of addresses in that time: 500 take
// 30 ms, but 0.3 s were seen on two processors with a load of 30, and then the mover's other instance changed hands for a
// moment. vrrp_priority -20 counts only among the processes of keepalived's own session where the kernel groups by session
// (sched_autogroup_enabled, Debian's default), so the unit and the tests make it a realtime process (SCHED_RR). In 100 reloads of 1000
// VIPs at 0.1, every processor busy: none to twelve instances timed out without, none in three runs at a load of 25 to 29 with it
// (TestPairReloadsUnderLoad). Hence 0.1; 0.05 for who has processors to spare.
//
// More decisions:
//   - vrrp_strict refuses unicast; nopreempt would leave all VIPs on one gateway. vrrp_rt_priority comes with a limit of
//     realtime (RLIMIT_RTTIME) that cannot be raised at a reload, and got the child killed; SCHED_RR from outside has none.
//
// Traps for whoever runs it: -t exits with 0 when the file does not exist (see CheckArgv). A keepalived that is started while
// its source address is missing or tentative stays in FAULT until a reload (see Holding.Source). After kill -9 a pid file whose
// process nobody reaped stops the next start ("daemon is already running"): remove the pid files first.
package keepalived
