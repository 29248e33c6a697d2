package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

func TestNodeCertificateSaysEverything(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod-cluster", clk)
	issued := must(ca.Issue(Request{
		Node: "shard-001", Shard: "shard_001", ClusterID: "0f3a", Datacenter: "dc1", Rack: "rack01", TokenStart: 0, TokenEnd: 4294967295,
		Capabilities: []string{Read, Write, Replicate, Admin}, Role: RolePrimary,
		IPs: []netip.Addr{netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("::ffff:10.0.1.10")}, DNS: []string{"DB.example.org"}, Loopback: true,
	}))(t)
	cert := issued.Cert

	if got := cert.Subject.String(); got != "CN=shard-001.dc1.themis.local,OU=Sharding,O=ThemisDB Cluster" {
		t.Errorf("subject %s", got)
	}
	if got := cert.Issuer.CommonName; got != "themis-cluster-ca" {
		t.Errorf("issuer %s", got)
	}
	if got := cert.NotAfter.Sub(clk.Now()); got != 365*24*time.Hour {
		t.Errorf("valid for %s", got)
	}
	wantDNS := []string{"shard-001", "shard-001.dc1.themis.local", "shard-001.dc1.internal", "node.prod-cluster.themis.internal", "localhost", "db.example.org"}
	if !slices.Equal(cert.DNSNames, wantDNS) {
		t.Errorf("dns names %v, want %v", cert.DNSNames, wantDNS)
	}
	wantIPs := []net.IP{{10, 0, 1, 10}, {127, 0, 0, 1}, net.IPv6loopback}
	if !slices.EqualFunc(cert.IPAddresses, wantIPs, func(a, b net.IP) bool { return a.Equal(b) }) {
		t.Errorf("addresses %v, want %v", cert.IPAddresses, wantIPs)
	}
	var uris []string
	for _, u := range cert.URIs {
		uris = append(uris, u.String())
	}
	if want := []string{"urn:themis:node:prod-cluster:shard-001", "urn:themis:shard:prod-cluster:001", "urn:themis:cluster:0f3a"}; !slices.Equal(uris, want) {
		t.Errorf("URIs %v, want %v", uris, want)
	}
	if want := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}; !slices.Equal(cert.ExtKeyUsage, want) {
		t.Errorf("usages %v", cert.ExtKeyUsage)
	}
	n := 0
	for _, e := range cert.Extensions {
		if len(e.Id) == 9 && e.Id[:8].Equal(arc) {
			n++
			if e.Critical {
				t.Errorf("%s is critical", e.Id)
			}
		}
	}
	if n != 7 {
		t.Errorf("%d extensions, want 7", n)
	}
	want := Info{
		Kind: KindNode, Node: "shard-001", Cluster: "prod-cluster", ClusterID: "0f3a", Shard: "shard-1", ShardText: "shard_001", Datacenter: "dc1", Rack: "rack01",
		TokenEnd: 4294967295, Capabilities: []string{Read, Write, Replicate, Admin}, Role: RolePrimary,
		Serial: serialText(cert), NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, Fingerprint: Fingerprint(cert),
	}
	if got := must(ParseInfo(cert))(t); !reflect.DeepEqual(got, want) {
		t.Errorf("info %+v\nwant %+v", got, want)
	}
	if err := cert.VerifyHostname(NodeName("prod-cluster")); err != nil {
		t.Error(err)
	}
}

