package provider

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestManualOfEvents holds README.md's "Events" to the reasons in the code: those of our own Events, and those of gateways' warnings,
// which become Events. A reason is one word that begins like a sentence, and hardly any other text is.
func TestManualOfEvents(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## Events\n")
	section, _, _ = strings.Cut(section, "\n## ")
	told := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^(?:\\| |On a Node: )`.*").FindAllString(section, -1) {
		first, _, _ := strings.Cut(strings.TrimPrefix(row, "| "), " |")
		for _, reason := range regexp.MustCompile("`([A-Z][A-Za-z0-9]+)`").FindAllStringSubmatch(first, -1) {
			told[reason[1]] = true
		}
	}
	reasons := map[string]bool{noNodeOf(v1.IPv4Protocol): true, noNodeOf(v1.IPv6Protocol): true,
		"SyncLoadBalancerFailed": true, "UnAvailableLoadBalancer": true} // the last two: controllers/service of k8s.io/cloud-provider
	for _, directory := range []string{".", "../loadbalancer", "../loadbalancer/agent"} {
		for _, word := range words(t, directory) {
			reasons[word] = true
		}
	}
	for reason := range reasons {
		if !told[reason] {
			t.Errorf("README.md's section Events lacks %s", reason)
		}
	}
	for reason := range told {
		if !reasons[reason] {
			t.Errorf("README.md's section Events has %s, which nobody says", reason)
		}
	}
}

// words are the texts of a package's source that look like a reason.
func words(t *testing.T, directory string) (found []string) {
	t.Helper()
	looksLikeOne := regexp.MustCompile(`^[A-Z]+[a-z]+[A-Za-z0-9]*$`)
	others := []string{"ConfigMap", "IPv4", "IPv6", "No", "Node"} // kinds, families, and the parts of noNodeOf
	files, err := filepath.Glob(filepath.Join(directory, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			if word, err := strconv.Unquote(literal.Value); err == nil && looksLikeOne.MatchString(word) && !slices.Contains(others, word) {
				found = append(found, word)
			}
			return true
		})
	}
	return found
}
