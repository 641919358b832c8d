// Command backend is what a client of a Service reaches: it tells who answered and whom it saw, over HTTP, on every address
// it is given, and "NAME PEER" with what it was sent to UDP datagrams there. It plays a worker's NodePort, and a Pod.
//
//	GET /        one line: NAME PEER LOCAL, e.g. "worker1 192.0.2.11:40112 192.0.2.21:30080"
//	GET /echo    the connection leaves HTTP: that line again, then every byte comes back until the client is done
//	GET /healthz on -health: 200, or 503 while the file -unhealthy exists (kube-proxy's healthz, port 10256)
package main
