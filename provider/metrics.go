package provider

import (
	"errors"
	"fmt"
	"net/netip"

	"k8s.io/component-base/metrics"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
)

// measures are the metrics of this provider, on the controller's /metrics next to those of the library.
type measures struct {
	rounds        *metrics.CounterVec
	duration      *metrics.Histogram
	joined        *metrics.Counter
	attempts      *metrics.Counter
	outcomes      *metrics.CounterVec
	confirming    *metrics.GaugeVec
	inSync        *metrics.GaugeVec
	loadBalancers *metrics.GaugeVec
	vips          *metrics.GaugeVec
	epoch         *metrics.GaugeVec
	pool          *metrics.GaugeVec
	eligible      *metrics.GaugeVec
	conflicts     *metrics.CounterVec
	drift         *metrics.CounterVec
	warnings      *metrics.CounterVec
	warned        *metrics.GaugeVec
	drained       *metrics.GaugeVec
	misheld       *metrics.GaugeVec
	reloads       *metrics.CounterVec
	valid         *metrics.Gauge

	// pools are the label values of the series of pool that there are, gateways the names of those that something was
	// told of. Only round and gateway use them, one at a time.
	pools    map[[3]string]bool
	gateways map[string]bool
}

const subsystem = "cloud_provider_haproxy"

