package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"cloud-provider-haproxy/test/lab/traffic"
)

// runPod binds a Pod to a worker. It goes on serving for so many seconds after it was asked to end, as preStop hooks make Pods do.
func (s *site) runPod(t *testing.T, app, name, worker string, lingers int64) {
	t.Helper()
	container := corev1.Container{Name: "backend", Image: "lab/backend", Ports: []corev1.ContainerPort{{ContainerPort: podPort}}}
	if lingers > 0 {
		container.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: lingers}}}
	}
	_, err := s.Client.CoreV1().Pods(namespace).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{NodeName: worker, Containers: []corev1.Container{container}},
	}, metav1.CreateOptions{})
	must(t, err)
}

// awaitPod waits until a Pod is ready.
func (s *site) awaitPod(t *testing.T, name string) {
	t.Helper()
	s.await(t, "Pod "+name+" to be ready", func(ctx context.Context) error {
		pod, err := s.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("it is not")
	})
}

// endPod asks a Pod to end and waits until it has.
func (s *site) endPod(t *testing.T, name string) {
	t.Helper()
	must(t, s.Client.CoreV1().Pods(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}))
	s.await(t, "Pod "+name+" to be gone", func(ctx context.Context) error {
		_, err := s.Client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err == nil:
			return errors.New("it is still there")
		}
		return err
	})
}

// removePods takes all Pods of an app away when the test ends.
func (s *site) removePods(t *testing.T, app string) {
	t.Helper()
	t.Cleanup(func() {
		_, err := s.Kubectl(context.WithoutCancel(t.Context()), "delete", "pod", "--selector=app="+app, "--grace-period=0", "--force")
		must(t, err)
	})
}

func withDNS(svc *corev1.Service) {
	svc.Spec.Ports = append(svc.Spec.Ports, port("dns", corev1.ProtocolUDP, 53))
}

// testRollingUpdate: a DaemonSet's Pods are replaced node by node, the old one ending before the new one begins, and nobody notices:
// with externalTrafficPolicy Cluster and Local, over TCP and UDP. ("should not have connectivity disruption during rolling update" of
// Kubernetes' own tests, which wants 95 of 100 connections to succeed; so do we of datagrams, on a machine that is busy.)
func testRollingUpdate(t *testing.T, s *site) {
	const app, lingers = "rolling", 2
	s.removePods(t, app)
	var old []string
	for i, w := range s.Lab.Workers {
		old = append(old, fmt.Sprintf("%s-old-%d", app, i))
		s.runPod(t, app, old[i], w.Name, lingers)
	}
	s.create(t, service("rolling", inFrontOf(app), withDNS))
	s.create(t, service("rolling-local", inFrontOf(app), withDNS, local))
	var targets []string
	var datagrams []*datagrams
	for _, name := range []string{"rolling", "rolling-local"} {
		a := s.addresses(t, name)[0]
		s.awaitAnswers(t, target(a, 80), old...)
		s.awaitDatagrams(t, target(a, 53), old...)
		targets = append(targets, target(a, 80))
		datagrams = append(datagrams, s.sends(t, target(a, 53), false))
	}
	flow, err := s.client.StartFlow(t.Context(), traffic.Flow{Targets: targets, Rate: 80, Timeout: 5 * time.Second})
	must(t, err)
	var young []string
	for i, w := range s.Lab.Workers {
		s.endPod(t, old[i])
		t.Logf("%s is gone at %s", old[i], time.Now().Format("15:04:05.000"))
		young = append(young, fmt.Sprintf("%s-young-%d", app, i))
		s.runPod(t, app, young[i], w.Name, lingers)
		s.awaitPod(t, young[i])
	}
	for _, at := range targets {
		s.awaitAnswers(t, at, young...)
	}
	report, err := flow.Stop()
	must(t, err)
	t.Logf("rolling update: %v", report)
	if report.Failed > 0 {
		t.Errorf("rolling update: %v; want none failed", report)
	}
	for _, d := range datagrams {
		d.stop()
		t.Logf("rolling update: %v", d)
		if d.lost > d.sent/20 {
			t.Errorf("rolling update: %v; want at most one of 20 lost", d)
		}
	}
}

// testServerCycles: a client that keeps its UDP port is served by the next Pod when its Pod is gone, on another node and on the same
// one. ("should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service" of Kubernetes' own tests.) With
// Local the gateways send the flow to another node, with Cluster it is the node that does.
func testServerCycles(t *testing.T, s *site) {
	const app = "cycles"
	s.removePods(t, app)
	first, second := s.Lab.Workers[0].Name, s.Lab.Workers[1].Name
	s.runPod(t, app, "cycles-0", first, 0)
	s.create(t, service("cycles", inFrontOf(app), withDNS))
	s.create(t, service("cycles-local", inFrontOf(app), withDNS, local))
	var clients []*datagrams
	var targets []string
	for _, name := range []string{"cycles", "cycles-local"} {
		at := target(s.addresses(t, name)[0], 53)
		s.awaitDatagrams(t, at, "cycles-0")
		targets = append(targets, at)
	}
	for i, next := range []string{second, second} {
		pod, successor := fmt.Sprintf("cycles-%d", i), fmt.Sprintf("cycles-%d", i+1)
		clients = nil
		for _, at := range targets {
			clients = append(clients, s.sends(t, at, true))
		}
		s.runPod(t, app, successor, next, 0)
		s.awaitPod(t, successor)
		s.endPod(t, pod)
		for _, at := range targets {
			s.awaitDatagrams(t, at, successor)
		}
		for n, client := range clients {
			s.await(t, "the same flow to be answered by "+successor, func(context.Context) error {
				if client.last() != successor {
					return fmt.Errorf("it is answered by %s", client.last())
				}
				return nil
			})
			client.stop()
			t.Logf("%s: %s follows %s: %v", targets[n], successor, pod, client)
			if client.longest > 5*time.Second {
				t.Errorf("%s: no answer for %v", targets[n], client.longest)
			}
		}
	}
}
