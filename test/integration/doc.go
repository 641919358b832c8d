// Package integration holds what a State does on a real pair of gateways: sshd, HAProxy, keepalived, nftables and our agent, in
// the lab of package lab, without Kubernetes. Every State is hand-written and sent by `gatewayctl push` from the controller's
// host, every answer is what `gatewayctl status` shows, and every verdict about traffic is the client's.
//
// One lab serves all tests of TestPair, in order; each begins by pushing the State that it needs, so each can be run alone
// (-run TestPair/holder). Labs of their own have TestDatagrams, TestClientSource (workers whose way back leads through the gateways),
// TestThreeGateways, TestIPv6Only (a site without IPv4), and TestBootstrap and its kin, which begin with bare machines. Numbers that are
// measured (failover gaps) are logged, with a bound that says "broken", not "slow today".
package integration
