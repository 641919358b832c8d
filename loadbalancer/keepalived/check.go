package keepalived

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Message is one complaint of keepalived. Line is 0 when it names none.
type Message struct {
	Line int
	Text string
}

// CheckArgv checks a file and touches nothing that runs. A good file gives exit code 0 and not a word: 2.2.7 also exits
// with 0 when the file does not exist, so a Message is a fault whatever the exit code.
func CheckArgv(file string) []string {
	return []string{"keepalived", "--config-test", "--use-file", file}
}

// ParseCheck reads what the command of CheckArgv wrote, stdout and stderr together. What keepalived says several times
// is told once.
func ParseCheck(output []byte) []Message {
	// (/etc/keepalived/keepalived.conf: Line 22) Unknown keyword 'bogus'
	// (Line 4) Unexpected '{' - ignoring
	located := regexp.MustCompile(`^\((?:.+: )?Line (\d+)\) (.*)$`)
	var messages []Message
	for text := range strings.Lines(string(output)) {
		m := Message{Text: strings.TrimSpace(text)}
		if found := located.FindStringSubmatch(m.Text); found != nil {
			m.Line, _ = strconv.Atoi(found[1]) // digits; out of range gives a line that no file has
			m.Text = found[2]
		}
		if m.Text != "" && !slices.Contains(messages, m) {
			messages = append(messages, m)
		}
	}
	return messages
}

// Behind gives the VIP that alone is behind a line of a rendered configuration, the first being 1.
func Behind(config []byte, line int) (vip netip.Addr, ok bool) {
	number, instance := 0, false
	for text := range strings.Lines(string(config)) {
		if number++; number > line {
			break
		}
		words := strings.Fields(text)
		if len(words) > 1 {
			instance = words[0] == "virtual_ipaddress_excluded" || instance && words[1] == "dev"
		}
		if number != line || !instance || len(words) == 0 {
			continue
		}
		if prefix, err := netip.ParsePrefix(words[0]); err == nil {
			return prefix.Addr(), true
		}
	}
	return netip.Addr{}, false
}
