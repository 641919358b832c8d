// Command cmd starts a lab for a person: it prints how to enter each host and waits for Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"cloud-provider-haproxy/test/lab"
)

func main() {
	var options lab.Options
	flag.IntVar(&options.Gateways, "gateways", 2, "number of gateways")
	flag.IntVar(&options.Workers, "workers", 3, "number of workers")
	flag.BoolVar(&options.Bare, "bare", false, "start nothing on the hosts")
	flag.StringVar(&options.Logs, "logs", os.Getenv(lab.LogsVariable), "directory that keeps the logs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, options); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, options lab.Options) (err error) {
	fmt.Println("starting the lab")
	l, err := lab.Start(ctx, options)
	if err != nil {
		return err
	}
	defer func() {
		fmt.Println("ending the lab")
		err = errors.Join(err, l.Close())
	}()
	fmt.Println("\nto enter a host:")
	for _, h := range l.Hosts() {
		fmt.Printf("  %-12s nsenter -t %d -a     # %s %s\n", h.Name, h.PID(), h.Addr4, h.Addr6)
	}
	fmt.Println("\nCtrl-C ends the lab")
	<-ctx.Done()
	return nil
}
