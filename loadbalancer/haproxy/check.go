package haproxy

import (
	"regexp"
	"strconv"
	"strings"
)

// CheckArgv is the command that checks a configuration file without running it. The maps that the file names must
// exist: HAProxy reads them at start only, so new ones may be in their place before the check, while an old
// configuration runs. It does not see that a port is taken.
func CheckArgv(file string) []string { return []string{"haproxy", "-c", "-f", file} }

// Message is what HAProxy says about one thing in a configuration.
type Message struct {
	Severity string // ALERT, WARNING or NOTICE
	File     string // empty when no line is named
	Line     int    // 0 when no line is named
	Text     string
}

// ParseCheck reads what `haproxy -c` wrote to stderr. Lines that are no message are left out.
func ParseCheck(output []byte) []Message {
	// [ALERT]    (3588) : config : parsing [haproxy.cfg:21] : balance only supports ...
	form := regexp.MustCompile(`^\[(ALERT|WARNING|NOTICE)\]\s+\(\d+\) : (?:config : )?(?:parsing )?(?:\[([^\]]+):(\d+)\] ?:? ?)?(.*)$`)
	var messages []Message
	for line := range strings.Lines(string(output)) {
		match := form.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		if match == nil {
			continue
		}
		m := Message{Severity: match[1], File: match[2], Text: match[4]}
		if match[3] != "" {
			m.Line, _ = strconv.Atoi(match[3]) // digits: the form says so
		}
		messages = append(messages, m)
	}
	return messages
}
