package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"cloud-provider-haproxy/test/lab/traffic"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("want flow or hold")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	var targets []string
	flags.Func("target", "address and port; may be repeated", func(s string) error {
		targets = append(targets, s)
		return nil
	})
	rate := flags.Int("rate", 100, "connections a second")
	count := flags.Int("count", 0, "number of connections")
	every := flags.Duration("every", 0, "how often a held connection says something; 0: at the end only")
	timeout := flags.Duration("timeout", 5*time.Second, "bound of one connection")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if len(targets) == 0 || flags.NArg() != 0 {
		return fmt.Errorf("want at least one -target and no argument, got %q", strings.Join(flags.Args(), " "))
	}
	ready := func() { fmt.Println("ready") }
	switch args[0] {
	case "flow":
		ready()
		return report(traffic.Flow{Targets: targets, Rate: *rate, Count: *count, Timeout: *timeout}.Run(ctx))
	case "hold":
		held, err := traffic.Hold{Targets: targets, Count: *count, Timeout: *timeout, Every: *every}.Run(ctx, ready)
		if err != nil {
			return err
		}
		return report(held)
	default:
		return fmt.Errorf("unknown verb %q: want flow or hold", args[0])
	}
}

func report(v any) error {
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}
