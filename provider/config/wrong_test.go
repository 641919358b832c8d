package config

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const wrongFile = "testdata/wrong.txt"

// TestWrongConfigurations holds all that is told of wrong files to a golden file, which -update writes anew: a configuration,
// a line of dashes, its faults, an empty line. A configuration that begins with ! stands for itself, others follow a head
// without faults.
func TestWrongConfigurations(t *testing.T) {
	head, _, _ := strings.Cut(base, "pools:\n")
	b, err := os.ReadFile(wrongFile)
	if err != nil {
		t.Fatal(err)
	}
	var written strings.Builder
	for _, entry := range strings.SplitAfter(string(b), "\n\n") {
		if entry == "" {
			continue // behind the last one
		}
		configuration, golden, _ := strings.Cut(entry, "-----\n")
		text, alone := strings.CutPrefix(configuration, "!")
		if !alone {
			text = head + text
		}
		_, err := Decode([]byte(text))
		got := told(t, err)
		faults := strings.Join(append(got, ""), "\n") + "\n"
		written.WriteString(configuration + "-----\n" + faults)
		if diff := cmp.Diff(strings.Split(golden, "\n"), strings.Split(faults, "\n")); diff != "" && !*update {
			t.Errorf("%s(-want +got):\n%s", configuration, diff)
		}
	}
	if *update {
		if err := os.WriteFile(wrongFile, []byte(written.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
