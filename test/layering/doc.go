// Package layering is the architecture as a test: which room may import which, and where the outside world may enter.
//
// It owns the table of rooms (rooms_test.go). A package that the table does not know fails the test, so that a new room
// is a decision which somebody enters and a reviewer sees. A room that does not exist yet costs nothing.
//
// What is held:
//   - imports of ours follow the arrows of the flow, one direction, no way back. A package's tests obey its room's rule,
//     and may use what is under test besides;
//   - k8s.io/ in cmd, provider and test only; golang.org/x/crypto/ssh in loadbalancer/gateway, cmd and test only;
//   - ipam and loadbalancer/desired are pure: the standard library and go4.org/netipx (their tests may use more);
//   - cmd/gatewayctl runs on every gateway and links neither client-go nor provider, also not by a detour (go list -deps);
//   - every package has a doc.go with its design record; none is called util, helper, common, handler, info or data;
//   - nothing stands at the top of the tree but what is known there;
//   - what comments cite of loadbalancer/DESIGN.md is there (design_test.go).
//
// Tried and rejected: a linter's configuration (depguard) holds the imports but neither the unknown room nor the names,
// and nobody tests that it can fail; the table tests in check_test.go do. Go's internal directories keep others out, not
// ourselves.
package layering
