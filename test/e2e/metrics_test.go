package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"cloud-provider-haproxy/test/lab/cluster"
)

// metricsReader is the ServiceAccount of somebody's Prometheus.
const metricsReader = "prometheus"

// testMetrics: a Prometheus that does what README.md says reads the metrics, and they tell what is so; nobody else reads them.
func testMetrics(t *testing.T, s *site) {
	s.create(t, service("measured"))
	s.addresses(t, "measured")
	_, err := s.ControllerMetrics(t.Context(), "")
	var refused *cluster.RefusedError
	if !errors.As(err, &refused) || refused.Status != http.StatusForbidden {
		t.Errorf("without a token: %v, want 403", err)
	}
	_, err = s.Kubectl(t.Context(), "create", "serviceaccount", metricsReader)
	must(t, err)
	_, err = s.Kubectl(t.Context(), "create", "clusterrolebinding", "haproxy-metrics",
		"--clusterrole=haproxy-cloud-controller-manager-metrics-reader", "--serviceaccount="+namespace+":"+metricsReader)
	must(t, err)
	token, err := s.Kubectl(t.Context(), "create", "token", metricsReader)
	must(t, err)
	s.await(t, "the metrics to tell of the Service", func(ctx context.Context) error {
		metrics, err := s.ControllerMetrics(ctx, strings.TrimSpace(token))
		if err != nil {
			return err
		}
		return errors.Join(
			expectMetric(metrics, `rounds_total{reason="change",result="success"}`, 1, 1e6),
			expectMetric(metrics, `pool_addresses{family="IPv4",pool="default",state="size"}`, 191, 191), // 192.0.2.64-192.0.2.254
			expectMetric(metrics, `pool_addresses{family="IPv4",pool="default",state="assigned"}`, 1, 190),
			expectMetric(metrics, `load_balancers`, 1, 190),
			expectMetric(metrics, `epoch`, 1, 1e6),
			expectMetric(metrics, `eligible_nodes`, 3, 3),
			expectMetric(metrics, `gateway_confirming{gateway="gw1"}`, 1, 1),
			expectMetric(metrics, `gateway_in_sync{gateway="gw1"}`, 1, 1),
		)
	})
}

// expectMetric is nil when the series of ours is there with a value from least to most.
func expectMetric(metrics, series string, least, most float64) error {
	name := "cloud_provider_haproxy_" + series
	for line := range strings.Lines(metrics) {
		if text, found := strings.CutPrefix(line, name+" "); found {
			value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
			if err == nil && (value < least || most < value) {
				err = fmt.Errorf("%s is %v, want %v to %v", name, value, least, most)
			}
			return err
		}
	}
	return fmt.Errorf("there is no %s", name)
}
