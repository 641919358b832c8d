package provider

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"cloud-provider-haproxy/ipam"
)

// publishing puts addresses into the Service's status.
func publishing(addresses ...string) func(*v1.Service) {
	return func(svc *v1.Service) {
		for _, a := range addresses {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, v1.LoadBalancerIngress{IP: a})
		}
	}
}

func stack(policy v1.IPFamilyPolicy, families ...v1.IPFamily) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.IPFamilyPolicy, svc.Spec.IPFamilies = &policy, families }
}

func loadBalancerIP(address string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerIP = address }
}

// TestRequest tells for every annotation and field what it means: set, changed, removed, wrong, and what becomes of an
// address that is published already.
func TestRequest(t *testing.T) {
	const (
		pool    = string(AddressPool)
		ips     = string(LoadBalancerIPs)
		share   = string(AllowSharedIP)
		foreign = tiers + "readForeignAnnotations: true\n"
	)
	unasked := []string{"big", "main", "last"}
	tests := []struct {
		name      string
		config    string // tiers when empty
		svc       *v1.Service
		namespace labels.Set
		// want is compared without Families (but where families is set) and without Note; its Sharing has web's ports and is
		// Keyless with foreign annotations, unless it says otherwise.
		want     ipam.Request
		families []ipam.Family
		keep     bool
		note     string // a part of it
		warning  string // of the only warning
		fault    string
	}{
		{name: "nothing is asked", svc: web(), want: ipam.Request{Pools: unasked},
			note: "pool gold serves namespaces a, b only"},

		// address-pool
		{name: "a pool", svc: web(annotate(pool, "last")), want: ipam.Request{Pools: []string{"last"}, Moves: true},
			note: `annotation cloud-provider-haproxy/address-pool "last" names no other pool`},
		{name: "pools in an order of their own", svc: web(annotate(pool, " last, spare,big ")),
			want: ipam.Request{Pools: []string{"last", "spare", "big"}, Moves: true}},
		{name: "pool changed: the address moves", svc: web(annotate(pool, "big"), publishing("192.0.2.50")),
			want: ipam.Request{Pools: []string{"big"}, Moves: true}},
		{name: "pool removed: the address stays", svc: web(publishing("192.0.2.50")),
			want: ipam.Request{Pools: unasked}},
		{name: "pool that is pinned to the namespace", svc: web(in("a"), annotate(pool, "vault")),
			want: ipam.Request{Pools: []string{"vault"}, Moves: true}},
		{name: "pool that is pinned to the namespace's labels", svc: web(annotate(pool, "team")),
			namespace: labels.Set{"team": "web"}, want: ipam.Request{Pools: []string{"team"}, Moves: true}},
		{name: "unknown pool", svc: web(annotate(pool, "silver")),
			fault: `annotation cloud-provider-haproxy/address-pool "silver": there is no pool "silver"; there are ` +
				`big, edge, front, gold, last, main, spare, team, vault`},
		{name: "pools of others, all told", svc: web(annotate(pool, "main,gold,edge")),
			fault: `annotation cloud-provider-haproxy/address-pool "main,gold,edge": pool gold serves namespaces a, ` +
				`b only; pool edge serves Services labelled "tier=edge" only`},
		{name: "pool without a name", svc: web(annotate(pool, "main,")),
			fault: `annotation cloud-provider-haproxy/address-pool "main,": a name is empty; allowed is the name of ` +
				`a pool, or several with commas between, each once`},
		{name: "pool twice", svc: web(annotate(pool, "main,main")),
			fault: `annotation cloud-provider-haproxy/address-pool "main,main" names pool main twice; allowed is the ` +
				`name of a pool, or several with commas between, each once`},
		{name: "pool of others, published: it stays", svc: web(annotate(pool, "main,gold"), publishing("192.0.2.70")),
			want: ipam.Request{Pools: []string{}},
			note: "pool gold serves namespaces a, b only",
			warning: `UnusablePool: annotation cloud-provider-haproxy/address-pool "main,gold": pool gold serves ` +
				`namespaces a, b only; the Service keeps the address that it has and gets no other one`},
		{name: "unknown pool, published: it stays", svc: web(annotate(pool, "silver"), publishing("192.0.2.70")),
			want: ipam.Request{Pools: []string{}},
			warning: `UnusablePool: annotation cloud-provider-haproxy/address-pool "silver": there is no pool ` +
				`"silver"; there are big, edge, front, gold, last, main, spare, team, vault; the Service keeps the ` +
				`address that it has and gets no other one`},

		// load-balancer-ips and spec.loadBalancerIP
		{name: "an address", svc: web(annotate(ips, "192.0.2.20")),
			want: ipam.Request{Pools: unasked, Addresses: addrs("192.0.2.20")}},
		{name: "address changed", svc: web(annotate(ips, "192.0.2.21"), publishing("192.0.2.20")),
			want: ipam.Request{Pools: unasked, Addresses: addrs("192.0.2.21")}},
		{name: "address of a pool that has to be named", svc: web(annotate(ips, "192.0.2.130")),
			want: ipam.Request{Pools: unasked, Addresses: addrs("192.0.2.130")}},
		{name: "field, of an own pool", svc: web(in("a"), loadBalancerIP("192.0.2.70")),
			want: ipam.Request{Pools: []string{"gold", "big", "main", "last"}, Addresses: addrs("192.0.2.70")}},
		{name: "address in no pool, for ipam to refuse", svc: web(annotate(ips, "203.0.113.1")),
			want: ipam.Request{Pools: unasked, Addresses: addrs("203.0.113.1")}},
		{name: "address of others", svc: web(annotate(ips, "192.0.2.70")),
			fault: "address 192.0.2.70 is asked for, but its pool gold serves namespaces a, b only"},
		{name: "field, of others", svc: web(loadBalancerIP("192.0.2.70")),
			fault: "address 192.0.2.70 is asked for, but its pool gold serves namespaces a, b only"},
		{name: "address of others, published", svc: web(annotate(ips, "192.0.2.70"), publishing("192.0.2.70")),
			want: ipam.Request{Pools: unasked, Addresses: addrs("192.0.2.70")}},
		{name: "address of others, another is published",
			svc: web(annotate(ips, "192.0.2.71"), publishing("192.0.2.70")), fault: "address 192.0.2.71 is asked " +
				"for, but its pool gold serves namespaces a, b only"},
		{name: "address of others, reserved for it", svc: web(in("c"), annotate(ips, "192.0.2.65")),
			want: ipam.Request{Pools: unasked, Addresses: addrs("192.0.2.65")}},
		{name: "address of others, reserved for another", svc: web(annotate(ips, "192.0.2.65")),
			fault: "address 192.0.2.65 is asked for, but its pool gold serves namespaces a, b only"},
		{name: "address and its pool", svc: web(annotate(ips, "192.0.2.20"), annotate(pool, "big,main")),
			want: ipam.Request{Pools: []string{"big", "main"}, Moves: true, Addresses: addrs("192.0.2.20")}},
		{name: "address and another pool", svc: web(annotate(ips, "192.0.2.20"), annotate(pool, "big")),
			fault: `address 192.0.2.20 is asked for and lies in pool main, but annotation ` +
				`cloud-provider-haproxy/address-pool "big" does not name that pool; remove one of the two`},
		{name: "address and another pool, published",
			svc: web(annotate(ips, "192.0.2.20"), annotate(pool, "big"),
				publishing("192.0.2.20")),
			want: ipam.Request{Pools: []string{"big"}, Moves: true, Addresses: addrs("192.0.2.20")}},
		{name: "an address that nobody can have", svc: web(annotate(ips, "0.0.0.0")),
			fault: `annotation cloud-provider-haproxy/load-balancer-ips "0.0.0.0": 0.0.0.0 is no address that a ` +
				`Service can have (kube-vip takes it for DHCP, which is not supported here); name an address of a ` +
				`pool, or none`},

		// families
		{name: "prefers two", svc: web(stack(v1.IPFamilyPolicyPreferDualStack, v1.IPv4Protocol, v1.IPv6Protocol)),
			families: []ipam.Family{ipam.IPv4, ipam.IPv6}, want: ipam.Request{Pools: unasked, FirstSuffices: true}},
		{name: "requires two, a second one is added",
			svc: web(stack(v1.IPFamilyPolicyRequireDualStack, v1.IPv6Protocol, v1.IPv4Protocol),
				publishing("2001:db8::1")),
			families: []ipam.Family{ipam.IPv6, ipam.IPv4}, want: ipam.Request{Pools: unasked}},
		{name: "wants one again", svc: web(stack(v1.IPFamilyPolicySingleStack, v1.IPv6Protocol),
			publishing("2001:db8::1", "192.0.2.20")),
			families: []ipam.Family{ipam.IPv6}, want: ipam.Request{Pools: unasked}},

		// allow-shared-ip
		{name: "shares, with the ports of all protocols", svc: web(annotate(share, " dns "), func(svc *v1.Service) {
			svc.Spec.Ports = append(svc.Spec.Ports, v1.ServicePort{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53,
				NodePort: 30053})
			svc.Spec.Ports[0].Protocol = "" // that is TCP
		}), want: ipam.Request{Pools: unasked, Sharing: ipam.Sharing{Key: "dns", Ports: []ipam.Port{{Protocol: "TCP",
			Number: 80}, {Protocol: "TCP", Number: 443}, {Protocol: "UDP", Number: 53}}}}},
		{name: "shares with nobody", svc: web(annotate(share, "")),
			fault: "annotation cloud-provider-haproxy/allow-shared-ip is empty; allowed is any text, which all " +
				"Services that share an address have in common"},

		// keep-ip
		{name: "keeps", svc: web(annotate(string(KeepIP), "true")), want: ipam.Request{Pools: unasked}, keep: true},
		{name: "does not keep", svc: web(annotate(string(KeepIP), "false")), want: ipam.Request{Pools: unasked}},
		{name: "keeps perhaps", svc: web(annotate(string(KeepIP), "True")),
			fault: `annotation cloud-provider-haproxy/keep-ip "True"; allowed is true or false`},
		{name: "keeps, empty", svc: web(annotate(string(KeepIP), "")),
			fault: `annotation cloud-provider-haproxy/keep-ip ""; allowed is true or false`},

		// other controllers' annotations
		{name: "others are not read unasked",
			svc: web(annotate("metallb.io/address-pool", "last"), annotate("metallb.io/loadBalancerIPs", "x"),
				annotate("metallb.io/allow-shared-ip", "k"), annotate("kube-vip.io/loadbalancerIPs",
					"0.0.0.0")), want: ipam.Request{Pools: unasked}},
		{name: "MetalLB's pool", config: foreign, svc: web(annotate("metallb.io/address-pool", "last")),
			want: ipam.Request{Pools: []string{"last"}}},
		{name: "MetalLB's older pool, published: it does not move", config: foreign,
			svc: web(annotate("metallb.universe.tf/address-pool", "last"),
				publishing("192.0.2.20")), want: ipam.Request{Pools: []string{"last"}}},
		{name: "MetalLB's pool that is not ours, published", config: foreign,
			svc: web(annotate("metallb.io/address-pool", "prod"),
				publishing("192.0.2.20")), want: ipam.Request{Pools: []string{}},
			warning: `UnusablePool: annotation metallb.io/address-pool "prod": there is no pool "prod"; there are ` +
				`big, edge, front, gold, last, main, spare, team, vault; the Service keeps the address that it has ` +
				`and gets no other one`},
		{name: "MetalLB's addresses", config: foreign,
			svc: web(stack(v1.IPFamilyPolicyRequireDualStack, v1.IPv4Protocol, v1.IPv6Protocol),
				annotate("metallb.io/loadBalancerIPs", "192.0.2.20, 2001:db8::1")),
			families: []ipam.Family{ipam.IPv4, ipam.IPv6}, want: ipam.Request{Pools: unasked,
				Addresses: addrs("192.0.2.20", "2001:db8::1")}},
		{name: "the newer name counts", config: foreign,
			svc: web(annotate("metallb.universe.tf/loadBalancerIPs", "192.0.2.20"),
				annotate("metallb.io/loadBalancerIPs", "192.0.2.21"), annotate("kube-vip.io/loadbalancerIPs",
					"192.0.2.22")),
			want: ipam.Request{Pools: unasked, Addresses: addrs("192.0.2.21")}},
		{name: "the older name", config: foreign,
			svc: web(annotate("metallb.universe.tf/loadBalancerIPs", "192.0.2.20")), want: ipam.Request{Pools: unasked,
				Addresses: addrs("192.0.2.20")}},
		{name: "kube-vip's address, which its cloud provider writes twice", config: foreign,
			svc: web(annotate("kube-vip.io/loadbalancerIPs", "192.0.2.20"),
				loadBalancerIP("192.0.2.20")), want: ipam.Request{Pools: unasked, Addresses: addrs("192.0.2.20")}},
		{name: "kube-vip's DHCP", config: foreign, svc: web(annotate("kube-vip.io/loadbalancerIPs", "0.0.0.0")),
			fault: `annotation kube-vip.io/loadbalancerIPs "0.0.0.0": 0.0.0.0 is no address that a Service can have ` +
				`(kube-vip takes it for DHCP, which is not supported here); name an address of a pool, or none`},
		{name: "kube-vip's DHCP, published", config: foreign,
			svc: web(annotate("kube-vip.io/loadbalancerIPs", "0.0.0.0"),
				publishing("198.51.100.77")), want: ipam.Request{Pools: unasked},
			warning: `UnsupportedDHCP: annotation kube-vip.io/loadbalancerIPs "0.0.0.0": 0.0.0.0 is no address that ` +
				`a Service can have (kube-vip takes it for DHCP, which is not supported here); the Service keeps the ` +
				`address that it has, which the DHCP server may give to another machine: exclude it there`},
		{name: "MetalLB's key", config: foreign, svc: web(annotate("metallb.universe.tf/allow-shared-ip", "k")),
			want: ipam.Request{Pools: unasked,
				Sharing: ipam.Sharing{Key: "k",
					Ports: []ipam.Port{{Protocol: "TCP", Number: 80}, {Protocol: "TCP", Number: 443}}}}},
		{name: "an empty one is none", config: foreign,
			svc: web(annotate("metallb.io/address-pool", ""), annotate("metallb.io/loadBalancerIPs", ""),
				annotate("metallb.io/allow-shared-ip", "")), want: ipam.Request{Pools: unasked}},
		{name: "ours counts", config: foreign,
			svc: web(annotate(pool, "big"), annotate("metallb.io/address-pool", "last"), annotate(ips, "192.0.2.33"),
				annotate("metallb.io/loadBalancerIPs", "192.0.2.50")),
			want: ipam.Request{Pools: []string{"big"}, Moves: true, Addresses: addrs("192.0.2.33")}},
		{name: "a wrong one is told by its name", config: foreign,
			svc: web(annotate("metallb.io/loadBalancerIPs", "web")),
			fault: `annotation metallb.io/loadBalancerIPs "web": "web" is not an address; allowed is one IPv4 ` +
				`address, one IPv6 address, or both with a comma between`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			yaml := test.config
			if yaml == "" {
				yaml = tiers
			}
			around := circumstances{nodes: twoNodes(), policy: policyOf(t, yaml), namespace: test.namespace}
			before := test.svc.DeepCopy()
			got, err := testTranslator().translate(test.svc, around)
			if diff := cmp.Diff(before, test.svc); diff != "" {
				t.Errorf("the Service was written:\n%s", diff)
			}
			if test.fault != "" {
				if err == nil || err.Error() != test.fault {
					t.Errorf("error %v\nwant  %s", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			request := got.service.Request
			if !strings.Contains(request.Note, test.note) {
				t.Errorf("note %q, want %q in it", request.Note, test.note)
			}
			request.Note = ""
			if test.want.Families = test.families; test.families == nil {
				request.Families = nil
			}
			if sharing := &test.want.Sharing; sharing.Key == "" {
				sharing.Keyless = test.config == foreign
				sharing.Ports = []ipam.Port{{Protocol: "TCP", Number: 80}, {Protocol: "TCP", Number: 443}}
			}
			if diff := cmp.Diff(test.want, request, equalAddresses); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
			if got.service.Keep != test.keep {
				t.Errorf("keep %v, want %v", got.service.Keep, test.keep)
			}
			var warnings []string
			for _, w := range got.warnings {
				warnings = append(warnings, w.reason+": "+w.message)
			}
			if all := strings.Join(warnings, "\n"); all != test.warning {
				t.Errorf("warnings %q\nwant     %q", all, test.warning)
			}
		})
	}
}
