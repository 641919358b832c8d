package cluster

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// RunPods makes one Pod on each named worker, called NAME-0, NAME-1 and so on, labelled app=NAME, listening on port, and
// returns when all of them are Running.
func (c *Cluster) RunPods(ctx context.Context, namespace, name string, port int32, workers ...string) error {
	for i, worker := range workers {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: fmt.Sprintf("%s-%d", name, i), Labels: map[string]string{"app": name}},
			Spec: corev1.PodSpec{
				NodeName:   worker,
				Containers: []corev1.Container{{Name: "backend", Image: "lab/backend", Ports: []corev1.ContainerPort{{ContainerPort: port}}}},
			},
		}
		err := c.WaitFor(ctx, "the namespace's service account", func(ctx context.Context) error {
			_, err := c.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
			return err
		})
		if err != nil {
			return fmt.Errorf("create pod %s/%s: %w", namespace, pod.Name, err)
		}
	}
	return c.WaitFor(ctx, fmt.Sprintf("pods app=%s to run", name), func(ctx context.Context) error {
		pods, err := c.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=" + name, FieldSelector: "status.phase=Running"})
		if err == nil && len(pods.Items) < len(workers) {
			err = fmt.Errorf("%d of %d are Running", len(pods.Items), len(workers))
		}
		return err
	})
}
