package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kubelet stands in for the kubelets of all workers: it registers and heartbeats the Nodes and runs each Pod that is
// bound to one as a process at the Pod's addresses in that worker's namespace. This is the one faked part of the lab.
//
// It runs no images: a Pod is the lab's backend program, which listens on every containerPort and tells the Pod's name.
type Kubelet struct {
	client  kubernetes.Interface
	workers map[string]*worker
	log     *slog.Logger

	mu   sync.Mutex
	pods map[string]*runningPod // by namespace/name
}

// worker is one Node and the host that plays it.
type worker struct {
	machine Machine
	node    *corev1.Node
	pods    []netip.Prefix // of each family that Pods have
	last    int            // host part of the newest pod address
}

// Machine is what the stand-in needs of a lab host.
type Machine interface {
	// Run runs a command to its end inside the host.
	Run(ctx context.Context, argv ...string) error
	// StartPod starts the backend program under the pod's name, listening on all given address:port pairs.
	StartPod(name string, listen []netip.AddrPort) (kill func() error, err error)
}

type runningPod struct {
	uid  string
	ips  []netip.Addr
	kill func() error
}

const (
	leaseNamespace  = "kube-node-lease"
	heartbeatPeriod = 5 * time.Second
	retryPeriod     = 2 * time.Second // a Pod that failed to start is tried again
)

// Run registers the nodes and then follows Pods until ctx ends. Pods are not stopped at the end: the lab ends with its
// hosts.
func (k *Kubelet) Run(ctx context.Context) error {
	for name, w := range k.workers {
		if _, err := k.client.CoreV1().Nodes().Create(ctx, w.node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("register node %s: %w", name, err)
		}
	}
	factory := informers.NewSharedInformerFactory(k.client, retryPeriod)
	pods := factory.Core().V1().Pods().Informer()
	if _, err := pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { k.sync(ctx, obj.(*corev1.Pod)) },
		UpdateFunc: func(_, obj any) { k.sync(ctx, obj.(*corev1.Pod)) },
		DeleteFunc: func(obj any) { k.deleted(obj) },
	}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	tick := time.NewTicker(heartbeatPeriod)
	defer tick.Stop()
	for {
		k.heartbeat(ctx)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// sync starts a Pod that is bound to one of our workers, or ends one that is being deleted.
func (k *Kubelet) sync(ctx context.Context, pod *corev1.Pod) {
	w := k.workers[pod.Spec.NodeName]
	if w == nil {
		return
	}
	if err := k.syncPod(ctx, w, pod); err != nil && ctx.Err() == nil {
		k.log.Error("pod", "pod", cache.MetaObjectToName(pod), "node", pod.Spec.NodeName, "err", err)
	}
}

func (k *Kubelet) syncPod(ctx context.Context, w *worker, pod *corev1.Pod) error {
	key := cache.MetaObjectToName(pod).String()
	k.mu.Lock()
	running := k.pods[key]
	k.mu.Unlock()
	if pod.DeletionTimestamp != nil {
		if running != nil && time.Now().Before(sleepsUntil(pod)) {
			return nil // asked again after retryPeriod
		}
		if err := k.stop(key); err != nil {
			return err
		}
		none := int64(0)
		err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &none})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	if running == nil {
		var err error
		if running, err = k.start(ctx, w, key, pod); err != nil {
			return fmt.Errorf("start pod %s: %w", key, err)
		}
	}
	return k.report(ctx, pod, running.ips)
}

// sleepsUntil is the end of a Pod's preStop sleep (KEP-3960): until then it serves, while its endpoints say that it terminates.
func sleepsUntil(pod *corev1.Pod) time.Time {
	asked := pod.DeletionTimestamp.Time
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		asked = asked.Add(-time.Duration(*grace) * time.Second)
	}
	until := asked
	for _, c := range pod.Spec.Containers {
		if c.Lifecycle == nil || c.Lifecycle.PreStop == nil || c.Lifecycle.PreStop.Sleep == nil {
			continue
		}
		if end := asked.Add(time.Duration(c.Lifecycle.PreStop.Sleep.Seconds) * time.Second); end.After(until) {
			until = end
		}
	}
	return until
}

