package provider

import (
	"context"
	"fmt"
	"math"
	"strconv"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// EpochName is the ConfigMap in namespace kube-system that says which controller leads. Events about the gateways are
// told on it.
const EpochName = "cloud-provider-haproxy-epoch"

// epochStore keeps the epoch in a ConfigMap, swapped by its resourceVersion. Not in leader election's Lease: that one
// is renewed every two seconds by somebody else's code, and fencing must also work without leader election.
type epochStore struct {
	client  kubernetes.Interface
	subject *subject
}

const (
	epochKey    = "epoch"
	instanceKey = "instance"
)

// Claim makes instance the holder of an epoch that is at least atLeast and above the stored one.
func (s epochStore) Claim(ctx context.Context, atLeast uint64, instance string) (uint64, error) {
	for {
		epoch, err := s.claim(ctx, atLeast, instance)
		if err == nil {
			return epoch, nil
		}
		lost := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
		if !lost || ctx.Err() != nil { // after a lost race the object is read anew
			return 0, fmt.Errorf("claiming the epoch in ConfigMap %s/%s: %w", metav1.NamespaceSystem, EpochName, err)
		}
	}
}

func (s epochStore) claim(ctx context.Context, atLeast uint64, instance string) (uint64, error) {
	objects := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	current, err := objects.Get(ctx, EpochName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		epoch := max(1, atLeast)
		created, err := objects.Create(ctx, &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: EpochName},
			Data:       map[string]string{epochKey: strconv.FormatUint(epoch, 10), instanceKey: instance},
		}, metav1.CreateOptions{})
		s.subject.note(created, err)
		return epoch, err
	}
	if err != nil {
		return 0, err
	}
	stored := epochOf(current)
	if stored == math.MaxUint64 {
		return 0, fmt.Errorf("its epoch %d is the last number that there is; delete the object, and the epoch is counted on from what the "+
			"gateways hold", stored)
	}
	epoch := max(stored+1, atLeast)
	claimed := current.DeepCopy()
	claimed.Data = map[string]string{epochKey: strconv.FormatUint(epoch, 10), instanceKey: instance}
	updated, err := objects.Update(ctx, claimed, metav1.UpdateOptions{}) // resourceVersion makes it compare-and-swap
	s.subject.note(updated, err)
	return epoch, err
}

// epochOf gives 0 for what cannot be read: it was edited by hand. The gateways' own epochs keep the order then.
func epochOf(object *v1.ConfigMap) uint64 {
	epoch, err := strconv.ParseUint(object.Data[epochKey], 10, 64)
	if err != nil {
		return 0
	}
	return epoch
}

// Holder says who holds the epoch. Nobody does when the object was deleted: whoever has to ask does so because a
// gateway holds a newer State of another controller, and cannot know whether that one lives. It ends, and the next one,
// which sees the cluster as it is then, makes the object anew above everything that the gateways hold.
func (s epochStore) Holder(ctx context.Context) (instance string, epoch uint64, err error) {
	current, err := s.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, EpochName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("reading the epoch in ConfigMap %s/%s: %w", metav1.NamespaceSystem, EpochName, err)
	}
	s.subject.note(current, nil)
	return current.Data[instanceKey], epochOf(current), nil
}

// clusterUID gives the UID of namespace kube-system, which lives as long as the cluster.
func clusterUID(client kubernetes.Interface) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		namespace, err := client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
		if err != nil {
			return "", fmt.Errorf("reading the cluster's UID (of namespace %s): %w", metav1.NamespaceSystem, err)
		}
		return string(namespace.UID), nil
	}
}
