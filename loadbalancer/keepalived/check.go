package keepalived

import (
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
