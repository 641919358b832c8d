package haproxy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// slotPrefix begins the name of every slot and of no other backend.
const slotPrefix = "slot-"

// maxSlots bounds the search for a free slot of one kind.
const maxSlots = 9999

// slotKind is what a backend cannot change while it runs: how it checks, how it balances and how long it waits.
type slotKind struct {
	check     desired.CheckKind // CheckHTTP or CheckTCP
	algorithm desired.Algorithm
	// client is the family of the clients whose addresses it connects from.
	client clientFamily
	// timeouts that are not 0 make slots of a kind of their own, which only a reload can.
	timeouts desired.Timeouts
}

// slotKinds are all kinds that are prepared, in the order of the file.
func slotKinds(clients ...clientFamily) []slotKind {
	var kinds []slotKind
	for _, client := range append([]clientFamily{noClients}, clients...) {
		kinds = append(kinds, kindsOf(client)...)
	}
	return kinds
}

func kindsOf(client clientFamily) []slotKind {
	var kinds []slotKind
	for _, algorithm := range []desired.Algorithm{desired.RoundRobin, desired.LeastConn, desired.Source, desired.Random} {
		for _, check := range []desired.CheckKind{desired.CheckHTTP, desired.CheckTCP} {
			kinds = append(kinds, slotKind{check: check, algorithm: algorithm, client: client})
		}
	}
	return kinds
}

// kindOf gives the kind that a pool needs. Whether a server is checked at all, and over TLS or not, is the server's own,
// so that none needs no kind beside tcp, and https none beside http.
func kindOf(p *desired.Pool, timeouts *desired.Timeouts) (slotKind, error) {
	kind := slotKind{algorithm: p.Algorithm}
	switch p.Check.Kind {
	case desired.CheckHTTP, desired.CheckHTTPS:
		kind.check = desired.CheckHTTP
	case desired.CheckTCP, desired.CheckTLS, desired.CheckNone:
		kind.check = desired.CheckTCP
	default:
		return kind, fmt.Errorf("pool with check %q: there are no slots of that kind; none, tcp, tls, http and https have some", p.Check.Kind)
	}
	if !slices.Contains(slotKinds(), kind) {
		return kind, fmt.Errorf("pool with algorithm %q: there are no slots of that kind; %s, %s, %s and %s have some", p.Algorithm,
			desired.RoundRobin, desired.LeastConn, desired.Source, desired.Random)
	}
	if timeouts != nil {
		kind.timeouts = *timeouts
	}
	return kind, nil
}

// reloads says whether slots of the kind are made one by one, each by a reload.
func (k slotKind) reloads() bool { return k.timeouts != desired.Timeouts{} }

func (k slotKind) String() string {
	name := string(k.check) + "-" + string(k.algorithm)
	if k.client != noClients {
		name += "-" + clientWord + strconv.Itoa(int(k.client))
	}
	for _, t := range k.times() {
		name += "-" + t.word + t.value()
	}
	return name
}

// slot is the name of the n-th slot of a kind, counted from 1.
func (k slotKind) slot(n int) string { return slotPrefix + k.String() + "-" + strconv.Itoa(n) }

// number is the slot's number, 0 when it is none of this kind.
func (k slotKind) number(slot string) int {
	digits, ok := strings.CutPrefix(slot, slotPrefix+k.String()+"-")
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 1 || k.slot(n) != slot {
		return 0
	}
	return n
}

// parseSlot is the reverse of slotKind.slot; 0 when it was not made by it.
func parseSlot(slot string) (slotKind, int) {
	rest, ok := strings.CutPrefix(slot, slotPrefix)
	words := strings.Split(rest, "-")
	if !ok || len(words) < 3 {
		return slotKind{}, 0
	}
	kind := slotKind{check: desired.CheckKind(words[0]), algorithm: desired.Algorithm(words[1])}
	last := len(words) - 1
	for _, word := range words[2:last] {
		if family, ok := strings.CutPrefix(word, clientWord); ok {
			number, _ := strconv.Atoi(family)
			kind.client = clientFamily(number)
		}
		for _, t := range kind.allTimes() {
			if amount, ok := strings.CutPrefix(word, t.word); ok {
				*t.amount, _ = strconv.Atoi(strings.TrimSuffix(amount, t.unit)) // what this is not the name of is found below
			}
		}
	}
	n, err := strconv.Atoi(words[last])
	if err != nil || n < 1 || kind.slot(n) != slot {
		return slotKind{}, 0
	}
	return kind, n
}

// slotTime is one timeout of a kind.
type slotTime struct {
	word, keyword string // in a slot's name and in haproxy.cfg
	amount        *int
	unit          string
}

func (t slotTime) value() string { return strconv.Itoa(*t.amount) + t.unit }

func (k *slotKind) allTimes() []slotTime {
	return []slotTime{
		{"connect", "timeout connect", &k.timeouts.ConnectMillis, "ms"},
		// In both directions: it takes the place of the frontend's timeout client and of timeout server.
		{"idle", "timeout tunnel", &k.timeouts.IdleSeconds, "s"},
		{"check", "timeout check", &k.timeouts.CheckMillis, "ms"},
	}
}

// times are those that a kind has of its own.
func (k slotKind) times() []slotTime {
	return slices.DeleteFunc(k.allTimes(), func(t slotTime) bool { return *t.amount == 0 })
}

// timeoutLines are the lines that make a backend one of this kind, which its name tells as well.
func (k slotKind) timeoutLines() []string {
	var lines []string
	for _, t := range k.times() {
		lines = append(lines, t.keyword+" "+t.value())
	}
	return lines
}

// balance are the lines that choose a server.
func (k slotKind) balance() []string {
	switch k.algorithm {
	case desired.Source:
		// Without a function `consistent` is sdbm with avalanche, so that neighbours go to different servers.
		return []string{"balance source", "hash-type consistent"}
	case desired.Random:
		return []string{"balance random(2)"}
	}
	return []string{"balance " + string(k.algorithm)}
}

// block is how many slots of the kind are made at a time. Most load balancers with a Pool have no algorithm of their own, and few
// keep their clients' addresses.
func (k slotKind) block(l Local) int {
	if k.algorithm == desired.RoundRobin && k.client == noClients {
		return l.SlotsPerKind
	}
	return max(1, l.SlotsPerKind/5)
}

// names are the slots of the kind that the file holds: whole blocks, of which a fifth is spare, so that the reload that
// makes more comes before the last one is taken. Fewer needed slots give fewer in the file, and Compare does not mind that
// more of them run. Of a kind that reloads, those alone that are taken.
func (slots Slots) names(k slotKind, l Local) []string {
	highest := 0
	var taken []string
	for _, slot := range slots {
		if n := k.number(slot); n > 0 {
			highest, taken = max(highest, n), append(taken, slot)
		}
	}
	if k.reloads() {
		slices.SortFunc(taken, func(a, b string) int { return cmp.Compare(k.number(a), k.number(b)) })
		return slices.Compact(taken)
	}
	block := k.block(l)
	blocks := max(1, (highest+block/5+block-1)/block)
	names := make([]string, blocks*block)
	for i := range names {
		names[i] = k.slot(i + 1)
	}
	return names
}

// kinds are the prepared ones, then those of their own that are taken, sorted by name.
func (slots Slots) kinds(l Local) []slotKind {
	var own []slotKind
	for _, slot := range slots {
		if kind, n := parseSlot(slot); n > 0 && kind.reloads() && !slices.Contains(own, kind) {
			own = append(own, kind)
		}
	}
	slices.SortFunc(own, func(a, b slotKind) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Concat(slotKinds(l.clientFamilies()...), own)
}
