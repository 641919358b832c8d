package keepalived

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseCheckOfTheRealDaemon(t *testing.T) {
	needDaemon(t, "keepalived")
	good, err := Render(state(2, "10.0.0.0", vipOn("192.0.2.10", "", 1)), DebianLocal("a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, old, new string
		located        []string // complaints about the first line of new that differs from old
		general        []string // complaints that name no line
	}{
		{"unknown keyword", "priority 100", "bogus 3", []string{"Unknown keyword 'bogus'"}, nil},
		{"priority", "priority 100", "priority 300", []string{
			"number '300' outside range [1, 255]",
			"(instance_1) Priority not valid! must be between 1 & 255. Using default 100"}, nil},
		{"brace", "global_defs {", "global_defs {{", []string{"Unexpected '{' - ignoring"},
			[]string{"There are 1 missing '}'s or extra '{'s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "keepalived.conf")
			bad := strings.Replace(string(good), c.old, c.new, 1)
			if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			argv := CheckArgv(file)
			out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
			if err == nil {
				t.Errorf("keepalived took it")
			}
			before, _, _ := strings.Cut(bad, c.new)
			var want []Message
			for _, text := range c.located {
				want = append(want, Message{Line: 1 + strings.Count(before, "\n"), Text: text})
			}
			for _, text := range c.general {
				want = append(want, Message{Text: text})
			}
			if d := cmp.Diff(want, ParseCheck(out)); d != "" {
				t.Errorf("%s\nkeepalived said:\n%s", d, out)
			}
		})
	}
}

// keepalived 2.2.7 says that the file is missing, and exits with 0: a Message is a fault whatever the exit code.
func TestParseCheckOfNoFile(t *testing.T) {
	needDaemon(t, "keepalived")
	argv := CheckArgv(filepath.Join(t.TempDir(), "absent.conf"))
	out, _ := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if messages := ParseCheck(out); len(messages) != 1 || !strings.Contains(messages[0].Text, "missing") {
		t.Errorf("got %v from:\n%s", messages, out)
	}
}

func TestParseCheckOfNothing(t *testing.T) {
	if messages := ParseCheck([]byte("\n \n")); messages != nil {
		t.Errorf("got %v", messages)
	}
}

// What keepalived says about a VIP's line is about that VIP; other lines are about nobody's.
func TestBehind(t *testing.T) {
	needDaemon(t, "keepalived")
	vips := []string{"192.0.2.10", "2001:db8::10", "192.0.2.11"}
	good, err := Render(state(2, "10.0.0.0", vipOn(vips[0], "", 1), vipOn(vips[1], "", 1), vipOn(vips[2], "", 2)), DebianLocal("a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, vip := range vips {
		bad := regexp.MustCompile(regexp.QuoteMeta(vip)+`/\d+ dev eth0`).ReplaceAll(good, []byte("$0 bogus"))
		file := filepath.Join(t.TempDir(), "keepalived.conf")
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		argv := CheckArgv(file)
		out, _ := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
		messages := ParseCheck(out)
		if len(messages) == 0 {
			t.Fatalf("keepalived took a bad line of %s", vip)
		}
		if got, ok := Behind(good, messages[0].Line); !ok || got.String() != vip {
			t.Errorf("behind %+v is %s, want %s", messages[0], got, vip)
		}
	}
	found := 0
	for line := range 1 + strings.Count(string(good), "\n") {
		if _, ok := Behind(good, line); ok {
			found++
		}
	}
	if found != len(vips) {
		t.Errorf("%d lines have a VIP behind them, want %d: anchors and peers are nobody's", found, len(vips))
	}
}
