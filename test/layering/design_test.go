package layering

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// How code cites the design. A bare "section 9.3" is a manual's or an RFC's.
var (
	numbers     = regexp.MustCompile(`\d+`)
	inSection   = regexp.MustCompile(`DESIGN(?:\.md)? sections? \d+(?:(?:,| and) \d+)*`)
	inInvariant = regexp.MustCompile(`\binvariants? \d+(?:(?:,| and) \d+)*`)
)

// TestDesignHasWhatCodeCites: each section and invariant that a comment names stands in loadbalancer/DESIGN.md.
func TestDesignHasWhatCodeCites(t *testing.T) {
	design, err := os.ReadFile(filepath.Join(root, "loadbalancer", "DESIGN.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		source, err := os.ReadFile(path)
		for begins, citation := range map[string]*regexp.Regexp{"\n## ": inSection, "\n": inInvariant} {
			for _, words := range citation.FindAllString(string(source), -1) {
				for _, number := range numbers.FindAllString(words, -1) {
					found[begins]++
					if !strings.Contains(string(design), begins+number+". ") {
						t.Errorf("%s cites %s, and there is no %s in loadbalancer/DESIGN.md", path, words, number)
					}
				}
			}
		}
		return err
	})
	if err != nil || len(found) != 2 {
		t.Errorf("citations were found: %v, %v", found, err)
	}
}
