package loadbalancer

import (
	"context"
	"reflect"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

type target struct{}

func (m *Manager) Load(ctx context.Context) error { return nil }
func (m *Manager) Run(ctx context.Context) error  { <-ctx.Done(); return nil }
func (m *Manager) depart(key desired.Key)         {}
func sameForm(a, b desired.LoadBalancer) bool     { return reflect.DeepEqual(a, b) }
func sameRequest(a, b ipam.Request) bool          { return reflect.DeepEqual(a, b) }
