// Command haproxy-cloud-controller-manager is the controller: Kubernetes' own cloud-controller-manager
// (k8s.io/cloud-provider/app) with the provider haproxy. Flags, logs, metrics, healthz and leader election are those of
// every cloud-controller-manager.
//
// This package is wiring and life, nothing else:
//   - main.go: the command, our defaults, the configuration read and validated before anything else. The library would
//     hand it to a registered factory as a reader, after the kubeconfig is built, and end by klog.Fatal; so it is read in
//     PreRunE and the provider is built in an InitCloudFunc of our own.
//   - configfile.go: the same file again, as it changes while we run. What is wrong then is told and changes nothing.
//   - controllers.go: which of the library's controllers run. The service controller is constructed here because it gets
//     views of the informers (package provider), the node controller the real ones.
//   - lifecycle.go: what SIGTERM does: Manager finishes or abandons its round, the Lease is released, the process ends.
//     The library offers no release (its leader election runs with a context that never ends), and a Lease that is not
//     released costs the next controller 15 s.
package main
