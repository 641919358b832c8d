package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/traffic"
)

const (
	// A client's view: a new connection every 5 ms.
	flowRate    = 200
	flowTimeout = time.Second
	// settled is how much traffic is watched before and after each event.
	settled = time.Second
	// longestGap is what a dead gateway may cost a client here. The other one notices after three adverts of 100 ms.
	longestGap = 2 * time.Second
)

func (d *demo) killHolder(ctx context.Context) error {
	holder, err := d.cluster.SettledHolder(ctx, d.address)
	if err != nil {
		return err
	}
	d.holder = holder
	d.detail("%s holds %s: its plug is pulled under %d new connections a second", holder.Name, d.address, flowRate)
	report, err := d.during(ctx, func(ctx context.Context) error {
		if err := holder.PowerOff(); err != nil {
			return err
		}
		return d.awaitHolder(ctx, d.other(holder))
	})
	if err != nil {
		return err
	}
	d.detail("the client saw no answer for %v; %s", report.LongestGap.Round(time.Millisecond), failures(report))
	if report.LongestGap > longestGap {
		return fmt.Errorf("the client saw no answer for %v, want at most %v", report.LongestGap, longestGap)
	}
	return lastedAtMost(report, longestGap)
}

func (d *demo) bringBack(ctx context.Context) error {
	report, err := d.during(ctx, func(ctx context.Context) error {
		if err := d.holder.Boot(ctx); err != nil {
			return err
		}
		if err := d.cluster.WaitFor(ctx, "both gateways to be in sync", d.cluster.InSync); err != nil {
			return err
		}
		d.detail("%s is in sync; it takes the address back when the controller has confirmed that its State is the newest", d.holder.Name)
		return d.awaitHolder(ctx, d.holder)
	})
	if err != nil {
		return err
	}
	d.detail("%s holds %s again", d.holder.Name, d.address)
	d.detail("the client saw no answer for %v; %s", report.LongestGap.Round(time.Millisecond), failures(report))
	return lastedAtMost(report, longestGap)
}

// during watches with a client's eyes while something happens, from a moment before it to a moment after it.
func (d *demo) during(ctx context.Context, event func(context.Context) error) (traffic.Report, error) {
	flow, err := d.lab.Client.StartFlow(ctx, traffic.Flow{Targets: []string{d.target()}, Rate: flowRate, Timeout: flowTimeout})
	if err != nil {
		return traffic.Report{}, err
	}
	err = watch(ctx, settled)
	if err == nil {
		err = event(ctx)
	}
	if err == nil {
		err = watch(ctx, settled)
	}
	report, stopErr := flow.Stop()
	if err == nil {
		err = stopErr
	}
	return report, err
}

// watch lets traffic flow for a while.
func watch(ctx context.Context, duration time.Duration) error {
	timer := time.NewTimer(duration)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *demo) awaitHolder(ctx context.Context, want *lab.Host) error {
	return d.cluster.WaitFor(ctx, want.Name+" to hold "+d.address.String(), func(ctx context.Context) error {
		holder, err := d.cluster.Holder(ctx, d.address)
		if err == nil && holder != want {
			err = fmt.Errorf("%s holds it", holder.Name)
		}
		return err
	})
}

func (d *demo) other(than *lab.Host) *lab.Host {
	return d.lab.Gateways[1-slices.Index(d.lab.Gateways, than)]
}

func failures(r traffic.Report) string {
	return fmt.Sprintf("%d of %d connections failed", r.Failed, r.Opened)
}

// lastedAtMost is nil when all connections that failed were begun within limit of each other: one outage that ended.
func lastedAtMost(r traffic.Report, limit time.Duration) error {
	if len(r.Failures) == 0 {
		return nil
	}
	first, last := r.Failures[0].After, r.Failures[0].After
	for _, f := range r.Failures {
		first, last = min(first, f.After), max(last, f.After)
	}
	if last-first > limit {
		return fmt.Errorf("connections failed over %v, want at most %v: %v", last-first, limit, r.Errors)
	}
	return nil
}
