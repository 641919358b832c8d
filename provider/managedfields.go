package provider

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	servicehelper "k8s.io/cloud-provider/service/helpers"
)

// managed is what we look for in what the API server's managedFields say of one writer
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management).
type managed struct {
	Metadata struct {
		Finalizers map[string]json.RawMessage `json:"f:finalizers"`
	} `json:"f:metadata"`
	Status struct {
		LoadBalancer struct {
			Ingress json.RawMessage `json:"f:ingress"`
		} `json:"f:loadBalancer"`
	} `json:"f:status"`
}

// wrote says whether found is true of anything that managedFields say this program wrote last.
func (o ownership) wrote(svc *v1.Service, found func(managed) bool) bool {
	for _, entry := range svc.ManagedFields {
		if entry.Manager != o.fieldManager || entry.FieldsV1 == nil {
			continue
		}
		var fields managed
		// What cannot be read is another program's mistake.
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) == nil && found(fields) {
			return true
		}
	}
	return false
}

// addedFinalizer says whether this program added the cleanup finalizer. It is how a Service is known as ours that never
// came as far as the gateways and whose class is gone because its type was changed.
func (o ownership) addedFinalizer(svc *v1.Service) bool {
	return o.wrote(svc, func(fields managed) bool {
		_, added := fields.Metadata.Finalizers[`v:"`+servicehelper.LoadBalancerCleanupFinalizer+`"`]
		return added
	})
}

// wroteStatus says whether the addresses in the status are those that this program wrote.
func (o ownership) wroteStatus(svc *v1.Service) bool {
	return o.wrote(svc, func(fields managed) bool { return fields.Status.LoadBalancer.Ingress != nil })
}

// claimFinalizer has managedFields say that the cleanup finalizer is ours too, of a Service that another controller
// served before us or that was made with it. Without that nothing but the gateways' State would tell it after a change
// of the type, and that is silent as soon as they let the Service go: a controller that dies before the finalizer is
// off would leave it for ever. The library adds none where one is.
func claimFinalizer(client kubernetes.Interface, o ownership) func(context.Context, *v1.Service) error {
	return func(ctx context.Context, svc *v1.Service) error {
		if !hasFinalizer(svc) || o.addedFinalizer(svc) {
			return nil
		}
		claim := corev1.Service(svc.Name,
			svc.Namespace).WithUID(svc.UID).WithFinalizers(servicehelper.LoadBalancerCleanupFinalizer)
		// The library patches finalizers as part of the status as well: we may write nothing else of a Service.
		_, err := client.CoreV1().Services(svc.Namespace).ApplyStatus(ctx, claim,
			metav1.ApplyOptions{FieldManager: o.fieldManager, Force: true})
		if err != nil {
			return fmt.Errorf("claiming the finalizer %s of Service %s: %w", servicehelper.LoadBalancerCleanupFinalizer,
				keyOf(svc), err)
		}
		return nil
	}
}
