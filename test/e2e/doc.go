// Package e2e holds what we promise to a user of Kubernetes, tested end to end on real parts: the API server and the service
// controller's Events on one side, a client on the network on the other, and between them the controller as a site runs it and
// a pair of gateways (packages lab and cluster). What gateways do without Kubernetes is package integration's.
//
// One site serves all tests of TestSite, in order, and each can be run alone (-run TestSite/burst). A test takes away the
// Services that it made and repairs what it broke, so that the next one starts from a pair that is in sync. What a user would
// read is asserted by its words: kubectl's columns, Events, `gatewayctl status`. Numbers are logged, with bounds that say
// "broken", not "slow today".
package e2e
