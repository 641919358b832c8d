// Package lab makes a small network of real hosts on one machine: gateways with sshd, HAProxy, keepalived and our agent,
// workers, a client and a host for the controller, all on one bridge, all from Debian's packages.
//
// A host is a process 1 (command hostinit) in its own PID, mount, network, UTS and IPC namespace. Its /etc, /var, /usr/local,
// /root, /home, /srv and /opt are overlays over the machine's, its /run, /tmp and /dev are its own, so production paths are used
// and nothing of the machine is changed. The bridge lives in a namespace too: the machine's own network is never touched.
//
// The segment is 192.0.2.0/24 and 2001:db8::/64 (RFC 5737, RFC 3849):
//
//	controller  192.0.2.2        2001:db8::2
//	client      192.0.2.3        2001:db8::3
//	gwN         192.0.2.(10+N)   2001:db8::(10+N)     (the last part of the IPv6 address is written like the decimal IPv4 one)
//	workerN     192.0.2.(20+N)   2001:db8::(20+N)
//	VIPs        192.0.2.64-192.0.2.254, 2001:db8::1:0/112
//
// With IPv6Only nobody has an address of the first kind, so that what secretly needs one fails.
//
// What holds: two labs share nothing, not even a name; what a lab starts ends with it, however it ends. There is no list of
// things to undo. Every namespace hangs on a process that ends when a pipe held by the lab's process alone is closed, which
// the kernel does after success, failure, panic, Ctrl-C and kill -9.
//
// Goroutines do not move into namespaces. A program for a host is started through Command; a connection is made by Dial, whose
// thread enters the network namespace and is thrown away; the connection itself then works from any goroutine.
//
// Tried and rejected: named namespaces (ip netns: a list to undo, shared by everybody); one overlay over the whole of / (its
// lower layer changes under it while the machine builds); nsenter for Command (killed, it leaves its child alive); re-executing
// the test binary (asks a hook of every TestMain); PDEATHSIG for the hosts (it follows a thread of Go's scheduler, not the lab).
package lab
