package provider

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/provider/config"
)

// Reload takes over what a changed configuration says of addresses: pools, who may use them, reservations, whose
// annotations are read. What else differs from the configuration of the start is told, and has to wait for the next
// one. What Manager cannot take is refused. Reload and RefuseConfig are called one at a time.
func (c *Cloud) Reload(next *config.Config) {
	before, after := c.policy.Load(), newPolicy(next)
	c.pooling.Lock()
	err := c.setPools(next, after)
	c.pooling.Unlock()
	if err != nil {
		c.RefuseConfig(err)
		return
	}
	c.refused.Store(nil)
	c.measures.reloaded(true)
	gone := slices.ContainsFunc(before.names(), func(name string) bool { return !slices.Contains(after.names(), name) })
	c.wakeups.tell(func(h *happenings) {
		h.reloaded = true
		h.foreign = h.foreign || before.foreign != after.foreign
		h.gone = h.gone || gone
	})
	klog.InfoS("The changed configuration is in effect", "pools", len(next.Pools), "reservations",
		len(next.Reservations))
	c.recorder.Eventf(c.subject.reference(), v1.EventTypeNormal, "ConfigReloaded",
		"the changed configuration is in effect: %s", counted(next))
	if waits := c.options.Config.ChangedOutsidePools(next); len(waits) > 0 {
		text := fmt.Sprintf("%s changed in the configuration and takes effect at the next start of the controller",
			strings.Join(waits, ", "))
		klog.InfoS("A part of the changed configuration waits", "fields", waits, "effect", "at the next start")
		c.recorder.Event(c.subject.reference(), v1.EventTypeWarning, "ConfigNeedsRestart", text)
	}
}

// setPools makes this what Manager and the translation know of pools; nothing changes on an error. It is called with
// pooling held.
func (c *Cloud) setPools(next *config.Config, p *policy) error {
	machines := c.nodesIn(p)
	settings := poolSettings(next)
	settings.Exclusions = append(settings.Exclusions, machines...)
	if err := c.manager.SetPools(settings); err != nil {
		return err
	}
	c.current, c.excludedNodes = next, machines
	c.policy.Store(p)
	return nil
}

// excludeNodes keeps the addresses of nodes from Services, also of nodes that get no connections, whom Manager does not
// know: kubeadm labels control-plane nodes so. Sites have none in their pools as a rule, and nothing happens.
func (c *Cloud) excludeNodes() {
	c.pooling.Lock()
	defer c.pooling.Unlock()
	p := c.policy.Load()
	if slices.Equal(c.excludedNodes, c.nodesIn(p)) {
		return
	}
	if err := c.setPools(c.current, p); err != nil { // Manager took the same pools before
		klog.ErrorS(err, "Addresses of nodes could not be excluded from the pools")
	}
}

// nodesIn gives the addresses of nodes that lie in a pool, sorted.
func (c *Cloud) nodesIn(p *policy) []ipam.Exclusion {
	set := c.nodes.Load()
	if set == nil {
		return nil
	}
	var all []ipam.Exclusion
	for _, a := range slices.SortedFunc(maps.Keys(set.addresses), netip.Addr.Compare) {
		if p.poolOf(a) != "" {
			all = append(all, ipam.Exclude(a, "address of node "+set.addresses[a]))
		}
	}
	return all
}

// RefuseConfig tells that the configuration file is wrong now; what was read before stays in effect.
func (c *Cloud) RefuseConfig(fault error) {
	text := "the changed configuration is wrong and not used, the former one stays in effect: " + oneLine(fault)
	c.refused.Store(&text)
	c.measures.reloaded(false)
	klog.ErrorS(fault, "The changed configuration is wrong; the former one stays in effect")
	c.tellRefused()
}

// oneLine gives all faults in a line: an Event is a row of a table.
func oneLine(fault error) string {
	var list *multierror.Error
	if !errors.As(fault, &list) {
		return fault.Error()
	}
	texts := make([]string, len(list.Errors))
	for i, err := range list.Errors {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

// tellRefused tells what is wrong with the configuration, if anything. A process that does not lead records no Event,
// so that it is told again when it does.
func (c *Cloud) tellRefused() {
	if text := c.refused.Load(); text != nil {
		c.recorder.Event(c.subject.reference(), v1.EventTypeWarning, "ConfigRefused", *text)
	}
}

// counted says in words what a configuration has of addresses.
func counted(c *config.Config) string {
	names := make([]string, len(c.Pools))
	for i, p := range c.Pools {
		names[i] = p.Name
	}
	slices.Sort(names)
	return fmt.Sprintf("pools %s; reservations: %d", strings.Join(names, ", "), len(c.Reservations))
}

func poolSettings(c *config.Config) loadbalancer.PoolSettings {
	return loadbalancer.PoolSettings{
		Pools:         c.AddressPools(),
		Exclusions:    c.Exclusions(),
		Reservations:  c.AddressReservations(),
		PoolInterface: c.PoolInterfaces(),
		Unprobed:      c.UnprobedPools(),
	}
}
