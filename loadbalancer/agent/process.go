package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// process is a daemon's main process. The start time (clock ticks since boot) tells it from a later one of the same
// number.
type process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"`
}

// alive finds the daemon by its pid file; nil when it does not run. A stale file whose number another program has now
// does not count.
func (a *Agent) alive(d Daemon) (*process, error) {
	text, err := a.host.ReadFile(d.PIDFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the pid file of %s: %w", filepath.Base(d.Program), err)
	}
	// HAProxy writes a line for each of its processes when it runs without a master; the first will do.
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		return nil, nil // being written
	}
	stat, err := a.host.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, nil // gone, maybe while it was read
	}
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", filepath.Base(d.Program), err)
	}
	name, start, dead := parseStat(stat)
	if dead || name != filepath.Base(d.Program) {
		return nil, nil
	}
	return &process{PID: pid, Start: start}, nil
}

// parseStat reads /proc/PID/stat (proc(5)): the name stands in parentheses and may contain anything; the state is field
// 3, the start time field 22.
func parseStat(stat []byte) (name, start string, dead bool) {
	name, fields := statFields(stat)
	if len(fields) < 20 {
		return "", "", true
	}
	return name, fields[19], fields[0] == "Z" || fields[0] == "X"
}

// statFields gives the name and the fields from the third on; none when it is no such file.
func statFields(stat []byte) (name string, fields []string) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", nil
	}
	return string(stat[open+1 : end]), strings.Fields(string(stat[end+1:]))
}

// childrenOf are the processes that a daemon's main process has.
func (a *Agent) childrenOf(p *process) []string {
	text, err := a.host.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.PID, p.PID))
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// workerStat is a worker of HAProxy and its fields of /proc/PID/stat from the third on.
type workerStat struct {
	pid    string
	fields []string
}

// workerStats are those of all workers that run.
func (a *Agent) workerStats() (all []workerStat) {
	master, err := a.alive(a.config.HAProxy)
	if err != nil || master == nil {
		return nil
	}
	for _, pid := range a.childrenOf(master) {
		if stat, err := a.host.ReadFile("/proc/" + pid + "/stat"); err == nil {
			_, fields := statFields(stat)
			all = append(all, workerStat{pid, fields})
		}
	}
	return all
}

// works is false for one that was stopped or has ended.
func (w workerStat) works() bool {
	return len(w.fields) > 0 && !strings.Contains("tTXZ", w.fields[0])
}

// isStopped is true for one that a signal or a debugger holds.
func (w workerStat) isStopped() bool { return len(w.fields) > 0 && strings.Contains("tT", w.fields[0]) }

// newestOf is the worker that started last; the zero one when there is none.
func newestOf(workers []workerStat) (newest workerStat) {
	born := -1
	for _, w := range workers {
		if len(w.fields) < 20 || w.fields[0] == "Z" {
			continue
		}
		if start, err := strconv.Atoi(w.fields[19]); err == nil && start >= born { // proc(5), field 22; they are in the order of their birth
			newest, born = w, start
		}
	}
	return newest
}
