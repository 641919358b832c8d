package main

import (
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go4.org/netipx"

	"cloud-provider-haproxy/loadbalancer/agent"
	"cloud-provider-haproxy/provider/config"
	"cloud-provider-haproxy/test/lab"
)

// The shipped examples belong together: what the cloud config and the State may ask for, limits.yaml allows.
func TestExamplesAgree(t *testing.T) {
	read := func(name string) []byte {
		text, err := os.ReadFile("../../manifests/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	cloud, err := config.Decode(read("controller/example/cloud-config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	limits, err := agent.DecodeLimits(manifest(t, "limits.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var vips netipx.IPSetBuilder
	for _, p := range limits.VIPPrefixes {
		vips.AddPrefix(p)
	}
	allowed, err := vips.IPSet()
	if err != nil {
		t.Fatal(err)
	}
	for _, pool := range cloud.AddressPools() {
		for _, r := range pool.Ranges {
			if !allowed.ContainsRange(r) {
				t.Errorf("limits.yaml does not allow %s of pool %s", r, pool.Name)
			}
		}
	}
	state, err := handwritten(read("example/state.yaml"), cloud)
	if err != nil {
		t.Fatal(err)
	}
	state.Fence.Epoch, state.Fence.Instance = 1, "push" // as push does
	if err := state.Validate(); err != nil {
		t.Error(err)
	}
	for _, vip := range state.VIPs {
		if !allowed.Contains(vip.Address) {
			t.Errorf("limits.yaml does not allow %s of state.yaml", vip.Address)
		}
	}
	for _, node := range state.Nodes {
		for _, address := range node.Addresses {
			if !slices.ContainsFunc(limits.ServerPrefixes, func(p netip.Prefix) bool { return p.Contains(address) }) {
				t.Errorf("limits.yaml does not allow node %s at %s", node.Name, address)
			}
		}
	}
	for _, i := range state.Instances {
		if !slices.ContainsFunc(limits.RouterIDs, func(ids agent.Interval) bool { return ids.First <= i.RouterID && i.RouterID <= ids.Last }) {
			t.Errorf("limits.yaml does not allow router ID %d", i.RouterID)
		}
	}
}

// What our messages and manuals tell people to run exists.
func TestNamedCommandsExist(t *testing.T) {
	lab.RequirePrograms(t, "git")
	out, err := exec.CommandContext(t.Context(), "git", "-C", "../..", "grep", "-hoE", "`gatewayctl [a-z]+", "--", ".").Output()
	if err != nil {
		t.Fatal("looking through the checkout: ", err)
	}
	var known []string
	for _, c := range newRootCommand().Commands() {
		known = append(known, c.Name())
	}
	for line := range strings.Lines(string(out)) {
		command := strings.TrimSpace(strings.TrimPrefix(line, "`gatewayctl "))
		if !slices.Contains(known, command) {
			t.Errorf("`gatewayctl %s` is named somewhere, and there is no such command; there are %v", command, known)
		}
	}
}
