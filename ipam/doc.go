// Package ipam decides which address a Service gets.
//
// It owns the pools and who holds which address of them. It is pure: it knows no Kubernetes, gateway, clock, log or
// lock; the caller calls it from one goroutine and repeats, after a restart, what was true before it (Claim,
// ClaimReleasing). Nothing depends on map order (DESIGN.md invariant 10).
//
// Invariant 8, never give away an address:
//   - An address has at most one owner. What an owner holds changes only when that owner asks (Allocate with another
//     requested address or without a family, Release).
//   - What an owner gives up is releasing, not free: Free makes it free when the caller knows that no gateway holds it
//     any more. Only its last owner may take it back before that.
//   - Published addresses are claimed before the first Allocate, also when they lie outside every pool (Check says so).
//
// Choice. Addresses that nobody ever held come first, lowest first; then freed ones, longest free first. That is
// next-fit taken to its end: a client that remembers a deleted Service's address meets another Service as late as
// possible.
//
// Cost does not grow with what is in use. The addresses of one pool and family are numbered 0 to last (block); the
// numbers never taken are one cursor plus the runs that were claimed ahead of it, kept by their two ends in a hash map:
// taking a number merges at most two runs, and as runs are maximal, the number after a run is free (fresh). Numbers,
// not addresses, keep a held address below 200 bytes. BenchmarkAllocateRelease has the figures.
//
// Rejected: walking the pool and asking a set (4.7 ms with 16 000 in use); a bitmap (a v6 /64 has 2^64 addresses); an
// ordered tree of free intervals (log n, more memory, and much more code); netipx.IPSet as the free set (immutable, so
// a rebuild for each change).
//
// Ownership is a record, not an address's field, so that several owners with disjoint ports can share an address later.
package ipam
