// Package prepare makes a machine a gateway, on the machine itself: `gatewayctl bootstrap-local`, which `gatewayctl bootstrap` uploads and
// runs as root. It reads one Plan from stdin and writes one Report to stdout; no argument, shell or environment carries anything of
// the site.
//
// It owns: what is checked before anything is changed, the order in which things are installed, and what was done. What the files
// say is package site's; how this program got here is package bootstrap's.
//
//   - Everything that is in the way is told at once, and nothing is changed before nothing is. What a person may overrule has a name
//     for --ignore; what would be overwritten needs --adopt, which keeps a copy.
//   - Level, not edge (DESIGN.md invariant 2): each step looks at what is there and does the difference, so a run that was cut is
//     repeated. What follows a change (a daemon that has to read it) is written into the ledger before the change and taken out
//     when it is done, so that a cut in between leaves nothing unread.
//   - The ledger (bootstrap.json) has the digest of every file as it was installed, as dpkg has for conffiles: a file that is neither
//     that nor what it is to be was edited by somebody, and is not overwritten.
//   - Files change by temporary file and rename, the program too; sshd's by `sshd -t` after it, and back when sshd does not like it.
//   - sshd itself is asked, before and after, what it would do for our user: other files may come first, keep the user out or let it do
//     more. What the gateway serves is asked whether new limits would allow it (invariant 13 must not take an address).
//   - One at a time: a lock, also against a bootstrap whose operator has gone. An agent that was restarted is what it was before when
//     the plan ends well: nobody touches the next gateway before (invariant 11).
//   - haproxy.cfg and keepalived.conf are not touched here. The agent will overwrite them with its first State, so they have to be
//     ours (their first line says so), the distribution's own (dpkg and rpm know the digests) or absent. A condition on both units
//     keeps the distribution's own from starting: RHEL's is a MASTER of router ID 51.
//
// Without systemd (the lab) units are installed and nothing is started; the Report says what to start.
//
// Tried and rejected: enabling the daemons only once their files are ours (somebody had to come back for it, and a package may enable
// them itself); a shell script sent over SSH (every value would need quoting, and no test could run it against a directory);
// the steps as single SSH commands (a cut connection would leave more in between, and sudo would be asked each time).
package prepare
