package provider

import (
	"cmp"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// aboutChecks are the annotations that make a check of the Service's own; the first says whether there is one.
func aboutChecks() []Annotation {
	return []Annotation{HealthCheckProtocol, HealthCheckPort, HealthCheckPath, HealthCheckInterval, HealthCheckTimeout,
		HealthCheckHealthyThreshold, HealthCheckUnhealthyThreshold}
}

// healthCheck changes the pool's check where the Service says so. With policy Local the spec says what is asked where:
// spec.healthCheckNodePort, which knows of every node whether it has a ready endpoint.
func (d *draft) healthCheck(svc *v1.Service, t translator) {
	if len(set(svc, aboutChecks()...)) == 0 {
		return
	}
	if !hasPort(svc, v1.ProtocolTCP) && t.pods.all(svc) {
		d.warn("AnnotationWithoutEffect", "%s: the Service is served by its pods and has no TCP port, and nobody checks pods that "+
			"serve UDP or SCTP; remove it", listed(set(svc, aboutChecks()...)))
		return
	}
	check, pods := t.nodeCheck, t.pods.all(svc)
	switch pool := d.service.LoadBalancer.Pool; {
	case pods:
		check = t.pods.check
	case pool != nil:
		check = pool.Check
	}
	asked := d.asked(svc, check, t)
	switch vain := set(svc, HealthCheckProtocol, HealthCheckPort, HealthCheckPath); {
	case !isLocal(svc) || pods:
		check = asked
	case len(vain) > 0:
		d.warn("HealthCheckIgnored", "%s: spec.externalTrafficPolicy is Local, and spec.healthCheckNodePort says how nodes are "+
			"checked then, so this has no effect; remove it", listed(vain))
	}
	interval := d.duration(svc, HealthCheckInterval, limits{low: 100 * time.Millisecond, high: time.Hour, step: time.Millisecond})
	rise := d.number(svc, HealthCheckHealthyThreshold, 1, 100)
	fall := d.number(svc, HealthCheckUnhealthyThreshold, 1, 100)
	if check.Kind == desired.CheckNone {
		d.unchecked(svc)
		check = desired.Check{Kind: desired.CheckNone}
	} else {
		check.IntervalMillis = cmp.Or(millis(interval), check.IntervalMillis)
		check.Rise, check.Fall = cmp.Or(rise, check.Rise), cmp.Or(fall, check.Fall)
		if check.DownIntervalMillis >= check.IntervalMillis {
			check.DownIntervalMillis = 0
		}
	}
	d.checkBy(check, pods)
}

// checkBy has servers checked so. Beside nodes, pods are checked as often, each by a TCP connection to its own port: what nodes
// are asked, at a port of theirs, is no question to pods.
func (d *draft) checkBy(check desired.Check, pods bool) {
	lb := &d.service.LoadBalancer
	if lb.Pool != nil {
		lb.Pool.Check = check
	}
	for i := range lb.Frontends {
		pool := lb.Frontends[i].Pool
		switch {
		case pool == nil || pool.Check.Kind == desired.CheckNone: // UDP and SCTP
		case pods, check.Kind == desired.CheckNone:
			pool.Check = check
		default:
			pool.Check.IntervalMillis, pool.Check.Rise, pool.Check.Fall = check.IntervalMillis, check.Rise, check.Fall
		}
	}
}

// unchecked refuses what cannot be had without a check.
func (d *draft) unchecked(svc *v1.Service) {
	others := set(svc, aboutChecks()[1:]...)
	_, own := svc.Annotations[string(HealthCheckProtocol)]
	switch {
	case len(others) == 0:
	case own:
		d.wrong("%s: annotation %s is none, which checks nothing; remove one or the other", listed(others), HealthCheckProtocol)
	default:
		d.wrong("%s: the configuration checks no node (nodes.healthCheck.type is none); set %s too", listed(others),
			HealthCheckProtocol)
	}
}

// asked reads what is asked where, beginning with what the configuration asks. What is not heard (healthCheck) is judged for
// itself alone.
func (d *draft) asked(svc *v1.Service, check desired.Check, t translator) desired.Check {
	kind := desired.CheckKind(d.word(svc, HealthCheckProtocol, string(desired.CheckNone), string(desired.CheckTCP),
		string(desired.CheckHTTP), string(desired.CheckHTTPS)))
	port := d.checkedPort(svc)
	path, hasPath := svc.Annotations[string(HealthCheckPath)]
	if problem := desired.PathProblem(path); hasPath && problem != "" {
		d.wrong("annotation %s: %s", HealthCheckPath, problem)
	}
	pods := t.pods.all(svc)
	heard := !isLocal(svc) || pods
	switch kind {
	case "":
	case desired.CheckNone:
		return desired.Check{Kind: kind}
	default:
		check = t.ownCheck(kind)
		check.Port = firstNodePort(svc)
		if kind == desired.CheckHTTP || kind == desired.CheckHTTPS {
			check.Path = "/"
		}
		if check.Port == 0 && len(set(svc, HealthCheckPort)) == 0 && heard && !pods {
			d.wrong("annotation %s is %s, and the Service has no TCP port with a nodePort, which would be checked; set %s",
				HealthCheckProtocol, kind, HealthCheckPort)
		}
	}
	check.Port = cmp.Or(port, check.Port)
	switch {
	case !hasPath || check.Kind == desired.CheckNone: // which unchecked tells of
	case check.Kind == desired.CheckHTTP || check.Kind == desired.CheckHTTPS:
		check.Path = path
	case heard:
		d.wrong("annotation %s %q: the check is %s, which asks for no path; set %s to http or https, or remove it",
			HealthCheckPath, path, check.Kind, HealthCheckProtocol)
	}
	return check
}

// checkedPort reads a port of the nodes; 0: the annotation is absent or wrong.
func (d *draft) checkedPort(svc *v1.Service) uint16 {
	text, isSet := svc.Annotations[string(HealthCheckPort)]
	if !isSet {
		return 0
	}
	if number, err := strconv.ParseUint(text, 10, 16); err == nil && number > 0 {
		return uint16(number)
	}
	for _, port := range svc.Spec.Ports {
		if port.Name != "" && port.Name == text && protocolOf(port) == v1.ProtocolTCP && port.NodePort != 0 {
			return uint16(port.NodePort)
		}
	}
	d.wrong("annotation %s %q; allowed is a port of the nodes, 1 to 65535, or the name of one of the Service's TCP ports with "+
		"a nodePort (%s)", HealthCheckPort, text, portNames(svc))
	return 0
}

// firstNodePort is where the nodes serve the Service's first TCP port, in the order of its spec.
func firstNodePort(svc *v1.Service) uint16 {
	for _, port := range svc.Spec.Ports {
		if protocolOf(port) == v1.ProtocolTCP && port.NodePort != 0 {
			return uint16(port.NodePort)
		}
	}
	return 0
}
