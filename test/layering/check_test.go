package layering

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// goPackage is what the checker knows of one package of ours.
type goPackage struct {
	path        string // below the module's root
	imports     []string
	testImports []string
	documented  bool // doc.go has a package comment
}

// check gives every offence against the table, one sentence each.
func check(packages []goPackage) []string {
	var offences []string
	for _, p := range packages {
		r := roomOf(p.path)
		if r == nil {
			offences = append(offences, fmt.Sprintf("%s is in no room: enter it in test/layering/rooms_test.go, with what it may import", p.path))
			continue
		}
		for _, imported := range p.imports {
			if !allowed(*r, p.path, imported) {
				offences = append(offences, fmt.Sprintf("%s must not import %s", p.path, imported))
			}
		}
		tests := *r
		tests.pure = false
		tests.may = slices.Concat(r.may, r.mayTest, []string{"test"})
		for _, imported := range p.testImports {
			if !allowed(tests, p.path, imported) {
				offences = append(offences, fmt.Sprintf("tests of %s must not import %s", p.path, imported))
			}
		}
		if !p.documented {
			offences = append(offences, fmt.Sprintf("%s has no doc.go with a package comment", p.path))
		}
		if word := saysNothing(path.Base(p.path)); word != "" {
			offences = append(offences, fmt.Sprintf("%s is called %s, which says nothing: name it by what it is", p.path, word))
		}
	}
	return offences
}

// roomOf finds the room of a package: the longest path that fits.
func roomOf(packagePath string) *room {
	var best *room
	for i, r := range rooms {
		if (r.path == packagePath || r.tree && below(packagePath, r.path)) && (best == nil || len(r.path) > len(best.path)) {
			best = &rooms[i]
		}
	}
	return best
}

