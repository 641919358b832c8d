// Command chaos breaks a pair of gateways, one fault after the other, before the eyes of a client, and prints what the client saw:
// failed connections, the longest time without an answer, long connections cut. A goal that is missed makes it exit with 1.
//
//	chaos [-times N] [-run REGEXP] [-vips N] [-advert DURATION] [-list]
//
// It owns the table of faults (faults.go: what is done, how it is undone, what is promised) and the one way in which each is tried
// (trial.go). The machines are package lab's; a State is pushed as an operator would do it. It must not know how a gateway works
// inside: what it looks at while it waits is what `gatewayctl status` tells, what it judges is the client's view alone.
//
// Every gateway of a crossed pair holds half of the VIPs, so each trial has two views: through the gateway that is struck, and
// through the other one, where nobody may notice anything, whatever the fault. The VIP that is watched is the last one of its
// VRRP instance, which keepalived moves last: with 1000 VIPs the gap is that of the unluckiest.
//
// A view is 200 new connections a second, each given up after two seconds, and 50 that are held and say something every half second.
package main
