package config

import (
	"fmt"
	"os"
	"path/filepath"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config/strict"
)

// Load reads, completes and validates the file at path, the files that it names included. The error is a go-multierror
// list of all faults, each with the path of its field; an unreadable file is an error of its own.
func Load(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the cloud configuration: %w", err)
	}
	c, f := decode(b)
	c.SSH.PrivateKeyFile = from(filepath.Dir(path), c.SSH.PrivateKeyFile)
	c.SSH.KnownHostsFile = from(filepath.Dir(path), c.SSH.KnownHostsFile)
	checkFiles(c, f)
	c.readCA(filepath.Dir(path), f)
	if err := f.Err(); err != nil {
		return nil, fmt.Errorf("cloud configuration %s: %w", path, err)
	}
	return c, nil
}

// Decode is Load for a file's content: it does not read the files that are named in it, and leaves relative paths
// alone.
func Decode(b []byte) (*Config, error) {
	c, f := decode(b)
	if err := f.Err(); err != nil {
		return nil, fmt.Errorf("cloud configuration: %w", err)
	}
	return c, nil
}

func decode(b []byte) (*Config, *strict.Faults) {
	c, f := &Config{}, &strict.Faults{}
	if strict.Unmarshal(b, c, f) != nil {
		f.Add("file", "is empty; it begins with apiVersion: %s and kind: %s", APIVersion, Kind)
	}
	if f.Err() != nil && c.APIVersion == "" && c.Kind == "" && len(c.Gateways) == 0 {
		return c, f // not one of our files at all: a list of missing fields would hide why
	}
	c.setDefaults()
	c.validate(f)
	return c, f
}

func from(directory, file string) string {
	if file == "" || filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(directory, file)
}

// checkFiles finds files that are missing, unreadable, or readable for too many.
func checkFiles(c *Config, f *strict.Faults) {
	if path := c.SSH.PrivateKeyFile; path != "" && readable(path, "ssh.privateKeyFile", f) {
		// Group-readable is fine: that is what a Secret mounted with fsGroup looks like.
		if mode, err := os.Stat(path); err == nil && mode.Mode().Perm()&0o037 != 0 {
			f.Add("ssh.privateKeyFile", "%s has mode %04o, so others than its owner and group can read or change it; "+
				"allowed is 0400, 0440, 0600 or 0640 (chmod 0400, or defaultMode: 0400 of a Secret volume)", path, mode.Mode().Perm())
		}
	}
	if path := c.SSH.KnownHostsFile; path != "" {
		readable(path, "ssh.knownHostsFile", f)
	}
}

// readCA reads the certificates of the control plane's check.
func (c *Config) readCA(directory string, f *strict.Faults) {
	if c.ControlPlane == nil || c.ControlPlane.Check.CAFile.Path == "" {
		return
	}
	const field = "controlPlane.check.caFile"
	ca := &c.ControlPlane.Check.CAFile
	ca.Path = from(directory, ca.Path)
	b, err := os.ReadFile(ca.Path)
	if err != nil {
		f.Add(field, "cannot be read: %v", err)
		return
	}
	if ca.PEM, err = desired.Certificates(string(b)); err != nil {
		f.Add(field, "%s %v", ca.Path, err)
	}
}

func readable(path, field string, f *strict.Faults) bool {
	b, err := os.ReadFile(path)
	switch {
	case err != nil:
		f.Add(field, "cannot be read: %v", err)
		return false
	case len(b) == 0:
		f.Add(field, "%s is empty", path)
		return false
	}
	return true
}
