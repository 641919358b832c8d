package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"cloud-provider-haproxy/test/lab"
)

func main() {
	keep := flag.Bool("keep", false, "leave everything running at the end, until Ctrl-C")
	flag.Parse()
	if err := lab.Missing(); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := tell(ctx, *keep)
	switch {
	case ctx.Err() != nil && *keep && err == nil: // Ctrl-C is how a kept demo ends
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted, everything is cleaned up")
		os.Exit(130) // as a shell says it: 128 + SIGINT
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo: FAILED:", err)
		os.Exit(1)
	}
}

// tell is the demo with its clean-up.
func tell(ctx context.Context, keep bool) (err error) {
	d := &demo{narrator: &narrator{start: time.Now(), out: os.Stdout}}
	defer func() {
		if err != nil && ctx.Err() == nil && d.lab != nil {
			err = errors.Join(err, d.lab.WriteLogs(os.Stderr, 20))
		}
		// ctx may have ended; cleaning up has to happen all the same.
		err = errors.Join(err, d.step(context.WithoutCancel(ctx), "Cleaning up", d.cleanUp))
	}()
	for _, s := range d.story() {
		if err := d.step(ctx, s.what, s.do); err != nil {
			return err
		}
	}
	if keep {
		d.invite()
		<-ctx.Done()
		return nil
	}
	return d.step(ctx, "Deleting the Service: its address leaves the gateways", d.deleteService)
}
