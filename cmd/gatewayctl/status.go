package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// statusSource is who can be asked for its status.
type statusSource interface {
	Name() string
	Status(ctx context.Context) (*wire.Status, error)
}

// gatewayStatus is one gateway's line, and its form in JSON.
type gatewayStatus struct {
	Gateway   string `json:"gateway"`
	Reachable bool   `json:"reachable"`
	// InSync says that what runs is what the gateway's State says, and that no other gateway holds a newer State.
	InSync bool     `json:"inSync"`
	Drift  []string `json:"drift,omitempty"`
	// Error and Remedy are set when the gateway cannot be asked.
	Error  string       `json:"error,omitempty"`
	Remedy string       `json:"remedy,omitempty"`
	Status *wire.Status `json:"status,omitempty"`
}

type statusFlags struct {
	cloudConfig string
	local       bool
	socket      string
	output      string
}

func newStatusCommand() *cobra.Command {
	flags := statusFlags{}
	command := &cobra.Command{
		Use:   "status --cloud-config FILE | --local",
		Short: "Show what each gateway does: reachable, in sync, VIPs, reloads, nodes",
		Long: `Show what is true on each gateway now. All gateways of the cloud configuration are asked at once, with the controller's key.
With --local, root on a gateway asks this gateway's agent alone, without the network.

The exit status is 1 when a gateway is unreachable or out of sync, 0 otherwise.`,
		Example: `  gatewayctl status --cloud-config cloud.yaml
  gatewayctl status --cloud-config cloud.yaml -o json | jq '.[] | select(.inSync | not)'
  gatewayctl status --local -o wide`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return showStatus(cmd.Context(), flags, cmd.OutOrStdout()) },
	}
	command.Flags().StringVar(&flags.cloudConfig, "cloud-config", "", "the controller's configuration")
	command.Flags().BoolVar(&flags.local, "local", false, "ask the agent of this machine, as root")
	command.Flags().StringVar(&flags.socket, "socket", agent.Socket, "the agent's socket, for --local")
	command.Flags().StringVarP(&flags.output, "output", "o", "", "json, wide, or nothing for a table")
	command.MarkFlagsOneRequired("cloud-config", "local")
	command.MarkFlagsMutuallyExclusive("cloud-config", "local")
	return command
}

func showStatus(ctx context.Context, flags statusFlags, out io.Writer) error {
	if !slices.Contains([]string{"", "json", "wide"}, flags.output) {
		return fmt.Errorf("--output %q: give json or wide", flags.output)
	}
	var sources []statusSource
	if flags.local {
		sources = append(sources, localAgent{flags.socket})
	} else {
		c, err := loadController(flags.cloudConfig)
		if err != nil {
			return err
		}
		defer c.close()
		for _, client := range c.clients {
			sources = append(sources, client)
		}
	}
	list := askStatus(ctx, sources)
	text := statusTable(list, flags.output == "wide")
	if flags.output == "json" {
		bytes, err := json.MarshalIndent(list, "", "  ")
		if err != nil {
			return fmt.Errorf("encoding the status: %w", err)
		}
		text = string(bytes) + "\n"
	}
	if _, err := io.WriteString(out, text); err != nil {
		return fmt.Errorf("printing the status: %w", err)
	}
	return judge(list)
}

// askStatus asks all at once, so that one that hangs costs no more than its own deadline.
func askStatus(ctx context.Context, sources []statusSource) []gatewayStatus {
	list := make([]gatewayStatus, len(sources))
	var asking sync.WaitGroup
	for i, source := range sources {
		asking.Go(func() {
			status, err := source.Status(ctx)
			list[i] = newGatewayStatus(source.Name(), status, err)
		})
	}
	asking.Wait()
	compareFences(list)
	return list
}

func newGatewayStatus(name string, status *wire.Status, err error) gatewayStatus {
	if err != nil {
		return gatewayStatus{Gateway: name, Error: err.Error(), Remedy: remedy(err)}
	}
	s := gatewayStatus{Gateway: status.Hello.Gateway, Reachable: true, InSync: status.InSync, Drift: slices.Clone(status.Drift), Status: status}
	if !s.InSync && len(s.Drift) == 0 && status.Fence == (desired.Fence{}) {
		s.Drift = append(s.Drift, "it never got a State")
	}
	if status.Hello.Schema != desired.Schema {
		s.differs("its agent speaks State schema %d and this program %d: upgrade the older one", status.Hello.Schema, desired.Schema)
	}
	return s
}

// remedy is what can be done about a gateway that gave this error; empty when the error does not tell.
func remedy(err error) string {
	var remedied interface{ Remedy() string }
	var refusal *wire.Refusal
	switch {
	case errors.As(err, &remedied):
		return remedied.Remedy()
	case errors.As(err, &refusal):
		return refusal.Remedy
	}
	return ""
}

