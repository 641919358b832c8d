// Package haproxy turns a State into what one gateway's HAProxy runs from, reads back what it runs, and gives the runtime
// commands that lead from one to the other. It owns haproxy.cfg, the two maps and the words of the stats socket. It must
// not know Kubernetes, nftables, keepalived, how HAProxy is started or where a State comes from; it logs nothing.
//
//	Render (State, Local, Slots) -> Config     Runtime.Read -> Running     Compare (Running, Config) -> Diff     Runtime.Apply
//
// Invariants (DESIGN.md section 5): 2, Compare looks at what runs, never at what was wanted before, so it repairs whatever
// made a difference; 7, Config.Owner and desired.Faults name the load balancer at fault; 8, a slot changes hands when
// Running.Free says that no server, connection or map entry is left; 10, same State, same bytes; 11, Diff.Reload is empty
// unless Generation differs, which no Service, node, endpoint or slot's server changes, or a slot is missing: slots run out, or one
// with timeouts of its own is needed, which the reason tells.
//
// A connection is looked up once, in one map, so that it sees all of a change or nothing. A server without a port takes
// the destination port, which the map's NodePort has replaced: hence one pool of nodes for all Services, and hence no entry
// without a NodePort, for the VIP's own port may be the node's sshd. Every pool that fails open is two backends of the same
// servers, one checked, the other with "-open" behind its name. Slots fail closed.
//
// A slot has one tenant: a load balancer, or one port of it whose servers have ports of their own, because they get a PROXY
// protocol's header or are pods. Then the map has no NodePort and the destination stays what the client connected to, which the
// header names. What HAProxy cannot change while it runs makes another tenant or another kind of slot: algorithm, header, check,
// timeouts. So the load balancer moves: new servers in a free slot, then the map entry, and the old servers drain where they are.
// A server is up there at once when it served from where the load balancer comes (membership.proven): the running map tells that
// for TCP, Config.Succeed for datagrams, of which HAProxy has no entry. Else everybody would be refused until a check has passed.
// A slot's name in haproxy.cfg has its tenant behind it, check included, so that an agent which lost its record moves nobody
// (SlotsIn). Slots of all kinds are made ahead, those with timeouts one by one; these come by a reload, go without one and are
// used again.
//
// A slot that was left is not free while connections go on there, which may be for days. Who has left it may return (Left): its own servers
// are there, so that one who changes to and fro has two slots, and not one for each change. Changes that all differ, each with a connection
// that stays, take a reload for more slots after 40, 8 with another algorithm than roundrobin, which the result tells; they are not
// held back, since a load balancer without a slot refuses everybody.
//
// Servers that see their clients (ClientSource) are in slots of their own kinds, one for each family of VIPs, because `source ... usesrc
// clientip` binds to an address of the client's family. What follows `source` is where the check comes from: an address that workers route
// like those of clients, so that a check which passes proves that answers come back (clientsource.go). So nobody is up there
// unchecked, wherever the load balancer comes from, nor is a backup. To leave such a slot waits for nothing. A probe of the agent's own instead of
// HAProxy's check was rejected: a second verdict about each server, and a way into the servers' state beside the one that is there.
//
// A pod's server is shut when State names the pod no more, whatever the drain time: its address may be another Service's pod's, and a
// connection that still tries to reach it would get there (with the next SYN). That holds for the present worker: one that a reload
// replaced has no socket to be told by, and may try for as long as its timeout connect, four times.
//
// A pod counts as named where its address and port are: one whose Service or port is gone, or its targetPort, is shut as well.
// Nothing here knows whether it lives on.
//
// Marks behind a server's name (web-1_pod_v2, worker1_backup) tell its nature, as HAProxy does not. A check has a header if who answers at
// the checked port gets one from clients of this load balancer, through whichever frontend: kube-proxy's healthz would refuse one (manual
// 5.2, check-send-proxy). A server that gets none itself is then checked with version 1, and one that gets version 2 with that, also
// where the other one is spoken: HAProxy, nginx and Envoy take both.
//
// What is saved of the servers before a reload is for that reload alone, and only what the new file says too (Config.Inherit): HAProxy
// believes the ports, the check and the maintenance that it reads about a name, and slots change hands. A start reads nothing: the
// words for it stand behind a variable that the master has in its environment from its first reload on (mworker_reload of src/mworker.c).
//
// A server that nobody wants, or that drains, goes into maintenance: no new connection, the old ones live. It is deleted after the
// last one; Departed names those that have some and End ends them, when the agent says so. A node that is a backup is another server
// than the same node as one like others, because `backup` cannot be changed at run time, and the same node is often both in
// turn; all backups share (`option allbackups`). downinter lets a new server be up after 0.1 s instead of two times inter.
//
// The pool of nodes is there twice. nodes has each node's first address, IPv4 if it has one, and serves VIPs of both
// families. nodes6 has the IPv6 addresses, for load balancers whose VIPs are all IPv6: kube-proxy opens the NodePort of a
// Service with ipFamilies [IPv6] at IPv6 addresses alone, and answers at the others with RST. A node without one is not
// in nodes6: it cannot serve such a Service. A dual-stack node is therefore checked twice, once at each address, whether
// or not a Service needs it (4 % of a core for each pool with 1000 nodes every 2 s, DESIGN.md section 7). Filling nodes6
// with the first such Service instead would let that one's first connections go, unchecked, to dead nodes too; following
// the check of nodes (`track`) keeps a server from being deleted, and tells nothing about IPv6.
//
// What a few Services ask for stands in fields 4 to 7 of the map entry: affinity, limit, rate, log. It comes and goes with the map;
// all others have |0|0|0|0 there and leave the rules after one look at it. There are seventeen times of affinity; another one that is
// asked for becomes the next longer (affinityOf). Were they bounded by number, a new Service's wish could take the table of
// one that is served. Clients stick by "client|VIP:port", for kube-proxy keeps
// affinity for each port too (kubernetes issue 103000), in a table for each time that is asked for: one that is new is the only
// reload among all that (Diff.Reload tells it), one that nobody uses stays until the next. What sticks is a server's name, and its
// number only when the name is unknown; both are looked up in the connection's own backend, so that no stale one leads to
// another Service's servers. The limit counts "namespace/name:port", both families together; the rate of a client counts what was opened,
// not what was refused. What is refused goes to a backend without servers, whose name the log then has, a hundred times in ten
// seconds; Running.Limited counts it all. A connection is logged by its level: failures have err, others info, which is not sent.
//
// The gateways tell each other the tables of affinity (peers), and a worker tells the next one. The port is bound transparent: a
// bind that fails closes all others, and at boot its address may come after HAProxy. nftables lets nobody but peers in.
//
// The control plane's extra ports share its frontend, which tells them apart by dst_port: a frontend for each would need loopback
// ports that the agent has to configure, try and tell to nftables, and every one of them can be taken by another daemon. What an
// API server's check verifies with is a file named by the digest of its content: `haproxy -c` opens it by the name that stands in the
// new haproxy.cfg, while the running one still needs the old file. verifyhost is not used: it compares DNS names only, and an
// API server of another cluster under the same CA is not what a check has to find.
//
// Facts of HAProxy 2.6.12, each held by a test against the daemon:
//   - Keys of the map are as netip writes addresses, IPv6 without brackets; a server's IPv6 address needs brackets, or its
//     last group is taken for a port and the rest for a hostname.
//   - A server's port, the port of its check, maintenance and verdict come from the saved state, by its name, not from the file (its
//     address does not). A reload is followed by Read, Compare and Apply: they set the limit of the Services' frontend, which only
//     the worker knows when maxconn is its own computation.
//   - SIGUSR2 between the worker's first answer and the master's wait loop is lost (5 of 16 reloads right after a start).
//     The master CLI's reload is refused in that moment, at worst, and can be repeated (0 of 50 lost).
//   - `set server addr` moves a server while connections to its old address live on. Deleting and adding it anew, as
//     planned, would have to wait for the last of them. Maintenance, then a check, come before new connections.
//   - inter, rise and fall of a server can be neither read nor changed, nor whether it is checked, and over TLS. For nodes and
//     endpoints they are part of Generation; a slot's tenant moves.
//   - A server that is added at run time without an ID is placed in the ring of source and random before it gets one: of three, one
//     got no connection. An ID made of its name also sends a client where every other gateway and worker does.
//   - timeout tunnel of a backend bounds and prolongs silence, whatever the frontend's timeout client says.
//   - A server that passed no check yet is down after one failure, whatever fall says.
//   - `add server` takes a ca-file that a server of the file names; with another CA all of them change, by a reload.
//   - A worker hands its tables to the next one only after it has learned itself, from one before it and from a peer, or waited five
//     seconds for each (flags of show peers & 3). A reload before that starts with empty tables and gets them from a
//     peer after five seconds. Else 100 000 entries are complete 0.1 to 0.2 s after the new worker's first connection: a client that
//     comes between may get to another server, and stays there.
//   - Sticking goes on to a server that drains (`set server state drain`), not to one in maintenance, which is what we use.
//   - `add server` takes no non-stick: a client of a backup server stays there as long as that is up.
//   - With usesrc a worker that changes its user does not start, and `haproxy -c` does not see it. It needs CAP_NET_RAW or CAP_NET_ADMIN
//     and, for its chroot, CAP_SYS_CHROOT; a uid other than root's with these as ambient capabilities does as well, but the file
//     must not name it. A check takes the address behind `source`; an IPv6 one needs brackets there.
//   - `show info` quotes a description that has a comma.
//
// Measured with 5000 Services and 100 nodes on two busy cores: Render 42 ms, Compare 1 to 4 ms, Read 6 ms, Apply of everything
// at once 31 ms, one port more 0.2 ms; 150 single changes cost as much as replacing the map (8 and 9 ms), so bulk is 200.
//
// 160 empty slots (50 of each kind with roundrobin, 10 of each other) cost 2.1 MB, 36 kB of haproxy.cfg and 1 ms of Read; 50 of every
// kind, 400, cost 5.1 MB, 95 kB and 3 ms. 500 pods added in 0.24 s, 250 replaced in 0.18 s, 500 weights changed in 0.11 s, 499 gone in
// 0.12 s, each with Render, Compare and two Reads.
//
// A connection costs the worker 80 microseconds of a processor, 2 to 3 % more than without affinity, limits and logs in the file
// (BenchmarkConnection, medians of 15 runs on a busy machine, which differ by 10 %). To use affinity or a limit costs nothing that could
// be measured, a rate 3 %, a log 10 %.
//
// Memory, at most, and once more in each old worker: 338 bytes for each client that sticks, 524288 of the usual time (177 MB), 65536
// of each other one (22 MB), all together 530 MB, then the oldest is forgotten; 336 for each client of a Service with a rate, 102400 (34 MB). Each
// time of affinity costs 0.17 MB with a hundred slots. A rate counts IPv6 by /64, as who has one could take another address for each
// connection; affinity does not: a site's own clients, all in one /64, would get to one server.
//
// Evenness, 600 connections of two Services over one pool, least and most of a node, each Service and both:
//
//	              one Service   A, B, A, B...: A, both    random order: A, both    10 nodes, random: A, both
//	roundrobin    2: 300-300    0-300  300-300            141-144  300-300         24-33  60-60
//	leastconn     2: 299-301    39-261 299-301            139-146  298-302         24-33  60-60
//	random(2)     2: 256-344    120-180 256-344           124-161  262-338         20-36  43-81
//
// So roundrobin: equal within 1 for one Service and for the nodes in all cases; for one Service of several it is off by a few.
// Its worst case needs clients in lockstep and a number of nodes that shares a factor with that of the Services (with 3 nodes
// A got 100-100-100); leastconn has the same one, and random(2) is worse at everything else.
//
// Tried and rejected: header or check as kinds of slots (24 kinds and more, nearly all empty); changing a header by new servers in the
// same slot (for a moment connections get either); a frontend for timeouts, as planned: the backend's timeouts are enough; refusing
// at `tcp-request connection` alone (nothing logs it); conn_rate for the rate (it counts what is refused: who asks for more
// than its share gets nothing); dontlog-normal with a frontend for Services that log; a backend per Service (10.5 MB and 3.6 s to check
// with 1000, DESIGN.md section 7); two maps (a connection between their changes went to a node's own port 22); a digest of
// the whole file as Generation (every Service reloads); commands from the difference of two States (drift stays, a half-done Apply stays).
package haproxy
