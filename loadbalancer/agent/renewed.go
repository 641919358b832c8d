package agent

import (
	"strconv"

	"cloud-provider-haproxy/loadbalancer/haproxy"
)

// workerIsNew is true when HAProxy has a worker that nothing was compared with: somebody else started or reloaded it, and it has what
// was in its files then, or nothing has told it yet what they cannot.
func (a *Agent) workerIsNew() bool {
	newest, err := strconv.Atoi(newestOf(a.workerStats()).pid)
	a.mu.Lock()
	defer a.mu.Unlock()
	return err == nil && a.worker != 0 && newest != a.worker
}

// isRenewed says whether another worker answers than the one that was compared last: somebody else has started it.
func (a *Agent) isRenewed(running *haproxy.Running) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return running != nil && a.worker != 0 && a.worker != running.PID
}

// noteWorker notes that a worker is what the State says, as far as it is to be; nil: none answers.
func (a *Agent) noteWorker(running *haproxy.Running) {
	if running == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.worker = running.PID
}
