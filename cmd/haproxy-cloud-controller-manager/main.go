package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/cloud-provider/app"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of client-go
	_ "k8s.io/component-base/metrics/prometheus/version"  // metric kubernetes_build_info
	"k8s.io/component-base/version/verflag"

	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/provider"
	"cloud-provider-haproxy/provider/config"
)

const programName = "haproxy-cloud-controller-manager"

func main() {
	os.Exit(run())
}

func run() int {
	command, err := newCommand(genericapiserver.SetupSignalContext())
	if err == nil {
		err = cli.RunNoErrOutput(command)
	}
	var told *toldError
	if err != nil && !errors.As(err, &told) {
		fmt.Fprintf(os.Stderr, "Error: %v\n", err)
	}
	if err != nil {
		return 1
	}
	return 0
}

// toldError is one that the library has printed already.
type toldError struct{ error }

// newCommand makes the command; its process ends when ctx does.
func newCommand(ctx context.Context) (*cobra.Command, error) {
	o, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		return nil, fmt.Errorf("making the options: %w", err)
	}
	setDefaults(o)
	p := newProcess(ctx, o)
	command := app.NewCloudControllerManagerCommand(o, p.cloudOf, controllers(), names.CCMControllerAliases(), cliflag.NamedFlagSets{}, p.stop)
	command.Use = programName
	command.Long = "The cloud controller manager for bare metal: Services of type LoadBalancer get an external IP\n" +
		"that a pair of HAProxy and keepalived gateways carries. It needs --cloud-provider=haproxy and --cloud-config=FILE."
	command.PreRunE = func(*cobra.Command, []string) error {
		verflag.PrintAndExitIfRequested()
		return p.configure()
	}
	library := command.RunE
	command.RunE = func(command *cobra.Command, args []string) error {
		go p.endWhenTold()
		go p.followConfig()
		if err := library(command, args); err != nil {
			return &toldError{err}
		}
		return p.whyEnded()
	}
	return command, nil
}

// setDefaults sets what we want otherwise than the library; each is still a flag.
func setDefaults(o *options.CloudControllerManagerOptions) {
	o.KubeCloudShared.CloudProvider.Name = provider.ProviderName
	// "cloud-controller-manager" is every other provider's default too: two of them in one cluster would take turns.
	o.Generic.LeaderElection.ResourceName = programName
	// A burst of Services joins few rounds when many are in flight, and the API server's own priority and fairness says
	// how fast it may go; the defaults (1 at a time, 20 requests/s) gave 189 of 300 Services an address in 150 s.
	o.ServiceController.ConcurrentServiceSyncs = 200
	o.Generic.ClientConnection.QPS = -1 // no limit of the client's own
	// There are no webhooks.
	o.Webhook, o.WebhookServing = nil, nil
}

// secrets are the files that the configuration names, read.
type secrets struct {
	signer     ssh.Signer
	knownHosts *gateway.KnownHosts
}

// configure reads and validates the configuration and the files that it names; every fault is in the error.
func (p *process) configure() error {
	flags := p.options.KubeCloudShared.CloudProvider
	if flags.Name != provider.ProviderName {
		return fmt.Errorf("--cloud-provider is %q; allowed is %s", flags.Name, provider.ProviderName)
	}
	if flags.CloudConfigFile == "" {
		return errors.New("--cloud-config is missing; it names the file with the gateways and the address pools (kind CloudConfig)")
	}
	p.file = &configFile{path: flags.CloudConfigFile, load: config.Load}
	p.file.remember()
	c, err := config.Load(flags.CloudConfigFile)
	if err != nil {
		return err
	}
	p.config = c
	var faults *multierror.Error
	if p.secrets.signer, err = gateway.LoadSigner(c.SSH.PrivateKeyFile); err != nil {
		faults = multierror.Append(faults, fmt.Errorf("ssh.privateKeyFile: %w", err))
	}
	if p.secrets.knownHosts, err = gateway.LoadKnownHosts(c.SSH.KnownHostsFile); err != nil {
		faults = multierror.Append(faults, fmt.Errorf("ssh.knownHostsFile: %w", err))
	}
	if err := faults.ErrorOrNil(); err != nil {
		return fmt.Errorf("cloud configuration %s: %w", flags.CloudConfigFile, err)
	}
	return nil
}
