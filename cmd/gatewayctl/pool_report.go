package main

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"go4.org/netipx"

	"cloud-provider-haproxy/ipam"
	"cloud-provider-haproxy/loadbalancer/desired"
)

// poolReport is what `gatewayctl pools` shows; its JSON is a promise to scripts, told in the command's help.
type poolReport struct {
	// State is the newest of those that the gateways hold, which the rest is from; nil when there is none.
	State    *reportedState  `json:"state"`
	Gateways []reportingHost `json:"gateways"` // in the order of their names
	// Pools are sorted by name and family, Addresses by address; free ones are left out.
	Pools     []poolCount  `json:"pools"`
	Addresses []addressUse `json:"addresses"`
	// OtherPools says that the pools of the configuration at hand are not those of the State.
	OtherPools string `json:"otherPools,omitempty"`
}

type reportedState struct {
	Gateway    string `json:"gateway"`
	ClusterUID string `json:"clusterUID"`
	Epoch      uint64 `json:"epoch"`
	Sequence   uint64 `json:"sequence"`
}

// reportingHost is one gateway. Error is set when it could not be asked or its State not be read, Difference when it
// holds another State than the newest.
type reportingHost struct {
	Gateway    string `json:"gateway"`
	Error      string `json:"error,omitempty"`
	Remedy     string `json:"remedy,omitempty"`
	Difference string `json:"difference,omitempty"`
}

// poolCount is one pool and family. UsedPercent is what is not free, rounded down.
type poolCount struct {
	Name        string `json:"name"`
	Family      string `json:"family"` // IPv4 or IPv6
	Size        uint64 `json:"size"`
	Assigned    uint64 `json:"assigned"`
	Releasing   uint64 `json:"releasing"`
	Reserved    uint64 `json:"reserved"`
	Quarantined uint64 `json:"quarantined"`
	Free        uint64 `json:"free"`
	UsedPercent uint64 `json:"usedPercent"`
}

// addressUse is one address that is not free.
type addressUse struct {
	Address      netip.Addr   `json:"address"`
	Pool         string       `json:"pool,omitempty"`
	ControlPlane bool         `json:"controlPlane,omitempty"`
	Services     []serviceUse `json:"services,omitempty"` // more than one when they share it
	Releasing    []departing  `json:"releasing,omitempty"`
	Reserved     *service     `json:"reserved,omitempty"`
	Kept         []service    `json:"kept,omitempty"`        // more than one when they shared it
	Quarantined  string       `json:"quarantined,omitempty"` // who answered for it
}

type service struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

func (s service) String() string { return desired.Key(s).String() }

type servicePort struct {
	Protocol desired.Protocol `json:"protocol"`
	Port     uint16           `json:"port"`
}

type serviceUse struct {
	service
	Ports []servicePort `json:"ports,omitempty"`
}

// departing is a Service that gave the address up. WaitsFor are the gateways that are not known to hold a State without it.
type departing struct {
	serviceUse
	WaitsFor []string `json:"waitsFor"`
}

// ports gives "TCP 80, UDP 53".
func (s serviceUse) ports() string {
	var list []string
	for _, p := range s.Ports {
		list = append(list, fmt.Sprintf("%s %d", p.Protocol, p.Port))
	}
	return strings.Join(list, ", ")
}

// newPoolReport tells what the newest State says. pools are those of the configuration at hand.
func newPoolReport(asked []askedState, pools []ipam.Pool) *poolReport {
	r := &poolReport{Gateways: []reportingHost{}, Pools: []poolCount{}, Addresses: []addressUse{}}
	var newest *askedState
	for i, a := range asked {
		if a.state != nil && (newest == nil || a.state.Fence.Compare(newest.state.Fence) > 0) {
			newest = &asked[i]
		}
	}
	for i, a := range asked {
		host := reportingHost{Gateway: a.gateway}
		switch {
		case a.err != nil:
			host.Error, host.Remedy = a.err.Error(), remedy(a.err)
		case newest != nil && &asked[i] != newest:
			host.Difference = difference(a.state, *newest)
		}
		r.Gateways = append(r.Gateways, host)
	}
	if newest == nil {
		return r
	}
	s := newest.state
	r.State = &reportedState{Gateway: newest.gateway, ClusterUID: s.Fence.ClusterUID, Epoch: s.Fence.Epoch, Sequence: s.Fence.Sequence}
	for _, p := range s.Pools {
		r.Pools = append(r.Pools, newPoolCount(p))
	}
	if len(s.Pools) > 0 {
		r.OtherPools = comparePools(s.Pools, pools)
	}
	r.Addresses = append(r.Addresses, uses(s, asked, pools)...)
	return r
}

