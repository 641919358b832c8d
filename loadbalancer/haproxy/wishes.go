package haproxy

// UsualAffinity is a time of affinity, in seconds, that every HAProxy of ours has a table for.
const UsualAffinity = usualAffinity

// HasAffinity says whether a worker has the table that clients stick by for these seconds.
func (r *Running) HasAffinity(seconds int) bool {
	return hasPart(r.Generation, "backend-"+affinityOf(seconds).Table())
}