func TestClientCertificateNamesNoHost(t *testing.T) {
	ca := newTestCA(t, "prod", newClock())
	issued := must(ca.Issue(Request{Client: "node-1", Capabilities: []string{Read}}))(t)
	if len(issued.Cert.DNSNames)+len(issued.Cert.IPAddresses) > 0 {
		t.Errorf("names %v %v", issued.Cert.DNSNames, issued.Cert.IPAddresses)
	}
	if err := issued.Cert.VerifyHostname(NodeName("prod")); err == nil {
		t.Error("a client passes for a node")
	}
	if want := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}; !slices.Equal(issued.Cert.ExtKeyUsage, want) {
		t.Errorf("usages %v", issued.Cert.ExtKeyUsage)
	}
	if i := issued.Info; i.Kind != KindClient || i.Client != "node-1" || i.Node != "" || i.Role != RoleClient || i.Shard != "" {
		t.Errorf("info %+v", i)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newTestCA(t, "prod", newClock())
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	for name, c := range map[string]struct {
		change func(*Request)
		want   string // what the text names
	}{
		"nobody":                  {func(r *Request) { r.Node = "" }, "node"},
		"both":                    {func(r *Request) { r.Client = "ann" }, "client ann"},
		"node id":                 {func(r *Request) { r.Node = "Node_1" }, "Node_1"},
		"cluster":                 {func(r *Request) { r.Cluster = "a:b" }, "cluster"},
		"cluster id":              {func(r *Request) { r.ClusterID = "a:b" }, "cluster id"},
		"shard":                   {func(r *Request) { r.Shard = "shard-0" }, "shard-0"},
		"no datacenter":           {func(r *Request) { r.Datacenter = "" }, "datacenter"},
		"datacenter":              {func(r *Request) { r.Datacenter = "eu west" }, "datacenter"},
		"rack":                    {func(r *Request) { r.Rack = "a\nb" }, "rack"},
		"long rack":               {func(r *Request) { r.Rack = strings.Repeat("r", 257) }, "rack"},
		"tokens":                  {func(r *Request) { r.TokenStart, r.TokenEnd = 2, 1 }, "token range"},
		"capability":              {func(r *Request) { r.Capabilities = []string{"root"} }, "root"},
		"capability with a comma": {func(r *Request) { r.Capabilities = []string{"read,admin"} }, "read,admin"},
		"capability twice":        {func(r *Request) { r.Capabilities = []string{Read, Read} }, "twice"},
		"role":                    {func(r *Request) { r.Role = "king" }, "king"},
		"client's role":           {func(r *Request) { r.Role = RoleClient }, "role"},
		"wildcard":                {func(r *Request) { r.DNS = []string{"*.example.org"} }, "wildcard"},
		"another cluster's nodes": {func(r *Request) { r.DNS = []string{"Node.Other.themis.internal"} }, "themis.internal"},
		"unspecified address":     {func(r *Request) { r.IPs = []netip.Addr{netip.IPv4Unspecified()} }, "0.0.0.0"},
		"no address":              {func(r *Request) { r.IPs = []netip.Addr{{}} }, "ip"},
		"zone":                    {func(r *Request) { r.IPs = []netip.Addr{netip.MustParseAddr("fe80::1%eth0")} }, "eth0"},
		"valid":                   {func(r *Request) { r.Valid = -1 }, "valid"},
		"longer than the CA":      {func(r *Request) { r.Valid = 11 * 365 * 24 * time.Hour }, "the CA itself ends"},
		"algorithm":               {func(r *Request) { r.Algorithm = "dsa" }, "dsa"},
		"key":                     {func(r *Request) { r.PublicKey = p384.Public() }, "P-256"},
		"client with a host":      {func(r *Request) { r.Node, r.Client, r.Role = "", "ann", "" }, "host names"},
		"client's name":           {func(r *Request) { r.Node, r.Client = "", "ann:admin" }, "ann:admin"},
	} {
		t.Run(name, func(t *testing.T) {
			r := nodeRequest("node-1")
			c.change(&r)
			_, err := ca.Issue(r)
			wantCode(t, err, themis.InvalidArgument)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func TestIssueStaysWithinTheCA(t *testing.T) {
	clk := newClock()
	ca := must(NewCA(CAOptions{Cluster: "prod", Valid: 48 * time.Hour, Now: clk.Now}))(t)
	issued := must(ca.Issue(nodeRequest("node-1")))(t)
	if !issued.Cert.NotAfter.Equal(ca.Cert.NotAfter) {
		t.Errorf("ends %s, the CA %s", issued.Cert.NotAfter, ca.Cert.NotAfter)
	}
	clk.Advance(49 * time.Hour)
	_, err := ca.Issue(nodeRequest("node-1"))
	wantCode(t, err, themis.InvalidArgument)
}

func TestLongNamesFitTheCommonName(t *testing.T) {
	node := strings.Repeat("n", 63)
	issued := must(newTestCA(t, "prod", newClock()).Issue(nodeRequest(node)))(t)
	if got := issued.Cert.Subject.CommonName; got != node {
		t.Errorf("common name %q", got)
	}
	if issued.Info.Node != themis.NodeID(node) {
		t.Errorf("node %s", issued.Info.Node)
	}
}

func TestCSR(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	key, csr, err := NewCSR("node-7")
	ok(t, err)
	issued := must(ca.IssueCSR(csr, nodeRequest("node-7")))(t)
	if issued.KeyPEM != nil {
		t.Error("a private key came back")
	}
	files := FilesIn(t.TempDir(), "node")
	ok(t, issued.Save(files))
	ok(t, replaceFile(files.Key, key, 0o600))
	if got := openSource(t, files, Options{Now: clk.Now}).Info().Node; got != "node-7" {
		t.Errorf("node %s", got)
	}

	_, err = ca.IssueCSR(csr, nodeRequest("node-8"))
	wantCode(t, err, themis.InvalidArgument)
	for name, bad := range map[string][]byte{
		"nothing":       nil,
		"a certificate": ca.CertPEM(),
		"two":           slices.Concat(csr, csr),
		"broken":        pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: []byte{0x30, 0}}),
		"forged":        forged(t, csr),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ca.IssueCSR(bad, nodeRequest("node-7"))
			wantCode(t, err, themis.InvalidArgument)
		})
	}
}

// forged is a request whose sender doesn't have the key.
func forged(t *testing.T, csr []byte) []byte {
	block, _ := pem.Decode(csr)
	der := slices.Clone(block.Bytes)
	der[len(der)-3] ^= 1
	return pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der})
}

// What a newcomer asks for beyond its key is not granted.
func TestCSRGrantsNothing(t *testing.T) {
	ca := newTestCA(t, "prod", newClock())
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	exts := must(identity{shard: "*", role: "primary", capabilities: []string{Admin}}.encode())(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "ann", Organization: []string{"themis:masters"}},
		DNSNames: []string{NodeName("prod")}, URIs: []*url.URL{urn("node", "prod", "node-1")}, ExtraExtensions: exts,
	}, key))(t)
	issued := must(ca.IssueCSR(pem.EncodeToMemory(&pem.Block{Type: pemRequest, Bytes: der}), Request{Client: "ann", Capabilities: []string{Read}}))(t)
	if i := issued.Info; i.Kind != KindClient || i.Has(Admin) || len(issued.Cert.DNSNames) > 0 || issued.Cert.Subject.Organization[0] != organization {
		t.Errorf("granted %+v %v %s", i, issued.Cert.DNSNames, issued.Cert.Subject)
	}
}
