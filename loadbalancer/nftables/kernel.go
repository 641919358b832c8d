package nftables

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sysctl is one kernel setting that a gateway needs.
type Sysctl struct {
	Name  string // net.ipv4.tcp_tw_reuse
	Value string
	Why   string
	// AtLeast is set when a larger number is as good.
	AtLeast bool
	// Module is loaded before the setting exists. Without one it exists always, but for the settings that the kernel has once
	// for all network namespaces (neighbour tables) in a namespace of its own.
	Module string
}

// Sysctls are the settings of manifests/gateway/sysctl.d: what one address that opens all connections to the nodes, and
// clients that are all on one segment, make the kernel run out of.
func Sysctls() []Sysctl {
	const neighbours = "A segment may have more neighbours than the 1024 that the kernel keeps by default; when the table is " +
		"full, nobody new is answered, so that a flood from made-up addresses of the segment fails everyone."
	settings := []Sysctl{
		{Name: "net.ipv4.tcp_tw_reuse", Value: "1",
			Why: "All connections to a NodePort of a node come from one address: without reuse of ports in TIME_WAIT the rate " +
				"falls from 14000/s to 300/s after 60000 connections (measured)."},
		{Name: "net.ipv4.ip_local_port_range", Value: "7500 65535",
			Why: "The same, and for IPv6 too: twice as many ports for connections to the nodes, and none of HAProxy's own (7480 to 7482), " +
				"which a connection would take while HAProxy is down. Put those from 7500 on of this machine's own daemons into " +
				"net.ipv4.ip_local_reserved_ports, or one that restarts may find its port taken."},
		{Name: "net.core.somaxconn", Value: "65535", AtLeast: true,
			Why: "One listening socket takes the new connections of all Services: a burst must find room in its queue (4096 by default)."},
		{Name: "net.netfilter.nf_conntrack_max", Value: "1048576", AtLeast: true, Module: "nf_conntrack",
			Why: "A firewall of the site that tracks connections sees two of them for each client's connection, and drops new ones " +
				"when its table is full. The table grows as needed, about 300 bytes an entry."},
	}
	settings = append(settings, Sysctl{Name: "net.netfilter.nf_conntrack_tcp_timeout_time_wait", Value: "30", Module: "nf_conntrack",
		Why: "The same table: connections that have ended stay in it for 120 seconds by default, so that 4400 new ones a second would " +
			"fill it. Services of UDP make the kernel track all connections, with or without a firewall of the site."},
		Sysctl{Name: "net.netfilter.nf_conntrack_tcp_loose", Value: "0", Module: "nf_conntrack",
			Why: "When tracking begins, no connection that is established is entered half-way: the kernel may take its gateway's end for " +
				"the one that began it, and tell HAProxy the client's address as the destination of the next connection from that " +
				"port, which HAProxy then refuses (seen: 12 of 4700 after a hand-over)."})
	for _, f := range []string{"ipv4", "ipv6"} {
		for i, value := range []string{"16384", "32768", "65536"} {
			settings = append(settings, Sysctl{Name: "net." + f + ".neigh.default.gc_thresh" + strconv.Itoa(i+1), Value: value,
				AtLeast: true, Why: neighbours})
		}
	}
	return settings
}

// File is where the kernel shows the setting.
func (c Sysctl) File() string { return "/proc/sys/" + strings.ReplaceAll(c.Name, ".", "/") }

// Met says whether the content of File satisfies the setting.
func (c Sysctl) Met(current string) bool {
	got, want := strings.Fields(current), strings.Fields(c.Value)
	if !c.AtLeast {
		return slices.Equal(got, want)
	}
	if len(got) != 1 || len(want) != 1 {
		return false
	}
	is, err := strconv.ParseUint(got[0], 10, 64)
	wanted, wrong := strconv.ParseUint(want[0], 10, 64)
	return err == nil && wrong == nil && is >= wanted
}

// Module is a kernel module that a gateway needs before anybody asks for it.
type Module struct{ Name, Why string }

// Modules are those of manifests/gateway/modules-load.d. nft loads the first four by itself, unless the gateway is locked
// against loading modules once it has started.
func Modules() []Module {
	return []Module{
		{"nft_tproxy", "Hands a VIP's connection to HAProxy (chain front)."},
		{"nft_socket", "Knows the connections that HAProxy has (chains front and guard)."},
		{"nft_dup_ipv4", "Hands packets of connections on to the gateway that had a VIP before (a drain)."},
		{"nft_dup_ipv6", "The same for IPv6."},
		{"tcp_diag", "Lets ss find and end connections whose client may not connect any more."},
		{"nf_conntrack", "So that net.netfilter.nf_conntrack_max exists when sysctl.d is read."},
	}
}

// SysctlFile is the content of /etc/sysctl.d/90-cloud-provider-haproxy.conf.
func SysctlFile() []byte {
	var out bytes.Buffer
	out.WriteString("# Kernel settings of a gateway. Part of cloud-provider-haproxy; `sysctl --system` applies them.\n")
	why := ""
	for _, c := range Sysctls() {
		if c.Why != why {
			why = c.Why
			out.WriteString("\n" + remark(why))
		}
		optional := ""
		if c.Module != "" {
			optional = "-" // sysctl.d(5): no failure when the module is not there
		}
		fmt.Fprintf(&out, "%s%s = %s\n", optional, c.Name, c.Value)
	}
	return out.Bytes()
}

// ModulesFile is the content of /etc/modules-load.d/cloud-provider-haproxy.conf.
func ModulesFile() []byte {
	var out bytes.Buffer
	out.WriteString("# Kernel modules of a gateway. Part of cloud-provider-haproxy.\n")
	for _, m := range Modules() {
		out.WriteString("\n" + remark(m.Why) + m.Name + "\n")
	}
	return out.Bytes()
}

// remark breaks a text into comment lines.
func remark(text string) string {
	const width = 110
	var out strings.Builder
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > width {
			out.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return out.String() + line + "\n"
}
