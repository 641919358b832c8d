package simulation

// Shrink gives a part of a history that fails like the whole, from which no operation can be left out (Zeller's ddmin, with
// complements alone). fails lets a part happen; tries bounds how often.
func Shrink(h History, fails func(History) bool, tries int) History {
	for size := len(h.Operations) / 2; size >= 1; {
		smaller := false
		for at := 0; at < len(h.Operations) && tries > 0; {
			part := h
			part.Operations = append(append([]Operation{}, h.Operations[:at]...), h.Operations[min(at+size, len(h.Operations)):]...)
			if tries--; fails(part) {
				h, smaller = part, true
				continue
			}
			at += size
		}
		if tries == 0 {
			return h
		}
		if !smaller || size > len(h.Operations) {
			size /= 2
		}
	}
	return h
}
