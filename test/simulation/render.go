package simulation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strings"

	"cloud-provider-haproxy/loadbalancer/haproxy"
	"cloud-provider-haproxy/loadbalancer/keepalived"
	"cloud-provider-haproxy/loadbalancer/nftables"
	"cloud-provider-haproxy/test/simulation/machine"
)

// rendered judges what a gateway has made of a State when it commits it (invariant 10): whoever renders the State once more gets
// the same bytes, and another gateway with the same slots has the same, but for the lines that say which gateway it is.
func (c *checks) rendered(g *gateway, r *revision, files machine.Files) {
	var assigned struct {
		Slots, Before haproxy.Slots
		BeforeOf      string
	}
	if err := json.Unmarshal(files.Slots, &assigned); err != nil {
		c.w.fail(10, "%s holds %s with slots that cannot be read: %v", g.name, r.state.Fence, err)
		return
	}
	slots := assigned.Slots
	if digest, err := r.state.Digest(); err == nil && fmt.Sprintf("%s, %s", r.state.Fence, digest) == assigned.BeforeOf {
		slots = assigned.Before // the newest State that was tried was not taken
	}
	again, err := c.render(g, r, slots)
	if err != nil {
		c.w.fail(10, "%s holds %s, which cannot be rendered: %v", g.name, r.state.Fence, err)
		return
	}
	flows := nftables.Flows(r.state) // then front.nft depends on who is fit
	for _, one := range []struct {
		name        string
		lies, again []byte
	}{
		{"haproxy.cfg", files.HAProxy, again.HAProxy}, {"services.map", files.Services, again.Services},
		{"checks.map", files.Checks, again.Checks}, {"keepalived.conf", files.Keepalived, again.Keepalived},
		{"front.nft", files.Front, again.Front},
	} {
		if !bytes.Equal(one.lies, one.again) && !(flows && one.name == "front.nft") {
			c.w.fail(10, "%s of %s at %s is not what it is when it is rendered again: %s", one.name, r.state.Fence, g.name, firstDifference(one.lies, one.again))
		}
	}
	id := string(r.signed.State) + fmt.Sprint(slots)
	digest := digestOf(files.HAProxy, files.Services, files.Checks)
	if other, known := c.shared[id]; known && other != digest {
		c.w.fail(10, "%s makes another haproxy.cfg, services.map or checks.map of %s with the same slots than another gateway", g.name, r.state.Fence)
	}
	c.shared[id] = digest
}

// render makes the files of a State as a gateway has to.
func (c *checks) render(g *gateway, r *revision, slots haproxy.Slots) (files machine.Files, err error) {
	l := haproxy.DebianLocal()
	l.Gateway, l.Version, l.SlotsPerKind = g.name, machine.Version, slotsPerKind(c.w.seed)
	config, err := haproxy.Render(r.state, l, slots)
	if err != nil {
		return files, err
	}
	vrrp := keepalived.DebianLocal(g.name)
	vrrp.Version = machine.Version
	files = machine.Files{HAProxy: config.File, Services: config.ServicesMap, Checks: config.ChecksMap}
	if files.Keepalived, err = keepalived.Render(r.state, vrrp); err != nil {
		return files, err
	}
	files.Front, err = nftables.Render(r.state, nftables.DebianLocal(g.name))
	return files, err
}

// digestOf leaves out the lines that say which gateway it is, and the digest that is made of them.
func digestOf(files ...[]byte) uint64 {
	h := fnv.New64a()
	for _, file := range files {
		for line := range bytes.Lines(file) {
			if !bytes.HasPrefix(line, []byte("  description ")) && !bytes.HasPrefix(line, []byte("  localpeer ")) {
				h.Write(line)
			}
		}
	}
	return h.Sum64()
}

func firstDifference(a, b []byte) string {
	first, second := strings.Split(string(a), "\n"), strings.Split(string(b), "\n")
	for i := range first {
		if i >= len(second) || first[i] != second[i] {
			return fmt.Sprintf("line %d, %q", i+1, first[i])
		}
	}
	return fmt.Sprintf("line %d is missing", len(first)+1)
}
