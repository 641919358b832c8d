package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"time"

	"cloud-provider-haproxy/loadbalancer/agent"
)

// Machine is one gateway: what survives when its agent is killed, and of that what survives when its power goes.
type Machine struct {
	name    string
	address netip.Addr
	texts   *Texts
	healthy func(netip.Addr) bool

	mu   sync.Mutex
	on   bool
	boot int
	disk map[string][]byte
	// memory are the files below /run and /proc.
	memory     map[string][]byte
	master     int // HAProxy's pid; 0: it does not run
	worker     *worker
	keepalived *keepalived
	addresses  map[netip.Addr]bool // that keepalived has put on the interface
	table      *table              // our nftables table
	firewall   chan struct{}       // has a signal when it changed
	sessions   map[*Session]bool
	pids       int

	process *Process
	strike  Strike
	full    bool // of the disk
	lag     time.Duration
	reloads []Reload // of HAProxy, since somebody asked
	commits []Commit // of state.json, since somebody asked
}

// How is what a Strike does.
type How int

const (
	Nothing     How = iota
	KillBefore      // the agent dies, the operation has no effect
	KillAfter       // the agent dies, the operation has been done
	PowerBefore     // the power goes before
	PowerAfter      // the power goes after
	FailBefore      // an error, no effect
	FailAfter       // an error, and the effect
)

// Strike is what happens at an operation that changes something: After more of them are let pass.
type Strike struct {
	How   How
	After int
}

// New makes a machine without power. limits is its limits.yaml; healthy says whether a server passes its check.
func New(name string, address netip.Addr, limits string, texts *Texts, healthy func(netip.Addr) bool) *Machine {
	return &Machine{
		name: name, address: address, texts: texts, healthy: healthy,
		disk:     map[string][]byte{"/etc/gatewayctl/limits.yaml": []byte(limits)},
		firewall: make(chan struct{}, 1), sessions: map[*Session]bool{}, pids: 100,
	}
}

// Name is the gateway's.
func (m *Machine) Name() string { return m.name }

// PowerOn boots: the disk is as it was, nothing runs but what systemd starts before the agent, which is HAProxy.
func (m *Machine) PowerOn() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = true
	m.boot++
	m.memory = map[string][]byte{}
	m.addresses, m.table = map[netip.Addr]bool{}, nil
	if _, installed := m.disk[haproxyFile]; installed {
		_ = m.loadHAProxy(true) // systemd would try again; the agent does
	}
}

// PowerOff takes the power away: all processes, addresses and files in memory are gone.
func (m *Machine) PowerOff() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.powerOff()
}

func (m *Machine) powerOff() {
	m.on = false
	m.kill()
	m.memory, m.addresses, m.table = nil, nil, nil
	m.master, m.worker, m.keepalived = 0, nil, nil
	for s := range m.sessions {
		s.end()
	}
}

func (m *Machine) kill() {
	if m.process != nil && !m.process.dead {
		m.process.dead = true
		close(m.process.died)
	}
}

// KillAgent ends the agent's process; what it had begun stays as it is.
func (m *Machine) KillAgent() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kill()
}

// KillHAProxy and KillKeepalived end a daemon. keepalived leaves its addresses behind.
func (m *Machine) KillHAProxy() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopHAProxy()
}

// KillKeepalived is kill -9: its addresses stay.
func (m *Machine) KillKeepalived() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keepalived != nil {
		m.forget(keepalivedPID, m.keepalived.pid)
		m.keepalived = nil
	}
}

// FlushFirewall is `nft flush ruleset`.
func (m *Machine) FlushFirewall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.on {
		m.setTable(nil)
	}
}

// Arm sets what happens at an operation to come.
func (m *Machine) Arm(s Strike) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.strike = s
}

// SetFull fills the disk, or empties it again; SetLag makes every program take so much longer.
func (m *Machine) SetFull(full bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.full = full
}

// Full says whether the disk is.
func (m *Machine) Full() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.full
}

// SetLag makes programs that change something take that long.
func (m *Machine) SetLag(lag time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lag = lag
}

// On says whether the machine has power.
func (m *Machine) On() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.on
}

// Boot counts how often the machine was booted.
func (m *Machine) Boot() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.boot
}

// Reload is a reload of HAProxy: the generations of its workers, empty when the configuration is not ours, and how many backends
// they have.
type Reload struct {
	At                          time.Time
	Before, After               string
	BackendsBefore, BackendsNow int
}

