package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// program is one binary: the package it is built from and the name the lab knows it by.
type program struct{ name, pkg string }

var programs = []program{
	{"etcd", "go.etcd.io/etcd/server/v3"},
	{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
	{"kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"},
	{"kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"},
	{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	dir, err := build(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "build the lab's control plane:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}

// build makes sure that all programs are in the cache and returns their directory. Several builders wait for one another.
func build(ctx context.Context) (string, error) {
	module, err := os.ReadFile("go.mod")
	if err != nil {
		return "", fmt.Errorf("%w (run it in the module's own directory: go -C test/controlplane run .)", err)
	}
	sums, err := os.ReadFile("go.sum")
	if err != nil {
		return "", err
	}
	version := regexp.MustCompile(`k8s\.io/kubernetes (v\S+)`).FindStringSubmatch(string(module))
	if version == nil {
		return "", fmt.Errorf("go.mod names no version of k8s.io/kubernetes")
	}
	flags := ldflags(version[1])
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s %s\n%v", module, sums, runtime.Version(), runtime.GOARCH, flags, programs))
	dir := filepath.Join(cache, "cloud-provider-haproxy", fmt.Sprintf("controlplane-%s-%x", version[1], key[:6]))

	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(dir + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := compile(ctx, dir+".partial", flags, version[1]); err != nil {
		return "", err
	}
	return dir, os.Rename(dir+".partial", dir)
}

// compile builds every program into dir, which only a rename makes visible: an interrupted build is no cache.
func compile(ctx context.Context, dir, flags, version string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "building the lab's Kubernetes %s, once: several minutes on two cores\n", version)
	for i, p := range programs {
		started := time.Now()
		fmt.Fprintf(os.Stderr, "  %d/%d %s ...\n", i+1, len(programs), p.name)
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", flags, "-o", filepath.Join(dir, p.name), p.pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
		}
		fmt.Fprintf(os.Stderr, "  %d/%d %s: %s\n", i+1, len(programs), p.name, time.Since(started).Round(time.Second))
	}
	return nil
}

// ldflags stamps the version as Kubernetes' own build does; without it kubectl and the API server call themselves v0.0.0.
func ldflags(version string) string {
	major, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	flags := []string{"-s", "-w"}
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags = append(flags,
			"-X", pkg+".gitVersion="+version, "-X", pkg+".gitMajor="+major, "-X", pkg+".gitMinor="+minor)
	}
	return strings.Join(flags, " ")
}

// lock takes an exclusive lock on the file, which ends with the process whatever happens to it.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f.Close, nil
}
