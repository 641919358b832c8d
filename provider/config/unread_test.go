package config

import (
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// fullConfig has something in every field.
const fullConfig = `apiVersion: cloud-provider-haproxy/v1
kind: CloudConfig
gateways:
- {name: gw1, sshAddress: gw1.example, sshPort: 22, vrrpAddress: 192.0.2.2, interface: eth0}
- {name: gw2, sshAddress: 192.0.2.3, sshPort: 22, vrrpAddress: 192.0.2.3, interface: eth0}
ssh: {user: gatewayctl, privateKeyFile: /key, knownHostsFile: /known_hosts}
vrrp: {firstRouterID: 200, advertInterval: 200ms, preemptDelay: 1m}
pools:
- name: main
  addresses: [192.0.2.64/26, "2001:db8::/64"]
  interface: eth1
  exclude: [192.0.2.80, 192.0.2.90-192.0.2.99]
  avoidNetworkAndBroadcast: true
  autoAssign: false
  priority: 5
  namespaces: [web, mail]
  namespaceSelector: team=web
  serviceSelector: app=web
  shareAcrossNamespaces: true
  probe: false
- {name: second, addresses: [198.51.100.0/28]}
reservations: {192.0.2.70: default/web, "2001:db8::70": default/web}
readForeignAnnotations: true
nodes:
  addressType: ExternalIP
  addresses: {worker: [192.0.2.21, "2001:db8:1::21"], worker.example: [192.0.2.22]}
  cidrs: [192.0.2.0/24]
  podCIDRs: [10.244.0.0/16]
  clientSourceProbes: [203.0.113.1]
  healthCheck: {type: kube-proxy, port: 10256, path: /healthz, interval: 2s, rise: 2, fall: 3}
ipMode: Proxy
loadBalancerClass: example.org/gateway
serveUnclassed: false
resyncInterval: 30s
controlPlane:
  address: 192.0.2.9
  port: 6443
  interface: eth0
  endpoints: ["192.0.2.11:6443", 192.0.2.12]
  extraPorts: [{port: 8132, endpointPort: 8133}]
  check: {type: https, port: 6443, caFile: ca.crt, path: /readyz, interval: 1s, rise: 2, fall: 3}
`

// spareConfig leaves out what depends on something else.
const spareConfig = base + `nodes: {healthCheck: {type: tcp, port: 10250}}
controlPlane: {address: 192.0.2.9, endpoints: ["192.0.2.11:7443"], extraPorts: [{port: 8132}], check: {caFile: ca.crt, path: /livez}}
`

// Whatever is written in the place of a value, nobody is told of it twice, and of nothing else that is right: a list that
// is written as a text is not empty too, and what depends on it is not judged.
func TestWhatCannotBeReadIsToldOnce(t *testing.T) {
	for name, file := range map[string]string{"full": fullConfig, "spare": spareConfig} {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode([]byte(file)); err != nil {
				t.Fatal(err)
			}
			var whole yaml.Node
			if err := yaml.Unmarshal([]byte(file), &whole); err != nil {
				t.Fatal(err)
			}
			for _, value := range everyValue(&whole) {
				for _, written := range []string{"[[]]", "{a: {}}", "1.5", "&anchor x"} {
					toldOnce(t, &whole, value, written)
				}
			}
		})
	}
}

// toldOnce writes another value in the place of one, and puts it back.
func toldOnce(t *testing.T, whole, value *yaml.Node, written string) {
	t.Helper()
	var other yaml.Node
	if err := yaml.Unmarshal([]byte(written), &other); err != nil {
		t.Fatal(err)
	}
	was := *value
	if was.Kind == yaml.MappingNode && other.Content[0].Kind == yaml.MappingNode || was.Value == "ca.crt" && written == "1.5" {
		return // which is right, as far as its form goes
	}
	*value = *other.Content[0]
	text, err := yaml.Marshal(whole)
	*value = was
	if err != nil {
		t.Fatal(err)
	}
	_, err = Decode(text)
	if faults := told(t, err); len(faults) != 1 || !strings.Contains(faults[0], ": line ") {
		t.Errorf("%q in line %d (%s) as %s: %d faults, want the one of its form:\n%s",
			was.Value, was.Line, was.ShortTag(), written, len(faults), strings.Join(faults, "\n"))
	}
}

// everyValue gives the nodes of a file that are values; the file as a whole is none.
func everyValue(n *yaml.Node) (values []*yaml.Node) {
	for i, child := range n.Content {
		if n.Kind == yaml.SequenceNode || n.Kind == yaml.MappingNode && i%2 == 1 {
			values = append(values, child)
		}
		values = slices.Concat(values, everyValue(child))
	}
	return values
}
