package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"cloud-provider-haproxy/test/lab"
)

type options struct {
	out    io.Writer
	times  int
	only   *regexp.Regexp
	vips   int
	advert time.Duration
	// patience is how long a client waits for an answer.
	patience time.Duration
	logs     string
}

// hurried is how long a client of the table waits: a lost SYN is repeated after one second, once in that time.
const hurried = 2 * time.Second

func main() {
	o := options{out: os.Stdout, patience: hurried}
	only := flag.String("run", "", "only the faults whose name matches this regular expression")
	flag.IntVar(&o.times, "times", 3, "how often each fault is done")
	flag.IntVar(&o.vips, "vips", 1000, "VIPs of the pair")
	flag.DurationVar(&o.advert, "advert", 100*time.Millisecond, "keepalived's advert interval")
	flag.StringVar(&o.logs, "logs", "", "a directory that keeps the logs of every machine")
	list := flag.Bool("list", false, "tell what the faults are, and do none")
	flag.Parse()
	var err error
	if o.only, err = regexp.Compile(*only); err == nil && !*list {
		err = lab.Missing()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	if *list {
		for _, stage := range stages {
			for _, f := range chosen(o, stage.faults) {
				fmt.Printf("%-28s%s\n", f.name, f.does)
			}
		}
		return
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

// stages are what faults are done to.
var stages = []struct {
	faults []fault
	start  func(context.Context, options) (*pair, error)
}{
	{pairFaults, startPair},
	{siteFaults, startSite},
}

// chosen are the faults that are asked for.
func chosen(o options, faults []fault) []fault {
	return slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !o.only.MatchString(f.name) })
}

// chaos does all faults that are asked for and prints the table.
func chaos(ctx context.Context, o options) error {
	var lines []*line
	for _, stage := range stages {
		faults := chosen(o, stage.faults)
		if len(faults) == 0 {
			continue
		}
		done, err := runAll(ctx, o, faults, stage.start)
		lines = append(lines, done...)
		if err != nil {
			return errors.Join(err, printTable(o.out, lines))
		}
	}
	return tell(o.out, lines)
}

// tell prints the table and what was missed.
func tell(out io.Writer, lines []*line) error {
	if err := printTable(out, lines); err != nil {
		return err
	}
	var missed []string
	for _, l := range lines {
		missed = append(missed, l.missed()...)
	}
	for _, m := range missed {
		fmt.Fprintln(out, m)
	}
	if len(missed) > 0 {
		return errMissed
	}
	return nil
}

// runAll does faults to one pair, each often enough, in turn to the one gateway and to the other.
func runAll(ctx context.Context, o options, faults []fault, start func(context.Context, options) (*pair, error)) (lines []*line, err error) {
	p, err := start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && ctx.Err() == nil {
			err = errors.Join(err, p.WriteLogs(os.Stderr, 10))
		}
		err = errors.Join(err, p.close())
	}()
	for _, f := range faults {
		l := &line{fault: f}
		for n := range o.times {
			if n > 0 && f.slow {
				break
			}
			t, err := p.run(ctx, f, p.Gateways[n%len(p.Gateways)])
			if err != nil {
				return lines, fmt.Errorf("%s: %w", f.name, err)
			}
			l.trials = append(l.trials, t)
			fmt.Fprintf(o.out, "%s: %s; through the other gateway: %s; well after %s\n", f.name, t.through, t.beside, seconds(t.healed))
		}
		lines = append(lines, l)
	}
	return lines, nil
}
