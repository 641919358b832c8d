package provider

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// labTest is a test of the lab as its source shows it.
type labTest struct {
	// runs says that `go test` begins it, or that one that runs names it.
	runs bool
	// words are the texts in it and in what it names: functions, methods, constants of its package. names are all names there.
	words, names map[string]bool
}

// has says whether an annotation is set in the test. Where the lab's workers must be routed like a site's, a State is pushed that has
// what the annotation means.
func (l *labTest) has(annotation string) bool {
	inState := map[string]string{"cloud-provider-haproxy/source-address": "ClientSource"}
	return l.words[annotation] || l.words[strings.TrimPrefix(annotation, Prefix)] || l.names[inState[annotation]]
}

// labPackage is the source of one package of tests, by what its declarations are called. A method is called by its name alone,
// whatever it is of: what is reached that way is too much rather than too little.
type labPackage map[string][]ast.Node

// labTests are the functions of test/e2e and test/integration that are tests, as "e2e/testX".
func labTests(t *testing.T) map[string]*labTest {
	t.Helper()
	all := map[string]*labTest{}
	for _, directory := range []string{"e2e", "integration"} {
		for name, test := range readLab(t, directory).tests() {
			all[directory+"/"+name] = test
		}
	}
	return all
}

// tests are those of the package.
func (p labPackage) tests() map[string]*labTest {
	all, running := map[string]*labTest{}, map[string]bool{}
	for name := range p {
		if strings.HasPrefix(name, "Test") {
			p.reach(name, running)
		}
	}
	for name := range p {
		if strings.HasPrefix(strings.ToLower(name), "test") {
			reached := map[string]bool{}
			p.reach(name, reached)
			test := &labTest{runs: running[name]}
			test.words, test.names = p.read(reached)
			all[name] = test
		}
	}
	return all
}

func readLab(t *testing.T, directory string) labPackage {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "test", directory, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in test/%s: %v", directory, err)
	}
	source := labPackage{}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		source.add(parsed)
	}
	return source
}

func (p labPackage) add(file *ast.File) {
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			p[d.Name.Name] = append(p[d.Name.Name], d)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if values, ok := spec.(*ast.ValueSpec); ok {
					for _, name := range values.Names {
						p[name.Name] = append(p[name.Name], values)
					}
				}
			}
		}
	}
}

// reach adds a declaration and all that it names to those that were reached.
func (p labPackage) reach(name string, reached map[string]bool) {
	if len(p[name]) == 0 || reached[name] {
		return
	}
	reached[name] = true
	for _, declaration := range p[name] {
		ast.Inspect(declaration, func(n ast.Node) bool {
			if identifier, ok := n.(*ast.Ident); ok {
				p.reach(identifier.Name, reached)
			}
			return true
		})
	}
}

// read gives the texts and the names in these declarations.
func (p labPackage) read(reached map[string]bool) (words, names map[string]bool) {
	words, names = map[string]bool{}, map[string]bool{}
	for name := range reached {
		for _, declaration := range p[name] {
			ast.Inspect(declaration, func(n ast.Node) bool {
				switch part := n.(type) {
				case *ast.Ident:
					names[part.Name] = true
				case *ast.BasicLit:
					if text, err := strconv.Unquote(part.Value); err == nil && part.Kind == token.STRING {
						words[text] = true
					}
				}
				return true
			})
		}
	}
	return words, names
}

// The search finds what a test names, and nothing in one that names something else; it tells who is run.
func TestLabTestsAreJudged(t *testing.T) {
	const text = `package p
const prefix = "cloud-provider-haproxy/"
const key = prefix + "algorithm"
func TestAll(t *testing.T) { for _, f := range table { f(t) } }
var table = []func(*testing.T){testByConstant, testByMethod}
func testByConstant(t *testing.T) { set(key) }
func testByMethod(t *testing.T) { s.turns() }
func (s *site) turns() { set("cloud-provider-haproxy/log") }
func testForgotten(t *testing.T) { set(key) }
func set(string) {}
`
	parsed, err := parser.ParseFile(token.NewFileSet(), "p_test.go", text, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	source := labPackage{}
	source.add(parsed)
	all := source.tests()
	for _, test := range []struct {
		name                  string
		runs, algorithm, logs bool
	}{{"testByConstant", true, true, false}, {"testByMethod", true, false, true}, {"testForgotten", false, true, false}, {"TestAll", true, true, true}} {
		got := all[test.name]
		if got == nil || got.runs != test.runs || got.words["algorithm"] != test.algorithm || got.words[Prefix+"log"] != test.logs {
			t.Errorf("%s is judged as %+v", test.name, got)
		}
	}
}
