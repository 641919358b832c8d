package nftables

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The files that are installed on a gateway are made from the list that drift checks use.
func TestManifestsAgreeWithTheLists(t *testing.T) {
	manifests := filepath.Join("..", "..", "manifests", "gateway")
	golden(t, filepath.Join(manifests, "sysctl.d", "90-cloud-provider-haproxy.conf"), SysctlFile())
	golden(t, filepath.Join(manifests, "modules-load.d", "cloud-provider-haproxy.conf"), ModulesFile())
}

// sysctl itself applies the file, in a namespace, and what the kernel then shows satisfies every setting that it shows there.
func TestSysctlFileIsTakenByTheKernel(t *testing.T) {
	need(t, "unshare", "sysctl", "cat")
	file := filepath.Join(t.TempDir(), "90.conf")
	var here []string // the kernel shows neighbour tables' limits in its first namespace only
	var read []Sysctl
	for _, c := range Sysctls() {
		if strings.Contains(c.Name, ".neigh.default.gc_thresh") || c.Module != "" {
			if _, err := os.Stat(c.File()); err != nil && c.Module == "" {
				t.Errorf("the kernel has no %s: %v", c.Name, err)
			}
			continue
		}
		here = append(here, c.Name+" = "+c.Value)
		read = append(read, c)
	}
	if err := os.WriteFile(file, []byte(strings.Join(here, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	argv := []string{"netns", "exec", emptyNamespace(t)}
	run(t, append(append([]string{"ip"}, argv...), "sysctl", "--load", file)...)
	for _, c := range read {
		out, err := exec.Command("ip", append(argv, "cat", c.File())...).Output()
		if err != nil || !c.Met(string(out)) {
			t.Errorf("%s = %s: the kernel shows %q, %v", c.Name, c.Value, out, err)
		}
	}
}

func TestMet(t *testing.T) {
	exact := Sysctl{Value: "7500 65535"}
	least := Sysctl{Value: "16384", AtLeast: true}
	for _, c := range []struct {
		setting Sysctl
		current string
		want    bool
	}{
		{exact, "7500\t65535\n", true}, {exact, "32768\t60999\n", false}, {exact, "", false},
		{least, "16384\n", true}, {least, "99999\n", true}, {least, "1024\n", false}, {least, "many\n", false}, {least, "", false},
	} {
		if got := c.setting.Met(c.current); got != c.want {
			t.Errorf("%q with %q in the kernel: %v", c.setting.Value, c.current, got)
		}
	}
}