func counter(name, help string) *metrics.CounterOpts {
	return &metrics.CounterOpts{Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}

func gauge(name, help string) *metrics.GaugeOpts {
	return &metrics.GaugeOpts{Subsystem: subsystem, Name: name, Help: help, StabilityLevel: metrics.ALPHA}
}

// newMeasures makes the metrics and hands them to register (legacyregistry.MustRegister in production).
func newMeasures(register func(...metrics.Registerable)) *measures {
	// A gauge without labels is 0 from the beginning; one of a vector is not there until it is set. Who waits for its
	// turn to lead knows nothing, and must not look like a cluster without nodes.
	alone := func(name, help string) *metrics.GaugeVec { return metrics.NewGaugeVec(gauge(name, help), nil) }
	m := &measures{
		rounds: metrics.NewCounterVec(counter("rounds_total",
			"Rounds, in each of which one State was brought to the gateways, by reason (change, retry, resync, "+
				"repair) and result (success, failure)."), []string{"reason", "result"}),
		duration: metrics.NewHistogram(&metrics.HistogramOpts{Subsystem: subsystem,
			Name: "round_duration_seconds", Help: "How long a round took.",
			Buckets: metrics.ExponentialBuckets(0.005, 2, 14), StabilityLevel: metrics.ALPHA}),
		joined: metrics.NewCounter(counter("round_calls_total", "Service changes that rounds answered; divided by "+
			"rounds_total it says how many share a round.")),
		attempts: metrics.NewCounter(counter("round_attempts_total", "States pushed; more than rounds_total when "+
			"load balancers were at fault and the rest was tried again.")),
		outcomes: metrics.NewCounterVec(counter("outcomes_total",
			"Confirmations by gateway and outcome (Unchanged, Runtime, Reloaded, RolledBack, Refused, Stuck)."),
			[]string{"gateway", "outcome"}),
		confirming: metrics.NewGaugeVec(gauge("gateway_confirming", "1 while a gateway confirms what it is told, "+
			"0 while it does not."), []string{"gateway"}),
		inSync: metrics.NewGaugeVec(gauge("gateway_in_sync", "1 while what runs on a gateway is what it was "+
			"told, 0 when it is known to differ."), []string{"gateway"}),
		loadBalancers: alone("load_balancers", "Load balancers in the newest State."),
		vips:          alone("vips", "Floating addresses in the newest State, the control plane's included."),
		epoch:         alone("epoch", "Epoch of the newest State: it rises when a controller takes over."),
		pool: metrics.NewGaugeVec(gauge("pool_addresses", "Addresses by pool, family and state (size, "+
			"assigned, releasing, reserved, quarantined)."), []string{"pool", "family", "state"}),
		eligible: alone("eligible_nodes", "Nodes that get connections."),
		conflicts: metrics.NewCounterVec(counter("conflicts_total",
			"Addresses that a machine which is no gateway answered for, by pool and kind: new (another one was "+
				"taken), requested (the Service waits), held (a Service has it and shares its connections with that "+
				"machine)."), []string{"pool", "kind"}),
		drift: metrics.NewCounterVec(counter("gateway_drift_total", "Times that a gateway was found to differ from its "+
			"State although nobody had sent another one, by result (repaired, reported, failed)."),
			[]string{"gateway", "result"}),
		warnings: metrics.NewCounterVec(counter("gateway_warnings_total",
			"Times that a gateway began to warn of something, by reason."), []string{"gateway", "reason"}),
		warned: metrics.NewGaugeVec(gauge("gateway_warning", "1 while a gateway warns of something, by reason; absent when it "+
			"does not. AllAPIServersDown: the control plane's address fails open."), []string{"gateway", "reason"}),
		drained: metrics.NewGaugeVec(gauge("gateway_drained",
			"1 while a gateway is drained (gatewayctl drain), 0 while it is not."), []string{"gateway"}),
		misheld: metrics.NewGaugeVec(gauge("vips_misheld", "Floating addresses that the gateways say several of them hold "+
			"(twice), or none (nobody)."), []string{"kind"}),
		reloads: metrics.NewCounterVec(counter("config_reloads_total", "Changes of the configuration file, by result "+
			"(success, failure)."), []string{"result"}),
		valid: metrics.NewGauge(gauge("config_valid", "1 while the configuration file is what is in effect, 0 "+
			"while it is wrong and the former one stays in effect.")),
		pools: map[[3]string]bool{}, gateways: map[string]bool{},
	}
	register(m.rounds, m.duration, m.joined, m.attempts, m.outcomes, m.confirming, m.inSync, m.loadBalancers, m.vips,
		m.epoch, m.pool, m.eligible, m.conflicts, m.drift, m.warnings, m.warned,
		m.drained, m.misheld, m.reloads, m.valid)
	m.valid.Set(1) // the process has not begun without
	return m
}

func (m *measures) round(r loadbalancer.Round) {
	result := "success"
	if r.Err != nil {
		result = "failure"
	}
	m.rounds.WithLabelValues(r.Reason, result).Inc()
	m.duration.Observe(r.Duration.Seconds())
	m.joined.Add(float64(r.Joined))
	m.attempts.Add(float64(r.Attempts))
	for gateway, outcome := range r.Outcomes {
		m.outcomes.WithLabelValues(gateway, string(outcome)).Inc()
		if !m.gateways[gateway] { // Manager tells changes only, and that all is well in the beginning is none
			m.gateway(loadbalancer.GatewayStatus{Name: gateway, InSync: true})
		}
	}
	m.loadBalancers.WithLabelValues().Set(float64(r.LoadBalancers))
	m.vips.WithLabelValues().Set(float64(r.VIPs))
	m.epoch.WithLabelValues().Set(float64(r.Fence.Epoch))
	m.misheld.WithLabelValues("twice").Set(float64(r.HeldTwice))
	m.misheld.WithLabelValues("nobody").Set(float64(r.HeldByNobody))
	m.countPools(r.Pools)
	m.states(r.Gateways)
}

// states sets what gateways are known to be in now.
func (m *measures) states(gateways []loadbalancer.GatewayStatus) {
	m.warned.Reset()
	for _, g := range gateways {
		m.drained.WithLabelValues(g.Name).Set(oneIf(g.Drain != nil))
		for _, w := range g.Warnings {
			m.warned.WithLabelValues(g.Name, w.Reason).Set(1)
		}
	}
}

// countPools sets the series of the pools that there are and drops those of pools that are gone.
func (m *measures) countPools(counts []ipam.Count) {
	current := map[[3]string]bool{}
	for _, c := range counts {
		for state, value := range map[string]uint64{
			"size": c.Size, "assigned": c.Assigned, "releasing": c.Releasing, "reserved": c.Reserved,
			"quarantined": c.Quarantined,
		} {
			series := [3]string{c.Pool, fmt.Sprint(c.Family), state}
			current[series] = true
			m.pool.WithLabelValues(series[:]...).Set(float64(value))
		}
	}
	for series := range m.pools {
		if !current[series] {
			m.pool.DeleteLabelValues(series[:]...)
		}
	}
	m.pools = current
}

// conflict counts err if it is one of an address with a stranger.
func (m *measures) conflict(err error, poolOf func(netip.Addr) string) {
	var conflict *loadbalancer.ConflictError
	if !errors.As(err, &conflict) {
		return
	}
	kind := "new"
	switch {
	case conflict.Held:
		kind = "held"
	case conflict.Requested:
		kind = "requested"
	}
	m.conflicts.WithLabelValues(poolOf(conflict.Address), kind).Inc()
}

// drifted counts what became of a gateway's difference.
func (m *measures) drifted(d *loadbalancer.DriftError) {
	result := "repaired"
	switch {
	case d.Left:
		result = "reported"
	case d.Problem != "":
		result = "failed"
	}
	m.drift.WithLabelValues(d.Gateway, result).Inc()
}

func (m *measures) reloaded(ok bool) {
	result := "success"
	if !ok {
		result = "failure"
	}
	m.reloads.WithLabelValues(result).Inc()
	m.valid.Set(oneIf(ok))
}

func (m *measures) gateway(s loadbalancer.GatewayStatus) {
	m.gateways[s.Name] = true
	m.confirming.WithLabelValues(s.Name).Set(oneIf(s.Err == nil))
	m.inSync.WithLabelValues(s.Name).Set(oneIf(s.InSync))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
