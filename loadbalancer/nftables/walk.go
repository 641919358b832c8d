package nftables

import (
	"encoding/json"
	"strings"
)

// verdict is what becomes of a packet.
type verdict int

const (
	continues verdict = iota // next rule
	returns                  // next rule of the chain that jumped here; a base chain: its policy
	passes
	drops
)

// walk follows a packet that meets no condition through a base chain, and notes what rules with a condition accept on its way.
type walk struct {
	chains        map[chainKey]*foreignChain
	seen          map[chainKey]bool
	clients, vrrp bool
	// flows is for forward chains: what was DNATed passes.
	flows bool
	// top is true at the first rule of the base chain.
	top bool
}

func (w *walk) through(key chainKey) verdict {
	c := w.chains[key]
	if c == nil || w.seen[key] {
		return continues
	}
	w.seen[key] = true
	for i, rule := range c.rules {
		w.top = i == 0 && c.Hook != ""
		v := w.rule(key, rule)
		if v == returns {
			break
		}
		if v != continues {
			return v
		}
	}
	switch {
	case c.Hook == "":
		return continues
	case c.Policy == "drop":
		return drops
	}
	return passes
}

// rule gives the verdict of one rule: continues when it has a condition. The chain that such a rule jumps to is looked
// through all the same, because a site may well have put our accepts there.
func (w *walk) rule(key chainKey, rule []statement) verdict {
	var conditions []statement
	v := continues
	for _, s := range rule {
		switch {
		case s.has("accept"):
			w.note(conditions)
			v = passes
		case s.has("drop"), s.has("reject"), s.xt("target", "REJECT"), s.xt("target", "DROP"):
			v = drops
		case s.has("return"):
			v = returns
		case s.has("jump"):
			v = w.through(chainKey{key.family, key.table, s.target("jump")})
		case s.has("goto"):
			if v = w.through(chainKey{key.family, key.table, s.target("goto")}); v == continues {
				v = returns
			}
		case !s.has("counter") && !s.has("log") && !s.xt("match", "comment"):
			conditions = append(conditions, s)
		}
	}
	if len(conditions) > 0 {
		return continues
	}
	return v
}

// note remembers what a rule accepts. VRRP may be limited, to the peers for instance; clients may not, they come from anywhere.
func (w *walk) note(conditions []statement) {
	for _, s := range conditions {
		w.vrrp = w.vrrp || s.matchesVRRP()
		w.clients = w.clients || s.matchesTransparent() && len(conditions) == 1
		// Of iptables' conntrack nft does not tell which state is meant. Ours is put at the top, and others' are seldom there.
		w.flows = w.flows || len(conditions) == 1 && (s.matchesDNAT() || w.top && s.xt("match", "conntrack"))
	}
}

// statement is one statement of a rule: libnftables-json(5), STATEMENTS.
type statement map[string]json.RawMessage

func (s statement) has(kind string) bool {
	_, ok := s[kind]
	return ok
}

// target is where a jump or goto leads. A form that is not understood leads nowhere.
func (s statement) target(kind string) string {
	var t struct {
		Target string `json:"target"`
	}
	if err := json.Unmarshal(s[kind], &t); err != nil {
		return ""
	}
	return t.Target
}

// xt says whether this is an extension of iptables, of which nft tells no more than the name.
func (s statement) xt(kind, name string) bool {
	var x struct {
		Type string `json:"type"`
		Name string `json:"name"`
	}
	return s.has("xt") && json.Unmarshal(s["xt"], &x) == nil && x.Type == kind && x.Name == name
}

type match struct {
	Op    string          `json:"op"`
	Left  json.RawMessage `json:"left"`
	Right json.RawMessage `json:"right"`
}

func (s statement) match() (match, bool) {
	var m match
	ok := s.has("match") && json.Unmarshal(s["match"], &m) == nil && (m.Op == "==" || m.Op == "in")
	return m, ok
}

func (s statement) matchesTransparent() bool {
	m, ok := s.match()
	return s.xt("match", "socket") ||
		ok && strings.Contains(string(m.Left), `"transparent"`) && string(m.Right) == "1"
}

func (s statement) matchesDNAT() bool {
	m, ok := s.match()
	return ok && strings.Contains(string(m.Left), `"status"`) && string(m.Right) == `"dnat"`
}

func (s statement) matchesVRRP() bool {
	m, ok := s.match()
	if !ok || !strings.Contains(string(m.Left), `"l4proto"`) && !strings.Contains(string(m.Left), `"protocol"`) {
		return false
	}
	right := string(m.Right)
	return right == "112" || strings.Contains(right, `"vrrp"`)
}