// Reloads are the reloads of HAProxy since the last call.
func (m *Machine) Reloads() []Reload {
	m.mu.Lock()
	defer m.mu.Unlock()
	reloads := m.reloads
	m.reloads = nil
	return reloads
}

// State is state.json as it lies on the disk, also of a machine without power; nil when there is none.
func (m *Machine) State() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.disk[stateFile]
}

// Process is one agent's process: its Host. Once it has died nothing that it still does has an effect.
type Process struct {
	m    *Machine
	dead bool // guarded by m.mu
	died chan struct{}
}

var _ agent.Host = (*Process)(nil)

// ErrDead is what a process gets that has died and does not know.
var ErrDead = errors.New("this process has died")

// Begin makes the process of a new agent.
func (m *Machine) Begin() *Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kill()
	m.process = &Process{m: m, died: make(chan struct{})}
	return m.process
}

// Died is closed when the process has died.
func (p *Process) Died() <-chan struct{} { return p.died }

// Dead says whether it is.
func (p *Process) Dead() bool {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return p.dead
}

var errStruck = errors.New("struck by the simulation")

// do is one operation of the process.
func (p *Process) do(changes bool, effect func() error) error {
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.dead {
		return ErrDead
	}
	how := Nothing
	if changes && m.strike.How != Nothing {
		if m.strike.After--; m.strike.After < 0 {
			how, m.strike = m.strike.How, Strike{}
		}
	}
	switch how {
	case KillBefore:
		m.kill()
		return ErrDead
	case PowerBefore:
		m.powerOff()
		return ErrDead
	case FailBefore:
		return errStruck
	}
	err := effect()
	switch how {
	case KillAfter:
		m.kill()
		return ErrDead
	case PowerAfter:
		m.powerOff()
		return ErrDead
	case FailAfter:
		return errors.Join(errStruck, err)
	}
	return err
}

// files is where a path lies.
func (m *Machine) files(path string) map[string][]byte {
	if inMemory(path) {
		return m.memory
	}
	return m.disk
}

func inMemory(path string) bool {
	return strings.HasPrefix(path, "/run/") || strings.HasPrefix(path, "/proc/")
}

// ReadFile implements agent.Host.
func (p *Process) ReadFile(path string) (content []byte, err error) {
	err = p.do(false, func() error {
		text, ok := p.m.files(path)[path]
		if !ok {
			return fmt.Errorf("open %s: %w", path, fs.ErrNotExist)
		}
		content = text
		return nil
	})
	return content, err
}

// WriteFile implements agent.Host: when it has returned, the file is on the disk.
func (p *Process) WriteFile(path string, content []byte, _ fs.FileMode) error {
	return p.do(true, func() error {
		if p.m.full && !inMemory(path) {
			return fmt.Errorf("write %s: %w", path, syscall.ENOSPC)
		}
		p.m.files(path)[path] = bytes.Clone(content)
		if path == stateFile {
			p.m.commits = append(p.m.commits, Commit{time.Now(), p.m.disk[path], p.m.rendered()})
		}
		return nil
	})
}

// Rename implements agent.Host.
func (p *Process) Rename(from, to string) error {
	return p.do(true, func() error {
		files := p.m.files(from)
		text, ok := files[from]
		if !ok {
			return fmt.Errorf("rename %s: %w", from, fs.ErrNotExist)
		}
		delete(files, from)
		files[to] = text
		return nil
	})
}

// Remove implements agent.Host.
func (p *Process) Remove(path string) error {
	return p.do(true, func() error { delete(p.m.files(path), path); return nil })
}

// Firewall gives the events of the kernel's nftables.
func (m *Machine) Firewall() <-chan struct{} { return m.firewall }

// begin makes a process of a daemon.
func (m *Machine) begin(pidFile, name string) int {
	m.pids++
	m.memory[pidFile] = fmt.Appendf(nil, "%d\n", m.pids)
	m.memory[statFile(m.pids)] = fmt.Appendf(nil, "%d (%s) S 1%s %d0 0", m.pids, name, strings.Repeat(" 0", 17), m.pids)
	return m.pids
}

func statFile(pid int) string { return fmt.Sprintf("/proc/%d/stat", pid) }

func (m *Machine) forget(pidFile string, pid int) {
	delete(m.memory, pidFile)
	delete(m.memory, statFile(pid))
}
