// Package e2e holds what we promise to a user of Kubernetes, tested end to end on real parts: the API server and the service
// controller's Events on one side, a client on the network on the other, and between them the controller as a site runs it and
// a pair of gateways (packages lab and cluster). What gateways do without Kubernetes is package integration's.
//
// One site serves all tests of TestSite, in order, and each can be run alone (-run TestSite/burst). A test takes away the
// Services that it made and repairs what it broke, so that the next one starts from a pair that is in sync. What a user would
// read is asserted by its words: kubectl's columns, Events, `gatewayctl status`. Numbers are logged, with bounds that say
// "broken", not "slow today".
//
// Test knobs turns what a Service may ask for by annotations, and the fields that no other test is about: a table in which each row
// sets, changes and removes one, under the traffic of a neighbour. Package provider holds README.md's tables to the tests that
// they name: these are run, and have the annotation in them.
//
// Kubernetes' own tests of load balancers (test/e2e/network/loadbalancer.go) ask for a cloud. None of them is run itself; the same is shown
// here by:
//
//	change the type and ports of a TCP service, of a UDP service   changes
//	only allow access from service loadbalancer source ranges      source-ranges (for pods it is kube-proxy's)
//	session affinity with Local and Cluster policy; switched       affinity
//	handle load balancer cleanup finalizer                         changes, classes, claims-finalizer, deleted-while-away
//	Service without NodePort, and change it                        pod-targets
//	preserve UDP traffic when the server pod cycles                server-cycles
//	no connectivity disruption during rolling update               rolling-update
//	Local: work for type=LoadBalancer                              local-policy; pods see the gateway, and with an annotation the client: source-ranges/source-address
//	Local: only target nodes with endpoints                        local-policy, default-check/only-pod-moves
//	Local: target all nodes with endpoints                         local-policy
//	Local: work from pods                                          local-policy, from nodes
//	Local: handle updates to ExternalTrafficPolicy                 default-check/policy-flips
//	(service.go) loadBalancerClass is not touched                  classes
package e2e
