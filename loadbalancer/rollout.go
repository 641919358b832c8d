package loadbalancer

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// common are the settings that all load balancers have in common and that a State can have in their former form while
// everything else goes on. A change of them comes with a new configuration, or from the cluster's Nodes.
type common struct {
	vrrp         desired.VRRP
	nodeCheck    desired.Check
	controlPlane *desired.ControlPlane
	nodes        []desired.Node
}

func commonOf(s *desired.State) common { return common{s.VRRP, s.NodeCheck, s.ControlPlane, s.Nodes} }

// wanted gives the settings as they are to be. It is called with mu held.
func (m *Manager) wanted() common {
	return common{m.settings.VRRP, m.settings.NodeCheck, m.controlPlane(), m.nodes}
}

// stoppedRollout is a change of common settings that a gateway refused or rolled back. The others keep the former ones until
// it is tried again.
type stoppedRollout struct {
	settings common
	// wanted are the settings before a State sorted them or left anything out.
	wanted common
	until  time.Time
	pause  time.Duration
}

// rolloutPauseMax is the longest pause before a stopped rollout is tried again: each try may reload HAProxy on a gateway, twice.
const rolloutPauseMax = 10 * time.Minute

// RolloutError says that a change of settings was stopped at the first gateway that failed over it. The others, which were not
// asked, keep the former settings, and so does that one; Services are served and changed as before.
type RolloutError struct {
	Gateway string
	// Settings are the configuration's names of what changed.
	Settings []string
	Problems []string
	// Again is how long it is until the next try.
	Again time.Duration
}

func (e *RolloutError) Error() string {
	return fmt.Sprintf("the change of %s was stopped at the first gateway, %s, and the others were left as they are: %s; the former settings stay "+
		"in effect everywhere; mend the gateway or the configuration, it is tried again in %s", strings.Join(e.Settings, ", "), e.Gateway,
		strings.Join(e.Problems, "; "), e.Again)
}

// common gives the settings of the next State. It is called with mu held.
func (m *Manager) common() common {
	wanted := m.wanted()
	if s := m.stopped; s != nil && m.good != nil && time.Now().Before(s.until) && reflect.DeepEqual(s.wanted, wanted) {
		return commonOf(m.good)
	}
	return wanted
}

// stopRollout answers a gateway that finds fault with the target and names no load balancer: does it take the target with the
// former settings, then the change of them is at fault, and stops here (invariant 11).
func (r *round) stopRollout(ctx context.Context, reply reply) (stopped bool, err error) {
	m := r.m
	m.mu.Lock()
	refused, before := r.target.state, m.stopped
	if m.good == nil || !exchangeable(refused, m.good) {
		m.mu.Unlock()
		return false, nil
	}
	next := &stoppedRollout{settings: commonOf(refused), wanted: m.wanted(), pause: m.settings.Resync}
	known := before != nil && reflect.DeepEqual(before.settings, next.settings)
	if known {
		next.pause = min(2*before.pause, rolloutPauseMax)
	}
	next.until = time.Now().Add(next.pause)
	m.stopped = next
	told := &RolloutError{Gateway: reply.gateway.name, Settings: changed(refused, m.good), Problems: reply.problems(), Again: next.pause}
	m.mu.Unlock()
	if err = r.aim(r.withheld); err == nil && m.apply(ctx, r.target, reply.gateway).verdict == confirmed {
		m.log.Warn("a change of settings was stopped", "gateway", told.Gateway, "settings", told.Settings, "problems", told.Problems, "again", told.Again)
		if !known {
			m.observer.tell(func(o Observer) { o.Notice(told) })
		}
		return true, nil
	}
	m.mu.Lock()
	m.stopped = nil // it is something else, and the change goes on when that is found
	m.mu.Unlock()
	if err == nil {
		err = ctx.Err()
	}
	return false, err
}

// exchangeable says that States differ in common settings and that the former ones fit whatever else the newer has. VIPs are
// placed on instances, and the control plane's address is kept from Services: with others of those they do not.
func exchangeable(newer, former *desired.State) bool {
	fits := reflect.DeepEqual(newer.Gateways, former.Gateways) && reflect.DeepEqual(newer.Instances, former.Instances) &&
		(former.ControlPlane == nil || newer.ControlPlane != nil && newer.ControlPlane.Address == former.ControlPlane.Address)
	return fits && len(changed(newer, former)) > 0
}

// changed names the settings that differ, as the configuration calls them.
func changed(newer, former *desired.State) (names []string) {
	if newer.VRRP != former.VRRP {
		names = append(names, "vrrp")
	}
	if newer.NodeCheck != former.NodeCheck {
		names = append(names, "nodes.healthCheck")
	}
	if !reflect.DeepEqual(newer.ControlPlane, former.ControlPlane) {
		names = append(names, "controlPlane")
	}
	if !reflect.DeepEqual(newer.Nodes, former.Nodes) {
		names = append(names, "the nodes")
	}
	return names
}

// settleRollout forgets a stopped rollout when its settings are everywhere. It is called with mu held.
func (m *Manager) settleRollout(made *desired.State) {
	if m.stopped != nil && reflect.DeepEqual(commonOf(made), m.stopped.settings) {
		m.stopped = nil
	}
}
