package haproxy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// limitsTable counts what Services with a limit or a rate have and refuse.
const limitsTable = "limits"

// knobs are the last four fields of a map entry: AFFINITY in the seconds of its table, LIMIT of connections at a time, RATE of new ones for
// each client and second, LOG. All of them change with the map.
func knobs(lb *desired.LoadBalancer) string {
	affinity, log := 0, 0
	if lb.AffinitySeconds != 0 {
		affinity = affinityOf(lb.AffinitySeconds).Seconds
	}
	if lb.Log {
		log = 1
	}
	return fmt.Sprintf("%d|%d|%d|%d", affinity, lb.ConnectionLimit, lb.SourceRate, log)
}

// Limited is a port of a Service that refused connections because of its ConnectionLimit or SourceRate.
type Limited struct {
	Service desired.Key
	Port    uint16
	// Lately is how many, in the last ten minutes about. Total is since the worker started, or since the port was without any
	// connection for an hour.
	Lately, Total uint64
}

// parseLimits reads lines "0xADDRESS: key=NAMESPACE/NAME:PORT use=0 exp=1 shard=0 conn_cur=0 gpc0=2 gpc0_rate(600000)=2". A worker
// that an agent before us configured has no such table, and says so.
func (r *Running) parseLimits(block string) {
	for line := range strings.Lines(block) {
		words := strings.Fields(line)
		if len(words) == 0 || !strings.HasPrefix(words[0], "0x") {
			continue
		}
		var limited Limited
		for _, word := range words[1:] {
			name, value, _ := strings.Cut(word, "=")
			number, _ := strconv.ParseUint(value, 10, 64) // no number: not one of ours
			switch {
			case name == "key":
				service, port, _ := strings.Cut(value, ":")
				limited.Service.Namespace, limited.Service.Name, _ = strings.Cut(service, "/")
				n, _ := strconv.ParseUint(port, 10, 16)
				limited.Port = uint16(n)
			case name == "gpc0":
				limited.Total = number
			case strings.HasPrefix(name, "gpc0_rate("):
				limited.Lately = number
			}
		}
		if limited.Lately > 0 {
			r.Limited = append(r.Limited, limited)
		}
	}
	slices.SortFunc(r.Limited, func(a, b Limited) int { return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.Port, b.Port)) })
}
