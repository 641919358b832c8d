// Package cluster runs a Kubernetes control plane in a lab: the real etcd, kube-apiserver and kube-controller-manager on
// the controller host, a real kube-proxy in every worker, and our controller with the ServiceAccount, the rights and the
// arguments of manifests/controller (not its Deployment: there is nobody to run a container).
//
// One part is faked: there is no kubelet and no container runtime. Kubelet (the type) registers the Nodes, renews their
// leases, and runs each Pod as a small process at the Pod's own addresses in its worker's namespace; it keeps Pod
// objects Running and Ready, and serving until the end of their preStop sleep when they are deleted. Everything between a
// Service and that process is what a production cluster runs. There is no scheduler either: a Pod names its node.
//
// Addresses: Services 10.96.0.0/16 and fd00:10:96::/112, pods 10.244.N.0/24 and fd00:10:244:N::/64 on worker N.
// etcd keeps its files on the host's own directory without fsync: a lab loses nothing that it would miss.
package cluster
