// Package bootstrap makes gateways of bare machines, over SSH with the operator's own login.
//
// It owns: the login (agent, key files, passwords typed on the terminal; root, or sudo), whose host keys are believed, how this
// program gets to a machine, and the order over several machines. What a gateway's files say is package site's; what is done on the
// machine is package prepare's, which is this same program: only uname, sha256sum, sudo, cat into a file and the program itself are ever run
// over SSH, and no command holds anything of the site. The plan goes in and the report comes out as JSON.
//
//   - sudo tries the password before a plan goes behind it: sudo would take the plan for the next try, and lock the account.
//   - Invariant 12: a host key is believed when known_hosts has it, or when the operator has confirmed its fingerprint (or said
//     --accept-new-host-keys); from then on it stands in the controller's known_hosts file. One that differs is refused always.
//   - All machines are looked at before the first is changed, and everything that is in the way is told at once.
//   - Then one after the other, stopping at the first failure (DESIGN.md invariant 11): the others stay as they are, and the same
//     command repeats what is missing.
//   - Private keys stay where they are: a gateway makes its own, and only public halves travel.
//
// Tried and rejected: sftp (a subsystem that hardened machines switch off); /tmp for the upload (often noexec; the home directory is
// not); calling ssh(1) (its prompts and errors are text, and a password could not be asked once for all gateways).
package bootstrap
