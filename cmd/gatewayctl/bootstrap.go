package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/cmd/gatewayctl/bootstrap"
	"cloud-provider-haproxy/cmd/gatewayctl/prepare"
	"cloud-provider-haproxy/cmd/gatewayctl/site"
	"cloud-provider-haproxy/loadbalancer/desired"
)

type bootstrapFlags struct {
	siteFlags
	loginFlags
	options prepare.Options
	print   string
	family  string
}

func newBootstrapCommand() *cobra.Command {
	flags := bootstrapFlags{}
	command := &cobra.Command{
		Use:   "bootstrap --cloud-config FILE [GATEWAY...]",
		Short: "Make gateways of bare Debian, Ubuntu or RHEL-like machines, over SSH",
		Long: `Make gateways of bare machines: the machines that the cloud configuration names, or some of them. It logs in with your own
key or password, as root or as a user who may use sudo. It can be repeated at any time: what is as it should be is left alone.

First everything is looked at, on all of them, and whatever is in the way is told at once: missing or old packages, the interface,
the clock, a firewall that would drop the clients, a HAProxy or keepalived that serves something else, an sshd that would not let
the controller in, files of ours that somebody has edited, limits that would refuse what a gateway serves. Nothing is changed while
anything is in the way. Then, one gateway after the other: this program, its user, kernel settings, sshd's drop-in, limits.yaml,
agent.yaml, the keys of the controller and of the other gateways, the systemd units; and the agent is started, or restarted when it
has something to read, and is what it was before the next gateway's turn comes. The first failure stops it; the same command goes
on from there.

limits.yaml is made of the cloud configuration: its pools, nodes.cidrs, interfaces, router IDs. The gateways' host keys are written
into the cloud configuration's ssh.knownHostsFile, where the controller looks; its public key is that of ssh.privateKeyFile.

limits.yaml says what any controller may ask. When pools or nodes grow, run this first and give the controller its configuration
then. When they shrink, the controller comes first, and this when no Service has what is taken away.

A controller's key is replaced with two of them valid: run this with --controller-key old.pub --controller-key new.pub, give the
controller the new key, and run this with --controller-key new.pub.

A file that somebody edited is not overwritten. --adopt does it on the gateways that are asked, so name them, and keeps a copy as
FILE.before-gatewayctl, or with a number behind when there is one. To hand gateways over to another cluster is
` + "`gatewayctl adopt`" + `, which has nothing to do with --adopt.`,
		Example: `  # What is in the way, and what would be done?
  gatewayctl bootstrap --cloud-config cloud.yaml --login root --dry-run
  # Do it.
  gatewayctl bootstrap --cloud-config cloud.yaml --login root --install-packages
  # The same as files, for puppet or ansible.
  gatewayctl bootstrap --cloud-config cloud.yaml --print gateways/`,
		RunE: func(cmd *cobra.Command, names []string) error {
			return flags.run(cmd.Context(), names, cmd.OutOrStdout())
		},
	}
	flags.siteFlags.add(command, "controller-key")
	flags.loginFlags.add(command)
	_ = command.MarkFlagRequired("cloud-config") // it fails for a flag that is not defined above, and a test would see that
	command.Flags().BoolVar(&flags.options.InstallPackages, "install-packages", false, "install packages that are missing (apt-get, dnf)")
	command.Flags().BoolVar(&flags.options.Adopt, "adopt", false, "take a machine over: overwrite what somebody else has configured, and keep copies")
	command.Flags().BoolVar(&flags.options.DryRun, "dry-run", false, "tell what would be done, with differences, and change nothing")
	command.Flags().StringSliceVar(&flags.options.Ignore, "ignore", nil, "go on although one of these checks fails: "+strings.Join(prepare.Ignorable(), ", "))
	command.Flags().StringVar(&flags.print, "print", "", "write what would be installed into this directory, and connect to nobody")
	for _, other := range []string{"dry-run", "adopt", "install-packages", "ignore", "login", "identity", "known-hosts", "accept-new-host-keys", "binary"} {
		command.MarkFlagsMutuallyExclusive("print", other)
	}
	command.Flags().StringVar(&flags.family, "family", string(site.Debian), "with --print, the gateways' distribution: debian or rhel, and what is like them")
	return command
}

func (f *bootstrapFlags) run(ctx context.Context, names []string, out io.Writer) error {
	for _, name := range f.options.Ignore {
		if !slices.Contains(prepare.Ignorable(), name) {
			return fmt.Errorf("--ignore %s: no such check can be ignored; allowed are %s", name, strings.Join(prepare.Ignorable(), ", "))
		}
	}
	l, err := f.load()
	if err != nil {
		return err
	}
	gateways, err := l.chosen(names)
	if err != nil {
		return err
	}
	if f.print != "" {
		return f.printFiles(l, gateways, out)
	}
	order, err := l.order(gateways, f.loginFlags, f.options)
	if err != nil {
		return err
	}
	results, err := bootstrap.Run(ctx, order)
	if _, printing := io.WriteString(out, resultTable(results, f.options.DryRun)+leftAlone(err, l.site.Gateways, gateways)); printing != nil {
		return errors.Join(err, fmt.Errorf("printing the results: %w", printing))
	}
	return err
}

