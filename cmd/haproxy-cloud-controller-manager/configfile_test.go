package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloud-provider-haproxy/provider/config"
)

// followed is a configFile with what it told, in fake time.
type followed struct {
	t    *testing.T
	dir  string
	file *configFile
	told []string
	// keyFault stands for a file that the configuration names and that cannot be read.
	keyFault error
}

// following runs test while a file is followed. Its content is what load says, "bad ..." is wrong.
func following(t *testing.T, test func(*followed)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := &followed{t: t, dir: t.TempDir()}
		f.file = &configFile{path: filepath.Join(f.dir, "config.yaml"), load: f.load}
		f.write("one")
		f.file.remember()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go f.file.follow(ctx,
			func(c *config.Config) { f.told = append(f.told, "accept "+c.Kind) },
			func(err error) { f.told = append(f.told, "refuse "+err.Error()) })
		test(f)
	})
}

func (f *followed) load(path string) (*config.Config, error) {
	b, err := os.ReadFile(path)
	switch {
	case err != nil:
		return nil, errors.New("unreadable")
	case strings.HasPrefix(string(b), "bad"):
		return nil, errors.New(string(b))
	}
	return &config.Config{Kind: string(b)}, f.keyFault
}

func (f *followed) write(content string) {
	f.t.Helper()
	if err := os.WriteFile(f.file.path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// want waits for n looks at the file and compares what was told since the last call.
func (f *followed) want(looks int, told ...string) {
	f.t.Helper()
	time.Sleep(time.Duration(looks) * configInterval)
	synctest.Wait()
	if !slices.Equal(f.told, told) {
		f.t.Errorf("told %q, want %q", f.told, told)
	}
	f.told = nil
}

func TestConfigurationFileIsFollowed(t *testing.T) {
	following(t, func(f *followed) {
		f.want(10)
		f.write("two") // in place
		f.want(1)      // it may be half of it
		f.want(1, "accept two")
		f.want(10)
		if err := os.Chtimes(f.file.path, time.Now(), time.Now()); err != nil {
			t.Fatal(err)
		}
		f.want(10) // the same content is no change

		next := filepath.Join(f.dir, "next") // as an editor replaces it
		if err := os.WriteFile(next, []byte("three"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, f.file.path); err != nil {
			t.Fatal(err)
		}
		f.want(2, "accept three")

		f.write("bad two faults")
		f.want(20, "refuse bad two faults") // once
		f.write("bad one fault")
		f.want(3, "refuse bad one fault")
		f.write("three") // what is in effect
		f.want(3, "accept three")

		f.write("four") // changed again before it has settled
		f.want(1)
		f.write("five")
		f.want(1)
		f.want(1, "accept five")

		if err := os.Remove(f.file.path); err != nil {
			t.Fatal(err)
		}
		f.want(10, "refuse unreadable")
		f.write("five")
		f.want(3, "accept five")
	})
}

// A kubelet brings a new ConfigMap by swapping the symbolic link ..data.
func TestMountedConfigMapIsFollowed(t *testing.T) {
	following(t, func(f *followed) {
		swap := func(version, content string) {
			f.t.Helper()
			if err := os.Mkdir(filepath.Join(f.dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(f.dir, version, "config.yaml"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(version, filepath.Join(f.dir, "..tmp")); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(filepath.Join(f.dir, "..tmp"), filepath.Join(f.dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		swap("..v1", "one")
		if err := os.Remove(f.file.path); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..data/config.yaml", f.file.path); err != nil {
			t.Fatal(err)
		}
		f.want(3)
		swap("..v2", "two")
		f.want(2, "accept two")
	})
}

// The reason may lie in another file: then the same content becomes right by itself.
func TestFileThatTheConfigurationNames(t *testing.T) {
	following(t, func(f *followed) {
		f.keyFault = errors.New("ssh.privateKeyFile: cannot be read")
		f.want(5) // nobody asks while the content is the same
		f.write("two")
		f.want(5, "refuse ssh.privateKeyFile: cannot be read")
		f.keyFault = errors.New("ssh.privateKeyFile: has mode 0644")
		f.want(5, "refuse ssh.privateKeyFile: has mode 0644")
		f.keyFault = nil
		f.want(5, "accept two")
		f.want(5)
	})
}