// compareFences finds gateways that hold an older State than another, or another State under the same number.
func compareFences(list []gatewayStatus) {
	var newest *gatewayStatus
	for i := range list {
		if list[i].Reachable && (newest == nil || list[i].Status.Fence.Compare(newest.Status.Fence) > 0) {
			newest = &list[i]
		}
	}
	for i := range list {
		s := &list[i]
		if !s.Reachable || s == newest {
			continue
		}
		have, want := s.Status.Fence, newest.Status.Fence
		switch {
		case have.ClusterUID != want.ClusterUID:
			s.differs("it belongs to the cluster %q and %s to %q", have.ClusterUID, newest.Gateway, want.ClusterUID)
		case have.Compare(want) < 0:
			s.differs("it holds %s and %s holds %s", have, newest.Gateway, want)
		case have.Instance != want.Instance || s.Status.Digest != newest.Status.Digest:
			s.differs("it holds another State than %s under the same %s", newest.Gateway, want)
		}
	}
}

func (s *gatewayStatus) differs(format string, args ...any) {
	s.InSync = false
	s.Drift = append(s.Drift, fmt.Sprintf(format, args...))
}

// judge is the command's exit status in words.
func judge(list []gatewayStatus) error {
	var unreachable, apart []string
	for _, s := range list {
		switch {
		case !s.Reachable:
			unreachable = append(unreachable, s.Gateway)
		case !s.InSync:
			apart = append(apart, s.Gateway)
		}
	}
	var faults []string
	if len(unreachable) > 0 {
		faults = append(faults, "unreachable: "+strings.Join(unreachable, ", "))
	}
	if len(apart) > 0 {
		faults = append(faults, "out of sync: "+strings.Join(apart, ", "))
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New(strings.Join(faults, "; "))
}

func statusTable(list []gatewayStatus, wide bool) string {
	columns := []any{"gateway", "reachable", "epoch/seq", "in sync", "vips", "haproxy up since", "reloads", "runtime updates", "rounds", "nodes up/down"}
	most := 3
	if wide {
		columns = append(columns, "connections", "old workers", "applied", "digest", "agent", "haproxy", "keepalived", "nftables")
		most = math.MaxInt
	}
	t := newTable(columns...)
	var below notes
	for _, s := range list {
		if !s.Reachable {
			t.AppendRow([]any{s.Gateway, "no"})
			below.add(s.Gateway, "%s", s.Error)
			continue
		}
		st := s.Status
		up, down := nodes(st.Nodes)
		row := []any{s.Gateway, "yes", fence(st.Fence), yesNo(s.InSync), addresses(st.Held, most), moment(st.HAProxyUp, "not running"),
			counts(st.Reloads), st.RuntimeUpdates, counts(st.Rounds), fmt.Sprintf("%d/%d", up, len(down))}
		if wide {
			row = append(row, st.Connections, st.OldWorkers, moment(st.Applied, "never"), cmp.Or(st.Digest[:min(12, len(st.Digest))], "-"),
				st.Hello.Agent, st.Hello.HAProxy, st.Hello.Keepalived, st.Hello.NFTables)
		}
		t.AppendRow(row)
		if st.Drain != nil {
			below.add(s.Gateway, "%s", drainText(st.Drain))
		}
		for _, drift := range s.Drift {
			below.add(s.Gateway, "out of sync: %s", drift)
		}
		if n := len(st.Differences); n > 0 {
			below.add(s.Gateway, "%s", differenceText(st.Differences[n-1]))
		}
		if !st.KeepalivedUp && st.Digest != "" { // before the first State nothing starts it
			below.add(s.Gateway, "keepalived does not run, so this gateway can take no VIP; see `systemctl status keepalived` there")
		}
		if len(down) > 0 {
			below.add(s.Gateway, "nodes that get no connections: %s", strings.Join(down, ", "))
		}
		if differ := differOverIPv6(st.Nodes); len(differ) > 0 {
			below.add(s.Gateway, "nodes whose IPv6 address, which IPv6-only Services use, is in another state: %s", strings.Join(differ, ", "))
		}
		for _, peer := range st.Peers {
			if !peer.Answers && peer.Problem != "" {
				below.add(s.Gateway, "its peer %s does not answer it: %s", peer.Gateway, peer.Problem)
			}
		}
		for _, l := range st.Limited {
			below.add(s.Gateway, "port %d of %s refused %d connections above its limits in the last ten minutes, %d in all", l.Port, l.Service, l.Lately, l.Total)
		}
		below.warnings(s.Gateway, st.Warnings)
	}
	return below.under(t)
}

// differenceText tells of the newest difference; the others stand in -o json and in the agent's log.
func differenceText(d wire.Difference) string {
	became := "undone by the agent"
	switch {
	case d.Left:
		became = "left as it is (drift: report in agent.yaml)"
	case d.Problem != "":
		became = "not undone: " + d.Problem
	}
	return fmt.Sprintf("was not what its State says at %s, %s: %s", d.Found.Local().Format(time.DateTime), became, strings.Join(d.Changes, "; "))
}

// nodes counts the servers that get connections and names the others with their state.
func nodes(list []wire.NodeStatus) (up int, down []string) {
	for _, n := range list {
		if n.State == "UP" || n.State == "NOCHECK" {
			up++
			continue
		}
		down = append(down, fmt.Sprintf("%s (%s)", n.Name, cmp.Or(n.State, "unknown")))
	}
	return up, down
}

// differOverIPv6 names the nodes whose IPv6 address is in a state of its own, with that state.
func differOverIPv6(list []wire.NodeStatus) []string {
	var differ []string
	for _, n := range list {
		if n.StateIPv6 != "" {
			differ = append(differ, fmt.Sprintf("%s (%s)", n.Name, n.StateIPv6))
		}
	}
	return differ
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
