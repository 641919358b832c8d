// Package simulation lets controllers and gateways live through histories that a seed says: the real Manager, the real agent
// with its transaction, watches and peers, on machines in memory (package machine), in the fake time of testing/synctest. 10 000
// histories are `go test ./test/simulation`, one is `-seed 42 -seeds 1 -tell`. A history is a list of operations made before
// it begins, so that a seed that fails is shrunk by leaving operations out, and what is left is printed with what happened.
//
// What happens: Services come, change, go, share, ask for an address, do not translate, are refused by a gateway that names
// them or does not; nodes come, go and fall ill. Gateways lose power, reboot, lose their agent or a daemon at any moment or at the
// n-th operation of a transaction, which then is done or not or fails in either way; their disk is full, they are slow, their
// firewall is flushed, they are drained, they lie to their peers, somebody forges a State. Controllers are cut off from
// gateways, gateways from each other's SSH or adverts, while clients go on. Controllers crash, pause in the middle of a round, lead
// two at once; the API server is down or its watches are late, the first list too; etcd is restored; the epoch object is deleted.
// Then all is mended, for half of the seeds but for one gateway at first, and everything has to become as users want it.
//
// What must hold at every step (numbers of DESIGN.md section 5; checks.go, render.go, reload.go, traffic.go, settle.go):
//   - 1: no gateway commits a State without a Service that somebody was told is served and that was wanted ever since.
//   - 2, 4, 7: in the end one controller leads, every gateway holds its State and is current, every Service that can be served is,
//     whatever is wrong with others. 4: no gateway goes back behind what it said; one fence means one State.
//   - 3: what runs after an answer (also RolledBack) is what the State says, by a comparison of its own (truth.go). Who says
//     that he is drained holds no VIP.
//   - 5: what all machines serve for seconds is reached by clients while nobody touches gateways. With a gateway missing a new
//     Service comes to be served. The control plane is in every State, and reached whatever becomes of Services and controllers.
//   - 6: who has booted and never caught up takes nothing from a gateway that is current, serves, and answers it.
//   - 8: no address, protocol and port has two owners on all disks, of machines without power too, and in all that runs; a published
//     one changes only if its Service ever asked for that.
//   - 10: what a gateway has made of a State when it commits it is, byte by byte, what comes of it when it is rendered again, and another
//     gateway with the same slots has the same maps and the same haproxy.cfg (render.go).
//   - 11: no reload of HAProxy unless slots are short, none that the answer does not tell, none told without a reason; one gateway at a
//     time. 13: limits, signatures (of what peers hand on too), roles.
//   - Traffic (0): a client connects to what a status names, at every machine that has the VIP. It must not be taken for
//     another Service's, nor reach its pods, nor stand in a slot that has become another one's, however long it retries. A datagram
//     must not reach another Service's pods, nor nobody.
//
// A fourth of the seeds is crowded (operation.go): two slots of each kind, so that a third Service takes a reload, most Services with
// servers of their own, half as many addresses as Services, all nodes ill at once, so that sessions retry. Half of these have a
// control plane, a fourth Services with a port of UDP under the number of their first one of TCP.
//
// What is a model, and so proves nothing of the real thing: package provider with its informers and the service controller
// (controller.go, sync.go: Manager's contract, RetryErrors, finalizers, one UID per name). SSH
// (a call with a latency that the seed draws; frames are not encoded), signatures (a word), VRRP's clock (ticks of an
// advert), fsync (Host promises it: what has returned is on the disk). Not simulated: probes, dual stack, flows of UDP that
// conntrack keeps (the first datagram alone), the second hop, pods as targets, pools that change, several agents' releases,
// HAProxy's own connections to servers (the machine does not say whose they are) and who else listens on its ports (ss names nobody). NodePorts are never given twice.
//
// What is excused: after etcd was restored a published address, and what was given since; the last good form of a Service that does not
// translate, when only gateways that are away have it; what a gateway that takes no State (full disk) serves in its former form.
// Not tried: a disk that is full under a second controller, which does not know that a VIP of the first never came to that gateway,
// and one that fills in the middle of a transaction while a new Service comes.
//
// Broken on purpose, and the first of all seeds that said so (`-seeds 10000 -whole -v`; the invariant, what was changed, where):
//   - 0: every slot counts as free (haproxy: Running.Free gives true): 27, 170, 187, 239, 475. A UDP port leads to the NodePort of the
//     load balancer's first one (nftables: flows.serve): 167, 263, 279.
//   - 1: the last good form is dropped (loadbalancer: in Manager.form, lb is nil): 12, 17, 22, 24. A State that was not read is overwritten
//     (agent: checkRead gives nil): 452.
//   - 2: a failed round is not tried again (loadbalancer: Run without retry.Reset): 51, 67, 115, 131.
//   - 3: files are written in place, in two halves (machine: WriteFile does the first as an operation of its own): 45, 50, 77, 96. A drain
//     does not wait for the VIPs (agent: in awaitGone the first look is done): 347, 443, 447.
//   - 4: an older epoch is accepted (agent: checkFence gives nil for it): 8, 10, 19, 45.
//   - 5: a round waits for all gateways (loadbalancer: round.confirmed wants every member's fence): 1, 2, 4, 5.
//   - 6: ready from boot on (agent: openTrack takes a ready file that is absent for 50): 60, 68, 86, 114.
//   - 8: what is released is free when one gateway has confirmed it (loadbalancer: gone, in free): 483, 2023, 2049. What was given is not
//     in the ledger (stores.go: Write drops Given): 6862.
//   - 10: services.map in the order of a Go map (haproxy: entries go through a map and are not sorted): 2, 4, 5, 6, each by chance.
//   - 11: a changed port reloads HAProxy (haproxy: Compare): 1, 2, 3, 4. A reload is told as Runtime (agent: work.outcome says Reloaded
//     for a start alone): 27, 43, 47, 55.
//   - 13: a State from a peer is believed whoever signed it (agent: take goes round Verify): 55, 71, 111, 163.
//
// Rare, and so what all 10 000 are for: the second of 8; a rival of whom a peer alone can tell is not heard (hearPeers gives false): 2841, 5985.
//
// The same seed draws the same operations and latencies; goroutines of one moment may still run in another order (select,
// maps), so a history is tried twice while it is shrunk.
//
// Rejected: rapid's state machines (its shrinking replays draws, not operations, and needs its own loop inside a bubble); the fakes
// of package agent (they apply files, not commands, so no server ever waits for its last session); polling for commits (a State
// that stands for 30 ms is not seen).
package simulation
