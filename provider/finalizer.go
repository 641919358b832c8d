package provider

import (
	"encoding/json"

	v1 "k8s.io/api/core/v1"
	servicehelper "k8s.io/cloud-provider/service/helpers"
)

// addedFinalizer says whether this program added the cleanup finalizer, as the API server's managedFields tell
// (https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management). It is how a Service is known as
// ours that never came as far as the gateways and whose class is gone because its type was changed.
func (o ownership) addedFinalizer(svc *v1.Service) bool {
	for _, entry := range svc.ManagedFields {
		if entry.Manager != o.fieldManager || entry.FieldsV1 == nil {
			continue
		}
		var fields struct {
			Metadata struct {
				Finalizers map[string]json.RawMessage `json:"f:finalizers"`
			} `json:"f:metadata"`
		}
		if json.Unmarshal(entry.FieldsV1.GetRawBytes(), &fields) != nil {
			continue // another program's mistake; the entry tells nothing
		}
		if _, added := fields.Metadata.Finalizers[`v:"`+servicehelper.LoadBalancerCleanupFinalizer+`"`]; added {
			return true
		}
	}
	return false
}
