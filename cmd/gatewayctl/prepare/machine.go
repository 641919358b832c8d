package prepare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/google/renameio/v2"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// Machine is what is prepared.
type Machine interface {
	// Run runs a program without a shell. An *agent.CommandError when it fails.
	Run(ctx context.Context, argv []string, stdin []byte) (agent.Output, error)
	// ReadFile gives fs.ErrNotExist when there is none.
	ReadFile(path string) ([]byte, error)
	// Stat tells the mode, and whether it belongs to root and this group; fs.ErrNotExist when there is nothing.
	Stat(path, group string) (Entry, error)
	// WriteFile replaces a file atomically and durably, and makes the directories above it when they are missing.
	WriteFile(path string, content []byte, mode fs.FileMode, group string) error
	// MakeDirectory makes a directory so, also when it is there already.
	MakeDirectory(path string, mode fs.FileMode, group string) error
}

// Entry is what stands under a name.
type Entry struct {
	Mode  fs.FileMode
	Owned bool
}

// Local is the machine that the process runs on.
type Local struct {
	// Root is put before every path. Empty but in tests, which also take over Run and who owns files.
	Root string
	// Owner is who files belong to and the group of a name.
	Owner func(group string) (uid, gid int, err error)
	agent.Machine
}

// RootOwner gives files to root.
func RootOwner(group string) (uid, gid int, err error) {
	if group == "" {
		return 0, 0, nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, 0, fmt.Errorf("giving a file to group %s: %w", group, err)
	}
	gid, err = strconv.Atoi(g.Gid)
	return 0, gid, err
}

func (l Local) path(path string) string { return filepath.Join(l.Root, path) }

// ReadFile implements Machine.
func (l Local) ReadFile(path string) ([]byte, error) { return os.ReadFile(l.path(path)) }

// Stat implements Machine.
func (l Local) Stat(path, group string) (Entry, error) {
	entry, err := os.Stat(l.path(path))
	if err != nil {
		return Entry{}, err
	}
	owner, ok := entry.Sys().(*syscall.Stat_t)
	uid, gid, err := l.Owner(group)
	// A group that does not exist yet owns nothing.
	return Entry{Mode: entry.Mode(), Owned: err == nil && ok && int(owner.Uid) == uid && int(owner.Gid) == gid}, nil
}

// WriteFile implements Machine.
func (l Local) WriteFile(path string, content []byte, mode fs.FileMode, group string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	uid, gid, err := l.Owner(group)
	if err != nil {
		return err
	}
	real := l.path(path)
	if err := os.MkdirAll(filepath.Dir(real), 0o755); err != nil {
		return err
	}
	file, err := renameio.NewPendingFile(real, renameio.WithTempDir(filepath.Dir(real)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer file.Cleanup()
	if err := file.Chown(uid, gid); err != nil {
		return err
	}
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(real))
}

// syncDirectory makes a rename survive a power loss.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(directory.Sync(), directory.Close())
}

// MakeDirectory implements Machine.
func (l Local) MakeDirectory(path string, mode fs.FileMode, group string) error {
	uid, gid, err := l.Owner(group)
	if err != nil {
		return err
	}
	real := l.path(path)
	err = os.MkdirAll(real, mode)
	if err == nil {
		err = os.Chown(real, uid, gid)
	}
	if err == nil {
		err = os.Chmod(real, mode)
	}
	if err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	return nil
}

// text is a file's content, empty when there is none.
func text(m Machine, path string) (string, error) {
	content, err := m.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(content), err
}

// exists says whether something stands under a name.
func exists(m Machine, path string) bool {
	_, err := m.Stat(path, "")
	return err == nil
}
