package provider

import (
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
)

// warning is what deserves an Event of type Warning and stops nothing.
type warning struct{ reason, message string }

// told is by what a warning is known again. Some name endpoints and nodes, which change with every step of a rollout: each is told once,
// until it is over.
func (w warning) told() warning {
	switch w.reason {
	case endpointsElsewhere, endpointsOutside, endpointsByName, nodeWithoutIPv4:
		w.message = ""
	}
	return w
}

// warnings tells what is wrong with a Service once, not on every call: a warning is told again only after it was over.
type warnings struct {
	recorder record.EventRecorder

	mu   sync.Mutex
	told map[types.UID]map[warning]bool
	// led is where a Service's host name has to lead, as was told last.
	led map[types.UID]string
}

func newWarnings(recorder record.EventRecorder) *warnings {
	return &warnings{recorder: recorder, told: map[types.UID]map[warning]bool{}, led: map[types.UID]string{}}
}

// now says that exactly these warnings are true of the Service.
func (w *warnings) now(svc *v1.Service, current []warning) {
	set := make(map[warning]bool, len(current))
	w.mu.Lock()
	before := w.told[svc.UID]
	for _, one := range current {
		set[one.told()] = true
	}
	if len(set) == 0 {
		delete(w.told, svc.UID)
	} else {
		w.told[svc.UID] = set
	}
	w.mu.Unlock()
	for _, one := range current {
		if !before[one.told()] {
			w.recorder.Event(svc, v1.EventTypeWarning, one.reason, one.message)
		}
	}
}

// news says whether these warnings are others than those that were told for the same reasons.
func (w *warnings) news(svc *v1.Service, current []warning, reasons ...string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := w.told[svc.UID]
	old := 0
	for one := range told {
		if slices.Contains(reasons, one.reason) {
			old++
		}
	}
	return old != len(current) || slices.ContainsFunc(current, func(one warning) bool { return !told[one.told()] })
}

// leads notes where a Service's host name has to lead, in the words of an Event, and says whether those were not told yet. Empty: it
// has none.
func (w *warnings) leads(svc *v1.Service, where string) (news bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if where == "" {
		delete(w.led, svc.UID)
		return false
	}
	news = w.led[svc.UID] != where
	w.led[svc.UID] = where
	return news
}

// once tells something that no later call repeats.
func (w *warnings) once(object runtime.Object, reason, message string) {
	w.recorder.Event(object, v1.EventTypeWarning, reason, message)
}

// forget drops what is known of a Service that goes.
func (w *warnings) forget(svc *v1.Service) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.told, svc.UID)
	delete(w.led, svc.UID)
}
