package main

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// applyService applies the README's Service while kubectl watches, and returns when kubectl has shown its external IP.
// The lines are kubectl's own.
func (d *demo) applyService(ctx context.Context) error {
	text, err := d.cluster.File(serviceFile)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	watch, err := d.watchServices(ctx)
	if err != nil {
		return err
	}
	defer watch.end(cancel)
	d.detail("$ kubectl get svc --watch")
	header := func(line string) bool {
		d.detail("%s", line)
		return true
	}
	if err := watch.await(header); err != nil { // the watch is there
		return err
	}
	said, err := d.cluster.KubectlInput(ctx, string(text), "apply", "-f", "-")
	if err != nil {
		return err
	}
	applied := time.Now()
	d.detail("(kubectl apply: %s)", strings.TrimSpace(said))
	sawPending := false
	err = watch.await(func(line string) bool {
		d.detail("%s", line)
		columns := strings.Fields(line) // NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE
		if len(columns) < 4 || columns[0] != serviceName {
			return false
		}
		sawPending = sawPending || columns[3] == "<pending>"
		address, err := netip.ParseAddr(columns[3])
		d.address = address
		return err == nil
	})
	if err != nil {
		return err
	}
	if !sawPending {
		return fmt.Errorf("kubectl never showed the Service as <pending>")
	}
	d.detail("external IP %s, %v after kubectl apply had returned", d.address, time.Since(applied).Round(time.Millisecond))
	return nil
}

// serviceWatch is a running `kubectl get svc --watch`.
type serviceWatch struct {
	ctx   context.Context
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func (d *demo) watchServices(ctx context.Context) (*serviceWatch, error) {
	cmd := d.lab.Controller.Command(ctx, d.cluster.KubectlArgv("get", "svc", "--watch")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = d.narrator
	return &serviceWatch{ctx: ctx, cmd: cmd, lines: bufio.NewScanner(out)}, cmd.Start()
}

// await reads lines until one is the right one.
func (w *serviceWatch) await(right func(line string) bool) error {
	for w.lines.Scan() {
		if right(w.lines.Text()) {
			return nil
		}
	}
	if w.ctx.Err() != nil {
		return fmt.Errorf("kubectl showed no external IP: %w", w.ctx.Err())
	}
	return fmt.Errorf("kubectl get svc --watch ended: %w", w.cmd.Wait())
}

// end stops kubectl; cancel is that of its context.
func (w *serviceWatch) end(cancel func()) {
	cancel()
	_ = w.cmd.Wait() // it was killed
}