// below says whether p is dir or inside it.
func below(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func allowed(r room, importer, imported string) bool {
	if ours, found := strings.CutPrefix(imported, module+"/"); found {
		target := roomOf(ours)
		return target != nil && (target.path == r.path || slices.Contains(r.may, target.path))
	}
	for _, b := range borders {
		if strings.HasPrefix(imported, b.prefix) && !slices.ContainsFunc(b.rooms, func(dir string) bool { return below(importer, dir) }) {
			return false
		}
	}
	return !r.pure || standard(imported) || slices.Contains(pureImports, imported)
}

// standard says whether an import is the standard library's: no domain in its first element.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

func saysNothing(name string) string {
	name = strings.ToLower(name)
	for _, part := range refusedParts {
		if strings.Contains(name, part) {
			return part
		}
	}
	if slices.Contains(refusedNames, name) {
		return name
	}
	return ""
}

// strangers gives the names at the top of the tree that do not belong there.
func strangers(names []string) []string {
	var found []string
	for _, name := range names {
		if !slices.Contains(topLevel, name) {
			found = append(found, name)
		}
	}
	return found
}

// links gives the dependencies that the program must not have.
func links(program string, dependencies []string) []string {
	var found []string
	for _, dependency := range dependencies {
		if slices.ContainsFunc(never[program], func(dir string) bool { return below(dependency, dir) }) {
			found = append(found, dependency)
		}
		if ours, is := strings.CutPrefix(dependency, module+"/"); is && ours != program && !allowed(*roomOf(program), program, dependency) {
			found = append(found, dependency)
		}
	}
	return found
}

// The checker itself must be able to fail: each rule is broken here once.
func TestCheck(t *testing.T) {
	const ours = module + "/"
	tests := []struct {
		name string
		in   goPackage
		want string // "" for no offence
	}{
		{"arrow", goPackage{path: "loadbalancer/wire", imports: []string{"io", ours + "loadbalancer/desired"}}, ""},
		{"arrow backward", goPackage{path: "loadbalancer/desired", imports: []string{ours + "loadbalancer/wire"}}, "loadbalancer/desired must not import " + ours + "loadbalancer/wire"},
		{"agent knows no client", goPackage{path: "loadbalancer/agent", imports: []string{ours + "loadbalancer/gateway"}}, "loadbalancer/agent must not import " + ours + "loadbalancer/gateway"},
		{"a room's import is not its tree's", goPackage{path: "provider/config", imports: []string{ours + "provider"}}, "provider/config must not import " + ours + "provider"},
		{"import of an unknown room", goPackage{path: "provider", imports: []string{ours + "loadbalancer/slots"}}, "provider must not import " + ours + "loadbalancer/slots"},
		{"unknown room", goPackage{path: "loadbalancer/slots"}, "loadbalancer/slots is in no room: enter it in test/layering/rooms_test.go, with what it may import"},
		{"unknown room at the top", goPackage{path: "internal/x"}, "internal/x is in no room: enter it in test/layering/rooms_test.go, with what it may import"},
		{"unknown program", goPackage{path: "cmd/other"}, "cmd/other is in no room: enter it in test/layering/rooms_test.go, with what it may import"},
		{"gatewayctl reads the config", goPackage{path: "cmd/gatewayctl", imports: []string{ours + "provider/config"}}, ""},
		{"gatewayctl and provider", goPackage{path: "cmd/gatewayctl/push", imports: []string{ours + "provider"}}, "cmd/gatewayctl/push must not import " + ours + "provider"},
		{"own tree", goPackage{path: "cmd/gatewayctl", imports: []string{ours + "cmd/gatewayctl/push"}}, ""},
		{"product and test", goPackage{path: "loadbalancer", imports: []string{ours + "test/lab"}}, "loadbalancer must not import " + ours + "test/lab"},
		{"program and test", goPackage{path: "cmd/gatewayctl", imports: []string{ours + "test/lab"}}, "cmd/gatewayctl must not import " + ours + "test/lab"},
		{"a test and test", goPackage{path: "loadbalancer/keepalived", testImports: []string{ours + "test/lab", ours + "loadbalancer/keepalived"}}, ""},
		{"a test and a strange room", goPackage{path: "loadbalancer", testImports: []string{ours + "loadbalancer/agent"}}, "tests of loadbalancer must not import " + ours + "loadbalancer/agent"},
		{"test and everything", goPackage{path: "test/simulation", imports: []string{ours + "loadbalancer/agent", ours + "test/lab", "k8s.io/api/core/v1", "golang.org/x/crypto/ssh"}}, ""},
		{"Kubernetes at home", goPackage{path: "provider", imports: []string{"k8s.io/client-go/informers"}}, ""},
		{"Kubernetes in Manager", goPackage{path: "loadbalancer", imports: []string{"k8s.io/klog/v2"}}, "loadbalancer must not import k8s.io/klog/v2"},
		{"Kubernetes in a test of Manager", goPackage{path: "loadbalancer", testImports: []string{"k8s.io/api/core/v1"}}, "tests of loadbalancer must not import k8s.io/api/core/v1"},
		{"sigs.k8s.io is no border", goPackage{path: "loadbalancer/agent", imports: []string{"sigs.k8s.io/yaml"}}, ""},
		{"ssh at home", goPackage{path: "loadbalancer/gateway", imports: []string{"golang.org/x/crypto/ssh/knownhosts"}}, ""},
		{"ssh in agent", goPackage{path: "loadbalancer/agent", imports: []string{"golang.org/x/crypto/ssh"}}, "loadbalancer/agent must not import golang.org/x/crypto/ssh"},
		{"ssh in provider", goPackage{path: "provider", imports: []string{"golang.org/x/crypto/ssh"}}, "provider must not import golang.org/x/crypto/ssh"},
		{"pure", goPackage{path: "ipam", imports: []string{"net/netip", "go4.org/netipx"}, testImports: []string{"pgregory.net/rapid"}}, ""},
		{"not pure", goPackage{path: "ipam", imports: []string{"golang.org/x/sync/errgroup"}}, "ipam must not import golang.org/x/sync/errgroup"},
		{"util", goPackage{path: "test/netutils"}, "test/netutils is called util, which says nothing: name it by what it is"},
		{"data", goPackage{path: "test/data"}, "test/data is called data, which says nothing: name it by what it is"},
		{"informers is a word", goPackage{path: "test/informers"}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.in.documented = true
			var want []string
			if test.want != "" {
				want = []string{test.want}
			}
			if diff := cmp.Diff(want, check([]goPackage{test.in})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := check([]goPackage{{path: "ipam"}}); len(got) != 1 || got[0] != "ipam has no doc.go with a package comment" {
		t.Errorf("a package without doc.go: %q", got)
	}
	if got := check(nil); got != nil {
		t.Errorf("no room exists yet: %q", got)
	}
}

func TestStrangers(t *testing.T) {
	want := []string{"docs", "main.go", "pkg"}
	if diff := cmp.Diff(want, strangers([]string{".git", "cmd", "docs", "go.mod", "main.go", "pkg", "test"})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLinks(t *testing.T) {
	dependencies := []string{"net", "k8s.io/client-go/rest", "k8s.io/client-gopher", module + "/provider", module + "/provider/config", module + "/cmd/gatewayctl"}
	want := []string{"k8s.io/client-go/rest", module + "/provider"}
	if diff := cmp.Diff(want, links("cmd/gatewayctl", dependencies)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A rule about a room that is spelt wrong would hold nothing.
func TestTableNamesItsOwnRooms(t *testing.T) {
	for program := range never {
		if roomOf(program) == nil {
			t.Errorf("%s must not link some packages, but is in no room", program)
		}
	}
	for _, r := range rooms {
		for _, may := range r.may {
			if !slices.ContainsFunc(rooms, func(other room) bool { return other.path == may }) {
				t.Errorf("%s may import %s, which is no room", r.path, may)
			}
		}
		if !slices.Contains(topLevel, strings.Split(r.path, "/")[0]) {
			t.Errorf("%s is not below an allowed name of the top", r.path)
		}
	}
}
