package config

import (
	"encoding"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
	"testing"

	"cloud-provider-haproxy/provider/config/strict"
	"cloud-provider-haproxy/test/manual"
)

var update = flag.Bool("update", false, "write the generated reference into README.md")

// TestReference holds README.md to the doc comments of Config's fields.
func TestReference(t *testing.T) {
	manual.Hold(t, "configuration reference", generate(t), "go test ./provider/config -run TestReference", *update)
}

// generate renders one table row for each field, in the order of the types.
func generate(t *testing.T) string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	docs := map[string]string{} // "Gateway.Name" -> doc comment
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if structure, ok := spec.Type.(*ast.StructType); ok {
			for _, field := range structure.Fields.List {
				docs[spec.Name.Name+"."+field.Names[0].Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
			}
		}
		return false
	})
	var out strings.Builder
	out.WriteString("| Field | Meaning |\n|---|---|\n")
	rows(t, &out, docs, reflect.TypeFor[Config](), "")
	return out.String()
}

func rows(t *testing.T, out *strings.Builder, docs map[string]string, structure reflect.Type, path string) {
	for i := range structure.NumField() {
		field := structure.Field(i)
		doc := docs[structure.Name()+"."+field.Name]
		if doc == "" {
			t.Errorf("%s.%s has no doc comment", structure.Name(), field.Name)
		}
		key := strict.Field(path, field.Tag.Get("yaml"))
		fmt.Fprintf(out, "| `%s` | %s |\n", key, strings.ReplaceAll(meaning(doc), "|", `\|`))
		inner := field.Type
		for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Pointer {
			if inner.Kind() == reflect.Slice {
				key += "[]"
			}
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && inner.PkgPath() == structure.PkgPath() && !reflect.PointerTo(inner).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			rows(t, out, docs, inner, key)
		}
	}
}

// meaning is a doc comment without its subject, which the table's first column gives: "User is the login name" becomes
// "The login name".
func meaning(doc string) string {
	_, text, _ := strings.Cut(doc, " ")
	for _, verb := range []string{"is ", "are "} {
		if rest, found := strings.CutPrefix(text, verb); found {
			text = rest
			break
		}
	}
	if text == "" {
		return doc
	}
	return strings.ToUpper(text[:1]) + text[1:]
}
