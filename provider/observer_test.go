package provider

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// What Manager notices becomes an Event where somebody looks, with a reason by which it can be found.
func TestNotices(t *testing.T) {
	held := &loadbalancer.ConflictError{Address: addr("192.0.2.70"), Gateway: "gw1", MAC: "52:54:00:00:00:01", Held: true}
	reservation := &loadbalancer.ReservationError{Address: addr("192.0.2.70"), Owner: key("vip"), Holders: []desired.Key{key("web")}}
	inCluster(t, testConfig, nil, []runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
		o := c.manager.observer
		for reason, err := range map[string]error{
			"AddressConflict":     held,
			"AddressTaken":        &ipam.TakenError{Address: addr("192.0.2.70"), Holder: ipam.Holder{Owner: ipam.Owner{Namespace: "default", Name: "elder"}}},
			"AddressOutsidePools": &ipam.OutsideError{Address: addr("192.0.2.1")},
			"AddressExcluded":     &ipam.ExcludedError{Address: addr("192.0.2.70"), Reason: "VRRP address of gateway gw1"},
			"AddressReserved":     reservation,
			"LoadBalancerNotice":  errors.New("something else"),
		} {
			o.ServiceNotice(key("web"), err)
			c.settle()
			c.wantEvent("web", reason+": "+err.Error())
		}
		sharing := &ipam.SharingError{Address: addr("192.0.2.70")}
		o.ServiceNotice(key("web"), sharing)
		o.ServiceNotice(key("gone"), held)
		for reason, err := range map[string]error{
			"ProxyARP":        &loadbalancer.ProxyARPError{Pool: "main", Family: ipam.IPv4, MAC: "52:54:00:00:00:01", Gateway: "gw1"},
			"AddressLedger":   &loadbalancer.LedgerError{Err: errors.New("forbidden")},
			"AddressReserved": reservation,
			"AddressNotice":   errors.New("something else"),
			"RolloutStopped":  &loadbalancer.RolloutError{Gateway: "gw1", Settings: []string{"nodes.healthCheck"}, Problems: []string{"unknown keyword"}, Again: time.Minute},
			"AbsurdEpoch":     &loadbalancer.EpochError{Gateway: "gw1", By: "gw2", Told: 1 << 60, Known: 3},
		} {
			o.Notice(err)
			c.settle()
			c.wantEvent(EpochName, reason+": "+err.Error())
		}
		ended := &loadbalancer.ProxyARPError{Pool: "main", Family: ipam.IPv4, MAC: "52:54:00:00:00:01", Gateway: "gw1", Ended: true}
		o.Notice(ended)
		c.settle()
		if all := c.eventsOf(EpochName, v1.EventTypeNormal); !slices.Contains(all, "ProxyARPEnded: "+ended.Error()) {
			c.t.Errorf("of the end of proxy ARP is told: %q", all)
		}
		c.wantEvent("web", "AddressTaken: "+sharing.Error())
		c.wantMetric("conflicts_total", `kind="held",pool="main"`, 2)
	})
}

func TestPoolMetrics(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		main := ipam.Count{Pool: "main", Family: ipam.IPv4, Size: 64, Assigned: 5, Releasing: 4, Reserved: 3,
			Quarantined: 2}
		gone := ipam.Count{Pool: "gone", Family: ipam.IPv6, Size: 8, Assigned: 8}
		round := func(counts ...ipam.Count) {
			c.manager.observer.RoundDone(loadbalancer.Round{Reason: "change", Pools: counts})
			c.settle()
		}
		round(main, gone)
		for state, want := range map[string]float64{"size": 64, "assigned": 5, "releasing": 4, "reserved": 3,
			"quarantined": 2} {
			c.wantMetric("pool_addresses", fmt.Sprintf(`family="IPv4",pool="main",state=%q`, state), want)
		}
		c.wantMetric("pool_addresses", `family="IPv6",pool="gone",state="size"`, 8)
		c.wantEvent(EpochName, "PoolExhausted: pool gone has no free IPv6 address (8 of 8: 8 assigned, 0 releasing, "+
			"0 reserved, 0 quarantined): new Services that no other pool serves will wait; add a range to it")
		main.Assigned = 60
		round(main)
		if value, found := c.series("pool_addresses", `family="IPv6",pool="gone",state="size"`); found {
			t.Errorf("a pool that is gone has %v addresses", value)
		}
		c.wantMetric("pool_addresses", `family="IPv4",pool="main",state="assigned"`, 60)
	})
}

