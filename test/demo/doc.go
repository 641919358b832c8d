// Command demo does the project's main job before a person's eyes, on real parts: a Kubernetes cluster, a pair of gateways,
// the README's Service, a client on the network, a gateway that dies and comes back. Every promise that it shows it also
// checks; its exit status is 0 only when all of them held.
//
//	demo [-keep]
//
// It owns the story and its telling. The machines are package lab's and the cluster is package cluster's, so that what is
// shown here is what the tests test. All numbers come from the part that they are about: addresses from kubectl, sessions
// from HAProxy's own socket, gaps from a client that opens a connection every 5 ms.
//
// What it starts ends with it, however it ends (package lab tells how).
package main
