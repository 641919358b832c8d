package desired

import "fmt"

// check notes the faults of a check that belongs to the whole State.
func (v *validation) check(field string, c Check) {
	for _, fault := range c.faults() {
		v.add(field+"."+fault.Field, fault.Problem)
	}
}

// faults judges a check; the fields are relative to it. What is set is judged with CheckNone too: a renderer may show it.
func (c Check) faults() []Fault {
	var faults []Fault
	add := func(field, problem string) { faults = append(faults, Fault{Field: field, Problem: problem}) }
	set := c.Kind != CheckNone
	inside := func(field string, value, low, high int) {
		if (set || value != 0) && (value < low || value > high) {
			add(field, fmt.Sprintf("is %d; allowed are %d to %d", value, low, high))
		}
	}
	web := false
	switch c.Kind {
	case CheckNone, CheckTCP, CheckTLS:
	case CheckHTTP, CheckHTTPS:
		web = true
	default:
		add("kind", fmt.Sprintf("is %q; allowed are none, tcp, tls, http and https", c.Kind))
	}
	if set && c.Port == 0 {
		add("port", "is 0; allowed are 1 to 65535")
	}
	if web || c.Path != "" {
		if problem := PathProblem(c.Path); problem != "" {
			add("path", problem)
		}
	}
	inside("intervalMillis", c.IntervalMillis, 100, 3_600_000)
	if c.DownIntervalMillis != 0 {
		inside("downIntervalMillis", c.DownIntervalMillis, 100, 3_600_000)
	}
	inside("rise", c.Rise, 1, 100)
	inside("fall", c.Fall, 1, 100)
	return faults
}
