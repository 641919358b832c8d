package provider

import (
	"strings"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// subject is the epoch's object as what Events about gateways, pools and the configuration are told on. Its UID, by
// which `kubectl describe` finds Events, is known once the epoch was claimed.
type subject struct{ uid atomic.Pointer[types.UID] }

// note remembers the UID of the object that the API server answered with.
func (s *subject) note(object *v1.ConfigMap, err error) {
	if err == nil {
		s.uid.Store(&object.UID)
	}
}

func (s *subject) reference() *v1.ObjectReference {
	r := &v1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: metav1.NamespaceSystem, Name: EpochName}
	if uid := s.uid.Load(); uid != nil {
		r.UID = *uid
	}
	return r
}

// gatewayAnnotation names on an Event the gateway that it is about.
const gatewayAnnotation = Prefix + "gateway"

// newBroadcaster makes what records Events. client-go drops all Events about an object after 25, until five minutes
// have passed for each (EventSourceObjectSpamFilter); counted by reason and gateway, a gateway that comes and goes
// silences neither the others nor what is told of the configuration.
func newBroadcaster() record.EventBroadcaster {
	return record.NewBroadcaster(record.WithCorrelatorOptions(record.CorrelatorOptions{SpamKeyFunc: func(
		e *v1.Event) string {
		about := e.InvolvedObject
		return strings.Join([]string{about.Kind, about.Namespace, about.Name, string(about.UID), e.Type, e.Reason,
			e.Annotations[gatewayAnnotation]}, "/")
	}}))
}
