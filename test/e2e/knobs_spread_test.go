package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// spreading are the knobs that say which node gets a connection.
func (u *turned) spreading() []knob {
	until := func(what string, is func() error) func(*testing.T) {
		return func(t *testing.T) {
			t.Helper()
			u.await(t, what, func(context.Context) error { return is() })
		}
	}
	prefers := func(how string) func(*corev1.Service) {
		return func(svc *corev1.Service) { svc.Spec.TrafficDistribution = &how }
	}
	return []knob{
		{key: "cloud-provider-haproxy/algorithm", steps: []step{
			{value: "source", shows: until("one node to get all connections of a client", u.toOneNode)},
			{value: "leastconn", shows: until("the node with the fewest connections to get the next", u.toTheLeast)},
			{value: "random", shows: until("nodes to be drawn", u.drawn)},
			{value: "roundrobin", shows: until("all nodes to get connections in turn", u.inTurn)},
		}},
		{key: "spec.sessionAffinityConfig", reloads: true, steps: []step{
			{change: sticky(3600), shows: func(t *testing.T) { u.returnsTo(t, 3600, true) }},
			{change: sticky(1), shows: func(t *testing.T) { u.returnsTo(t, 1, false) }},
		}},
		{key: "spec.trafficDistribution", steps: []step{
			{change: prefers(corev1.ServiceTrafficDistributionPreferSameNode), shows: until("each node to serve by its own pod", func() error { return u.servesItself(true) })},
			{change: func(svc *corev1.Service) { svc.Spec.TrafficDistribution = nil }, shows: until("nodes to serve by any pod", func() error { return u.servesItself(false) })},
		}},
	}
}

func (u *turned) toOneNode() error {
	all, err := u.meetings(u.at, 15)
	if by := nodesOf(all); err == nil && len(by) != 1 {
		err = fmt.Errorf("they come by way of %v", by)
	}
	return err
}

// toTheLeast frees one node of its connections, which gets the next ones then, as many as the others have; in turn it would not.
func (u *turned) toTheLeast() error {
	all, err := u.keepMany(u.at, 6)
	defer func() { all.close() }()
	if err != nil {
		return err
	}
	freed, others := all.by(all[0].node)
	if len(freed) != 2 {
		return fmt.Errorf("six connections are %v", all.nodes())
	}
	freed.close()
	all = others
	more, err := u.keepMany(u.at, 2)
	all = append(all, more...)
	if err == nil && more.nodes()[freed[0].node] != 2 {
		err = fmt.Errorf("%s was free, and the next two went to %v", freed[0].node, more.nodes())
	}
	return err
}

// drawn wants all nodes to be met, and no order in it: that fifteen draws make one by chance happens once in half a million times.
func (u *turned) drawn() error {
	all, err := u.meetings(u.at, 15)
	if by := nodesOf(all); err == nil && (len(by) != len(u.Lab.Workers) || inTurn(all, len(u.Lab.Workers))) {
		err = fmt.Errorf("they come by way of %v, in turn: %t", by, inTurn(all, len(u.Lab.Workers)))
	}
	return err
}

func (u *turned) inTurn() error {
	all, err := u.meetings(u.at, 30)
	if err == nil && !inTurn(all, len(u.Lab.Workers)) {
		err = fmt.Errorf("they come by way of %v, not in turn", nodesOf(all))
	}
	return err
}

// returnsTo looks at a client that stays away for some seconds: with a longer time of affinity it comes back to where it was,
// always; with a shorter one it is a client like others.
func (u *turned) returnsTo(t *testing.T, seconds int, always bool) {
	t.Helper()
	u.awaitMapped(t, fmt.Sprintf("|%d|0|0|0", seconds))
	u.await(t, "the client to be remembered", func(context.Context) error { return u.toOneNode() })
	const away = 1500 * time.Millisecond
	home, err := u.meet(u.client, u.at)
	must(t, err)
	for tries := 0; ; tries++ {
		u.lets(t, away)
		now, err := u.meet(u.client, u.at)
		must(t, err)
		switch {
		case now.node != home.node && always:
			t.Errorf("with a time of %d seconds a client that was away for %v went from %s to %s", seconds, away, home.node, now.node)
			return
		case now.node != home.node, always:
			return
		case tries == 8: // each time one of three nodes, as the neighbours have it
			t.Errorf("with a time of %d seconds a client that was away for %v comes back to %s always", seconds, away, home.node)
			return
		}
	}
}

// servesItself says whether each node hands connections to its own pod, with all nodes serving.
func (u *turned) servesItself(wanted bool) error {
	all, err := u.meetings(u.at, 24)
	if err != nil {
		return err
	}
	own := 0
	for i, w := range u.Lab.Workers {
		for _, m := range all {
			if m.node == w.Name && m.pod == fmt.Sprintf("%s-%d", app, i) {
				own++
			}
		}
	}
	if by := nodesOf(all); len(by) != len(u.Lab.Workers) || (own == len(all)) != wanted {
		return fmt.Errorf("by way of %v, %d of %d are served by the node's own pod", by, own, len(all))
	}
	return nil
}

// testNotReady: with policy Local, nodes with a pod that is not ready get connections if the Service publishes such pods.
func testNotReady(t *testing.T, s *site) {
	s.pods(t, "unready", s.Lab.Workers[1].Name)
	s.readiness(t, "unready-0", corev1.ConditionFalse)
	s.create(t, service("unready", inFrontOf("unready"), local))
	at := target(s.addresses(t, "unready")[0], 80)
	s.awaitRefused(t, s.client, at)
	publishes := func(is bool) {
		s.change(t, "unready", func(svc *corev1.Service) { svc.Spec.PublishNotReadyAddresses = is })
	}
	publishes(true)
	s.awaitAnswers(t, at, "unready-0")
	publishes(false)
	s.await(t, "nobody to answer for a pod that is not ready", func(context.Context) error {
		if who, err := s.client.Ask(at, time.Second); err == nil {
			return errors.New(who + " answers")
		}
		return nil
	})
	s.awaitRefused(t, s.client, at)
}
