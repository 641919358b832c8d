package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Options say what lab to make. The zero value is two gateways and two workers.
type Options struct {
	Gateways int // default 2
	Workers  int // default 2
	// Logs is a directory that keeps the logs of every host after Close; empty: they go with the lab.
	Logs string
	// NodePorts are the ports on which the backend program answers on every worker. None: workers start nothing, and are
	// for something else (a real kube-proxy) to be started on.
	NodePorts []uint16
	// Bare leaves the hosts as they boot: nothing is installed or started on them.
	Bare bool
	// IPv6Only leaves the hosts without any IPv4 address but loopback's.
	IPv6Only bool
	// BareGateways leaves gateways with an sshd and Debian's packages, and the controller's host with an operator's key: for
	// `gatewayctl bootstrap`.
	BareGateways bool
}

// Lab is a running network. Close ends it; so does the end of the process that started it.
type Lab struct {
	Controller *Host
	Client     *Host
	Gateways   []*Host
	Workers    []*Host
	// Shared is a directory that every host sees at the same path as the machine.
	Shared string

	options Options
	module  string // directory of our Go module: manifests are installed from there
	dir     string // everything of this lab; removed by the segment's holder
	logs    string
	segment *holder

	// lifeline: the hosts and the segment end when write is closed.
	read, write *os.File

	number atomic.Int64 // of the newest program that needed a name of its own

	mu   sync.Mutex // serializes changes of the bridge's firewall
	cuts map[[2]string]bool
}

// prefix of the lab's directories under os.TempDir.
const prefix = "cloud-provider-haproxy-lab-"

// Start makes a lab. ctx bounds the start only.
func Start(ctx context.Context, options Options) (_ *Lab, err error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	if options.Gateways == 0 {
		options.Gateways = 2
	}
	if options.Workers == 0 {
		options.Workers = 2
	}
	if options.Gateways > 9 || options.Workers > 40 {
		return nil, fmt.Errorf("starting a lab: at most 9 gateways and 40 workers fit the segment, not %d and %d", options.Gateways, options.Workers)
	}
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, fmt.Errorf("starting a lab: %w", err)
	}
	l := &Lab{options: options, dir: dir, Shared: filepath.Join(dir, "shared"), logs: options.Logs, cuts: map[[2]string]bool{}}
	if l.logs == "" {
		l.logs = filepath.Join(dir, "logs")
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("starting a lab: %w", err), l.Close())
		}
	}()
	if err := os.Chmod(dir, 0o755); err != nil { // unprivileged daemons of the hosts pass through
		return l, err
	}
	for _, d := range []string{l.logs, l.Shared, l.bin("")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return l, err
		}
	}
	if l.read, l.write, err = os.Pipe(); err != nil {
		return l, err
	}
	if l.module, err = moduleDir(ctx); err != nil {
		return l, err
	}
	if err := build(ctx, l.module, l.bin(""), !options.Bare); err != nil {
		return l, err
	}
	if err := l.startSegment(ctx); err != nil {
		return l, err
	}
	l.addHosts()
	if err := each(ctx, l.Hosts(), (*Host).Boot); err != nil {
		return l, err
	}
	if options.Bare {
		return l, nil
	}
	if options.BareGateways {
		return l, l.furnishBare(ctx)
	}
	return l, l.furnish(ctx)
}

// furnish installs and starts what makes hosts gateways, workers and a controller.
func (l *Lab) furnish(ctx context.Context) error {
	if err := l.makeControllerKey(ctx); err != nil {
		return err
	}
	if err := each(ctx, l.Gateways, (*Host).installGateway); err != nil {
		return err
	}
	if err := l.introduceGateways(); err != nil {
		return err
	}
	if err := l.installController(ctx); err != nil {
		return err
	}
	for _, h := range l.Gateways {
		h.AtBoot(h.startGateway)
	}
	if len(l.options.NodePorts) != 0 {
		for _, h := range l.Workers {
			h.AtBoot(h.startWorker)
		}
	}
	return each(ctx, l.Hosts(), (*Host).startServices)
}

// each does something on many hosts at once.
func each(ctx context.Context, hosts []*Host, do func(*Host, context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, h := range hosts {
		group.Go(func() error { return do(h, ctx) })
	}
	return group.Wait()
}

func (l *Lab) bin(name string) string { return filepath.Join(l.Shared, "bin", name) }

// Program is the path, on every host, of a program of the lab: backend, client, gatewayctl.
func (l *Lab) Program(name string) string { return l.bin(name) }

func (l *Lab) addHosts() {
	l.Controller = l.newHost("controller", 2)
	l.Client = l.newHost("client", 3)
	for n := 1; n <= l.options.Gateways; n++ {
		l.Gateways = append(l.Gateways, l.newHost(fmt.Sprintf("gw%d", n), 10+n))
	}
	for n := 1; n <= l.options.Workers; n++ {
		l.Workers = append(l.Workers, l.newHost(fmt.Sprintf("worker%d", n), 20+n))
	}
}

func (l *Lab) newHost(name string, number int) *Host {
	var addr4 netip.Addr
	if !l.options.IPv6Only {
		addr4 = netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", number))
	}
	return &Host{
		Name:   name,
		Addr4:  addr4,
		Addr6:  netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", number)),
		mac:    fmt.Sprintf("02:00:00:00:00:%02x", number),
		number: number,
		lab:    l,
	}
}

// Hosts are all hosts: controller, client, gateways, workers.
func (l *Lab) Hosts() []*Host {
	hosts := []*Host{l.Controller, l.Client}
	hosts = append(hosts, l.Gateways...)
	return append(hosts, l.Workers...)
}

// Host finds a host by name; nil when there is none.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.Hosts() {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// Close ends every process of the lab and waits until all of it is gone: processes, namespaces and the directory.
func (l *Lab) Close() error {
	if l.write != nil {
		_ = l.write.Close() // ends them all; a second Close is harmless
	}
	var faults []error
	if l.Controller != nil {
		for _, h := range l.Hosts() {
			faults = append(faults, h.kill())
		}
	}
	if l.segment != nil {
		faults = append(faults, l.segment.wait())
	}
	if l.read != nil {
		_ = l.read.Close()
	}
	return errors.Join(append(faults, os.RemoveAll(l.dir))...)
}

// Dir is the lab's directory on the machine; it is gone after Close.
func (l *Lab) Dir() string { return l.dir }

// Logs are the files with the output of every program of every host so far: HOST/PROGRAM.log.
func (l *Lab) Logs() ([]string, error) { return filepath.Glob(filepath.Join(l.logs, "*", "*")) }

// longestLine is how much of a log's line is printed; the file has all.
const longestLine = 400

// WriteLogs prints the last lines of every log of every host.
func (l *Lab) WriteLogs(w io.Writer, lines int) error {
	files, err := l.Logs()
	if err != nil {
		return err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("printing the lab's logs: %w", err)
		}
		if len(text) == 0 {
			continue
		}
		all := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		last := all[max(0, len(all)-lines):]
		for i, line := range last {
			if len(line) > longestLine {
				last[i] = line[:longestLine] + " ..."
			}
		}
		name, _ := filepath.Rel(l.logs, file)
		if _, err := fmt.Fprintf(w, "--- %s (%d of %d lines)\n%s\n", name, len(last), len(all), strings.Join(last, "\n")); err != nil {
			return err
		}
	}
	return nil
}
