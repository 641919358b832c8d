package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"cloud-provider-haproxy/test/lab/traffic"
)

// Flow opens f.Count connections from this host and gives the report when the last one is done.
func (h *Host) Flow(ctx context.Context, f traffic.Flow) (traffic.Report, error) {
	var report traffic.Report
	argv := h.lab.flowArgv(f)
	out, err := h.Run(ctx, argv...)
	if err != nil {
		return report, err
	}
	return report, decodeReport([]byte(out), &report)
}

// Running is traffic that goes on until Stop.
type Running[R any] struct{ process *Process }

// StartFlow opens connections from this host until Stop.
func (h *Host) StartFlow(ctx context.Context, f traffic.Flow) (*Running[traffic.Report], error) {
	f.Count = 0
	return startTraffic[traffic.Report](ctx, h, h.lab.flowArgv(f))
}

// StartHold returns when all connections are open.
func (h *Host) StartHold(ctx context.Context, hold traffic.Hold) (*Running[traffic.HoldReport], error) {
	argv := []string{h.lab.bin("client"), "hold", "-count", strconv.Itoa(hold.Count), "-timeout", hold.Timeout.String(), "-every", hold.Every.String()}
	return startTraffic[traffic.HoldReport](ctx, h, targets(argv, hold.Targets))
}

// Stop ends the traffic and gives its report.
func (r *Running[R]) Stop() (R, error) {
	var report R
	if err := r.process.Stop(); err != nil {
		return report, err
	}
	if err := r.process.Wait(); err != nil {
		text, _ := r.process.Output()
		return report, fmt.Errorf("%s: %w\n%s", r.process.Name, err, text)
	}
	text, err := r.process.Output()
	if err != nil {
		return report, err
	}
	return report, decodeReport(text, &report)
}

func (l *Lab) flowArgv(f traffic.Flow) []string {
	argv := []string{l.bin("client"), "flow", "-rate", strconv.Itoa(f.Rate), "-count", strconv.Itoa(f.Count), "-timeout", f.Timeout.String()}
	return targets(argv, f.Targets)
}

func targets(argv, targets []string) []string {
	for _, t := range targets {
		argv = append(argv, "-target", t)
	}
	return argv
}

func startTraffic[R any](ctx context.Context, h *Host, argv []string) (*Running[R], error) {
	name := fmt.Sprintf("client-%s-%d", argv[1], h.lab.number.Add(1))
	process, err := h.Start(name, argv...)
	if err != nil {
		return nil, err
	}
	if err := process.AwaitLine(ctx, "ready"); err != nil {
		return nil, err
	}
	return &Running[R]{process}, nil
}

// decodeReport reads what command client printed: the line ready, then the report.
func decodeReport(out []byte, report any) error {
	_, text, found := bytes.Cut(out, []byte("ready\n"))
	if !found {
		return fmt.Errorf("reading the client's report: no report in %q", out)
	}
	if err := json.Unmarshal(text, report); err != nil {
		return fmt.Errorf("reading the client's report %q: %w", text, err)
	}
	return nil
}

// Ask makes one connection from this host and tells who answered.
func (h *Host) Ask(target string, timeout time.Duration) (who string, err error) {
	err = h.within(func() error {
		who, err = traffic.Ask(target, timeout)
		return err
	})
	return who, err
}
