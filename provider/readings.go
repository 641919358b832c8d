package provider

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// limits are the least and the greatest duration that an annotation may have, and what it must be a multiple of.
type limits struct {
	low, high, step time.Duration
	// because says why they are narrower than others; it may be empty.
	because string
}

func (l limits) admit(d time.Duration) bool { return d >= l.low && d <= l.high && d%l.step == 0 }

// String says what is allowed, with examples of it.
func (l limits) String() string {
	var examples []string
	for _, d := range []time.Duration{500 * time.Millisecond, 30 * time.Second, 90 * time.Minute} {
		if l.admit(d) {
			examples = append(examples, brief(d))
		}
	}
	whole := map[time.Duration]string{time.Millisecond: "milliseconds", time.Second: "seconds"}[l.step]
	return fmt.Sprintf("a duration of %s to %s%s in whole %s, as in %s", brief(l.low), brief(l.high), l.because, whole,
		strings.Join(examples, ", "))
}

// duration reads Go's form of a duration; 0: the annotation is absent or wrong.
func (d *draft) duration(svc *v1.Service, key Annotation, within limits) time.Duration {
	text, isSet := svc.Annotations[string(key)]
	if !isSet {
		return 0
	}
	value, err := time.ParseDuration(text)
	if err == nil && within.admit(value) {
		return value
	}
	d.wrong("annotation %s %q; allowed is %v", key, text, within)
	return 0
}

// brief is Go's form of a duration without units that are nought.
func brief(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// number reads a whole number in decimal; 0: the annotation is absent or wrong. low is above 0.
func (d *draft) number(svc *v1.Service, key Annotation, low, high int) int {
	text, isSet := svc.Annotations[string(key)]
	if !isSet {
		return 0
	}
	value, err := strconv.Atoi(text)
	if err != nil || value < low || value > high || strconv.Itoa(value) != text {
		d.wrong("annotation %s %q; allowed is a whole number, %d to %d", key, text, low, high)
		return 0
	}
	return value
}

// truth reads true or false, for which absent stands too.
func (d *draft) truth(svc *v1.Service, key Annotation) bool {
	return d.word(svc, key, "true", "false") == "true"
}

// word reads one of some words; "": the annotation is absent or wrong.
func (d *draft) word(svc *v1.Service, key Annotation, allowed ...string) string {
	text, isSet := svc.Annotations[string(key)]
	if isSet && !slices.Contains(allowed, text) {
		last := len(allowed) - 1
		d.wrong("annotation %s %q; allowed is %s or %s", key, text, strings.Join(allowed[:last], ", "), allowed[last])
		return ""
	}
	return text
}

// set leaves of these annotations those that the Service has.
func set(svc *v1.Service, keys ...Annotation) []Annotation {
	return slices.DeleteFunc(slices.Clone(keys), func(key Annotation) bool {
		_, isSet := svc.Annotations[string(key)]
		return !isSet
	})
}

// listed gives annotations in a sentence: "annotation a", "annotations a and b".
func listed(keys []Annotation) string {
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = string(key)
	}
	if len(names) == 1 {
		return "annotation " + names[0]
	}
	return fmt.Sprintf("annotations %s and %s", strings.Join(names[:len(names)-1], ", "), names[len(names)-1])
}
