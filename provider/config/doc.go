// Package config reads the file that --cloud-config names: which gateways there are, which addresses they may give to
// Services, and how workers are reached and checked. cmd/haproxy-cloud-controller-manager and cmd/gatewayctl read it.
//
// It owns the file's form (apiVersion cloud-provider-haproxy/v1, kind CloudConfig), its defaults, and every rule about
// what a sensible file is. It must not know the Kubernetes API, SSH keys' formats, or how a gateway is configured; it hands
// out the nouns of packages desired and ipam, and of Kubernetes label selectors alone (k8s.io/apimachinery/pkg/labels, a
// parser without a client), whose syntax nobody should have to learn twice.
//
// What holds:
//   - All faults of a file are told at once, as one go-multierror list; each begins with the path of its field and says
//     what is allowed. Nobody should have to start the controller five times to fix five typing errors.
//   - Strict: an unknown key, a key written twice, an anchor or a second document is a fault. A misspelt key that is
//     ignored is a setting that silently is not there.
//   - A Config that Load or Decode returned without an error is complete: defaults are filled in and every conversion
//     to desired and ipam succeeds.
//   - What is nobody's mistake is no fault: a pool may contain gateways, nodes and the control plane, whose addresses are
//     left out. What can only be a mistake is one: an exclude outside its pool, a reservation that no Service could get, a
//     pool of which nothing is left.
//   - Pools, reservations and readForeignAnnotations take effect while the controller runs; ChangedOutsidePools names what
//     else differs in a new file. A Config is never changed: the new one is another value.
//   - The doc comment of a field is the manual. The reference table of the README is generated from it
//     (reference_test.go), so that the two cannot differ.
//
// Rejected: sigs.k8s.io/yaml's UnmarshalStrict, which stops at the first unknown key and names neither path nor line;
// decoding through JSON, which loses line numbers and the second of two equal keys. Hence the small walk over the YAML
// nodes in decode.go. Rejected too: a Kubernetes scheme with generated defaults and conversions, five times the code for
// one kind of one version; parsed selectors in the types, with which two Configs could not be compared field by field.
package config
