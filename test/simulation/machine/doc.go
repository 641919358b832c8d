// Package machine is a gateway in memory, for package simulation: a disk and a tmpfs, HAProxy behind the text of its stats
// socket, keepalived with the state machine of RFC 9568, our nftables table as far as it decides about a SYN. The agent works
// on it as its Host, unchanged, and reads its daemons back with the product's own parsers (haproxy.Runtime, nftables.ReadTable,
// keepalived.Held).
//
// What it must not know: Services, Manager, what is right. It does what it is told, and what breaks breaks as in the lab:
//   - Power that goes takes processes, addresses, table and tmpfs; the disk keeps every operation that has returned, because
//     Host promises fsync. The operation in between is done or not (Strike).
//   - A killed agent leaves everything as it stands; what its ghost still does has no effect.
//   - A reload of HAProxy reads files; the old worker's sessions live on. A server with sessions cannot be deleted.
//   - keepalived keeps its state over a reload, and its addresses on the interface when it is killed.
//   - `haproxy -c` refuses a server called Broken and names the line; `nft --check` refuses port Poison and names nobody.
//
// Not modelled: ARP caches (every machine that has an address may get the client's packets), HAProxy's queues and timeouts,
// time that checks of servers take, IPv6, keepalived's FAULT.
package machine
