// Package gateway is the controller's client of one gateway's agent, and the keys that both believe.
//
// It owns: the SSH connection (who the machine is, who we are, when it is given up), the order of requests on it, the
// words for everything that can be wrong with it, and the signature over a State. It must not know what a State says, when a round is
// due, or how an agent does its work; it logs nothing, so that a secret cannot slip into a log here.
//
// One Client holds at most one SSH connection with one session, opened by the first call and kept: request and reply
// are frames of package wire on the session's stdin and stdout, one at a time. What runs at the other end is decided by
// the forced command in the gateway's authorized_keys alone; the command that we ask for is no program, so a key that
// was installed without a forced command gets an error instead of a shell. Each new session starts with a hello: it
// proves that an agent answers, that it speaks our version, and that it is the gateway we meant, before a State is sent.
//
// A call that fails, or whose context ends, closes the connection: half a frame is never left for the next caller,
// who connects again. Nothing is repeated in here: Manager repeats, because its rounds are level-triggered
// (invariant 2), and a cut session does not touch a transaction that runs. A keepalive notices a dead peer between
// calls, and within three seconds during one; every call has a deadline of its own besides its context's.
//
// Invariant 12: a host key is accepted only when known_hosts has it for this host and port. The algorithms that we
// offer are those of the known entries: sshd picks the first that we offer and it has, so with Go's default order a
// host that is known by its ed25519 key would show its ECDSA key and be refused. When that leaves nothing in common, or the
// host is unknown, a second handshake, refused on purpose before we authenticate, learns the key that the host has, for the
// message. known_hosts is read again for every connection, so a corrected file needs no restart.
//
// Invariant 13: Sign and Verifier agree on one form: an SSH signature over desired.Signed.SigningInput, RSA with SHA-2
// only. The signers file is strict: a line that does not parse is an error, not a signer that is silently missing.
//
// Tried and rejected: a connection per request (4 requests/s over OpenSSH on loopback, 600 over the kept session, see
// BenchmarkOpenSSH); several sessions on one connection (the agent does one transaction at a time anyway, and OpenSSH's
// MaxSessions limits them); a child process `ssh` (its errors are text, and the controller's image would need it); trust on
// first use (the first use is when an address was hijacked, too).
package gateway
