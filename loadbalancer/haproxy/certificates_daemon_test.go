package haproxy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"cloud-provider-haproxy/loadbalancer/desired"
	"cloud-provider-haproxy/test/lab"
)

// authority signs certificates of API servers.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	ca := &authority{key: newKey(t), certificate: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kubernetes"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}}
	ca.pem = string(ca.sign(t, ca.certificate, ca.key))
	return ca
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (ca *authority) sign(t *testing.T, certificate *x509.Certificate, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, certificate, ca.certificate, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// startAPIServer answers GET /readyz over TLS at an address of the daemon's namespace, with 200 when it is ready.
func (d *daemon) startAPIServer(t *testing.T, ca *authority, address string, ready bool) {
	t.Helper()
	lab.RequirePrograms(t, "openssl")
	key, dir := newKey(t), t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{"key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "cert.pem": ca.sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, key)}
	files["readyz"] = []byte("HTTP/1.0 500 Internal Server Error\r\n\r\n")
	if ready {
		files["readyz"] = []byte("HTTP/1.0 200 OK\r\n\r\n")
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := exec.Command("ip", "netns", "exec", d.namespace, "openssl", "s_server", "-quiet", "-accept", address,
		"-cert", "cert.pem", "-key", "key.pem", "-HTTP")
	server.Dir = dir
	d.run(server)
}

const endpoint3 = "10.77.0.23"

func (d *daemon) wantState(server, state string) {
	d.t.Helper()
	d.eventually(server+" to be "+state, func() bool {
		return d.read().Backends["control-plane"].Servers[server].State == state
	})
}

// An API server is used when it is ready and shows a certificate of the cluster's CA; so is one that is added at run time.
func TestControlPlaneVerifiesTheAPIServer(t *testing.T) {
	ours, foreign := newAuthority(t), newAuthority(t)
	check := health(31991, "/readyz")
	check.Kind = desired.CheckHTTPS
	state := withControlPlane(twoNodes(), check)
	state.ControlPlane.CA = ours.pem
	d := startDaemon(t, state, []string{endpoint1, endpoint2, endpoint3, node1}, vips())
	d.wantState(endpoint1+"-6443", "DOWN") // servers begin as up
	d.startAPIServer(t, ours, endpoint1+":31991", true)
	d.startAPIServer(t, foreign, endpoint2+":31991", true)
	d.startAPIServer(t, ours, endpoint3+":31991", false)
	d.startAPIServer(t, ours, node1+":31991", true)
	d.wantState(endpoint1+"-6443", "UP")
	d.wantState(endpoint2+"-6443", "DOWN")

	state.ControlPlane.Endpoints = []netip.AddrPort{netip.MustParseAddrPort(endpoint1 + ":6443"),
		netip.MustParseAddrPort(endpoint3 + ":6443"), netip.MustParseAddrPort(node1 + ":6443")}
	if diff := Compare(d.read(), d.render(state)); len(diff.Reload) > 0 {
		t.Errorf("another endpoint needs a reload: %q", diff.Reload)
	}
	d.apply(state)
	d.wantState(node1+"-6443", "UP")
	d.wantState(endpoint3+"-6443", "DOWN")
	if certificates := d.render(state).CA; !bytes.Equal(certificates, []byte(ours.pem)) {
		t.Errorf("the certificates are %q", certificates)
	}
	state.ControlPlane.CA = foreign.pem
	if diff := Compare(d.read(), d.render(state)); len(diff.Reload) != 1 || diff.Reload[0] != "backend-control-plane changed" {
		t.Errorf("another CA is read by a reload, and its reasons are %q", diff.Reload)
	}
}

// Without a CA an API server is used that completes the handshake, whoever it is; nothing is asked of it.
func TestControlPlaneShakesHands(t *testing.T) {
	check := health(31991, "/readyz")
	for name, kind := range map[string]desired.CheckKind{"tls": desired.CheckTLS, "https of an old State": desired.CheckHTTPS} {
		t.Run(name, func(t *testing.T) {
			check.Kind = kind
			d := startDaemon(t, withControlPlane(twoNodes(), check), []string{endpoint1, endpoint2}, vips())
			d.wantState(endpoint1+"-6443", "DOWN") // servers begin as up
			d.startAPIServer(t, newAuthority(t), endpoint1+":31991", false)
			d.nodePorts(endpoint2 + ":31991") // accepts, and speaks no TLS
			d.wantState(endpoint1+"-6443", "UP")
			d.wantState(endpoint2+"-6443", "DOWN")
		})
	}
}
