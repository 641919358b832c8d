// Command gatewayctl is the one static binary of a gateway, and the operator's command line: `agent run` is the only writer
// of the gateway's configuration, `agent pipe` the forced command that leads to it, `bootstrap` and `adopt` make a pair somebody's, `push`, `status`,
// `drain` and `pools` speak to it.
//
// This package is wiring and what people read:
//   - agent.go: the parts of the agent. The signers file is read anew for each State, so that a key comes and goes without
//     a restart. `agent pipe` reads no file at all: its user may do nothing but connect to the socket.
//   - clients.go, local.go: how an agent is reached, over SSH as the cloud config says, or as root on the gateway itself.
//   - push.go, handwritten.go: a State that a person wrote, made whole and signed; for development and disasters.
//   - control_plane.go: the State before the cluster exists, made of the cloud configuration alone.
//   - status.go, table.go: what the gateways say, for people. Their text is golden (testdata); scripts take -o json.
//   - drain.go, drain_run.go: a gateway's addresses handed to the others, and back; around a command, when it is to be restarted.
//     The agent decides whether that may be.
//   - bootstrap.go, bootstrap_flags.go, terminal.go: gateways made of bare machines. Package site says what their files are, package
//     bootstrap gets this program to them, and bootstrap_local.go is what runs there (package prepare).
//   - adopt.go: gateways handed over to a rebuilt cluster, the same way or as root on one.
//   - pools.go, pool_report.go: who has which address, out of the newest State that the gateways hold. Not out of the
//     cluster: it answers while the API server does not. A State names no pool of an address; the configuration does.
//
// It must stay small and must not link client-go: a gateway has no business with the Kubernetes API (test/layering counts).
// The agent decides everything about a State; nothing here does.
package main
