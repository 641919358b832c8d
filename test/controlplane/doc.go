// Command controlplane builds the Kubernetes that the lab runs: kube-apiserver, kube-controller-manager, kube-proxy,
// kubectl and etcd, the real ones, from their Go modules.
//
// It is a module of its own, so that the product depends on none of them: go.mod names the versions (a `tool` line for
// each program), and the builder is standard library only. The programs go to a cache outside the checkout
// (XDG_CACHE_HOME or ~/.cache), in a directory named by a hash of everything they are made of; building takes minutes
// once, and nothing afterwards. Standard output is that directory's path and nothing else; progress goes to standard
// error.
package main
