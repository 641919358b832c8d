// Package ipam decides which address a Service gets.
//
// It owns the pools and who holds which address of them. It is pure: it knows no Kubernetes, gateway, clock, log or
// lock; the caller calls it from one goroutine and repeats, after a restart, what was true before it (Claim,
// ClaimReleasing, SetReserved, SetQuarantined, SetExcluded). Nothing depends on map order (DESIGN.md invariant 10).
//
// Invariant 8, never give away an address:
//   - An address, or a port of a shared one, has at most one owner. What an owner holds changes only when that owner asks.
//   - What an owner gives up is releasing, not free: Free makes it free when the caller knows that no gateway serves it
//     any more. Only its last owner may take it back before that, and then Withdraw makes it releasing again. Which ports
//     an owner without a sharing key has nobody knows: when it begins to share, nobody joins before a Free.
//   - Published addresses are claimed before the first Allocate, also when they lie outside every pool (Check says so).
//   - Marks (reserved, quarantined, excluded) and other pools (WithPools) take nothing from whoever has it.
//
// Choice. Addresses that nobody ever held come first, lowest first; then freed ones, longest free first. That is
// next-fit taken to its end: a client that remembers a deleted Service's address meets another Service as late as
// possible. In a pool without end the freed come first once 65 536 wait, or memory would grow with every Service ever.
//
// Cost does not grow with what is in use. The addresses of one pool and family are numbered 0 to last (block). Numbers
// are taken densely, so each has a cell of four bytes in a page, which leads to its owner's record; what is claimed ahead
// of the cursor waits in a map until the cursor has come by. A million addresses do not fit the processor's caches, so what
// counts is how often an operation waits for memory: a record is one cache line, found through a table of our own, and
// cells are written, not read. Sharing costs those who share: their cell leads to a map. BenchmarkAllocateRelease has the
// figures: 0.3 microseconds for a Service that comes and goes, however many there are, and 0.8 for one of a million that
// goes and comes back; 85 bytes each.
//
// Rejected: walking the pool and asking a set (4.7 ms with 16 000 in use); a bitmap (a v6 /64 has 2^64 addresses); an
// ordered tree of free intervals (log n, more memory, and much more code); netipx.IPSet as the free set (immutable, so
// a rebuild for each change); Go maps from number and from owner to records (0.7 and 1.8 microseconds, 187 bytes);
// an index from key and port to shared addresses (7 microseconds for every hundred of one key are enough).
package ipam
