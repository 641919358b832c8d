package provider

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// aboutTCP are the annotations of TCP ports alone.
func aboutTCP() []Annotation {
	return []Annotation{Algorithm, ConnectionLimit, ConnectionRateLimit, Log, ProxyProtocol, TimeoutConnect}
}

// hasPort says whether the Service has a port of one of these protocols.
func hasPort(svc *v1.Service, protocols ...v1.Protocol) bool {
	return slices.ContainsFunc(svc.Spec.Ports, func(port v1.ServicePort) bool {
		return slices.Contains(protocols, protocolOf(port))
	})
}

// knobs reads what the Service says of its connections by annotations, and its affinity. It is called when frontends and
// pool are there.
func (d *draft) knobs(svc *v1.Service, t translator) {
	lb := &d.service.LoadBalancer
	d.timeouts(svc)
	lb.ConnectionLimit = d.number(svc, ConnectionLimit, 1, 10_000_000)
	lb.SourceRate = d.number(svc, ConnectionRateLimit, 1, 10_000_000)
	lb.Log = d.truth(svc, Log)
	lb.DrainSeconds = seconds(d.duration(svc, DrainTimeout, limits{low: time.Second, high: 24 * time.Hour, step: time.Second}))
	lb.AffinitySeconds = affinity(svc)
	algorithm := d.word(svc, Algorithm, string(desired.RoundRobin), string(desired.LeastConn), string(desired.Source),
		string(desired.Random))
	if algorithm != "" {
		for _, pool := range lb.Pools() {
			pool.Algorithm = desired.Algorithm(algorithm)
		}
	}
	d.healthCheck(svc, t)
	d.proxyProtocol(svc)
	d.preferredGateway(svc, t)
	d.hostname(svc)
	if vain := set(svc, aboutTCP()...); len(vain) > 0 && !hasPort(svc, v1.ProtocolTCP) {
		lb.ConnectionLimit, lb.SourceRate, lb.Log = 0, 0, false
		d.warn("AnnotationWithoutEffect", "%s: the Service has no TCP port, so this has no effect; remove it", listed(vain))
	}
}

func seconds(d time.Duration) int { return int(d / time.Second) }
func millis(d time.Duration) int  { return int(d / time.Millisecond) }

// timeouts reads those of connections and of the answer to a check.
func (d *draft) timeouts(svc *v1.Service) {
	lb := &d.service.LoadBalancer
	tcp, udp := hasPort(svc, v1.ProtocolTCP), hasPort(svc, v1.ProtocolUDP)
	attempt := limits{low: 50 * time.Millisecond, high: time.Minute, step: time.Millisecond}
	silence := limits{low: time.Second, high: 7 * 24 * time.Hour, step: time.Second}
	if udp {
		silence.high, silence.because = 24*time.Hour, " (the longest that a flow of UDP can have)"
	}
	connect, idle := d.duration(svc, TimeoutConnect, attempt), d.duration(svc, TimeoutIdle, silence)
	timeouts := desired.Timeouts{CheckMillis: millis(d.duration(svc, HealthCheckTimeout, attempt))}
	if tcp {
		timeouts.ConnectMillis, timeouts.IdleSeconds = millis(connect), seconds(idle)
	}
	if udp {
		lb.UDPIdleSeconds = seconds(idle)
	}
	if timeouts != (desired.Timeouts{}) {
		lb.Timeouts = &timeouts
	}
	if len(set(svc, TimeoutIdle)) > 0 && !tcp && !udp {
		d.warn("AnnotationWithoutEffect", "annotation %s: the Service has no TCP or UDP port, so this has no effect; remove it",
			TimeoutIdle)
	}
}

// affinity gives for how long a client goes where it went before; 0: not at all. The API server fills the default in
// (SetDefaults_Service in k8s.io/kubernetes/pkg/apis/core/v1).
func affinity(svc *v1.Service) int {
	if svc.Spec.SessionAffinity != v1.ServiceAffinityClientIP {
		return 0
	}
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return int(*c.ClientIP.TimeoutSeconds)
	}
	return int(v1.DefaultClientIPServiceAffinitySeconds)
}

