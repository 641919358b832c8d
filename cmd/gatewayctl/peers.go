package main

import (
	"fmt"

	"golang.org/x/crypto/ssh"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/loadbalancer/gateway"
)

// dialPeer gives the agent its clients of the other gateways. Key and known hosts are read for each client, so that new ones
// need no restart.
func dialPeer(config agent.Peers) func(agent.PeerAddress) (agent.Peer, error) {
	return func(peer agent.PeerAddress) (agent.Peer, error) {
		key, err := gateway.LoadSigner(config.PrivateKeyFile)
		if err != nil {
			return nil, fmt.Errorf("peers.privateKeyFile: %w", err)
		}
		known, err := gateway.LoadKnownHosts(config.KnownHostsFile)
		if err != nil {
			return nil, fmt.Errorf("peers.knownHostsFile: %w", err)
		}
		client, err := gateway.New(gateway.Config{
			Name: peer.Name, Address: peer.SSHAddress, User: config.User, Signers: []ssh.Signer{key}, KnownHosts: known,
		})
		if err != nil {
			return nil, err
		}
		return client, nil
	}
}
