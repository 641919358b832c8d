package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// patience bounds one gateway's answer: somebody waits.
const patience = 10 * time.Second

// seen is what one gateway answered.
type seen struct {
	Gateway string       `json:"gateway"`
	Error   string       `json:"error,omitempty"`
	Status  *wire.Status `json:"status,omitempty"`
}

func newStatusCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "status --cloud-config FILE",
		Short: "Show what is true on every gateway now",
		Long:  "Status asks every gateway of the configuration. It fails when one does not answer; what the others say is shown.",
		Args:  cobra.NoArgs,
	}
	flags := newSiteFlags(command)
	command.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if err := flags.check(); err != nil {
			return err
		}
		s, err := openSite(flags.cloudConfig)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		all := s.status(cmd.Context())
		if flags.output == "json" {
			err = printJSON(cmd.OutOrStdout(), all)
		} else {
			err = printStatus(cmd.OutOrStdout(), all, time.Now())
		}
		for _, g := range all {
			if g.Error != "" {
				err = errors.Join(err, errors.New(g.Error))
			}
		}
		return err
	}
	return command
}

// status asks all gateways at once.
func (s *site) status(ctx context.Context) []seen {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	all := make([]seen, len(s.gateways))
	var asking sync.WaitGroup
	for i, g := range s.gateways {
		asking.Go(func() { all[i] = ask(ctx, g) })
	}
	asking.Wait()
	return all
}

func ask(ctx context.Context, g *gateway.Client) seen {
	status, err := g.Status(ctx)
	if err != nil {
		return seen{Gateway: g.Name(), Error: err.Error()}
	}
	return seen{Gateway: g.Name(), Status: status}
}

// printStatus shows one column for each gateway, then what deserves a person.
func printStatus(out io.Writer, all []seen, now time.Time) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.Style().Format.Header = text.FormatDefault // names are case-sensitive
	header := table.Row{"gateway"}
	for _, g := range all {
		header = append(header, g.Gateway)
	}
	t.AppendHeader(header)
	for _, line := range statusLines(now) {
		row := table.Row{line.name}
		for _, g := range all {
			switch {
			case g.Status != nil:
				row = append(row, line.value(g.Status))
			case line.name == "reachable":
				row = append(row, "no")
			default:
				row = append(row, "-")
			}
		}
		t.AppendRow(row)
	}
	var b strings.Builder
	b.WriteString(t.Render() + "\n")
	for _, g := range all {
		if g.Status == nil {
			continue
		}
		for _, d := range g.Status.Drift {
			fmt.Fprintf(&b, "%s: not in sync: %s\n", g.Gateway, d)
		}
		for _, w := range g.Status.Warnings {
			fmt.Fprintf(&b, "%s: warning %s: %s\n", g.Gateway, w.Reason, w.Message)
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}

type statusLine struct {
	name  string
	value func(*wire.Status) any
}

func statusLines(now time.Time) []statusLine {
	return []statusLine{
		{"reachable", func(*wire.Status) any { return "yes" }},
		{"agent", func(s *wire.Status) any { return s.Hello.Agent }},
		{"versions", func(s *wire.Status) any {
			return fmt.Sprintf("haproxy %s\nkeepalived %s\nnft %s", s.Hello.HAProxy, s.Hello.Keepalived, s.Hello.NFTables)
		}},
		{"State", func(s *wire.Status) any { return fmt.Sprintf("epoch %d, sequence %d", s.Fence.Epoch, s.Fence.Sequence) }},
		{"in sync", func(s *wire.Status) any { return yesNo(s.InSync) }},
		{"VIPs held", func(s *wire.Status) any { return held(s.Held) }},
		{"HAProxy up", func(s *wire.Status) any {
			if s.HAProxyUp.IsZero() {
				return "no"
			}
			return now.Sub(s.HAProxyUp).Round(time.Second).String() + " (since " + s.HAProxyUp.UTC().Format(time.RFC3339) + ")"
		}},
		{"keepalived up", func(s *wire.Status) any { return yesNo(s.KeepalivedUp) }},
		{"reloads of HAProxy", func(s *wire.Status) any { return counts(s.Reloads) }},
		{"rounds", func(s *wire.Status) any { return counts(s.Rounds) }},
		{"runtime updates", func(s *wire.Status) any { return s.RuntimeUpdates }},
		{"nodes", func(s *wire.Status) any { return nodes(s.Nodes) }},
		{"connections", func(s *wire.Status) any { return s.Connections }},
		{"old workers", func(s *wire.Status) any { return s.OldWorkers }},
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// shownVIPs is how many addresses fit a person's screen; -o json has all.
const shownVIPs = 8

func held(vips []netip.Addr) string {
	words := []string{fmt.Sprint(len(vips))}
	for _, v := range vips[:min(len(vips), shownVIPs)] {
		words = append(words, v.String())
	}
	if more := len(vips) - shownVIPs; more > 0 {
		words = append(words, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(words, "\n")
}

func counts[K ~string](by map[K]uint64) string {
	if len(by) == 0 {
		return "0"
	}
	var words []string
	for _, reason := range slices.Sorted(maps.Keys(by)) {
		words = append(words, fmt.Sprintf("%d %s", by[reason], reason))
	}
	return strings.Join(words, "\n")
}

func nodes(all []wire.NodeStatus) string {
	up := 0
	var words []string
	for _, n := range all {
		if n.State == "UP" || n.State == "NOCHECK" {
			up++
		}
		words = append(words, fmt.Sprintf("%s %s, %d sessions", n.Name, n.State, n.Sessions))
	}
	return strings.Join(append([]string{fmt.Sprintf("%d up, %d not", up, len(all)-up)}, words...), "\n")
}