// order is what the flags ask of package bootstrap.
func (l *loaded) order(gateways []desired.Gateway, login loginFlags, options prepare.Options) (bootstrap.Order, error) {
	program, err := login.program()
	if err != nil {
		return bootstrap.Order{}, err
	}
	in, err := login.login(l.hostKeysFile)
	if err != nil {
		return bootstrap.Order{}, err
	}
	if in.User == l.site.User {
		return bootstrap.Order{}, fmt.Errorf("you would log in as %s (--login), which ssh.user of the cloud configuration makes a user who can do nothing but reach the agent: "+
			"you would be locked out; log in as somebody else, or give another ssh.user", in.User)
	}
	return bootstrap.Order{Site: l.site, Gateways: gateways, Program: program, Login: in, HostKeysFile: l.hostKeysFile,
		PeerKeys: l.peerKeys, Options: options}, nil
}

func (f *bootstrapFlags) printFiles(l *loaded, gateways []desired.Gateway, out io.Writer) error {
	family := site.Family(f.family)
	if family != site.Debian && family != site.RedHat {
		return fmt.Errorf("--family is %q; give %s or %s", f.family, site.Debian, site.RedHat)
	}
	hosts, err := bootstrap.HostKeys(l.hostKeysFile, l.site.Gateways)
	if err != nil {
		return err
	}
	known := map[string]site.Acquaintance{}
	for _, g := range l.site.Gateways {
		known[g.Name] = site.Acquaintance{PeerKey: l.peerKeys[g.Name], HostKeys: hosts[g.Name]}
	}
	var names []string
	for _, g := range gateways {
		names = append(names, g.Name)
	}
	if err := bootstrap.Print(f.print, l.site, names, family, known); err != nil {
		return err
	}
	_, err = io.WriteString(out, f.strangers(l, known))
	return err
}

// strangers names the gateways that the printed files of the others do not know.
func (f *bootstrapFlags) strangers(l *loaded, known map[string]site.Acquaintance) string {
	var below notes
	if len(l.site.Gateways) > 1 {
		for _, g := range l.site.Gateways {
			if known[g.Name].PeerKey == nil {
				below.add(g.Name, "its own key is not known, so it could not ask the others for a newer State: give --peer-key %s=FILE.pub once it has one", g.Name)
			}
			if len(known[g.Name].HostKeys) == 0 {
				below.add(g.Name, "its host key is not in %s, so the others could not ask it for a newer State, nor the controller reach it", l.hostKeysFile)
			}
		}
	}
	below.add(f.print, "written; %s says what there is to do besides", filepath.Join(f.print, bootstrap.PrintedGuide))
	return strings.Join(append(below, ""), "\n")
}

// leftAlone names the gateways that were not asked for: they learn of the others' new keys only when they are.
func leftAlone(err error, all, chosen []desired.Gateway) string {
	if err != nil {
		return ""
	}
	var names []string
	for _, g := range all {
		if !slices.ContainsFunc(chosen, func(c desired.Gateway) bool { return c.Name == g.Name }) {
			names = append(names, g.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("\nleft alone: %s; run this for them, too, when a gateway is new or has new keys: they have to know it\n", strings.Join(names, ", "))
}

// resultTable shows a line for each thing and a column for each gateway; below it what is in the way and what is to be done.
func resultTable(results []bootstrap.Result, dryRun bool) string {
	columns := []any{"what"}
	var order []string
	outcomes := map[string]map[string]string{}
	var below notes
	for _, r := range results {
		columns = append(columns, r.Gateway)
		if r.Report == nil {
			if r.Err == nil {
				below.add(r.Gateway, "not tried")
			}
			continue
		}
		for _, step := range r.Report.Steps {
			if outcomes[step.What] == nil {
				outcomes[step.What] = map[string]string{}
				order = append(order, step.What)
			}
			outcomes[step.What][r.Gateway] = step.Outcome
			if dryRun {
				below.differences(r.Gateway, step)
			}
		}
		below.findings(r.Gateway, r.Report.Findings)
		for _, note := range r.Report.Notes {
			below.add(r.Gateway, "%s", note)
		}
	}
	if len(order) == 0 {
		return strings.Join(append(below, ""), "\n")
	}
	t := newTable(columns...)
	for _, what := range order {
		row := []any{what}
		for _, r := range results {
			row = append(row, outcomes[what][r.Gateway])
		}
		t.AppendRow(row)
	}
	return below.under(t)
}

func (n *notes) differences(gateway string, step prepare.Step) {
	if len(step.Diff) > 0 {
		n.add(gateway, "%s:\n  %s", step.What, strings.Join(step.Diff, "\n  "))
	}
}

func (n *notes) findings(gateway string, findings []prepare.Finding) {
	for _, f := range findings {
		word := "in the way"
		if f.Warning {
			word = "warning"
		}
		text := fmt.Sprintf("%s (%s): %s", word, f.Check, f.Problem)
		if f.Remedy != "" {
			text += "; " + f.Remedy
		}
		n.add(gateway, "%s", text)
	}
}
