// Command hostinit is what every host of the lab starts with and is entered through. The lab builds it; people need it never:
// they enter a host with nsenter.
//
//	hostinit segment DIR         keep the bridge's network namespace and the disks; remove DIR when the lab is gone
//	hostinit host NAME DISK DIR  be process 1 of a host: mount its file system, reap, receive syslog
//	hostinit enter PID ARGV...   run ARGV as a process of the host whose process 1 has this PID
//
// segment and host end when file descriptor 3 reaches its end: the lab holds the other end of that pipe and nobody else
// does, so the kernel closes it however the lab dies, kill -9 included. With process 1 the kernel kills every process of the
// host, and the last process takes the network and mount namespaces with it. That one mechanism is the whole clean-up.
package main
