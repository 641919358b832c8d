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

// exampleFile is a State on the controller's host for a first push.
const exampleFile = "/root/web.yaml"

// example is one Service in both families, over the first workers of every lab.
const example = `fence: {clusterUID: lab}
nodes:
- {name: worker1, addresses: [192.0.2.21, "2001:db8::21"]}
- {name: worker2, addresses: [192.0.2.22, "2001:db8::22"]}
loadBalancers:
- namespace: default
  name: web
  uid: example
  addresses: [192.0.2.64, "2001:db8::1:1"]
  frontends:
  - {name: http, protocol: TCP, port: 80, nodePort: 30080}
`

func main() {
	var options lab.Options
	flag.IntVar(&options.Gateways, "gateways", 2, "number of gateways")
	flag.IntVar(&options.Workers, "workers", 3, "number of workers")
	flag.BoolVar(&options.Bare, "bare", false, "start nothing on the hosts")
	flag.StringVar(&options.Logs, "logs", os.Getenv(lab.LogsVariable), "directory that keeps the logs")
	flag.Parse()
	options.NodePorts = []uint16{30080, 30081}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, options)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, options lab.Options) (err error) {
	fmt.Println("starting the lab (its programs are built first; the first time that takes a minute)")
	l, err := lab.Start(ctx, options)
	if err != nil {
		return err
	}
	defer func() {
		fmt.Println("ending the lab")
		err = errors.Join(err, l.Close())
	}()
	if err := l.Controller.WriteFile(exampleFile, []byte(example), 0o644); err != nil {
		return err
	}
	fmt.Println("\nto enter a host:")
	for _, h := range l.Hosts() {
		fmt.Printf("  %-12s nsenter -t %d -a     # %s %s\n", h.Name, h.PID(), h.Addr4, h.Addr6)
	}
	if !options.Bare {
		fmt.Printf("\nto serve something, on controller and client:\n"+
			"  gatewayctl push -f %s --cloud-config %s --force-epoch 1\n"+
			"  gatewayctl status --cloud-config %[2]s\n"+
			"  curl http://192.0.2.64/ http://[2001:db8::1:1]/\n", exampleFile, lab.CloudConfigFile)
	}
	fmt.Println("\nCtrl-C ends the lab")
	<-ctx.Done()
	return nil
}
