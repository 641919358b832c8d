// Package traffic is a client's view of a Service: it opens connections and counts what became of each.
//
// It owns: Flow (new connections at a fixed rate, whatever the answers) and Hold (connections that stay open), and their
// reports. It knows the lab's backend program, and nothing of hosts: command client runs it in the client's namespace.
//
// A Flow does not wait for answers: a server that stalls gets as many attempts as one that answers, so that the longest gap is
// the server's and not the client's politeness (Tene, "How NOT to Measure Latency", coordinated omission).
package traffic
