package layering

// module is the path of our module: imports that begin with it are ours.
const module = "cloud-provider-haproxy"

// room is one entry of the table.
type room struct {
	// path is the directory below the module's root.
	path string
	// tree means that the packages below path belong to the room too.
	tree bool
	// may lists the rooms that it may import (one with tree: with all below). Its own tree it may always import.
	may []string
	// mayTest lists what its tests may import besides, and package test.
	mayTest []string
	// pure restricts imports that are not ours to the standard library and go4.org/netipx.
	pure bool
}

// product is all of ours that runs in production, for those who wire it.
var product = []string{
	"provider", "provider/config", "provider/config/strict", "ipam", "loadbalancer", "loadbalancer/desired", "loadbalancer/wire", "loadbalancer/gateway",
	"loadbalancer/agent", "loadbalancer/haproxy", "loadbalancer/keepalived", "loadbalancer/nftables", "loadbalancer/neighbor", "manifests",
}

// rooms is the table: who may import whom.
var rooms = []room{
	{path: "cmd/haproxy-cloud-controller-manager", tree: true, may: product},
	// All but provider itself: that is client-go.
	{path: "cmd/gatewayctl", tree: true, may: product[1:]},
	{path: "provider", may: []string{"provider/config", "provider/config/strict", "loadbalancer", "ipam", "loadbalancer/desired"},
		mayTest: []string{"loadbalancer/wire"}}, // gateways for a benchmark of Manager with it
	{path: "provider/config", may: []string{"provider/config/strict", "ipam", "loadbalancer/desired"}},
	{path: "provider/config/strict"},
	{path: "ipam", pure: true},
	{path: "loadbalancer", may: []string{"ipam", "loadbalancer/desired", "loadbalancer/wire"}},
	{path: "loadbalancer/desired", pure: true},
	{path: "loadbalancer/wire", may: []string{"loadbalancer/desired"}},
	{path: "loadbalancer/gateway", may: []string{"loadbalancer/wire", "loadbalancer/desired"}},
	{path: "loadbalancer/agent", may: []string{
		"loadbalancer/wire", "loadbalancer/haproxy", "loadbalancer/keepalived", "loadbalancer/nftables", "loadbalancer/neighbor",
		"loadbalancer/desired",
	}},
	{path: "loadbalancer/haproxy", may: []string{"loadbalancer/desired"}},
	{path: "loadbalancer/keepalived", may: []string{"loadbalancer/desired"}},
	{path: "loadbalancer/nftables", may: []string{"loadbalancer/desired"}},
	{path: "loadbalancer/neighbor"},
	// Files of a gateway, embedded for gatewayctl.
	{path: "manifests", tree: true},
	{path: "test", tree: true, may: append([]string{"cmd/haproxy-cloud-controller-manager", "cmd/gatewayctl"}, product...)},
}

// border says where packages of others may enter.
type border struct {
	prefix string   // of the import path
	rooms  []string // each with all below
}

var borders = []border{
	{"k8s.io/", []string{"cmd", "provider", "test"}},
	{"golang.org/x/crypto/ssh", []string{"loadbalancer/gateway", "cmd", "test"}},
}

// pureImports are what pure rooms may import besides the standard library.
var pureImports = []string{"go4.org/netipx"}

// never are what a program must not link, also not by a detour: import paths and all below.
var never = map[string][]string{
	"cmd/gatewayctl": {"k8s.io/client-go", "k8s.io/cloud-provider"},
}

// topLevel is what may stand at the top of the tree. bin is what make builds (in .gitignore).
var topLevel = []string{
	".ci", ".git", ".gitignore", "LICENSE", "Makefile", "README.md", "bin", "cmd", "go.mod", "go.sum",
	"ipam", "loadbalancer", "manifests", "provider", "test",
}

// Names that say nothing. The first are refused also as a part of a name (testutil, httphelpers).
var (
	refusedParts = []string{"util", "helper", "common", "handler"}
	refusedNames = []string{"info", "infos", "data"}
)
