package lab_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cloud-provider-haproxy/test/lab"
)

// TestRequire runs a lab test of this binary as nobody, and as root without programs: it is skipped with the reason, and fails
// where CI=true.
func TestRequire(t *testing.T) {
	lab.Require(t) // only root can become nobody
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "lab-require-") // t.TempDir is root's alone
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "test")
	if err := os.WriteFile(program, self, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	for _, test := range []struct {
		name string
		as   *syscall.SysProcAttr
		path string
		want string
	}{
		{"nobody", nobody, os.Getenv("PATH"), lab.ErrNotRoot.Error()},
		{"nothing installed", nil, "/nowhere", "haproxy iproute2 keepalived nftables openssh-client openssh-server passwd procps"},
	} {
		for ci, verdict := range map[string]string{"": "SKIP", "true": "FAIL"} {
			t.Run(test.name+" CI="+ci, func(t *testing.T) {
				cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestTraffic$", "-test.v")
				cmd.Dir, cmd.SysProcAttr = dir, test.as
				cmd.Env = []string{"CI=" + ci, "TMPDIR=" + dir, "PATH=" + test.path}
				out, err := cmd.CombinedOutput()
				if failed := err != nil; failed != (ci == "true") {
					t.Error(err)
				}
				for _, want := range []string{"--- " + verdict + ": TestTraffic", test.want} {
					if !strings.Contains(string(out), want) {
						t.Errorf("the output lacks %q:\n%s", want, out)
					}
				}
			})
		}
	}
}
