// Package simulation lets controllers and gateways live through histories that a seed says: the real Manager, the real agent
// with its transaction, watches and peers, on machines in memory (package machine), in the fake time of testing/synctest. 10 000
// histories are `go test ./test/simulation`, one is `-seed 42 -seeds 1 -tell`. A history is a list of operations made before
// it begins, so that a seed that fails is shrunk by leaving operations out, and what is left is printed with what happened.
//
// What happens: Services come, change, go, share, ask for an address, do not translate, are refused by a gateway that names
// them or does not; nodes come, go and fall ill. Gateways lose power, reboot, lose their agent or a daemon at any moment or at the
// n-th operation of a transaction, which then is done or not or fails in either way; their disk is full, they are slow, their
// firewall is flushed, somebody forges a State. Controllers are cut off from gateways, gateways from each other's SSH or
// adverts, while clients go on. Controllers crash, pause in the middle of a round, lead two at once; the API server is down or its
// watches are late, the first list too; etcd is restored; the epoch object is deleted. Then all is mended, for half of the seeds but for one gateway at
// first, and everything has to become as users want it.
//
// What must hold at every step (numbers of DESIGN.md section 5; checks.go, traffic.go, settle.go):
//   - 1: no gateway commits a State without a Service that somebody was told is served and that was wanted ever since.
//   - 2, 4, 7: in the end one controller leads, every gateway holds its State and is current, every Service that can be served is,
//     whatever is wrong with others. 4: no gateway goes back behind what it said; one fence means one State.
//   - 3: what runs after an answer (also RolledBack) is what the State says, by a comparison of its own (truth.go).
//   - 5: what all machines serve for seconds is reached by clients while nobody touches gateways. With a gateway missing a new
//     Service comes to be served.
//   - 6: who has booted and never caught up takes nothing from a gateway that is current, serves, and answers it.
//   - 8: no address and port has two owners on all disks, of machines without power too, and in all that runs; a published one
//     changes only if its Service ever asked for that. 11: no reload of HAProxy, one gateway at a time. 13: limits, keys, roles.
//   - Traffic (0): a client connects to what a status names, at every machine that has the VIP. It must not be taken for
//     another Service's, nor reach its pods, nor stand in a slot that has become another one's, however long it retries.
//
// What is a model, and so proves nothing of the real thing: package provider with its informers and the service controller
// (controller.go, sync.go: Manager's contract, RetryErrors, finalizers, one UID per name). SSH
// (a call with a latency that the seed draws; frames are not encoded), signatures (a word), VRRP's clock (ticks of an
// advert), fsync (Host promises it: what has returned is on the disk). Not simulated: probes, dual stack, UDP, pools that change,
// drains, the control plane, several agents' releases, HAProxy's own connections to servers (the machine has no /etc/passwd to tell
// them by) and who else listens on its ports (ss names nobody). NodePorts are never given twice.
//
// What is excused: after etcd was restored a published address, and what was given since; the last good form of a Service that does not
// translate, when only gateways that are away have it; what a gateway that takes no State (full disk) serves in its former form.
// Not tried: a disk that is full under a second controller, which does not know that a VIP of the first never came to that gateway,
// and one that fills in the middle of a transaction while a new Service comes.
//
// Broken on purpose, and the first seeds that said so: a failed round is not tried again: 3, 19, 35, 51 (invariant 2); the nftables table
// is not loaded: 1, 2, 3, 4 (2, 5); the way back from a commit that failed commits once more: 35, 45, 50, 96 (3); who
// holds a VIP is not heard of through a peer: 1, 9, 21 (5); a gateway that declined a State counts as if it had it: 14, 34, 70 (5).
// Not caught by seeds 1 to 150: every slot counts as free, the last good form is dropped, map order in services.map, a State that was
// not read is overwritten, new addresses are not in the ledger, a rival is not heard of through a peer. Tests of the rooms catch
// the last three (loadbalancer: TestFormerLeaderIsFasterOnce, TestUnpublishedAddressOnAnAbsentGateway, TestRivalHeardOfThroughAPeer).
//
// The same seed draws the same operations and latencies; goroutines of one moment may still run in another order (select,
// maps), so a history is tried twice while it is shrunk.
//
// Rejected: rapid's state machines (its shrinking replays draws, not operations, and needs its own loop inside a bubble); the fakes
// of package agent (they apply files, not commands, so no server ever waits for its last session); polling for commits (a State
// that stands for 30 ms is not seen).
package simulation
