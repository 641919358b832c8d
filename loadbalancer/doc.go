// Package loadbalancer holds Manager: the desired State of all Services, and the rounds that make it true on the
// gateways.
//
// It owns: what is wanted (service), which address each Service has (through ipam), the State and its fence, pushing it,
// finding who is at fault, and repairing gateways that differ. It must not know Kubernetes objects, SSH, HAProxy,
// keepalived, files. Gateways, the epoch object, the signer and who is told are interfaces of its own (contract.go).
//
// Files: contract.go is what others see; call.go, round.go and push.go are one round from the call to the answer, assign.go
// makes its State, budget.go keeps it within what gateways take, blame.go finds faults, refuse.go takes a spec that is refused,
// facts.go says what holds for it all the same; load.go, terms.go and claims.go are the beginning, resync.go the life, rollout.go a
// change that concerns everybody, patrol.go what is looked at now and then, census.go what all gateways together say; pools.go,
// prove.go, given.go, departures.go and ledger.go are the life of an address, place.go and prefer.go at which gateway, survey.go and
// proxy.go who has it, concerns.go, findings.go and advice.go what people are told of it.
//
// A round is a group commit. Ensure and Delete note what is wanted and join the next round, which starts at once when
// none runs; one round assigns addresses, builds one State and pushes it, and answers everybody who joined. Waiting for
// keepalived to hold a VIP happens outside of rounds (hold.go), so that one VIP that never comes delays nobody.
//
// What holds (numbers of DESIGN.md's invariants):
//   - 1: no round before Load, SetNodes and Replay; what the gateways serve is the last good form of what does not
//     translate, or is refused, unless it is of a former object of that name (lastForm).
//   - 2: revision counts what is wanted, made what a round confirmed: a failed round stays unmade and is tried again. Each
//     resync offers every gateway the same bytes, which its agent makes true again.
//   - 4: a State that is refused as old ends Run when another controller holds the epoch object, else the epoch is
//     claimed above it (epoch.go), unless it is farther above the object's than any cluster can have come: who tells that is left out.
//     A gateway that is never satisfied is left out after some tries, or one would stop all.
//   - 5: one gateway that confirms is enough; the others are warnings in Ensured. None: what runs stays and what is
//     assigned stays assigned.
//   - 7: who is named by a gateway, or found by bisection, falls back to the last good form. A gateway that refuses what
//     the others serve well is itself left out; only when all refuse it is a served load balancer taken away. Who may
//     connect, and what is so in the cluster (Facts), is held apart from that: it does not wait until the rest of a spec is
//     mended, and what has left the cluster leaves the form also when gateways refuse what came (fallback). Who needs more servers
//     or bytes than there is room for is refused by name, the youngest first; what is served never is, also when it grows.
//   - 8: an address, or a port of a shared one, is free when every configured gateway confirmed a State that is at least as
//     new as the first one without it (since). A last good form that is still served keeps it from being counted, and the status of
//     a Service that has moved as long as it names it, for clients read that. State
//     tells all of it, also what a Service took back and is not served with, so that the next controller knows as much. What
//     the gateways serve is claimed on the terms on which they serve it; what Services ask for now is a change of that. It is claimed
//     before what the status of another Service says of it, which is older then, or edited.
//     What is kept for a deleted Service is written down (ledger.go) before Delete returns or Has says that it is gone, and
//     read before an address is given.
//   - 10: Services are assigned and built in the order of keys; a State equal but for its fence is not made anew.
//
// A new address is looked for on the network before a State has it (prove.go). That takes half a second, so that it happens
// outside of rounds (and cmd gives it a session of its own): the Service joins the round after, and nobody else waits.
// Once a State has it, no answer takes it away. When no gateway can look, the address is taken: a probe protects from
// somebody's mistake and must not stop everybody. All gateways look at once and the first that could ask counts, so that one
// that dies just then is not waited for; what only another one sees is found later, by the patrol.
//
// A VIP that several gateways hold, or none, no gateway can see by itself. It is told when two looks five seconds apart agree: the
// answers of one look are not of one moment, and the resync beside it has the agents undo what they can. A silent gateway may
// hold anything, so that nobody holds a VIP is said only when all have answered.
//
// Push: strictly one gateway after the other, the one that holds the fewest affected VIPs first (11), because nobody
// knows before whether a change reloads HAProxy there. Before that all are asked at once whether they are there: a
// machine that has just died costs the others 2 s, not an ApplyTimeout. One that hangs over the State does cost that;
// then it is left out, asked every 5 s whether it is back, and, when it goes on like that, taken back more and more
// rarely. New VIPs go to instances of gateways that answer, and stay there (place.go). A Service may
// prefer a gateway: its VIPs go to an instance that gateway leads, also from where they are (prefer.go). A gateway that fails for a
// reason of its own (full disk, another release) is left out until the next resync, and the others go on: a State that
// a gateway rolled back did no harm there, while waiting for a person would let one full disk stop every Service. A stuck
// one ends the round. A change of what all have in common (checks, control plane, VRRP, nodes) that a gateway fails over, and
// over nothing else, stops there (rollout.go): it is taken back, the others never see it, everything else goes on.
//
// Rejected: parallel pushes after the first success (saves some 20 ms a gateway, and two could reload at once); Plan
// before Apply (one more call each round, and says nothing about a bind that fails); a worker per gateway, each with a
// State of its own (who confirmed what, and whose fault it was, then depends on timing); a timer that gathers events
// before a round (the first Service would wait for nothing); hail before a probe (a gateway that is busy would be left out);
// a second gateway that is asked when the first is late (a second lost, for fewer frames).
//
// What the gateways hold is read at Load and again right before the first round (readAgain): in between another controller may
// have led, and a gateway that was away may be back. test/simulation had Services swap their addresses that way. What is left of that
// gap is closed by comparing before swapping (ApplyAfter): a gateway refuses a State whose maker had not read what it holds, which then
// is read late (epoch.go), also when others have taken ours in the same round, or another controller claimed the same epoch. Until it
// answers it is left out. While a gateway is away the epoch object is asked before each push: the others would not refuse a controller
// that leads no more (confirmLead). Of a State of our epoch or above it that only a peer can tell of, status tells (hearPeers).
//
// A new address is in the ledger before a State has it (given.go), and leaves it when every gateway or the status tells of it: two
// writes for each batch of new Services when there are two gateways or more. It has room for some thousands; the others wait their
// turn. It tells what a Service has, not what it asks for and may be refused; what another controller has written takes nothing from who
// has it by his status or by a State. Without the ledger nobody gets a new address; what runs goes on. What nobody told of, and gateways
// serve, is asked for at the API server itself before it is dropped (confirmGone).
//
// Known limit: the last good form of a Service whose spec does not translate is only on the gateways. When those that have it are
// away while a controller loads, it is not served until they are back or the spec is mended.
package loadbalancer
