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

// TestWithoutRoot runs a lab test of this binary as nobody: it is skipped with the reason, and fails where CI=true.
func TestWithoutRoot(t *testing.T) {
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
	for _, test := range []struct{ ci, verdict string }{{"CI=", "--- SKIP: TestTraffic"}, {"CI=true", "--- FAIL: TestTraffic"}} {
		cmd := exec.CommandContext(t.Context(), program, "-test.run=^TestTraffic$", "-test.v")
		cmd.Dir = dir
		cmd.Env = []string{test.ci, "TMPDIR=" + dir}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if failed := err != nil; failed != (test.ci == "CI=true") {
			t.Errorf("%s: %v", test.ci, err)
		}
		for _, want := range []string{test.verdict, lab.ErrNotRoot.Error()} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: the output lacks %q:\n%s", test.ci, want, out)
			}
		}
	}
}