// Manager tells how gateways change. That one is well from the beginning on the metrics tell all the same, and what was
// told of it within the round is not undone by what it confirmed before.
func TestGatewayMetrics(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		want := func(gateway string, confirming, inSync float64) {
			t.Helper()
			c.wantMetric("gateway_confirming", fmt.Sprintf("gateway=%q", gateway), confirming)
			c.wantMetric("gateway_in_sync", fmt.Sprintf("gateway=%q", gateway), inSync)
		}
		o := c.manager.observer
		o.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw2", Err: errAway, InSync: true})
		o.RoundDone(confirmedBy("gw1", "gw2"))
		want("gw1", 1, 1)
		want("gw2", 0, 1)
		o.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw1", InSync: false})
		o.RoundDone(confirmedBy("gw1"))
		want("gw1", 1, 0)
	})
}

func confirmedBy(gateways ...string) loadbalancer.Round {
	round := loadbalancer.Round{Reason: "change"}
	note(&round.Outcomes, "Runtime", gateways)
	return round
}

// note spares this package the import of package wire, which is none of its business but for this type.
func note[Outcome ~string](all *map[string]Outcome, outcome Outcome, gateways []string) {
	*all = map[string]Outcome{}
	for _, name := range gateways {
		(*all)[name] = outcome
	}
}

// Who does not lead tells nothing of a cluster that it does not look at.
func TestMetricsOfAStandby(t *testing.T) {
	names := []string{"eligible_nodes", "load_balancers", "vips", "epoch"}
	before := func(c *cluster) {
		for _, name := range names {
			if value, found := c.series(name, ""); found {
				t.Errorf("%s is %v before this process leads", name, value)
			}
		}
		c.wantMetric("config_valid", "", 1)
	}
	inClusterAfter(t, testConfig, before, func(c *cluster) {
		c.manager.observer.RoundDone(loadbalancer.Round{Fence: desired.Fence{Epoch: 4}, LoadBalancers: 3, VIPs: 2})
		for name, want := range map[string]float64{"eligible_nodes": 1, "load_balancers": 3, "vips": 2, "epoch": 4} {
			c.wantMetric(name, "", want)
		}
	})
}

// A conflict that an Ensure returns is counted as well, and its Service waits for an address.
func TestRequestedConflict(t *testing.T) {
	conflict := &loadbalancer.ConflictError{Address: addr("192.0.2.70"), Gateway: "gw1", MAC: "52:54:00:00:00:01",
		Requested: true}
	inCluster(t, testConfig, func(m *manager) { m.fail = conflict },
		[]runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
			c.wantEvent("web", conflict.Error())
			c.wantMetric("conflicts_total", `kind="requested",pool="main"`, 1)
			c.manager.failing(nil)
			c.manager.observer.AddressFreed(addr("192.0.2.70"))
			start := time.Now()
			c.settle()
			c.wantAddress("web", "192.0.2.64")
			if waited := time.Since(start); waited > 2*time.Second {
				t.Errorf("it took %s", waited)
			}
		})
}

func TestCauses(t *testing.T) {
	var none netip.Addr
	for _, test := range []struct {
		err  error
		want cause
	}{
		{nil, nothing},
		{&ipam.ExhaustedError{}, address},
		{&ipam.TakenError{Address: none}, address},
		{&ipam.SharingError{}, address},
		{&ipam.ReservedError{}, address},
		{&ipam.QuarantinedError{}, address},
		{&loadbalancer.ConflictError{}, address},
		{&ipam.OutsideError{}, correction},
		{&ipam.ExcludedError{}, correction},
		{&ipam.RequestError{}, correction},
		{&loadbalancer.ServiceFaultError{}, correction},
		{&faultyServiceError{}, correction},
		{&loadbalancer.LedgerError{Err: errors.New("forbidden")}, patience},
		{errAway, gateways},
		{&loadbalancer.WithheldError{}, gateways},
		{&loadbalancer.NotHeldError{}, gateways},
	} {
		wrapped := test.err
		if wrapped != nil {
			wrapped = fmt.Errorf("ensuring: %w", test.err)
		}
		if got := causeOf(wrapped); got != test.want {
			t.Errorf("%T waits for %d, want %d", test.err, got, test.want)
		}
	}
}

