package main

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/gateway"
	"cloud-provider-haproxy/provider/config"
)

// controller is what the controller has: its configuration, its key, and a client of each gateway. A command that uses
// it is, to the gateways, the controller.
type controller struct {
	config  *config.Config
	key     ssh.Signer
	clients []*gateway.Client // in the configuration's order
}

// loadController reads the cloud configuration and the files that it names; it connects to nobody.
func loadController(file string) (*controller, error) {
	c, err := config.Load(file)
	if err != nil {
		return nil, err
	}
	key, err := gateway.LoadSigner(c.SSH.PrivateKeyFile)
	if err != nil {
		return nil, fmt.Errorf("ssh.privateKeyFile: %w", err)
	}
	known, err := gateway.LoadKnownHosts(c.SSH.KnownHostsFile)
	if err != nil {
		return nil, fmt.Errorf("ssh.knownHostsFile: %w", err)
	}
	result := &controller{config: c, key: key}
	for _, g := range c.DesiredGateways() {
		client, err := gateway.New(gateway.Config{
			Name: g.Name, Address: g.SSHAddress, User: c.SSH.User, Signers: []ssh.Signer{key}, KnownHosts: known,
		})
		if err != nil {
			return nil, err
		}
		result.clients = append(result.clients, client)
	}
	return result, nil
}

// named gives the clients of the gateways with these names, in this order; all for no name.
func (c *controller) named(names []string) ([]*gateway.Client, error) {
	if len(names) == 0 {
		return c.clients, nil
	}
	var known []string
	for _, client := range c.clients {
		known = append(known, client.Name())
	}
	var chosen []*gateway.Client
	for _, name := range names {
		i := slices.Index(known, name)
		if i < 0 {
			return nil, fmt.Errorf("--gateway %s: no such gateway in the cloud configuration; it has %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, c.clients[i])
	}
	return chosen, nil
}

func (c *controller) close() {
	for _, client := range c.clients {
		client.Close()
	}
}
