package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"cloud-provider-haproxy/test/lab"
	"cloud-provider-haproxy/test/lab/cluster"
)

const (
	namespace = "default"
	app       = "web"
	podPort   = 8080
	// siteServices are there all the time, so that each gateway holds some.
	siteServices = 20
	// burst is how many Services are made while a controller is struck.
	burst = 30
)

// site is a cluster whose controller commands the pair.
type site struct {
	*cluster.Cluster
	controller *lab.Process // the one that leads
}

// startSite makes a lab with a Kubernetes cluster and returns when its Services are served.
func startSite(ctx context.Context, o options) (_ *pair, err error) {
	l, err := lab.Start(ctx, lab.Options{Workers: 2, Logs: o.logs})
	if err != nil {
		return nil, err
	}
	p := &pair{Lab: l, site: &site{}, patience: o.patience}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	if p.site.Cluster, err = cluster.Start(ctx, l, cluster.Options{Log: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, err
	}
	if err := p.site.start(ctx); err != nil {
		return nil, err
	}
	var workers []string
	for _, w := range l.Workers {
		workers = append(workers, w.Name)
	}
	if err := p.site.RunPods(ctx, namespace, app, podPort, workers...); err != nil {
		return nil, err
	}
	if err := p.site.create(ctx, "steady", siteServices); err != nil {
		return nil, err
	}
	if err := p.site.published(ctx, "steady", siteServices); err != nil {
		return nil, err
	}
	return p, p.learn()
}

// start starts the controller, as its supervisor would.
func (s *site) start(ctx context.Context, flags ...string) (err error) {
	s.controller, err = s.StartController(ctx, flags...)
	return err
}

// create makes count Services in front of all pods.
func (s *site) create(ctx context.Context, name string, count int) error {
	for n := range count {
		_, err := s.Client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", name, n), Labels: map[string]string{"made": name}},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": app},
				Ports: []corev1.ServicePort{{Port: servicePort, TargetPort: intstr.FromInt32(podPort)}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return err
		}
	}
	return nil
}

// published waits until so many Services of a name have an address.
func (s *site) published(ctx context.Context, name string, count int) error {
	return s.WaitFor(ctx, fmt.Sprintf("%d Services %s-N to have an address", count, name), func(ctx context.Context) error {
		services, err := s.services(ctx, name)
		if err != nil {
			return err
		}
		have := 0
		for _, svc := range services {
			have += min(1, len(svc.Status.LoadBalancer.Ingress))
		}
		if have < count {
			return fmt.Errorf("%d have one", have)
		}
		return nil
	})
}

func (s *site) services(ctx context.Context, name string) ([]corev1.Service, error) {
	list, err := s.Client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{LabelSelector: "made=" + name})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// remove deletes the Services of a name and waits until they are gone: then the gateways have let go of them.
func (s *site) remove(ctx context.Context, name string) error {
	services, err := s.services(ctx, name)
	if err != nil {
		return err
	}
	for _, svc := range services {
		if err := s.Client.CoreV1().Services(namespace).Delete(ctx, svc.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
	}
	return s.WaitFor(ctx, "Services "+name+"-N to be gone", func(ctx context.Context) error {
		services, err := s.services(ctx, name)
		if err == nil && len(services) > 0 {
			err = fmt.Errorf("%d are there", len(services))
		}
		return err
	})
}

// finish lets the controller that runs serve all Services of the burst, and take them off again.
func (s *site) finish(ctx context.Context) error {
	if err := s.published(ctx, "burst", burst); err != nil {
		return err
	}
	if err := s.unique(ctx); err != nil {
		return err
	}
	return s.remove(ctx, "burst")
}

// unique checks that no address was given twice.
func (s *site) unique(ctx context.Context) error {
	all, err := s.Client.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	owners := map[netip.Addr][]string{}
	var faults []error
	for _, svc := range all.Items {
		for _, i := range svc.Status.LoadBalancer.Ingress {
			address, err := netip.ParseAddr(i.IP)
			if err != nil {
				return err
			}
			owners[address] = append(owners[address], svc.Name)
			if len(owners[address]) == 2 {
				faults = append(faults, fmt.Errorf("%s belongs to %s", address, strings.Join(owners[address], " and ")))
			}
		}
	}
	return errors.Join(faults...)
}

// killController kills the controller when the first Services of a burst are served; another one goes on a second later.
func killController(ctx context.Context, t *trial) error {
	if err := t.site.create(ctx, "burst", burst); err != nil {
		return err
	}
	if err := t.site.published(ctx, "burst", 2); err != nil {
		return err
	}
	return t.site.controller.Kill()
}

func restartController(ctx context.Context, t *trial) error {
	if err := t.site.start(ctx); err != nil {
		return err
	}
	return t.site.finish(ctx)
}

// controllerProgram is the controller's name as the kernel has it, 15 letters of it.
const controllerProgram = "haproxy-cloud-c"

// secondController stops the one that leads in the middle of a burst, lets another one take over and the first one go on, which
// believes to lead: it has to notice, and to end.
func secondController(ctx context.Context, t *trial) error {
	first := t.site.controller
	if err := t.site.create(ctx, "burst", burst); err != nil {
		return err
	}
	if err := t.site.published(ctx, "burst", 2); err != nil {
		return err
	}
	if _, err := t.Controller.Run(ctx, "pkill", "-STOP", "-x", controllerProgram); err != nil {
		return err
	}
	if err := t.site.start(ctx, "--leader-elect=false", "--secure-port=10260"); err != nil {
		return err
	}
	if err := t.site.published(ctx, "burst", burst); err != nil {
		return err
	}
	if _, err := t.Controller.Run(ctx, "pkill", "-CONT", "-x", controllerProgram); err != nil {
		return err
	}
	select {
	case <-first.Done():
		return nil
	case <-time.After(settleLimit):
		return fmt.Errorf("the first controller still runs %v after it was let go on", settleLimit)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func singleController(ctx context.Context, t *trial) error {
	if err := t.site.controller.Stop(); err != nil {
		return err
	}
	return restartController(ctx, t)
}

func killAPIServer(_ context.Context, t *trial) error { return t.site.KillAPIServer() }

// restartAPIServer starts it, and the controller when that has given up: it ends when it cannot renew its Lease.
func restartAPIServer(ctx context.Context, t *trial) error {
	if err := t.site.StartAPIServer(ctx); err != nil {
		return err
	}
	select {
	case <-t.site.controller.Done():
	default:
		return t.site.proves(ctx)
	}
	if err := t.site.start(ctx); err != nil {
		return err
	}
	return t.site.proves(ctx)
}

// proves shows that Services are served again.
func (s *site) proves(ctx context.Context) error {
	if err := s.create(ctx, "burst", burst); err != nil {
		return err
	}
	return s.finish(ctx)
}
