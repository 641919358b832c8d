package provider

import (
	"encoding/json"

	v1 "k8s.io/api/core/v1"
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
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) == nil && found(fields) { // else another program's mistake
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
