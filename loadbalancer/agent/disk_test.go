package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cloud-provider-haproxy/test/lab"
)

// disk is a file system of its own.
type disk struct {
	device, directory string
}

// newDisk makes an ext4 of some megabytes in a file and mounts it.
func newDisk(t *testing.T) *disk {
	t.Helper()
	lab.RequireRoot(t, "it mounts a file system")
	lab.RequirePrograms(t, "mkfs.ext4", "mount")
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("this machine has no loop devices to make a file system of its own: %v", err)
	}
	d := &disk{device: filepath.Join(t.TempDir(), "disk"), directory: t.TempDir()}
	if err := os.WriteFile(d.device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(d.device, 8<<20); err != nil {
		t.Fatal(err)
	}
	do(t, "mkfs.ext4", "-q", d.device)
	d.mount(t)
	t.Cleanup(func() { _ = exec.Command("umount", d.directory).Run() })
	return d
}

func do(t *testing.T, argv ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
}

// mount never writes by itself before a test asks: what is not synced is not on the disk.
func (d *disk) mount(t *testing.T) {
	do(t, "mount", "-o", "loop,commit=300", d.device, d.directory)
}

// losePower throws away what is not on the disk, and mounts what is.
func (d *disk) losePower(t *testing.T) {
	t.Helper()
	directory, err := os.Open(d.directory)
	if err != nil {
		t.Fatal(err)
	}
	const shutdown, withoutFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH (linux fs/ext4/ext4.h)
	if err := unix.IoctlSetPointerInt(int(directory.Fd()), shutdown, withoutFlush); err != nil {
		t.Fatalf("stopping the file system: %v", err)
	}
	directory.Close()
	do(t, "umount", d.directory)
	d.mount(t)
}

// What a call of Machine has done is on the disk when it returns: a power loss right after it takes nothing back.
func TestMachineSurvivesPowerLoss(t *testing.T) {
	m, d := Machine{}, newDisk(t)
	path := filepath.Join(d.directory, "var", "state.json")
	want := func(content string) {
		t.Helper()
		d.losePower(t)
		got, err := m.ReadFile(path)
		if content == "" && !errors.Is(err, fs.ErrNotExist) || content != "" && (err != nil || string(got) != content) {
			t.Errorf("after a power loss: %q, %v, want %q", got, err, content)
		}
	}
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	try(m.WriteFile(path, []byte("first"), 0o600))
	want("first")
	try(m.WriteFile(path, []byte("second"), 0o600))
	want("second")
	try(m.WriteFile(path+".staged", []byte("third"), 0o600))
	try(m.Rename(path+".staged", path))
	want("third")
	try(m.Remove(path))
	want("")
	// This disk does forget: what is written without being synced is gone.
	try(os.WriteFile(path, []byte("lost"), 0o600))
	want("")
}

// A disk that is full, or read-only, keeps the old content whole and nothing beside it.
func TestMachineCannotWrite(t *testing.T) {
	for _, test := range []struct {
		name string
		stop func(*testing.T, *disk)
		want error
	}{
		{"full", func(t *testing.T, d *disk) {
			fill, err := os.Create(filepath.Join(d.directory, "fill"))
			if err != nil {
				t.Fatal(err)
			}
			defer fill.Close()
			for _, size := range []int{1 << 20, 1 << 12, 1} { // to the last byte
				for err = nil; err == nil; {
					_, err = fill.Write(make([]byte, size))
				}
				if !errors.Is(err, syscall.ENOSPC) {
					t.Fatal(err)
				}
			}
		}, syscall.ENOSPC},
		{"read-only", func(t *testing.T, d *disk) { do(t, "mount", "-o", "remount,ro", d.directory) }, syscall.EROFS},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, d := Machine{}, newDisk(t)
			path := filepath.Join(d.directory, "etc", "haproxy.cfg")
			if err := m.WriteFile(path, []byte("old"), 0o640); err != nil {
				t.Fatal(err)
			}
			test.stop(t, d)
			err := m.WriteFile(path, make([]byte, 1<<20), 0o640)
			if !errors.Is(err, test.want) || !strings.Contains(fmt.Sprint(err), path) {
				t.Errorf("writing gives %v, want %v and the path", err, test.want)
			}
			if got, err := m.ReadFile(path); err != nil || string(got) != "old" {
				t.Errorf("the old content is %q, %v", got, err)
			}
			if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
				t.Errorf("left lying about: %v, %v", left, err)
			}
		})
	}
}
