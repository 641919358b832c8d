// Package provider is the Kubernetes face: it turns Services and Nodes into the words of package loadbalancer, and what
// became of them into status and Events.
//
// It owns the translation (translate.go, request.go for what is asked of addresses, sources.go for who may connect,
// pool.go for its own servers, pods.go for pods as servers, knobs.go and healthcheck.go for how they are used; nobody else
// reads a Service's spec), its status (status.go), where endpoints are (endpoints.go, slices.go), who may have addresses of
// which pool (pools.go), the view of Services and Nodes that Kubernetes' service controller gets (view.go), the addresses of
// nodes (addresses.go), Events, metrics, and two objects: which controller leads (epoch.go), and which addresses are kept,
// quarantined or on their way back (ledger.go). It must not know SSH, HAProxy, keepalived or nftables, nor choose an
// address; that is loadbalancer's and ipam's work.
//
// What holds (numbers are DESIGN.md's invariants):
//   - 1, whole state first: the service controller sees no Service before Manager has replayed all (serviceView's
//     HasSynced). GetLoadBalancer says "exists" as long as the gateways' State is not known or still has the Service.
//     An object that vanishes without our cleanup, which the library does not look at, is shown until it is done
//     (vanish.go).
//   - 7, strict: an annotation or field that is wrong or that cannot be honoured is an error or a Warning event that
//     names key, value and what is allowed; it never becomes a default. Who may connect (sources.go) depends on nothing
//     else in the Service: it holds also for the last good form of one that is wrong otherwise (Manager.Refuse). Ranges
//     that cannot be read close nothing and open nothing, and a Service that nobody serves yet stays so.
//   - 8, addresses: what a Service has published it keeps. Pools that it may not use any more, because labels or the
//     configuration changed, are a warning then and never a fault. A Service with keep-ip that went while nobody ran is
//     replayed as it was, so that its address is not free before the service controller deletes it.
//   - What is configured of addresses is one immutable policy, swapped as a whole (reload.go); an Ensure that began
//     under a former one is done again. A faulty configuration changes nothing. The ledger is written by
//     compare-and-swap, and never over something that was not read or cannot be.
//   - What we write to a Service is known as ours by the API server's managedFields (managedfields.go), also after
//     another start, configuration or type: finalizer and status are taken off when the Service is ours no more, those
//     of another controller are not. A status that somebody else overwrote is written again (2, level: patrolStatus).
//   - What is so in the cluster (facts.go: NodePorts, policy, nodes, endpoints) is told apart from what the Service wishes, with
//     every translation and by watches of our own, through Manager.Refill: without the library's queue, Events and patches, all
//     Services of a burst in one round. It holds for the last good form of a Service that is wrong now too: a NodePort or a pod's
//     address is another Service's tomorrow. A Service that chooses no nodes names none (desired.Pool.AllNodes): nodes come and go
//     without it, and labels matter to a node-selector alone.
//     An Ensure that began before a change is done again. kube-proxy chooses among the endpoints of its node alone, ready
//     ones first, then those that serve while they terminate (KEP-1669; CategorizeEndpoints in k8s.io/kubernetes/pkg/proxy);
//     so with policy Local a node weighs as many as it has ready ones, one that has only terminating ones is a backup, and
//     HAProxy uses it while no other is up. Its healthCheckNodePort says 503 then (it counts ready ones), which is why a
//     backup is not checked. The controller's word is taken for who drains, the check's for who serves: fails closed.
//   - Ports without a nodePort are served by the pods themselves where the configuration names the pods' networks (pods.go):
//     with either policy by all ready ones, since no node is in between. Addresses that are in none of these networks and no
//     Node's, or a gateway's own, get nothing and an Event: anybody may write an EndpointSlice, and nodes.cidrs, which was allowed
//     as a whole, has other machines too. UDP leaves out what does not serve, and its flows end at once, as kube-proxy has it; connections of TCP to a pod that is not ready live on.
//   - A field of the spec wins over an annotation: spec.healthCheckNodePort says how nodes are checked whatever the
//     health-check annotations say, sessionAffinity comes before the algorithm. What such an annotation has no effect on, and
//     what is about a protocol that the Service has not, is a warning: nothing is served otherwise than it says. So is a
//     preferred-gateway that does not exist, for where an address is held is no reason not to serve.
//   - A host name takes the place of the addresses in a status, as with other clouds (statusOf says why). Then the gateways'
//     State alone remembers them; to the translation they are published all the same (draft.known), to Manager they are not.
//   - status.loadBalancer.ingress[].ports[].error (KEP-1435) is for a port that no node can serve at one address while the
//     Service is well: UDP and SCTP without nodes of its family. It follows the nodes that it chooses (misses). PROXY protocol for a UDP port
//     beside TCP ones is none: the annotation is wrong, the Service stays in its last good form and its ports are served as before. Nor is it
//     when all nodes are down or excluded: that is no port's fault, and it is told by Events.
//   - 9, read-only: an object of an informer is never written; a view is a copy of what it changes.
//   - Every error of EnsureLoadBalancer is an api.RetryError (5 s when gateways are at fault, 30 s when somebody has to
//     change something), since the library backs off to 300 s otherwise. Who waits is woken when what it waits for
//     happens (an address freed, a gateway back, the State known, labels or the configuration changed: wakeups.go,
//     which also watches spec.ipFamilyPolicy, for the library does not): serviceView.wake hands the library's own
//     handler an old object that its needsUpdate (k8s.io/cloud-provider v0.37.2) takes for a change.
//
// The service controller gets views of the shared informers, and only it: servicecontroller.New takes two informers, so
// that the node controller, which writes whole Node objects back, keeps the real ones.
//
//   - Services: what is ours is shown without a class (the library ignores Services that have one), what is not ours
//     with a class and without the cleanup finalizer, unless it was ours: then it is cleaned up. Patches are
//     differences of two such views, so that nothing hidden is written.
//   - Nodes: at most one slim node, and no event ever. The library asks nodes two things: is there any (its
//     UnAvailableLoadBalancer event), and did the set change (then UpdateLoadBalancer and an Event for every Service:
//     5000 Services x 1000 nodes cost 2.3 s of two cores and 5000 Events, and its memory of 5000 node lists 40 MB). Our
//     own watch (nodes.go) moves servers for all Services in one round.
//
// Rejected: a transform on the shared informer instead of a view. It runs once for each version of an object, so that
// what it decided while the gateways' State was unknown sticks until somebody touches the Service; and Manager, which
// needs the real object, would need a second informer. Rejected: a second controller for Services with a class (it
// loses cleanups when the type changes, and the stock one strips the finalizer of Services that are not its own).
package provider
