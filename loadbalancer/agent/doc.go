// Package agent is the transaction on one gateway: it makes the State that a controller signed true on this machine,
// wholly or not at all, and keeps it true. It is resident and the only writer of HAProxy's and keepalived's
// configuration, of HAProxy's runtime and of our nftables table.
//
// It owns the unix socket with its roles, the fence, the limits file, the State that is committed, which slot serves
// whom, the daemons' lives, keepalived's track files, and the end of connections that the State has no place for any more.
// It must not know Kubernetes, SSH (the pipe is a copy of bytes, the signature a [Verifier], another gateway's agent a
// [Peer]), how files look (haproxy, keepalived and nftables render and read back) or how a neighbor is asked.
//
// # The transaction
//
// Decode, signature, fence, meaning, limits; observe what runs; render; compare; stage next to the files; let each
// daemon whose bytes change check exactly these; swap by rename; apply in the order that clients do not notice (map
// grows, nftables, keepalived, map shrinks); read everything back; commit. The invariants (DESIGN.md section 5):
//
//   - 2, level: the work is the difference to what runs, never to what was done before. Nothing to do means nothing is
//     run but the questions. What cannot be asked (what keepalived has read) is remembered on tmpfs together with the
//     process, and forgotten before each reload.
//   - 3, wholly old, wholly new or loudly Stuck: state.json is written last. Until then every way back, from an error or
//     after a crash, leads to the State that state.json holds: render it, compare, apply. Only the first State of a
//     machine needs a journal (before.json) of what stood there. TestFaultAtEveryOperation strikes every operation.
//     slots.json has the slots of both States, each finds its own (slots.go), and no slot of the State that is held is given away.
//     The control plane's certificates are a file whose name has their digest: HAProxy's check opens it by the name that it
//     will have, so it is made before the check, and removed when the State that named it is replaced or not taken. A crash in
//     between can leave one behind, which nothing names.
//   - 4, fenced, also against itself: one transaction at a time, not tied to the session that asked for it.
//   - 6, freshness: at boot ready is 0, until a controller's apply or the peers show that the State is the newest (see
//     below). Time alone shows nothing. A restart of the agent alone keeps ready: an upgrade must move no VIP. Without
//     a State nothing is started, so nothing is held. An apply that fails changes ready neither way.
//     keepalived waits for our readiness, and by then the nftables table of before the boot is there. HAProxy waits for nobody and
//     has a port for its peers on an address of the machine, so its unit loads that table first, where there is none.
//   - 11, no reload without a reason: reasons are told in the result, logged, and counted by class in counters.json. Each
//     one can leave an old worker behind, so a try has two workers at most that are wrong or cannot be asked, repairs come to ten
//     minutes between them, and while a fault stands nothing else repairs (watch.go). What load balancers wish for that takes a
//     reload (timeouts, a new time of affinity) causes five, then one each ten minutes (wishes.go): HAProxy serves the State without
//     the wishes that wait, and that is what runs is compared with meanwhile.
//   - 13, the last word: signers and limits are read anew for each State. A State that is held is served on when either
//     has changed under it, with a warning.
//
// # What nobody asked for
//
// Every minute, and whenever a State comes, what runs and lies on the disk is compared with the State that is held (drift.go),
// with a controller or without. A difference is undone, told in the log as a diff and remembered for status; drift: report in
// agent.yaml leaves it, daemons that were stopped too, until a start or another State. What is no difference: the work that a known
// fault left, servers whose last connection ended, a VRRP transition seen half-way (a VIP has a second to come right). What no
// question shows: an edited haproxy.cfg or keepalived.conf that somebody let the daemon load. Both are reloaded when their file is
// not what it was. A worker of HAProxy that somebody else started is known by its PID, and compared within a second (renewed.go), also
// with drift: report. It finds no state of servers: what is saved for a reload is removed after it. A VIP that somebody put on a gateway
// which is not its MASTER is taken off; keepalived does it neither by itself nor at a reload. One that somebody took off its MASTER is
// keepalived's: back after 0.1 s. Our table is back 0.1 s after `nft flush ruleset` (90 to 115 ms in five tries), by nft's own events,
// before anything else is looked at, and also with drift: report: without it a machine that forwards is an open router. Whoever goes on
// taking it has it back once a second. A wish that waited for a reload undoes what was left, too.
//
// # Whose fault it is
//
// What the daemons refuse is a line, and a line of a slot, a VIP or an element of a set has owners (blame.go): they are named, all
// of those that share an address, and Manager serves the rest. Before any daemon is touched ports are tried, and a new VIP must not
// be an address that the machine has already. The State that is held was judged once; what comes up later about it is a warning.
//
// # Who may not connect any more
//
// The front door lets no new connection in. Those that are established when a client's range is taken away end in the drain time of
// their load balancer, by ss --kill, which closes exactly these sockets (expel.go); shutting HAProxy's sessions down would need a walk
// through all of them at every worker, old ones too. It looks when the State changes who may connect, or for how long, and until none
// is left. A range that is back in time lets them live, and they have all of their time when it goes again; a State in between that
// leaves them out as well counts nothing anew. An agent that starts finds all of them and counts from its start: what began is
// remembered nowhere, so each restart within a drain time gives at most that time once more, and never less.
//
// # Ports and servers that left
//
// Connections of HAProxy's user that the State has no place for end in the same way (outlived.go), in the drain time of their load
// balancer (LoadBalancer.DrainSeconds, else State.DrainTime): to a port that is gone, to a server or node that left. The State alone
// says which these are, so all workers of HAProxy count, old ones too, and an agent that starts anew finds them, though it does not
// know the drain time of a load balancer that is gone. It looks also when something returns, which is welcome then and counts anew
// another time. The control plane's never end so, whatever becomes of its ports. Not seen: a port that went to another Service at
// once, whose old connections look like new ones. All processes of HAProxy's user count, so a site's own HAProxy on a gateway needs
// another user.
//
// Where the kernel cannot (CONFIG_INET_DIAG_DESTROY) the worker that answers can: a server that was taken out has its connections
// ended by `shutdown sessions server` (departed.go), one of the shared pool in the longest time of its Services. Not those that have a
// target all the same: a pod that drains, a Service that went over to the shared pool with the node.
//
// # UDP and SCTP
//
// nftables spreads their flows and checks no node (package nftables). So HAProxy's checks are looked at twice a second, while
// the State has such ports, and the table is replaced when somebody's fitness changed (flows.go); a transaction that runs
// meanwhile comes first. Who is fit is remembered, and read from HAProxy at the start: nothing that a comparison finds is only news.
// A load balancer whose slot changes is judged by what was said of its servers in the former one, until HAProxy is asked of the new one, also
// when the move was cut by a crash and is taken back: its door never
// closes, and its flows stay. A server that fails again and again has to pass for longer before it gets flows (damping.go).
// Conntrack keeps flows where they are, so those to a node that fails are deleted at once, and their next datagram goes to another
// node; those of a removed port or pod, whose NodePort or address another Service may get, end at once as well; those of a node that
// left the State, and of a client that may not connect any more, end in the load balancer's drain time (sweep.go).
// Deleting one too many does no harm: the hash leads it back. Backups, servers that drain and pods are not checked (judge.go).
//
// Forwarding is turned on by the agent and by no file of sysctl.d (forwarding.go): only where a State needs it, and never before
// our table says for whom. Who finds the kernel forwarding without our mark has a router before it.
//
// # Clients' addresses
//
// Services whose servers see their clients need the owner's consent (clientSourceProbes of limits.yaml), a routing rule, and the addresses
// that HAProxy checks these servers from (clientsource.go). As long as limits.yaml allows it HAProxy has the right, before 3.0 by
// being root, and slots are ready: so a Service takes no reload, and the right goes with the consent and with nothing else.
// Consent that is withdrawn closes such Services with the next comparison; other limits that are narrowed only warn, but this one is
// about root. A worker that is silent there, and not to the shared pool's check, is told while the VIP is held here.
// Measured in the lab: served 1.1 to 1.5 s after the workers' routes were there; the holder lost its power: 0.33 to 0.4 s without an answer.
//
// # The peers
//
// Every two seconds hello is asked of all other gateways at once, over sessions that stay open: the fence alone, and no
// child process (2 ms of CPU on both sides together, a thousandth of a core). State is asked for only of the peer whose
// fence is the newest, and goes through the same transaction as a controller's, with one check more: an epoch over 2^20
// above ours, a takeover every half minute for a year, is refused, so that one near the end of the numbers cannot spread
// and lock all controllers out. A fence in a hello is a hint, never believed: what counts is the signed State.
//
//   - Confirmed: a peer was reached, and none that was holds a newer State. Who is silent, holds another cluster's State, or
//     tells of a newer one and shows none that we believe, counts for nothing; a newer one that is only refused here
//     (limits) counts against us. Taking a State confirms nothing; the next round does.
//   - Two gateways back from a power failure are both not ready, so priorities alone decide and they serve; a gateway that
//     reaches nobody serves alone in the same way.
//   - A gateway that is ready lets a peer be ahead for 5 s, and for a minute while a controller has a session here: a rollout
//     goes from gateway to gateway and stops at the first failure (invariant 11), and helping oneself at once would
//     defeat that. One that has booted holds nothing and does not wait; nor does one whose peer was silent until now.
//     So a controller's State reaches a gateway that it cannot reach after 7 s, 20 s when it vanished there without a word.
//   - What could not be taken is tried again after 5 s to a minute when it was refused, a minute to ten when it was rolled back.
//
// # HAProxy's life
//
// A gateway whose HAProxy is dead or hangs serves nobody. When a peer said that it is fit to take over, the track file says goodbye
// for half a second (keepalived goes into FAULT, 10 to 40 ms) instead of a lower priority, by which the heirs wait for three
// adverts, or for their preemption delay; if none was fit then, when one is. Dead is who refuses three questions in 20 ms. Hanging is who answers none of four in 0.7 s and neither runs nor waits for
// a processor; one that does has 2 s: with 100 reloads of 1000 VIPs and a load of 30 on two processors the VIPs left again and
// again while only one question, or two, were asked. Measured by test/chaos, 1000 VIPs, advert_int 0.1, longest time without
// an answer: killed 0.11 to 0.26 s (outbid: 0.34), hanging 0.8 s (outbid, after 0.4 s of silence: 0.73). One that hangs for 15 s is
// ended and started anew; where older workers serve besides, a reload replaces the newest first, and it alone is ended: its end before
// would be that of all (hang.go; 23 s after it was stopped, in the lab). One whose stats socket's file was removed or replaced is no dead
// one: it is asked where clients ask (worker.go), and a reload that names the same file otherwise makes it anew (statssocket.go).
//
// # The drain
//
// drain lowers what the ready file says by 25, so every heir that is fit outbids this gateway, whoever is first in an instance,
// and a stale one does not (invariant 6); nothing is reloaded. The mark lies beside the State (drained.json), goes by no
// clock and stays over reboots until undrain. Every hello tells the others whether we could take over (HAProxy answers, keepalived
// runs, current, not drained), and a drain is refused unless one peer said so when it was asked last, at most seconds ago.
// That may be wrong, so the drain waits until the VIPs are gone, and takes itself back when they are not. With a preemption delay
// (package keepalived) the heir may be a gateway that waits, which is deaf to a lower priority: what is left then leaves, by the
// ready file, and is looked for again when it would be back.
//
// Established connections go on, by a second hop (hop.go, nftables/hop.go): while VIPs move, and for the grace of the drain, the
// new holder hands packets that belong to no socket of its own on to the old one, which takes them in although the address is
// gone and answers the client itself. So a drain asks the heirs first: every hello tells whether VIPs leave this gateway and for
// whom it is ready, and VIPs move when all heirs are, or after 5 s (a peer asks every 2 s). What is left when the grace is over
// (told in status) is reset, by ss --kill. An undrain is the same in the other direction, and later by the
// preemption delay (10 s, a grace of 4 s: 0 of 50 cut, 25 when the hop had not lasted). It is for hand-overs between two
// living gateways: of a dead one nobody knows the connections, and its hop ends 5 s after it was last heard. Not covered: a VIP on
// another interface than VRRP's; IPv6 VIPs of gateways without an IPv6 address; an agent that starts anew after undrain.
//
// Measured in the lab (advert_int 0.1, 200 new connections/s, 50 held; 20 moves in 10 drains and undrains): before, 1 of 2286, 2 of
// 2598, 1 of 2146 new connections reset, half-way at a move, and all 25 that were held through the drained gateway. With the second
// hop 0 of 2616, 2898, 2557 and 0 of 50, also when SYN cookies answer (conntrack is asked for that; 328 of 2897 reset without).
// Longest gap 34 to 216 ms. The first drain takes 2.6 s, later ones 0.4 to 0.6 s. HAProxy killed on both gateways in turn,
// each drained meanwhile: 0 of 2057 failed; killed without a drain on the holder: 38 of 118.
//
// # The verbs beside it
//
// hello, state, plan and status only look. hello runs no program for a peer: it tells the VIPs that were held when it was looked last
// (holding.go). probe asks the networks of this gateway who has an address (package neighbor) and
// gives those who answer the names that State has for them; it changes nothing, so it waits for no transaction, and it goes
// out on no interface but those that the owner's limits name. Manager asks it before it claims an address, and for VIPs that
// are held: whoever else answers for one is told.
//
// # Handed over
//
// A gateway belongs to the cluster of its first State until its operator, root on the machine, says that this cluster is gone (verb
// adopt, adopt.go). It then serves on, and the first State of another cluster replaces its own, from a controller, by hand or
// from a peer that was handed over too; controllers are told that it holds nothing.
//
// # Tried, and rejected
//
//   - Undo from copies of the old files for every transaction: it restores files, not HAProxy's runtime, and what was
//     already wrong before comes back. Rendering the State that is held again gives both.
//   - Believing a reload: HAProxy 2.6 gives no verdict and loses a SIGUSR2 that comes while its master is busy, so the new
//     worker must tell its generation, and a reload without one is repeated.
//   - Rolling back when ports are taken: they are tried before the swap, so such a State is Refused and nothing moves.
//   - Ready after 30 s in which nobody told a newer State: with the controller down an old State took VIPs from a new one.
//   - Telling peers that there is something newer: the role peer would have to say something, not only to read, and whoever
//     was away would have to ask all the same.
//   - Handing over by removing state.json: every agent had to be stopped before the first one was started again, or it took the
//     State from a peer; and meanwhile nothing was repaired.
//   - slots.json written with the commit, before or after state.json: a crash in between gives a load balancer that moved a third slot.
//   - One context for session and transaction: a cut connection would leave work half done.
package agent