// client-go drops Events about an object that has many; those of another reason come through all the same.
func TestOneReasonDoesNotSilenceAnother(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		for range 40 {
			c.manager.observer.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw1", Err: errAway.Gateways[0].Err})
		}
		c.settle()
		c.reload("kind: nonsense")
		c.wantEvent(EpochName, "ConfigRefused: ")
	})
}

// Nor does one gateway silence another.
func TestOneGatewayDoesNotSilenceAnother(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		for range 40 {
			c.manager.observer.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw1", Err: errAway})
			c.manager.observer.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw1", InSync: true})
			c.settle()
		}
		c.manager.observer.GatewayChanged(loadbalancer.GatewayStatus{Name: "gw2",
			Err: errors.New("gateway gw2: no answer")})
		c.settle()
		c.wantEvent(EpochName, "GatewayAway: gateway gw2: no answer")
	})
}

// A Service that has waited for long hears at once when it waits for something else.
func TestOtherReasonIsToldAfterLong(t *testing.T) {
	exhausted := &ipam.ExhaustedError{Family: ipam.IPv4}
	inCluster(t, testConfig, func(m *manager) { m.fail = errAway },
		[]runtime.Object{worker("a", "192.0.2.21"), named("web")}, func(c *cluster) {
			time.Sleep(10 * time.Minute)
			for _, told := range c.events("web") {
				if strings.HasPrefix(told, "WaitsForGateways") {
					t.Errorf("told twice what the library tells: %s", told)
				}
			}
			c.manager.failing(exhausted)
			c.manager.observer.RoundDone(loadbalancer.Round{Reason: "repair"})
			c.settle()
			c.wantEvent("web", "WaitsForAddress: "+exhausted.Error())
			c.manager.failing(nil)
			c.change("web", annotate(string(LoadBalancerIPs), "x"))
			c.wantEvent("web", "WaitsForCorrection: annotation cloud-provider-haproxy/load-balancer-ips \"x\"")
			c.change("web", func(svc *v1.Service) { svc.Annotations = nil })
			c.wantAddress("web", "192.0.2.64")
			if len(c.cloud.balancer.waiting.last) != 0 {
				t.Errorf("remembered %v", c.cloud.balancer.waiting.last)
			}
		})
}

// Who takes over while the file is wrong tells it: the one who refused it recorded no Event.
func TestRefusedConfigurationIsToldByTheNextLeader(t *testing.T) {
	refused := func(c *cluster) { c.cloud.RefuseConfig(errors.New("pools: is missing")) }
	inClusterAfter(t, testConfig, refused, func(c *cluster) {
		c.wantEvent(EpochName, "ConfigRefused: the changed configuration is wrong and not used, the former one stays "+
			"in effect: pools: is missing")
	})
}

// A process that waits for its turn takes the configuration over as well.
func TestReloadBeforeTheTurnComes(t *testing.T) {
	reloaded := func(c *cluster) {
		next, err := config.Decode([]byte(withGold))
		if err != nil {
			t.Fatal(err)
		}
		c.cloud.Reload(next)
	}
	inClusterAfter(t, testConfig, reloaded, func(c *cluster) {
		c.create(named("web", annotate(string(AddressPool), "gold")))
		c.wantAddress("web", "192.0.2.64")
		if len(c.manager.pools) != 2 {
			t.Errorf("Manager was told %d times of pools, want in the beginning and once more", len(c.manager.pools))
		}
	})
}

