package main

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/loadbalancer/wire"
)

// newTable makes a table that looks like kubectl's, without a frame. Scripts take -o json.
func newTable(columns ...any) table.Writer {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatUpper
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	t.AppendHeader(columns)
	return t
}

// fence shows epoch and sequence as 3/17.
func fence(f desired.Fence) string {
	if f == (desired.Fence{}) {
		return "-"
	}
	return fmt.Sprintf("%d/%d", f.Epoch, f.Sequence)
}

// moment shows a time of the gateway's clock, in UTC so that two gateways compare; never for the zero time.
func moment(t time.Time, never string) string {
	if t.IsZero() {
		return never
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// counts shows a map as its sum and, a line each, its parts in the order of their keys.
func counts[K cmp.Ordered](m map[K]uint64) string {
	var sum uint64
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		sum += m[key]
		parts = append(parts, fmt.Sprintf("%v: %d", key, m[key]))
	}
	return strings.Join(append([]string{fmt.Sprint(sum)}, parts...), "\n")
}

// addresses shows how many there are, and the first few or all.
func addresses(list []netip.Addr, most int) string {
	lines := []string{fmt.Sprint(len(list))}
	for i, address := range list {
		if i == most {
			lines = append(lines, fmt.Sprintf("and %d more", len(list)-most))
			break
		}
		lines = append(lines, address.String())
	}
	return strings.Join(lines, "\n")
}

// notes are lines below a table, each beginning with its gateway.
type notes []string

func (n *notes) add(gateway, format string, args ...any) {
	*n = append(*n, gateway+": "+printable(fmt.Sprintf(format, args...)))
}

// printable takes out what would move the operator's terminal: the text may come from a gateway.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}

func (n *notes) warnings(gateway string, warnings []wire.Warning) {
	for _, w := range warnings {
		n.add(gateway, "warning %s: %s", w.Reason, w.Message)
	}
}

// under gives a table's text with the notes below it.
func (n notes) under(t table.Writer) string {
	text := t.Render() + "\n"
	if len(n) > 0 {
		text += "\n" + strings.Join(n, "\n") + "\n"
	}
	return text
}
