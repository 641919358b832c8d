package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"cloud-provider-haproxy/test/lab"
)

type options struct {
	times  int
	only   *regexp.Regexp
	vips   int
	advert time.Duration
	logs   string
}

func main() {
	var o options
	only := flag.String("run", "", "only the faults whose name matches this regular expression")
	flag.IntVar(&o.times, "times", 3, "how often each fault is done")
	flag.IntVar(&o.vips, "vips", 1000, "VIPs of the pair")
	flag.DurationVar(&o.advert, "advert", 100*time.Millisecond, "keepalived's advert interval")
	flag.StringVar(&o.logs, "logs", "", "a directory that keeps the logs of every machine")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil {
		err = lab.Missing()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := chaos(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "\nchaos:", err)
		stop()
		os.Exit(1)
	}
}

var errMissed = errors.New("a goal was missed")

// chaos does all faults that are asked for and prints the table.
func chaos(ctx context.Context, o options) (err error) {
	p, err := startPair(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	var lines []*line
	for _, f := range pairFaults {
		if !o.only.MatchString(f.name) {
			continue
		}
		l := &line{fault: f}
		for n := range o.times {
			t, err := p.run(ctx, f, p.Gateways[n%len(p.Gateways)])
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			l.trials = append(l.trials, t)
			fmt.Fprintf(os.Stderr, "%s on %s: %d of %d failed, gap %v, slowest %v, %d cut (%s); beside it %d failed, %d cut (%s); well after %v\n",
				f.name, t.struck.Name, t.through.failed, t.through.opened, t.through.gap.Round(time.Millisecond), t.through.slowest.Round(time.Millisecond), t.through.cut, t.through.reasons(),
				t.beside.failed, t.beside.cut, t.beside.reasons(), t.healed.Round(time.Millisecond))
		}
		l.judge()
		lines = append(lines, l)
	}
	if err := printTable(os.Stdout, lines); err != nil {
		return err
	}
	var missed bool
	for _, l := range lines {
		for _, m := range l.missed {
			missed = true
			fmt.Printf("%s: %s\n", l.fault.name, m)
		}
	}
	if missed {
		return errMissed
	}
	return nil
}
