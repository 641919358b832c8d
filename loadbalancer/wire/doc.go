// Package wire holds what controller, agent and peers say to each other: one Request, one Reply, each one frame.
//
// It owns the verbs, roles, refusals, outcomes and the frame (length, gzip, JSON). It must not know how the bytes
// travel (SSH and a unix socket are gateway's and agent's business), what a verb does, or Kubernetes. It imports
// loadbalancer/desired and the standard library.
//
// What holds:
//   - Bounded: nobody can make the other side allocate more than MaxFrame and what JSON makes of it, whatever length is
//     announced and however well it compresses; memory grows with the bytes that arrived. A State of 5000 Services takes
//     2 MB of the 16 MiB (base64 of its canonical bytes) and 0.23 MB on the wire.
//   - In step: after a frame that is no message (MalformedError, VersionError) the next frame is found, so that an agent
//     can answer why it refuses. A connection that was cut is never taken for a short message: io.EOF comes between
//     frames only.
//   - Requests and States are read strictly: an unknown field is an error, because a controller that believes a gateway
//     understood it must be right. Replies are not: what the next release tells more is passed over, so that gateways of two
//     releases hear each other while they are upgraded one after the other, and an older controller can ask newer gateways.
//     So a release may add fields to replies, never change what one means, and asks nobody for new things before all gateways
//     have it (gateways first, then the controller). testdata/messages.json is all that the present one writes.
//   - A message of another Version that cannot be read is told as VersionError. Requests and replies have "version" as a
//     field of the top level for that, and must keep it, and VerbHello must stay readable for every build.
//   - The role is never part of a Request: the agent has it from the socket's Preamble, which sshd's forced command wrote.
//   - The State travels as the signed bytes (desired.Signed), never as JSON inside JSON that somebody might print anew.
//
// Tried and rejected:
//   - One gzip stream over the connection: smaller, but a frame could not be bounded or skipped by itself.
//   - Lines of JSON: a reader has to buffer without knowing for how long.
//   - gRPC: a second protocol stack, certificates and code generation for six verbs on a pipe.
//   - gzip's default level: an eighth smaller for twice the time (22 ms instead of 12 for 5000 Services).
package wire
