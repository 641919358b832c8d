package provider

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"cloud-provider-haproxy/test/manual"
)

var update = flag.Bool("update", false, "write the generated reference into README.md")

// TestReference holds README.md to the doc comments of the annotations.
func TestReference(t *testing.T) {
	manual.Hold(t, "annotation reference", generate(t), "go test ./provider -run TestReference", *update)
}

// generate renders one table row for each constant of type Annotation; all that are read must be among them.
func generate(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "annotations.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString("| Annotation | Meaning | Lab test |\n|---|---|---|\n")
	inLab := labTests(t)
	documented := 0
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || fmt.Sprint(spec.Type) != "Annotation" {
			return true
		}
		suffix, err := strconv.Unquote(spec.Values[0].(*ast.BinaryExpr).Y.(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		_, meaning, _ := strings.Cut(strings.Join(strings.Fields(spec.Doc.Text()), " "), " ")
		if meaning == "" {
			t.Errorf("%s has no doc comment", spec.Names[0])
			return true
		}
		fmt.Fprintf(&out, "| `%s%s` | %s%s | %s |\n", Prefix, suffix, strings.ToUpper(meaning[:1]), meaning[1:],
			shown(t, Prefix+suffix, shownBy()[Annotation(Prefix+suffix)], inLab))
		documented++
		return true
	})
	if documented != len(annotations()) {
		t.Errorf("%d annotations are documented and %d are read", documented, len(annotations()))
	}
	return out.String()
}
