package nftables

import (
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/desired"
)

// CheckArgv reads a script on stdin and checks it without loading it.
func CheckArgv() []string { return []string{"nft", "--check", "--file", "-"} }

// Message is one complaint of nft.
type Message struct {
	Line int
	Text string
}

// ParseCheck reads what the commands of CheckArgv and LoadArgv write to stderr. Lines that show the script are left out.
func ParseCheck(output []byte) []Message {
	// /dev/stdin:7:4-37: Error: Could not process rule: File exists
	located := regexp.MustCompile(`^\S+?:(\d+):\d+-\d+: Error: (.*)$`)
	var messages []Message
	for text := range strings.Lines(string(output)) {
		if found := located.FindStringSubmatch(strings.TrimRight(text, "\n")); found != nil {
			line, _ := strconv.Atoi(found[1]) // digits; out of range gives 0, which is no line
			messages = append(messages, Message{Line: line, Text: found[2]})
		}
	}
	return messages
}

// Behind gives the address whose element stands in a line of a rendered script, the first being 1, and the protocol and port
// when these are a door's: of an answer it has a server's. The zero Addr: no single element is behind the line.
func Behind(script []byte, line int) (vip netip.Addr, port desired.Port) {
	number, answers := 0, false
	for text := range strings.Lines(string(script)) {
		if kind, name, _ := strings.Cut(strings.TrimSpace(text), " "); kind == "set" || kind == "map" {
			answers = isAnswers(name)
		}
		if number++; number < line {
			continue
		}
		key, _, _ := strings.Cut(strings.TrimSuffix(strings.TrimSpace(text), ","), " : ") // of a map: 192.0.2.10 . udp . 53 : 30053
		words := strings.Split(key, " . ")
		vip, err := netip.ParseAddr(words[0])
		if err != nil {
			break
		}
		if len(words) > 2 && !answers {
			number, _ := strconv.ParseUint(words[2], 10, 16)
			port = desired.Port{Protocol: desired.Protocol(strings.ToUpper(words[1])), Port: uint16(number)}
		}
		return vip, port
	}
	return netip.Addr{}, desired.Port{}
}
