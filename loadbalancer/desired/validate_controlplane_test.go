package desired_test

import (
	_ "embed"
	"strings"
	"testing"

	"cloud-provider-haproxy/loadbalancer/desired"
)

//go:embed testdata/ca.pem
var ca string

func TestValidateControlPlane(t *testing.T) {
	runFaultTests(t, []faultTest{
		{"certificates without https", func(s *desired.State) {
			s.ControlPlane.Check.Kind, s.ControlPlane.Check.Path, s.ControlPlane.CA = desired.CheckTLS, "", ca
		},
			[]string{"controlPlane.ca: is set, but check tls verifies no certificate"}},
		{"no certificates", func(s *desired.State) { s.ControlPlane.CA = "kubernetes" }, []string{"controlPlane.ca: holds no certificate"}},
		{"blank certificates", func(s *desired.State) { s.ControlPlane.CA = "\n" }, []string{"controlPlane.ca: holds no certificate"}},
		{"more than certificates", func(s *desired.State) { s.ControlPlane.CA = ca + "\nserver evil" }, []string{"controlPlane.ca: holds more than certificates"}},
		{"private key", func(s *desired.State) { s.ControlPlane.CA = strings.ReplaceAll(ca, "CERTIFICATE", "PRIVATE KEY") }, []string{"controlPlane.ca: holds a PRIVATE KEY"}},
		{"garbled certificate", func(s *desired.State) { s.ControlPlane.CA = strings.Replace(ca, "MII", "AAA", 1) }, []string{"controlPlane.ca: holds a certificate that cannot be read"}},
		{"endless certificates", func(s *desired.State) { s.ControlPlane.CA = strings.Repeat(ca, 200) }, []string{"controlPlane.ca: holds certificates of"}},
		{"extra ports", func(s *desired.State) {
			s.ControlPlane.ExtraPorts = []desired.ExtraPort{{Port: 6443, EndpointPort: 1}, {Port: 0, EndpointPort: 2}, {Port: 8132}, {Port: 8132, EndpointPort: 3}}
		},
			[]string{"controlPlane.extraPorts[0].port: 6443 is another port", "controlPlane.extraPorts[1].port: is 0",
				"controlPlane.extraPorts[2].endpointPort: is 0", "controlPlane.extraPorts[3].port: 8132 is another port"}},
	})
}
