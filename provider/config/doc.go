// Package config reads the file that --cloud-config names: which gateways there are, which addresses they may give to
// Services, and how workers are reached and checked. cmd/haproxy-cloud-controller-manager and cmd/gatewayctl read it.
//
// It owns the file's form (apiVersion cloud-provider-haproxy/v1, kind CloudConfig), its defaults, and every rule about
// what a sensible file is. It must not know the Kubernetes API, SSH keys' formats, or how a gateway is configured; it hands
// out the nouns of packages desired and ipam, and of Kubernetes label selectors alone (k8s.io/apimachinery/pkg/labels, a
// parser without a client), whose syntax nobody should have to learn twice.
//
// What holds:
//   - All faults of a file are told at once, those of its form (provider/config/strict) and those of its content, as one
//     go-multierror list; each begins with the path of its field and says what is allowed. Nobody should have to start the
//     controller five times to fix five typing errors.
//   - Nothing is told that is not so: what could not be read is judged by nobody, and neither is what depends on it
//     (unread_test.go writes another kind of value in the place of every single one).
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
// Rejected: a Kubernetes scheme with generated defaults and conversions, five times the code for one kind of one version;
// parsed selectors in the types, with which two Configs could not be compared field by field.
package config