// start gives the Pod its addresses and its process.
func (k *Kubelet) start(ctx context.Context, w *worker, key string, pod *corev1.Pod) (*runningPod, error) {
	k.mu.Lock()
	w.last++
	var ips []netip.Addr
	for _, pods := range w.pods {
		ips = append(ips, nth(pods, w.last))
	}
	k.mu.Unlock()
	var listen []netip.AddrPort
	for _, ip := range ips {
		if err := w.machine.Run(ctx, "ip", "address", "replace", netip.PrefixFrom(ip, ip.BitLen()).String(), "dev", "lo", "nodad"); err != nil {
			return nil, err
		}
		for _, c := range pod.Spec.Containers {
			for _, p := range c.Ports {
				listen = append(listen, netip.AddrPortFrom(ip, uint16(p.ContainerPort)))
			}
		}
	}
	kill, err := w.machine.StartPod(pod.Name, listen)
	if err != nil {
		return nil, err
	}
	running := &runningPod{uid: string(pod.UID), ips: ips, kill: kill}
	k.mu.Lock()
	k.pods[key] = running
	k.mu.Unlock()
	return running, nil
}

// nth gives the n-th address of a prefix.
func nth(p netip.Prefix, n int) netip.Addr {
	addr := p.Addr()
	for range n {
		addr = addr.Next()
	}
	return addr
}

func (k *Kubelet) stop(key string) error {
	k.mu.Lock()
	running := k.pods[key]
	delete(k.pods, key)
	k.mu.Unlock()
	if running == nil {
		return nil
	}
	return running.kill()
}

func (k *Kubelet) deleted(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err == nil {
		err = k.stop(name.String())
	}
	if err != nil {
		k.log.Error("stop a deleted pod", "pod", name, "err", err)
	}
}

// report writes the status that a kubelet would write for a Pod whose containers run and are ready.
func (k *Kubelet) report(ctx context.Context, pod *corev1.Pod, ips []netip.Addr) error {
	if pod.Status.Phase == corev1.PodRunning && pod.Status.PodIP == ips[0].String() {
		return nil
	}
	now := metav1.Now()
	updated := pod.DeepCopy()
	updated.Status.Phase = corev1.PodRunning
	updated.Status.StartTime = &now
	updated.Status.PodIP, updated.Status.PodIPs = ips[0].String(), nil
	for _, ip := range ips {
		updated.Status.PodIPs = append(updated.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	updated.Status.Conditions, updated.Status.ContainerStatuses = nil, nil
	for _, kind := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		updated.Status.Conditions = append(updated.Status.Conditions,
			corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	started := true
	for _, c := range pod.Spec.Containers {
		updated.Status.ContainerStatuses = append(updated.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	_, err := k.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // a newer version of the Pod is on its way to us
	}
	return err
}

// heartbeat renews every Node's Lease; without it kube-controller-manager marks the Node unknown and evicts its Pods.
func (k *Kubelet) heartbeat(ctx context.Context) {
	for name := range k.workers {
		if err := k.renew(ctx, name); err != nil && ctx.Err() == nil {
			k.log.Error("renew the node's lease", "node", name, "err", err)
		}
	}
}

func (k *Kubelet) renew(ctx context.Context, name string) error {
	leases := k.client.CoordinationV1().Leases(leaseNamespace)
	now := metav1.NowMicro()
	seconds := int32(40)
	lease, err := leases.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: leaseNamespace},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
		}, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	lease.Spec.RenewTime = &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// newNode is the Node that a kubelet with the given addresses registers. External marks a kubelet that was started with
// --cloud-provider=external: its Node waits, tainted, for a cloud controller to give it its addresses.
func newNode(name string, addrs []netip.Addr, external bool) *corev1.Node {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
		corev1.LabelHostname: name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
	}}}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
	if external {
		node.Annotations = map[string]string{"alpha.kubernetes.io/provided-node-ip": addrs[0].String()}
		node.Spec.Taints = []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: corev1.TaintEffectNoSchedule}}
	} else {
		for _, addr := range addrs {
			node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
		}
	}
	now := metav1.Now()
	node.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now,
	}}
	return node
}
