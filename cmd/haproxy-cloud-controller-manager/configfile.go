package main

import (
	"context"
	"os"
	"time"

	"cloud-provider-haproxy/provider/config"
)

// configInterval is how often the configuration file is looked at. A kubelet takes up to a minute to bring a changed
// ConfigMap there, so that more haste would gain nothing.
const configInterval = 2 * time.Second

// configFile is the file of --cloud-config as it changes while we run. It is looked at by its content: a mounted
// ConfigMap changes by the swap of a symbolic link two directories above, an editor replaces the file or writes in place,
// and a watch of inodes would have to know them all.
type configFile struct {
	path string
	load func(path string) (*config.Config, error)
	// told is the content that is in effect or was refused last, fault why it was refused.
	told, fault string
}

// remember takes what the file has now as told; it is called before the file is loaded for the first time.
func (f *configFile) remember() { f.told = f.content() }

// content is what the file has; a file that cannot be read has its error for content, so that it is told once.
func (f *configFile) content() string {
	b, err := os.ReadFile(f.path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// follow calls accept with each new valid configuration and refuse with what is wrong with any other, once for each
// content, until ctx ends. A new content counts when it was there at two looks, so that nobody is read halfway. A refused
// file is tried on, since the reason may lie in a file that it names.
func (f *configFile) follow(ctx context.Context, accept func(*config.Config), refuse func(error)) {
	looks := time.NewTicker(configInterval)
	defer looks.Stop()
	before := f.told
	for {
		select {
		case <-ctx.Done():
			return
		case <-looks.C:
		}
		content := f.content()
		settled := content == before
		before = content
		if !settled || content == f.told && f.fault == "" {
			continue
		}
		next, err := f.load(f.path)
		switch {
		case err == nil:
			f.fault = ""
			accept(next)
		case content != f.told || err.Error() != f.fault:
			f.fault = err.Error()
			refuse(err)
		}
		f.told = content
	}
}
