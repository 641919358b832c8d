// Package site makes the files of a gateway out of the cloud configuration. It is the one source of what stands on a gateway:
// `gatewayctl bootstrap` installs exactly these, and with --print writes them for puppet or ansible.
//
// It is pure: the same configuration, keys and host keys give the same bytes (DESIGN.md invariant 10), and nobody is asked. It must not
// know how files get to a machine (package prepare) nor how the machine is reached (package bootstrap).
//
//   - Invariant 13: limits.yaml is what this configuration needs and no more. Which networks the workers are in is never
//     guessed: nodes.cidrs or the operator says so.
//   - Invariant 12: keys are parsed and written anew, so that no option or second line slips in with one.
//   - Every file is read back by whoever will read it on the gateway before it is given away.
//
// Modes: only root reads what only the agent reads. authorized_keys is read by sshd as the user itself, hence its group.
//
// Tried and rejected: filling the example files of manifests/gateway in by search and replace. They are written for people, with
// alternatives in comments; a comment that is changed must not change what is installed.
package site