// What gateways find by themselves stands on the epoch's object and is counted by gateway.
func TestGatewayFindings(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		o := c.manager.observer
		notice := func(err error) { o.Notice(err); c.settle() }
		drift := func(left bool, problem string) *loadbalancer.DriftError {
			return &loadbalancer.DriftError{Gateway: "gw1", Changes: []string{"start HAProxy: HAProxy was not running"}, Left: left, Problem: problem}
		}
		for _, test := range []struct {
			drift          *loadbalancer.DriftError
			result, reason string
		}{
			{drift(false, ""), "repaired", "GatewayRepaired"},
			{drift(true, ""), "reported", "GatewayDrifted"},
			{drift(false, "no space left on device"), "failed", "GatewayDrifted"},
		} {
			notice(test.drift)
			c.wantMetric("gateway_drift_total", fmt.Sprintf(`gateway="gw1",result=%q`, test.result), 1)
			c.wantEvent(EpochName, test.reason+": "+test.drift.Error())
		}
		notice(&loadbalancer.WarningError{Gateway: "gw2", Reason: "StrangeVRRP", Message: "203.0.113.9 sends adverts"})
		c.wantMetric("gateway_warnings_total", `gateway="gw2",reason="StrangeVRRP"`, 1)
		c.wantEvent(EpochName, "StrangeVRRP: gateway gw2: 203.0.113.9 sends adverts")
		twice := &loadbalancer.HoldersError{Addresses: []netip.Addr{addr("192.0.2.70")}, Gateways: []string{"gw1", "gw2"}}
		notice(twice)
		c.wantEvent(EpochName, "VIPHeldTwice: "+twice.Error())
		nobody := &loadbalancer.HoldersError{Addresses: []netip.Addr{addr("192.0.2.71")}}
		notice(nobody)
		c.wantEvent(EpochName, "VIPHeldByNobody: "+nobody.Error())
		o.RoundDone(loadbalancer.Round{HeldTwice: 1, HeldByNobody: 2})
		c.wantMetric("vips_misheld", `kind="twice"`, 1)
		c.wantMetric("vips_misheld", `kind="nobody"`, 2)
	})
}

// What gateways are in, drained or warning of something, stands in metrics as long as it lasts; a drain is an Event that is
// no Warning.
func TestGatewayStates(t *testing.T) {
	inCluster(t, testConfig, nil, nil, func(c *cluster) {
		o := c.manager.observer
		gw1, gw2 := loadbalancer.GatewayStatus{Name: "gw1", InSync: true}, loadbalancer.GatewayStatus{Name: "gw2", InSync: true}
		round := func() {
			o.RoundDone(loadbalancer.Round{Reason: "resync", Gateways: []loadbalancer.GatewayStatus{gw1, gw2}})
			c.settle()
		}
		round()
		c.wantMetric("gateway_drained", `gateway="gw1"`, 0)
		drained := &loadbalancer.DrainNotice{Gateway: "gw1"}
		made(&drained.Drain).Reason = "new kernel"
		gw1.Drain = drained.Drain
		gw2.Warnings = slices.Grow(gw2.Warnings, 1)[:1]
		gw2.Warnings[0].Reason = "AllAPIServersDown"
		o.Notice(drained)
		round()
		c.wantMetric("gateway_drained", `gateway="gw1"`, 1)
		c.wantMetric("gateway_drained", `gateway="gw2"`, 0)
		c.wantMetric("gateway_warning", `gateway="gw2",reason="AllAPIServersDown"`, 1)
		c.wantNormalEvent(EpochName, "GatewayDrained: "+drained.Error())
		gw1.Drain, gw2.Warnings = nil, nil
		o.Notice(&loadbalancer.DrainNotice{Gateway: "gw1"})
		round()
		c.wantMetric("gateway_drained", `gateway="gw1"`, 0)
		if _, there := c.series("gateway_warning", `gateway="gw2",reason="AllAPIServersDown"`); there {
			t.Error("the warning that is over is still there")
		}
		c.wantNormalEvent(EpochName, "GatewayUndrained: gateway gw1 is drained no more")
		if all := c.events(EpochName); len(all) > 0 {
			t.Errorf("a drain is a Warning: %q", all)
		}
	})
}

// made makes what p points to; the type is of a room that provider does not import.
func made[T any](p **T) *T {
	*p = new(T)
	return *p
}