// difference says how a gateway's State differs from the newest one; empty when it is the same.
func difference(s *desired.State, newest askedState) string {
	want := newest.state.Fence
	switch {
	case s == nil:
		return "it never got a State"
	case s.Fence.ClusterUID != want.ClusterUID:
		return fmt.Sprintf("it belongs to the cluster %q; shown is that of %s, %q", s.Fence.ClusterUID, newest.gateway, want.ClusterUID)
	case s.Fence.Compare(want) < 0:
		return fmt.Sprintf("it holds %s; shown is %s of %s", s.Fence, want, newest.gateway)
	}
	mine, err := s.Canonical()
	theirs, err2 := newest.state.Canonical()
	if err != nil || err2 != nil || !bytes.Equal(mine, theirs) {
		return fmt.Sprintf("it holds another State under the same %s; shown is that of %s", want, newest.gateway)
	}
	return ""
}

func newPoolCount(p desired.PoolSummary) poolCount {
	used := ipam.Count{Assigned: p.Assigned, Releasing: p.Releasing, Reserved: p.Reserved, Quarantined: p.Quarantined}.Used()
	c := poolCount{
		Name: p.Name, Family: ipam.Family(p.Family).String(), Size: p.Size,
		Assigned: p.Assigned, Releasing: p.Releasing, Reserved: p.Reserved, Quarantined: p.Quarantined,
	}
	switch {
	case used >= p.Size:
		c.UsedPercent = 100
	default:
		c.Free = p.Size - used
		high, low := bits.Mul64(used, 100) // a /64 has too many for 64 bits
		c.UsedPercent, _ = bits.Div64(high, low, p.Size)
	}
	return c
}

// comparePools says which pools are in one list only: the State is then of a controller with another configuration.
func comparePools(counted []desired.PoolSummary, configured []ipam.Pool) string {
	inState, inFile := map[string]bool{}, map[string]bool{}
	for _, p := range counted {
		inState[p.Name] = true
	}
	for _, p := range configured {
		inFile[p.Name] = true
	}
	if maps.Equal(inState, inFile) {
		return ""
	}
	return fmt.Sprintf("its pools (%s) are not those of the controller that made the State (%s); the pools of addresses are told by this file",
		strings.Join(slices.Sorted(maps.Keys(inFile)), ", "), strings.Join(slices.Sorted(maps.Keys(inState)), ", "))
}

// uses gives every address that is not free, sorted.
func uses(s *desired.State, asked []askedState, pools []ipam.Pool) []addressUse {
	all := map[netip.Addr]*addressUse{}
	at := func(address netip.Addr) *addressUse {
		if all[address] == nil {
			all[address] = &addressUse{Address: address, Pool: poolOf(address, pools)}
		}
		return all[address]
	}
	if c := s.ControlPlane; c != nil {
		at(c.Address).ControlPlane = true
	}
	for _, lb := range s.LoadBalancers {
		use := serviceUse{service: service(lb.Key)}
		for _, f := range lb.Frontends {
			use.Ports = append(use.Ports, servicePort{f.Protocol, f.Port})
		}
		for _, address := range lb.Addresses {
			at(address).Services = append(at(address).Services, use)
		}
	}
	for _, r := range s.Releasing {
		gone := departing{serviceUse: serviceUse{service: service(r.Owner)}, WaitsFor: waitsFor(r, s, asked)}
		for _, p := range r.Ports {
			gone.Ports = append(gone.Ports, servicePort(p))
		}
		at(r.Address).Releasing = append(at(r.Address).Releasing, gone)
	}
	for _, r := range s.Reserved {
		owner := service(r.Owner)
		if r.Kept {
			at(r.Address).Kept = append(at(r.Address).Kept, owner)
		} else {
			at(r.Address).Reserved = &owner
		}
	}
	for _, q := range s.Quarantined {
		at(q.Address).Quarantined = cmp.Or(q.By, "unknown")
	}
	var list []addressUse
	for _, address := range slices.SortedFunc(maps.Keys(all), netip.Addr.Compare) {
		list = append(list, *all[address])
	}
	return list
}

// waitsFor names the gateways of the State that are not known to hold a State without what is on its way back. A gateway
// that cannot be asked may hold one; nobody knows.
func waitsFor(r desired.Releasing, s *desired.State, asked []askedState) []string {
	names := []string{}
	since := desired.Fence{Epoch: r.SinceEpoch, Sequence: r.SinceSequence}
	for _, g := range s.Gateways {
		confirmed := slices.ContainsFunc(asked, func(a askedState) bool {
			return a.gateway == g.Name && a.state != nil && a.state.Fence.ClusterUID == s.Fence.ClusterUID && a.state.Fence.Compare(since) >= 0
		})
		if !confirmed {
			names = append(names, g.Name)
		}
	}
	return names
}

// poolOf names the pool that may give the address.
func poolOf(address netip.Addr, pools []ipam.Pool) string {
	within := func(r netipx.IPRange) bool { return r.Contains(address) }
	for _, p := range pools {
		if slices.ContainsFunc(p.Ranges, within) && !slices.ContainsFunc(p.Exclude, within) {
			return p.Name
		}
	}
	return ""
}
