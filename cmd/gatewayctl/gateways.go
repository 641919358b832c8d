package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/provider/config"
)

// site is what an operator's command knows of the gateways: the controller's configuration, and its key.
type site struct {
	config *config.Config
	key    ssh.Signer
	// gateways are in the order of the configuration.
	gateways []*gateway.Client
}

// openSite reads the controller's configuration file. No connection is made yet.
func openSite(cloudConfig string) (*site, error) {
	c, err := config.Load(cloudConfig)
	if err != nil {
		return nil, err
	}
	key, err := gateway.LoadSigner(c.SSH.PrivateKeyFile)
	if err != nil {
		return nil, err
	}
	known, err := gateway.LoadKnownHosts(c.SSH.KnownHostsFile)
	if err != nil {
		return nil, err
	}
	s := &site{config: c, key: key}
	for _, g := range c.DesiredGateways() {
		client, err := gateway.New(gateway.Config{
			Name: g.Name, Address: g.SSHAddress, User: c.SSH.User, Signers: []ssh.Signer{key}, KnownHosts: known,
		})
		if err != nil {
			return nil, errors.Join(err, s.close())
		}
		s.gateways = append(s.gateways, client)
	}
	return s, nil
}

func (s *site) close() error {
	var faults []error
	for _, g := range s.gateways {
		faults = append(faults, g.Close())
	}
	return errors.Join(faults...)
}

// siteFlags are the flags of every command that talks to all gateways.
type siteFlags struct {
	cloudConfig string
	output      string
}

func newSiteFlags(command *cobra.Command) *siteFlags {
	flags := &siteFlags{}
	command.Flags().StringVar(&flags.cloudConfig, "cloud-config", "", "the controller's configuration file: gateways, key and known hosts")
	command.Flags().StringVarP(&flags.output, "output", "o", "table", "table, or json for machines")
	if err := command.MarkFlagRequired("cloud-config"); err != nil {
		panic(err) // no such flag: a mistake of this function
	}
	return flags
}

func (f *siteFlags) check() error {
	if f.output != "table" && f.output != "json" {
		return fmt.Errorf("--output is %q; give table or json", f.output)
	}
	return nil
}
