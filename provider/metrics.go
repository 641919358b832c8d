package provider

import (
	"fmt"

	"k8s.io/component-base/metrics"

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
	loadBalancers *metrics.Gauge
	vips          *metrics.Gauge
	epoch         *metrics.Gauge
	pool          *metrics.GaugeVec
	eligible      *metrics.Gauge
}

// newMeasures makes the metrics and hands them to register (legacyregistry.MustRegister in production).
func newMeasures(register func(...metrics.Registerable)) *measures {
	counter := func(name, help string) *metrics.CounterOpts {
		return &metrics.CounterOpts{Subsystem: "cloud_provider_haproxy", Name: name, Help: help, StabilityLevel: metrics.ALPHA}
	}
	gauge := func(name, help string) *metrics.GaugeOpts {
		return &metrics.GaugeOpts{Subsystem: "cloud_provider_haproxy", Name: name, Help: help, StabilityLevel: metrics.ALPHA}
	}
	m := &measures{
		rounds: metrics.NewCounterVec(counter("rounds_total",
			"Rounds, in each of which one State was brought to the gateways, by reason (change, retry, resync, repair) and result (success, failure)."), []string{"reason", "result"}),
		duration: metrics.NewHistogram(&metrics.HistogramOpts{Subsystem: "cloud_provider_haproxy", Name: "round_duration_seconds",
			Help: "How long a round took.", Buckets: metrics.ExponentialBuckets(0.005, 2, 14), StabilityLevel: metrics.ALPHA}),
		joined:   metrics.NewCounter(counter("round_calls_total", "Service changes that rounds answered; divided by rounds_total it says how many share a round.")),
		attempts: metrics.NewCounter(counter("round_attempts_total", "States pushed; more than rounds_total when load balancers were at fault and the rest was tried again.")),
		outcomes: metrics.NewCounterVec(counter("outcomes_total",
			"Confirmations by gateway and outcome (Unchanged, Runtime, Reloaded, RolledBack, Refused, Stuck)."), []string{"gateway", "outcome"}),
		confirming:    metrics.NewGaugeVec(gauge("gateway_confirming", "1 while a gateway confirms what it is told, 0 while it does not."), []string{"gateway"}),
		inSync:        metrics.NewGaugeVec(gauge("gateway_in_sync", "1 while what runs on a gateway is what it was told, 0 when it is known to differ."), []string{"gateway"}),
		loadBalancers: metrics.NewGauge(gauge("load_balancers", "Load balancers in the newest State.")),
		vips:          metrics.NewGauge(gauge("vips", "Floating addresses in the newest State, the control plane's included.")),
		epoch:         metrics.NewGauge(gauge("epoch", "Epoch of the newest State: it rises when a controller takes over.")),
		pool:          metrics.NewGaugeVec(gauge("pool_addresses", "Addresses by pool, family and state (size, assigned, releasing)."), []string{"pool", "family", "state"}),
		eligible:      metrics.NewGauge(gauge("eligible_nodes", "Nodes that get connections.")),
	}
	register(m.rounds, m.duration, m.joined, m.attempts, m.outcomes, m.confirming, m.inSync, m.loadBalancers, m.vips, m.epoch, m.pool, m.eligible)
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
	}
	m.loadBalancers.Set(float64(r.LoadBalancers))
	m.vips.Set(float64(r.VIPs))
	m.epoch.Set(float64(r.Fence.Epoch))
	for _, c := range r.Pools {
		for state, value := range map[string]uint64{"size": c.Size, "assigned": c.Assigned, "releasing": c.Releasing} {
			m.pool.WithLabelValues(c.Pool, fmt.Sprint(c.Family), state).Set(float64(value))
		}
	}
}

func (m *measures) gateway(s loadbalancer.GatewayStatus) {
	m.confirming.WithLabelValues(s.Name).Set(oneIf(s.Err == nil))
	m.inSync.WithLabelValues(s.Name).Set(oneIf(s.InSync))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
