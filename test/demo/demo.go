package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/cluster"
	"cloud-provider-haproxy/test/lab/traffic"
)

const (
	// serviceFile is the Service that README.md shows.
	serviceFile = "manifests/example/service.yaml"
	serviceName = "web"
	servicePort = 80
	podPort     = 8080
	// requests are sent through the Service, each on a connection of its own.
	requests = 300
)

type demo struct {
	*narrator
	lab     *lab.Lab
	cluster *cluster.Cluster
	// address is the Service's external IP, once it has one; holder the gateway that had it first.
	address netip.Addr
	holder  *lab.Host
}

// chapter is one step of the story.
type chapter struct {
	what string
	do   func(context.Context) error
}

func (d *demo) story() []chapter {
	return []chapter{
		{"Making machines: gateways gw1 and gw2, three workers, a controller, a client", d.startLab},
		{"Starting Kubernetes: etcd, API server, controller manager, kube-proxy on each worker", d.startCluster},
		{"Building and starting haproxy-cloud-controller-manager (a first build takes a minute or two)", d.startController},
		{"Running three pods, one on each worker", d.runPods},
		{"Applying " + serviceFile + " and watching it with kubectl", d.applyService},
		{fmt.Sprintf("Sending %d requests from the client", requests), d.sendRequests},
		{"Switching off the gateway that holds the address", d.killHolder},
		{"Switching it on again", d.bringBack},
		{"Asking gatewayctl what the gateways do", d.showStatus},
	}
}

func (d *demo) startLab(ctx context.Context) (err error) {
	d.lab, err = lab.Start(ctx, lab.Options{Gateways: 2, Workers: 3})
	return err
}

func (d *demo) startCluster(ctx context.Context) (err error) {
	d.cluster, err = cluster.Start(ctx, d.lab, cluster.Options{})
	return err
}

func (d *demo) startController(ctx context.Context) error {
	_, err := d.cluster.StartController(ctx)
	return err
}

func (d *demo) runPods(ctx context.Context) error {
	var workers []string
	for _, w := range d.lab.Workers {
		workers = append(workers, w.Name)
	}
	return d.cluster.RunPods(ctx, "default", serviceName, podPort, workers...)
}

func (d *demo) sendRequests(ctx context.Context) error {
	target := d.target()
	answer, err := d.lab.Client.Run(ctx, "curl", "-sS", "--max-time", "5", "http://"+target+"/")
	if err != nil {
		return err
	}
	d.detail("client$ curl http://%s/", target)
	d.detail("%s", answer)
	before, err := d.sessions(ctx)
	if err != nil {
		return err
	}
	report, err := d.lab.Client.Flow(ctx, traffic.Flow{Targets: []string{target}, Rate: 300, Count: requests, Timeout: 5 * time.Second})
	if err != nil {
		return err
	}
	after, err := d.sessions(ctx)
	if err != nil {
		return err
	}
	d.detail("%d requests, %d failed, half of them within %v", report.Opened, report.Failed, report.P50.Round(10*time.Microsecond))
	d.detail("HAProxy's sessions by worker: %s", byName(after.since(before)))
	d.detail("answers by pod:               %s", byName(report.By))
	var faults []error
	if report.Failed != 0 {
		faults = append(faults, fmt.Errorf("%d of %d requests failed: %v", report.Failed, report.Opened, report.Errors))
	}
	if len(report.By) != len(d.lab.Workers) {
		faults = append(faults, fmt.Errorf("%d pods answered, want all %d", len(report.By), len(d.lab.Workers)))
	}
	return errors.Join(append(faults, even(after.since(before), len(d.lab.Workers)))...)
}

// even is nil when the workers got the same number of sessions, or one more or less.
func even(sessions sessions, workers int) error {
	var counts []int
	for _, n := range sessions {
		counts = append(counts, n)
	}
	switch {
	case len(counts) != workers:
		return fmt.Errorf("HAProxy has %d workers, want %d", len(counts), workers)
	case slices.Max(counts)-slices.Min(counts) > 1:
		return fmt.Errorf("HAProxy's sessions are not even: %s", byName(sessions))
	}
	return nil
}

func (d *demo) showStatus(ctx context.Context) error {
	out, err := d.lab.Controller.Run(ctx, "gatewayctl", "status", "--cloud-config", lab.CloudConfigFile)
	d.detail("controller# gatewayctl status --cloud-config %s", lab.CloudConfigFile)
	d.detail("%s", out)
	if strings.Contains(out, "nf_conntrack_max") {
		d.detail("(The lab's gateways share this machine's connection tracking table and leave its size alone.)")
	}
	return err
}

// invite tells how to look around.
func (d *demo) invite() {
	enter := func(h *lab.Host) string { return fmt.Sprintf("nsenter -t %d -a", h.PID()) }
	kubectl := enter(d.lab.Controller) + " " + strings.Join(d.cluster.KubectlArgv(), " ")
	d.line("Everything keeps running. In another terminal, as root:")
	d.detail("\n%s get svc,pods,nodes -o wide", kubectl)
	d.detail("%s describe svc %s", kubectl, serviceName)
	d.detail("%s curl http://%s/", enter(d.lab.Client), d.target())
	d.detail("%s gatewayctl status --cloud-config %s", enter(d.lab.Controller), lab.CloudConfigFile)
	d.detail("\nto enter a machine:")
	for _, h := range d.lab.Hosts() {
		d.detail("%-28s # %s, %s", enter(h), h.Name, h.Addr4)
	}
	d.detail("\nCtrl-C here cleans everything up (or: kill %d)", os.Getpid())
}

// deleteService is what a user does at the end; nothing of the Service may stay behind.
func (d *demo) deleteService(ctx context.Context) error {
	if _, err := d.cluster.Kubectl(ctx, "delete", "service", serviceName); err != nil {
		return err
	}
	return d.cluster.WaitFor(ctx, "the gateways to let go of "+d.address.String(), func(ctx context.Context) error {
		holders, err := d.cluster.Holders(ctx, d.address)
		if err == nil && len(holders) != 0 {
			err = fmt.Errorf("%s still holds it", holders[0].Name)
		}
		return err
	})
}

func (d *demo) cleanUp(context.Context) error {
	if d.cluster != nil {
		d.cluster.Stop()
	}
	if d.lab == nil {
		return nil
	}
	return d.lab.Close()
}

func (d *demo) target() string { return netip.AddrPortFrom(d.address, servicePort).String() }
