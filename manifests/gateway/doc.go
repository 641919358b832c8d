// Package manifests holds files of a gateway that people install by hand and `gatewayctl bootstrap` installs over SSH: the same
// bytes, embedded.
//
// Embedded is what is the same on every gateway. What is made for one (agent.yaml, limits.yaml, the files of keys) stands here as
// an example for people, and package site makes it of the cloud configuration; sysctls and modules are package nftables',
// whose own test compares them with the files here.
package manifests
