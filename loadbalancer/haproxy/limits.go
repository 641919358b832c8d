package haproxy

import (
	"fmt"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// knobs are the last four fields of a map entry: AFFINITY in seconds, LIMIT of connections at a time, RATE of new ones for
// each client and second, LOG. All of them change with the map.
func knobs(lb *desired.LoadBalancer) string {
	log := 0
	if lb.Log {
		log = 1
	}
	return fmt.Sprintf("%d|%d|%d|%d", lb.AffinitySeconds, lb.ConnectionLimit, lb.SourceRate, log)
}
