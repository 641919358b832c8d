package layering

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var root = filepath.Join("..", "..")

// goList runs go list at the module's root.
func goList(t *testing.T, arguments ...string) string {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", append([]string{"list"}, arguments...)...)
	command.Dir = root
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, stderr.String())
	}
	return string(out)
}

// readTree looks at every file of ours: go test's cache knows what the test itself looked at, not what go list did, and
// would repeat a success from before an import came.
func readTree(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() && entry.Name() == ".git" {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// ourPackages are all packages of the module as they are on disk, without nested modules.
func ourPackages(t *testing.T) []goPackage {
	t.Helper()
	readTree(t)
	decoder := json.NewDecoder(strings.NewReader(goList(t, "-json=ImportPath,Dir,Imports,TestImports,XTestImports", "./...")))
	var packages []goPackage
	for {
		var listed struct {
			ImportPath, Dir                    string
			Imports, TestImports, XTestImports []string
		}
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, goPackage{
			path:        strings.TrimPrefix(strings.TrimPrefix(listed.ImportPath, module), "/"),
			imports:     listed.Imports,
			testImports: slices.Concat(listed.TestImports, listed.XTestImports),
			documented:  documented(listed.Dir),
		})
	}
}

func documented(dir string) bool {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, "doc.go"), nil, parser.PackageClauseOnly|parser.ParseComments)
	return err == nil && file.Doc.Text() != ""
}

func TestPackagesKeepToTheirRooms(t *testing.T) {
	packages := ourPackages(t)
	if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.path == "loadbalancer/desired" }) {
		t.Fatalf("go list does not find our packages: %v", packages)
	}
	for _, offence := range check(packages) {
		t.Error(offence)
	}
}

func TestProgramsLinkOnlyWhatTheyMay(t *testing.T) {
	packages := ourPackages(t)
	for program := range never {
		if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.path == program }) {
			continue // a room that does not exist yet
		}
		for _, found := range links(program, strings.Fields(goList(t, "-deps", "./"+program))) {
			t.Errorf("%s links %s", program, found)
		}
	}
}

func TestTopOfTheTree(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	for _, name := range strangers(names) {
		t.Errorf("%s does not belong at the top of the tree", name)
	}
}
