package lab

import (
	"context"
	"fmt"
)

// unhealthyFile makes a worker's /healthz fail while it exists.
const unhealthyFile = "/run/unhealthy"

// startWorker is a boot of a worker: the backend program answers where kube-proxy would.
func (h *Host) startWorker(ctx context.Context) error {
	argv := []string{h.lab.bin("backend"), "-name", h.Name, "-health", ":10256", "-unhealthy", unhealthyFile}
	for _, port := range h.lab.options.NodePorts {
		argv = append(argv, "-listen", fmt.Sprintf(":%d", port))
	}
	backend, err := h.Start("backend", argv...)
	if err != nil {
		return err
	}
	return backend.AwaitLine(ctx, "ready")
}

// SetHealthy makes a worker's /healthz (port 10256, kube-proxy's) answer 200 or 503. Its NodePorts go on answering.
func (h *Host) SetHealthy(ctx context.Context, healthy bool) error {
	if healthy {
		_, err := h.Run(ctx, "rm", "-f", unhealthyFile)
		return err
	}
	return h.WriteFile(unhealthyFile, nil, 0o644)
}
