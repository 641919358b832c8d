// Package agent is the transaction on one gateway: it makes the State that a controller signed true on this machine,
// wholly or not at all, and keeps it true. It is resident and the only writer of HAProxy's and keepalived's
// configuration, of HAProxy's runtime and of our nftables table.
//
// It owns the unix socket with its roles, the fence, the limits file, the State that is committed, which slot serves
// whom, the daemons' lives, keepalived's track files, and the end of connections whose client may not connect any more. It must not know Kubernetes, SSH (the pipe is a copy of bytes,
// the signature a [Verifier]), how files look (haproxy, keepalived and nftables render and read back) or how a neighbor
// is asked.
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
//   - 4, fenced, also against itself: one transaction at a time, not tied to the session that asked for it.
//   - 6, freshness: at boot ready is 0, until a controller's apply shows that the State is the newest, or until 30 s pass
//     without anybody telling a newer one. A restart of the agent alone keeps ready: an upgrade must move no VIP. Without
//     a State nothing is started, so nothing is held. An apply that fails changes ready neither way.
//     keepalived waits for our readiness, and by then the nftables table of before the boot is there.
//   - 11, no reload without a reason: reasons are told in the result, logged, and counted by class in counters.json. Each
//     one can leave an old worker behind, so a try has two wrong workers at most and repairs come to ten minutes between them.
//   - 13, the last word: signers and limits are read anew for each State. A State that is held is served on when either
//     has changed under it, with a warning.
//
// # Who may not connect any more
//
// The front door lets no new connection in. Those that are established when a client's range is taken away end a drain time
// later, by ss --kill, which closes exactly these sockets (expel.go); shutting HAProxy's sessions down would need a walk through
// all of them at every worker, old ones too. It looks when the State changes who may connect, and until none is left.
//
// # The verbs beside it
//
// hello, state, plan and status only look. probe asks the networks of this gateway who has an address (package neighbor) and
// gives those who answer the names that State has for them; it changes nothing, so it waits for no transaction, and it goes
// out on no interface but those that the owner's limits name. Manager asks it before it claims an address, and for VIPs that
// are held: whoever else answers for one is told.
//
// # Tried, and rejected
//
//   - Undo from copies of the old files for every transaction: it restores files, not HAProxy's runtime, and what was
//     already wrong before comes back. Rendering the State that is held again gives both.
//   - Believing a reload: HAProxy 2.6 gives no verdict and loses a SIGUSR2 that comes while its master is busy, so the new
//     worker must tell its generation, and a reload without one is repeated.
//   - Rolling back when ports are taken: they are tried before the swap, so such a State is Refused and nothing moves.
//   - One context for session and transaction: a cut connection would leave work half done.
package agent
