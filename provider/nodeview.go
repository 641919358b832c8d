package provider

import (
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// nodeView is the informer of Nodes that the service controller gets: one slim node if any node is eligible, none if
// not, and never an event. See doc.go for why.
type nodeView struct {
	real coreinformers.NodeInformer
	set  func() *nodeSet
}

func (v nodeView) Informer() cache.SharedIndexInformer { return silentInformer{v.real.Informer()} }

func (v nodeView) Lister() corelisters.NodeLister { return v }

func (v nodeView) List(labels.Selector) ([]*v1.Node, error) {
	set := v.set()
	if set == nil || len(set.eligible) == 0 {
		return nil, nil
	}
	return []*v1.Node{{ObjectMeta: metav1.ObjectMeta{Name: set.eligible[0].Name}}}, nil
}

func (v nodeView) Get(name string) (*v1.Node, error) {
	nodes, err := v.List(labels.Everything())
	if err == nil && len(nodes) == 1 && nodes[0].Name == name {
		return nodes[0], nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("node"), name)
}

// silentInformer calls no handler.
type silentInformer struct{ cache.SharedIndexInformer }

func (i silentInformer) AddEventHandler(cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandler(cache.ResourceEventHandlerFuncs{})
}

func (i silentInformer) AddEventHandlerWithResyncPeriod(_ cache.ResourceEventHandler,
	period time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithResyncPeriod(cache.ResourceEventHandlerFuncs{}, period)
}

func (i silentInformer) AddEventHandlerWithOptions(_ cache.ResourceEventHandler,
	options cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.SharedIndexInformer.AddEventHandlerWithOptions(cache.ResourceEventHandlerFuncs{}, options)
}
