package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/provider/config"
)

// handwritten reads a State in YAML strictly and fills in what the cloud configuration knows better than a person. The
// epoch, instance and sequence of its fence are those of whoever made it; mark replaces them.
func handwritten(text []byte, c *config.Config) (*desired.State, error) {
	if err := oneDocument(text); err != nil {
		return nil, fmt.Errorf("reading the State: %w", err)
	}
	state := &desired.State{}
	if err := yaml.UnmarshalStrict(text, state); err != nil {
		return nil, fmt.Errorf("reading the State: %w", err)
	}
	return complete(state, c)
}

// complete fills in, from the cloud configuration, what the State leaves out.
func complete(state *desired.State, c *config.Config) (*desired.State, error) {
	if state.Schema == 0 {
		state.Schema = desired.Schema
	}
	if len(state.Gateways) == 0 {
		state.Gateways = c.DesiredGateways()
	}
	if state.VRRP == (desired.VRRP{}) {
		state.VRRP = c.DesiredVRRP()
	}
	if len(state.Instances) == 0 {
		instances, err := desired.Instances(state.Gateways, c.VRRP.FirstRouterID)
		if err != nil {
			return nil, err
		}
		state.Instances = instances
	}
	if state.NodeCheck == (desired.Check{}) {
		state.NodeCheck = c.NodeCheck()
	}
	if state.ControlPlane == nil {
		state.ControlPlane = c.DesiredControlPlane()
	}
	if len(state.VIPs) == 0 {
		vips, err := floating(state, c)
		if err != nil {
			return nil, err
		}
		state.VIPs = vips
	}
	state.Normalize()
	return state, nil
}

// oneDocument refuses an empty text, and one with several documents: sigs.k8s.io/yaml takes the first one for the whole.
// Either would be a State that takes Services off the gateways which its author never meant to touch.
func oneDocument(text []byte) error {
	documents := yamlv3.NewDecoder(bytes.NewReader(text))
	var first, second yamlv3.Node
	err := documents.Decode(&first)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err == nil && !errors.Is(documents.Decode(&second), io.EOF) {
		return errors.New("it holds more than one YAML document; write one")
	}
	if err != nil || first.Content[0].Tag == "!!null" {
		return errors.New("it is empty; write `loadBalancers: []` if every Service is to leave the gateways")
	}
	return nil
}

// floating gives each address that the State serves to an instance, and to the interface that its pool names.
func floating(state *desired.State, c *config.Config) ([]desired.VIP, error) {
	var list []netip.Addr
	for _, lb := range state.LoadBalancers {
		list = append(list, lb.Addresses...)
	}
	if state.ControlPlane != nil {
		list = append(list, state.ControlPlane.Address)
	}
	slices.SortFunc(list, netip.Addr.Compare)
	var vips []desired.VIP
	for _, address := range slices.Compact(list) {
		device, err := interfaceOf(address, c)
		if err != nil {
			return nil, err
		}
		vips = append(vips, desired.VIP{Address: address, Interface: device, RouterID: desired.Spread(address, state.Instances)})
	}
	return vips, nil
}

// interfaceOf is the interface that the configuration names for an address; empty: each gateway's own.
func interfaceOf(address netip.Addr, c *config.Config) (string, error) {
	if cp := c.ControlPlane; cp != nil && cp.Address == address {
		return cp.Interface, nil
	}
	for _, pool := range c.Pools {
		for _, text := range pool.Addresses {
			addresses, err := ipam.ParseRange(text)
			if err != nil {
				return "", fmt.Errorf("pool %s: %w", pool.Name, err)
			}
			if addresses.Contains(address) {
				return pool.Interface, nil
			}
		}
	}
	return "", nil
}