// preferredGateway reads a wish. One that names no gateway is told and stops nothing: where an address is held is no
// reason not to serve, and gateways come and go in the configuration, which is not the Service's owner's.
func (d *draft) preferredGateway(svc *v1.Service, t translator) {
	name, isSet := svc.Annotations[string(PreferredGateway)]
	switch {
	case !isSet:
	case slices.Contains(t.gateways, name):
		d.service.PreferredGateway = name
	default:
		d.warn("UnknownGateway", "annotation %s %q: there is no gateway of this name; there are %s; it has no effect",
			PreferredGateway, name, strings.Join(t.gateways, ", "))
	}
}

// hostname judges the name as the API server judges that of a status (ValidateLoadBalancerStatus in
// k8s.io/kubernetes/pkg/apis/core/validation), which would refuse the whole status.
func (d *draft) hostname(svc *v1.Service) {
	name, isSet := svc.Annotations[string(Hostname)]
	if !isSet {
		return
	}
	_, err := netip.ParseAddr(name)
	if problems := validation.IsDNS1123Subdomain(name); err == nil || len(problems) > 0 {
		d.wrong("annotation %s %q; allowed is a DNS name in lower case without a dot at its end, as in lb.example.com",
			Hostname, name)
	}
}

// proxyProtocol reads which TCP ports begin with a header of the PROXY protocol.
func (d *draft) proxyProtocol(svc *v1.Service) {
	text, isSet := svc.Annotations[string(ProxyProtocol)]
	if !isSet || !hasPort(svc, v1.ProtocolTCP) { // knobs tells
		return
	}
	frontends := d.service.LoadBalancer.Frontends
	if version := desired.ProxyProtocol(text); version == desired.ProxyV1 || version == desired.ProxyV2 {
		for i := range frontends {
			if frontends[i].Protocol == desired.TCP {
				frontends[i].ProxyProtocol = version
			}
		}
		return
	}
	for part := range strings.SplitSeq(text, ",") {
		if problem := readProxyPort(strings.TrimSpace(part), svc, frontends); problem != "" {
			d.wrong("annotation %s %q: %s; allowed is v1, v2, or one of them for single TCP ports by number or name, as in "+
				"443=v2,smtp=v1", ProxyProtocol, text, problem)
			return
		}
	}
}

// readProxyPort reads one "port=version". Frontends lack the ports that are at fault otherwise, which the Service has.
func readProxyPort(part string, svc *v1.Service, frontends []desired.Frontend) (problem string) {
	name, text, isPair := strings.Cut(part, "=")
	version := desired.ProxyProtocol(text)
	if !isPair || version != desired.ProxyV1 && version != desired.ProxyV2 {
		return fmt.Sprintf("%q is no port with a version", part)
	}
	port, ok := portNamed(svc, name)
	switch {
	case !ok:
		return fmt.Sprintf("%q is none of the Service's ports (%s)", name, portNames(svc))
	case protocolOf(port) != v1.ProtocolTCP:
		return fmt.Sprintf("port %s is not of TCP, which alone has such headers", portName(port))
	}
	for i := range frontends {
		f := &frontends[i]
		if f.Protocol != desired.TCP || int32(f.Port) != port.Port {
			continue
		}
		if f.ProxyProtocol != desired.ProxyNone {
			return fmt.Sprintf("port %s is named twice", portName(port))
		}
		f.ProxyProtocol = version
	}
	return ""
}

// portNamed finds one of the Service's ports by name or number. Of two protocols with one number it is TCP's.
func portNamed(svc *v1.Service, name string) (found v1.ServicePort, ok bool) {
	for _, port := range svc.Spec.Ports {
		if name == "" || port.Name != name && fmt.Sprint(port.Port) != name {
			continue
		}
		if !ok || protocolOf(port) == v1.ProtocolTCP {
			found, ok = port, true
		}
	}
	return found, ok
}

func portNames(svc *v1.Service) string {
	names := make([]string, len(svc.Spec.Ports))
	for i, port := range svc.Spec.Ports {
		names[i] = portName(port)
	}
	return strings.Join(names, ", ")
}
