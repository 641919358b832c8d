package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/crypto/ssh"
	"k8s.io/client-go/kubernetes"
	cloudprovider "k8s.io/cloud-provider"
	ccmconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/klog/v2"

	"cloud-provider-haproxy/loadbalancer"
	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/loadbalancer/wire"
	"cloud-provider-haproxy/provider"
	"cloud-provider-haproxy/provider/config"
)

const (
	// roundGrace is how long the round that is under way may take to end after SIGTERM; leaseGrace how long the API server
	// may take to release the Lease. Together well below the 30 s that a kubelet gives.
	roundGrace = 10 * time.Second
	leaseGrace = 5 * time.Second
)

// process is one run of the command.
type process struct {
	ctx     context.Context
	end     context.CancelCauseFunc
	stop    chan struct{} // closed when the library is to return
	options *options.CloudControllerManagerOptions

	// Set by configure.
	config  *config.Config
	file    *configFile
	secrets secrets

	// Set by cloudOf, before ctx's end is waited for; guarded by made.
	made    chan struct{}
	cloud   *provider.Cloud
	client  kubernetes.Interface
	clients []io.Closer
}

func newProcess(ctx context.Context, o *options.CloudControllerManagerOptions) *process {
	p := &process{options: o, stop: make(chan struct{}), made: make(chan struct{})}
	p.ctx, p.end = context.WithCancelCause(ctx)
	return p
}

// cloudOf is the library's InitCloudFunc.
func (p *process) cloudOf(c *ccmconfig.CompletedConfig) cloudprovider.Interface {
	defer close(p.made)
	p.client = c.ClientBuilder.ClientOrDie("cloud-provider-haproxy")
	cloud, err := provider.New(provider.Options{
		Config:       p.config,
		Client:       p.client,
		FieldManager: filepath.Base(os.Args[0]),
		NewManager:   p.newManager,
		Register:     legacyregistry.MustRegister,
		Ended:        func(err error) { p.end(err) },
	})
	if err != nil { // an InitCloudFunc cannot return it
		klog.ErrorS(err, "The provider cannot be made")
		klog.FlushAndExit(klog.ExitFlushTimeout, 1)
	}
	p.cloud = cloud
	return cloud
}

// newManager makes the Manager with a client for each gateway. Nothing is connected yet.
func (p *process) newManager(settings loadbalancer.Settings, epochs loadbalancer.EpochStore, ledger loadbalancer.LedgerStore, observer loadbalancer.Observer) (provider.Manager, error) {
	var gateways []loadbalancer.Gateway
	for _, g := range settings.Gateways {
		var sessions [2]*gateway.Client
		for i := range sessions {
			client, err := gateway.New(gateway.Config{
				Name:       g.Name,
				Address:    g.SSHAddress,
				User:       p.config.SSH.User,
				Signers:    []ssh.Signer{p.secrets.signer},
				KnownHosts: p.secrets.knownHosts,
			})
			if err != nil {
				return nil, err
			}
			sessions[i] = client
			p.clients = append(p.clients, client)
		}
		gateways = append(gateways, probing{sessions[0], sessions[1]})
	}
	log := slog.New(logr.ToSlogHandler(klog.LoggerWithName(klog.Background(), "manager")))
	return loadbalancer.New(settings, gateways, gateway.Signer{Key: p.secrets.signer}, epochs, ledger, observer, log)
}

// probing asks for addresses over a session of its own: that takes half a second, for which no round has to wait.
type probing struct {
	*gateway.Client
	prober *gateway.Client
}

// Probe is gateway.Client's.
func (g probing) Probe(ctx context.Context, targets []wire.ProbeTarget) (*wire.Probed, error) {
	return g.prober.Probe(ctx, targets)
}

// followConfig hands changes of the configuration file to the provider, also while another process leads: who takes over
// begins with what is in the file then.
func (p *process) followConfig() {
	select {
	case <-p.ctx.Done():
		return
	case <-p.made:
	}
	p.file.follow(p.ctx, p.cloud.Reload, p.cloud.RefuseConfig)
}

// endWhenTold waits for a signal, or for the end of Manager, and ends the process in order: no more rounds, no more
// sessions, the Lease free for the next controller, then the library returns.
func (p *process) endWhenTold() {
	<-p.ctx.Done()
	defer close(p.stop)
	select {
	case <-p.made:
	default:
		return // not begun
	}
	klog.InfoS("Ending", "reason", context.Cause(p.ctx))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), roundGrace)
	defer cancel()
	if err := p.cloud.Shutdown(ctx); err != nil {
		klog.ErrorS(err, "Ending without waiting")
	}
	for _, client := range p.clients {
		if err := client.Close(); err != nil {
			klog.V(2).InfoS("A session to a gateway did not close", "err", err)
		}
	}
	if election := p.options.Generic.LeaderElection; election.LeaderElect && p.cloud.Led() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(p.ctx), leaseGrace)
		defer cancel()
		if err := release(ctx, p.client, election.ResourceNamespace, election.ResourceName); err != nil {
			klog.ErrorS(err, "The Lease is not released; the next controller waits until it has expired")
		}
	}
}

// whyEnded is nil after a signal, and an error when another controller leads: who supervises this process has to know.
func (p *process) whyEnded() error {
	cause := context.Cause(p.ctx)
	if cause == nil || errors.Is(cause, context.Canceled) {
		return nil
	}
	return fmt.Errorf("ended by itself: %w", cause)
}
