// Package desired holds the nouns of the whole project: what all gateways together have to do, as one value.
//
// State is made by the Manager (or by hand, for gatewayctl push), signed, sent over SSH, verified, stored, handed on by
// peers, and rendered by haproxy, keepalived and nftables, each gateway for itself. This package owns its types, its
// canonical form and digest, its order (Fence), what makes it valid, and the choices that must come out the same wherever
// they are made: the VRRP instances of a list of gateways (Instances), the instance of a VIP (Spread), and by which
// family a load balancer reaches its nodes (LoadBalancer.IPv6Only, Node.IPv6).
//
// It must not know: Kubernetes, files, daemons and their versions, slots, SSH, logs, clocks. It imports the standard
// library only.
//
// What holds (numbers of the design's invariants):
//   - Same State, same bytes (10): Canonical sorts a copy; nil and empty lists are the same; no map is anywhere in State.
//     Digest leaves the Fence out, so that a round without a change is seen as such.
//   - Half-understood configuration is worse than old configuration: Decode refuses unknown fields and every other
//     Schema, and says which. A field added later must be omitted from JSON when empty, else the Schema rises.
//   - Prefixes of clients have one form too: masked, sorted, merged (MergePrefixes). Validate takes them unmerged, since
//     people write them; whoever renders them merges.
//   - Validate tells all faults at once and whose they are (7): a fault that leaves with one load balancer names it as
//     Owner, so that Manager serves the others. Of two load balancers that claim one (address, protocol, port) (8) the
//     later by key is at fault, and both are named. When a node comes up with an address that is a VIP already, those
//     load balancers are told: one new machine must not stop every round.
//   - An address that was one Service's alone is on its way back as a whole and nobody may have it. Ports of a shared
//     address are on their way back by themselves: they conflict with the same ports of another load balancer only, which
//     is then at fault, while other ports of the address are served and others' leave too (8).
//   - What is only for people (Pools, Reserved, Quarantined) is judged like the rest; Description makes any text fit, so
//     that a person's words in an object of the API server cannot stop a round.
//   - No value that passed Validate can end a line, a word or a quoted string in a configuration file or a runtime
//     command; certificates stand in a file of their own, in the one form that Certificates gives. A test walks all string fields by reflection, so that a new field is judged too.
//   - A pool of all nodes names none (Pool.AllNodes), else a few hundred of them were larger than a message may be, and each node
//     that comes or goes a change of every one. Expanded names them, for renderers alone, which do not know of it.
//   - Fence (4): epoch 0 means "before the cluster", with neither cluster UID nor instance, and with the control plane only:
//     no nodes, no load balancers, nothing on its way back.
//
// Tried and rejected:
//   - Protocol buffers or gob: canonical bytes are not promised by either, and an operator reads state.json with less.
//   - Validate on a sorted State only: push files are written by people. An order of indexes costs nothing.
//   - Demanding in Decode that the bytes be canonical: an upgraded gateway could refuse its own stored State.
//   - Spread by a flat hash over the pairs: adding a third gateway then moved the holder of half the VIPs instead of a
//     third, and a removed holder's VIPs went anywhere instead of to the heir that has them already.
//   - Regular expressions for names: most of Validate's time with thousands of load balancers.
//
// Measured with 5000 load balancers of two ports (1.5 MB of canonical bytes), two shared cores: Validate 3 to 4 ms, Clone
// 1 ms, Canonical and Digest 9 ms each, Decode 30 ms. An agent's round pays Decode, Validate and Digest once.
package desired
