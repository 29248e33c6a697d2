package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// refusals is the observer of a test.
type refusals struct {
	mu   sync.Mutex
	seen []*Refusal
}

func (r *refusals) add(one *Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, one)
}

// one is the only refusal there was since the last call.
func (r *refusals) one(t *testing.T) *Refusal {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) != 1 {
		t.Fatalf("%d refusals were reported, want 1: %v", len(r.seen), r.seen)
	}
	one := r.seen[0]
	r.seen = nil
	return one
}

// craft signs a certificate that Issue would not.
func craft(t testing.TB, ca *CA, r Request, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	now := ca.Now()
	r = must(r.complete(ca, now))(t)
	template := must(r.template(now))(t)
	change(template)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificate(rand.Reader, template, ca.Cert, key.Public(), ca.key))(t)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func asServer(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }

func pairOf(t testing.TB, i *Issued) *tls.Certificate {
	t.Helper()
	pair := must(tls.X509KeyPair(i.CertPEM, i.KeyPEM))(t)
	return &pair
}

// peers are certificates that must be refused by either side, each with the reason and a part of the text.
func peers(t *testing.T, ca *CA, clk *clock) []refused {
	past := *ca
	past.Now = func() time.Time { return clk.Now().Add(-48 * time.Hour) }
	day := nodeRequest("node-9")
	day.Valid = 24 * time.Hour
	foreign := newTestCA(t, "prod", clk)
	elsewhere := nodeRequest("node-9")
	elsewhere.Cluster = "test"
	otherID := nodeRequest("node-9")
	otherID.ClusterID = "id-2"
	return []refused{
		{"expired", pairOf(t, must(issueEarly(&past, day))(t)), Expired, "expired 2026-05-31T12:00:00Z, 24h0m0s ago", "pki renew node-9.crt"},
		{"not yet valid", craft(t, ca, nodeRequest("node-9"), func(c *x509.Certificate) { c.NotBefore = clk.Now().Add(time.Hour) }), NotYetValid, "is valid from 2026-06-01T13:00:00Z, 1h0m0s from now", "clocks"},
		{"foreign CA", pairOf(t, must(foreign.Issue(nodeRequest("node-9")))(t)), UnknownCA, "is no CA of cluster prod", "which cluster"},
		{"other cluster under the same CA", pairOf(t, must(ca.Issue(elsewhere))(t)), WrongCluster, "is of cluster test, this one is prod", "which cluster"},
		{"another cluster of the same name", pairOf(t, must(ca.Issue(otherID))(t)), WrongCluster, "id id-2, this one is id-1", "which cluster"},
		{"wrong usage", craft(t, ca, nodeRequest("node-9"), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }), WrongUsage, "may not be used for", "pki issue"},
		{"an extension is missing", craft(t, ca, nodeRequest("node-9"), func(c *x509.Certificate) { c.ExtraExtensions = c.ExtraExtensions[:6] }), Malformed, "1.2.3.4.5.6.7.8.7 (role): missing", "pki show"},
		{"critical extension", craft(t, ca, nodeRequest("node-9"), func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = true }), Invalid, "unhandled critical extension", "pki show"},
		{"names no cluster", craft(t, ca, nodeRequest("node-9"), func(c *x509.Certificate) { c.URIs = nil }), Malformed, "it names no cluster", "pki show"},
	}
}

func issueEarly(ca *CA, r Request) (*Issued, error) {
	early := *ca.Cert
	early.NotBefore = early.NotBefore.Add(-1000 * time.Hour)
	return (&CA{Cert: &early, Cluster: ca.Cluster, Now: ca.Now, key: ca.key}).Issue(r)
}

type refused struct {
	name   string
	cert   *tls.Certificate
	reason Reason
	text   string
	fix    string
}

func (c refused) check(t *testing.T, got *Refusal, side Side) {
	t.Helper()
	if got.Reason != c.reason || got.Side != side {
		t.Errorf("refused for %s by the %s, want %s by the %s: %v", got.Reason, got.Side, c.reason, side, got)
	}
	if !strings.Contains(got.Error(), c.text) {
		t.Errorf("text %q does not say %q", got, c.text)
	}
	if e := wantCode(t, got, themis.Unauthenticated); !strings.Contains(e.Fix, c.fix) {
		t.Errorf("fix %q does not say %q", e.Fix, c.fix)
	}
}

func TestServerRefuses(t *testing.T) {
	clk, seen := newClock(), &refusals{}
	ca := newTestCA(t, "prod", clk)
	own := nodeRequest("node-1")
	own.ClusterID = "id-1"
	server := newSource(t, ca, own, Options{Now: clk.Now, OnRefuse: seen.add})
	cases := append(peers(t, ca, clk), refused{"no certificate", nil, NoCertificate, "Client certificate required", "--cert"},
		refused{"server's certificate", craft(t, ca, nodeRequest("node-9"), asServer), WrongUsage, "client authentication", "pki issue"})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			client := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the server is under test
			if c.cert != nil {
				client.Certificates = []tls.Certificate{*c.cert}
			}
			_, sErr, cErr := handshake(t, server.ServerConfig(), client)
			if sErr == nil || cErr == nil {
				t.Fatalf("connected: server %v, client %v", sErr, cErr)
			}
			got := seen.one(t)
			if refusal, isRefusal := errors.AsType[*Refusal](sErr); !isRefusal || refusal != got {
				t.Errorf("the server's error %v is not the reported refusal", sErr)
			}
			c.check(t, got, ServerSide)
		})
	}
}

func TestClientRefuses(t *testing.T) {
	clk, seen := newClock(), &refusals{}
	ca := newTestCA(t, "prod", clk)
	own := nodeRequest("node-1")
	own.ClusterID = "id-1"
	client := newSource(t, ca, own, Options{Now: clk.Now, OnRefuse: seen.add})
	cases := append(peers(t, ca, clk),
		refused{"a client as server", pairOf(t, must(ca.Issue(Request{Client: "node-9"}))(t)), WrongUsage, "server authentication", "pki issue"},
		refused{"a client with a server's usage", craft(t, ca, Request{Client: "node-9"}, asServer), WrongUsage, "is a client's: a server must be a node", "address"},
		refused{"wrong node", pairOf(t, must(ca.Issue(nodeRequest("node-8")))(t)), WrongNode, "answers at localhost, where node-9 should be", "node list"})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			server := &tls.Config{Certificates: []tls.Certificate{*c.cert}, ClientAuth: tls.RequireAnyClientCert}
			_, sErr, cErr := handshake(t, server, client.ClientConfig("node-9", "localhost"))
			if sErr == nil || cErr == nil {
				t.Fatalf("connected: server %v, client %v", sErr, cErr)
			}
			got := seen.one(t)
			if refusal, isRefusal := errors.AsType[*Refusal](cErr); !isRefusal || refusal != got {
				t.Errorf("the client's error %v is not the reported refusal", cErr)
			}
			c.check(t, got, ClientSide)
		})
	}
}

func TestHostAndNode(t *testing.T) {
	clk, seen := newClock(), &refusals{}
	ca := newTestCA(t, "prod", clk)
	r := nodeRequest("node-1")
	r.IPs = []netip.Addr{netip.MustParseAddr("10.0.1.10"), netip.MustParseAddr("fd00::1")}
	server := newSource(t, ca, r, Options{Now: clk.Now})
	for _, c := range []struct {
		name   string
		opts   Options
		node   themis.NodeID
		host   string
		reason Reason // empty: connects
	}{
		{"short name", Options{}, "", "node-1", ""},
		{"long name", Options{}, "", "NODE-1.dc1.themis.local", ""},
		{"internal name", Options{}, "", "node-1.dc1.internal", ""},
		{"address", Options{}, "", "10.0.1.10", ""},
		{"IPv6 address", Options{}, "", "fd00::1", ""},
		{"IPv6 address in brackets", Options{}, "", "[fd00::1]", ""},
		{"loopback", Options{}, "", "127.0.0.1", ""},
		{"node under an unknown address", Options{}, "node-1", "192.0.2.7", ""},
		{"node alone", Options{}, "node-1", "", ""},
		{"wrong host", Options{}, "", "node-2", WrongHost},
		{"wrong address", Options{}, "", "10.0.1.11", WrongHost},
		{"short name of a datacenter", Options{}, "", "node-1.dc2.internal", WrongHost},
		{"no host and no node", Options{}, "", "", WrongHost},
		{"wrong node under a right host", Options{}, "node-2", "node-1", WrongNode},
		{"hostname off", Options{SkipHostname: true}, "", "node-2", ""},
		{"hostname off, wrong node", Options{SkipHostname: true}, "node-2", "node-1", WrongNode},
		{"peer off", Options{SkipPeer: true}, "node-2", "node-2", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opts.Now, c.opts.OnRefuse = clk.Now, seen.add
			client := newSource(t, ca, Request{Client: "ann"}, c.opts)
			state, sErr, cErr := handshake(t, server.ServerConfig(), client.ClientConfig(c.node, c.host))
			if c.reason != "" {
				if got := seen.one(t); got.Reason != c.reason || cErr == nil {
					t.Errorf("refused for %s (%v), want %s", got.Reason, cErr, c.reason)
				}
				return
			}
			if sErr != nil || cErr != nil {
				t.Fatalf("server %v, client %v", sErr, cErr)
			}
			if peer := must(PeerInfo(state))(t); peer.Client != "ann" || peer.Kind != KindClient {
				t.Errorf("the server sees %+v", peer)
			}
			if state.Version != tls.VersionTLS13 {
				t.Errorf("version %x", state.Version)
			}
		})
	}
	st := newSource(t, ca, r, Options{Now: clk.Now, SkipHostname: true, SkipPeer: true}).Status()
	if !st.HostnameOff || !st.PeerOff {
		t.Error("the status hides that verification is off")
	}
}

// verify_peer: false must not open a server.
func TestServerVerifiesWhateverTheOptions(t *testing.T) {
	clk := newClock()
	ca, foreign := newTestCA(t, "prod", clk), newTestCA(t, "prod", clk)
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now, SkipPeer: true, SkipHostname: true})
	client := newSource(t, foreign, nodeRequest("node-2"), Options{Now: clk.Now, SkipPeer: true})
	for name, config := range map[string]*tls.Config{"required": server.ServerConfig(), "optional": server.OptionalServerConfig()} {
		if _, sErr, _ := handshake(t, config, client.ClientConfig("", "localhost")); sErr == nil {
			t.Errorf("%s: a foreign certificate was accepted", name)
		}
	}
}

func TestOnlyTLS13AndNothingResumed(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	client := newSource(t, ca, nodeRequest("node-2"), Options{Now: clk.Now})

	old := client.ClientConfig("node-1", "")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, sErr, cErr := handshake(t, server.ServerConfig(), old); sErr == nil || cErr == nil {
		t.Error("the server speaks TLS 1.2")
	}
	if _, sErr, cErr := handshake(t, &tls.Config{MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*pairOf(t, must(ca.Issue(nodeRequest("node-1")))(t))}}, client.ClientConfig("node-1", "")); sErr == nil || cErr == nil {
		t.Error("the client speaks TLS 1.2")
	}

	config, eager := server.ServerConfig(), client.ClientConfig("node-1", "localhost") // sessions are kept by name
	eager.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	for range 3 {
		state, sErr, cErr := handshake(t, config, eager)
		if sErr != nil || cErr != nil || state.DidResume {
			t.Errorf("server %v, client %v, resumed %v", sErr, cErr, state.DidResume)
		}
	}
}

// The configuration that others hold says the same in Go's own terms, should they drop what they don't know.
func TestOuterConfigIsStrictAlone(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	if c := server.ServerConfig(); c.ClientAuth != tls.RequireAndVerifyClientCert || c.ClientCAs == nil || c.VerifyConnection == nil ||
		c.MinVersion != tls.VersionTLS13 || !c.SessionTicketsDisabled {
		t.Errorf("%+v", c)
	}
	if c := server.OptionalServerConfig(); c.ClientAuth != tls.VerifyClientCertIfGiven || c.ClientCAs == nil || c.VerifyConnection == nil {
		t.Errorf("%+v", c)
	}
	bare := server.ServerConfig()
	bare.GetConfigForClient, bare.VerifyConnection = nil, nil
	foreign := pairOf(t, must(newTestCA(t, "prod", clk).Issue(nodeRequest("node-2")))(t))
	for _, certs := range [][]tls.Certificate{nil, {*foreign}} {
		if _, sErr, _ := handshake(t, bare, &tls.Config{InsecureSkipVerify: true, Certificates: certs}); sErr == nil { //nolint:gosec // the server is under test
			t.Errorf("accepted %d certificates", len(certs))
		}
	}
}

func TestProtocolIsNegotiated(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	client := newSource(t, ca, nodeRequest("node-2"), Options{Now: clk.Now})
	for _, protocol := range protocols {
		config := client.ClientConfig("node-1", "")
		config.NextProtos = []string{protocol}
		state, sErr, cErr := handshake(t, server.ServerConfig(), config)
		if sErr != nil || cErr != nil || state.NegotiatedProtocol != protocol {
			t.Errorf("server %v, client %v, protocol %q, want %q", sErr, cErr, state.NegotiatedProtocol, protocol)
		}
	}
}

func TestOptionalListener(t *testing.T) {
	clk, seen := newClock(), &refusals{}
	ca := newTestCA(t, "prod", clk)
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now, OnRefuse: seen.add})
	config := server.OptionalServerConfig()

	state, sErr, cErr := handshake(t, config, must(PinnedConfig(Pin(ca.Cert), clk.Now))(t))
	if sErr != nil || cErr != nil {
		t.Fatalf("server %v, client %v", sErr, cErr)
	}
	_, err := PeerInfo(state)
	if e := wantCode(t, err, themis.Unauthenticated); e.Detail != "Client certificate required" {
		t.Errorf("detail %q", e.Detail)
	}

	client := newSource(t, ca, nodeRequest("node-2"), Options{Now: clk.Now})
	state, sErr, cErr = handshake(t, config, client.ClientConfig("node-1", ""))
	if sErr != nil || cErr != nil || must(PeerInfo(state))(t).Node != "node-2" {
		t.Errorf("server %v, client %v", sErr, cErr)
	}

	foreign := newSource(t, newTestCA(t, "prod", clk), nodeRequest("node-2"), Options{Now: clk.Now, SkipPeer: true})
	if _, sErr, _ := handshake(t, config, foreign.ClientConfig("", "")); sErr == nil {
		t.Error("a foreign certificate was accepted")
	}
	if got := seen.one(t).Reason; got != UnknownCA {
		t.Errorf("reason %s", got)
	}
}

func TestPin(t *testing.T) {
	clk := newClock()
	ca, foreign := newTestCA(t, "prod", clk), newTestCA(t, "prod", clk)
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	pinned := func(pin string) *tls.Config { return must(PinnedConfig(pin, clk.Now))(t) }

	if _, _, cErr := handshake(t, server.OptionalServerConfig(), pinned("sha256:"+strings.ToUpper(Pin(ca.Cert)[7:]))); cErr != nil {
		t.Errorf("upper case: %v", cErr)
	}
	_, _, cErr := handshake(t, server.OptionalServerConfig(), pinned(Pin(foreign.Cert)))
	if r, isRefusal := errors.AsType[*Refusal](cErr); !isRefusal || r.Reason != UnknownCA {
		t.Errorf("wrong pin: %v", cErr)
	}

	// Someone who only copied the CA certificate: the leaf isn't signed by it.
	impostor := pairOf(t, must(foreign.Issue(nodeRequest("node-1")))(t))
	impostor.Certificate = append(impostor.Certificate, ca.Cert.Raw)
	if _, _, cErr := handshake(t, &tls.Config{Certificates: []tls.Certificate{*impostor}}, pinned(Pin(ca.Cert))); cErr == nil {
		t.Error("an impostor was believed")
	}
	// A client's certificate is no server's; and the pin of a leaf is no CA's.
	client := pairOf(t, must(ca.Issue(Request{Client: "ann"}))(t))
	client.Certificate = append(client.Certificate, ca.Cert.Raw)
	if _, _, cErr := handshake(t, &tls.Config{Certificates: []tls.Certificate{*client}}, pinned(Pin(ca.Cert))); cErr == nil {
		t.Error("a client was believed")
	}
	client = craft(t, ca, Request{Client: "ann"}, asServer)
	client.Certificate = append(client.Certificate, ca.Cert.Raw)
	if _, _, cErr := handshake(t, &tls.Config{Certificates: []tls.Certificate{*client}}, pinned(Pin(ca.Cert))); cErr == nil {
		t.Error("a client with a server's usage was believed")
	}
	leaf := must(ca.Issue(nodeRequest("node-1")))(t)
	twice := pairOf(t, leaf)
	twice.Certificate = append(twice.Certificate, leaf.Cert.Raw)
	if _, _, cErr := handshake(t, &tls.Config{Certificates: []tls.Certificate{*twice}}, pinned(Fingerprint(leaf.Cert))); cErr == nil {
		t.Error("the pin of a leaf was taken for a CA's")
	}
	clk.Advance(366 * 24 * time.Hour)
	if _, _, cErr := handshake(t, server.OptionalServerConfig(), pinned(Pin(ca.Cert))); cErr == nil {
		t.Error("an expired server was believed")
	}
	for _, bad := range []string{"", "sha256:", "sha256:zz", Pin(ca.Cert)[7:], "sha1:" + Pin(ca.Cert)[7:], Pin(ca.Cert) + "00"} {
		_, err := PinnedConfig(bad, nil)
		wantCode(t, err, themis.InvalidArgument)
	}
	got := must(PinnedCA(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Cert, ca.Cert}}, Pin(ca.Cert)))(t)
	if !got.Equal(ca.Cert) {
		t.Error("another CA")
	}
	if _, err := PinnedCA(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Cert}}, Pin(ca.Cert)); err == nil {
		t.Error("a CA that was not sent")
	}
}

// An intermediate CA may come later without a change: chains are verified as a whole, revocation included.
func TestIntermediate(t *testing.T) {
	clk := newClock()
	root := newTestCA(t, "prod", clk)
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject: pkix.Name{CommonName: "site-1"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: clk.Now().Add(-time.Hour), NotAfter: clk.Now().Add(1000 * time.Hour),
	}, root.Cert, key.Public(), root.key))(t)
	site := &CA{Cert: must(x509.ParseCertificate(der))(t), Cluster: "prod", Now: clk.Now, key: key}

	files, issued := install(t, site, nodeRequest("node-1"))
	ok(t, replaceFile(files.Cert, slices.Concat(issued.CertPEM, site.CertPEM()), 0o644))
	ok(t, replaceFile(files.CA, root.CertPEM(), 0o644))
	server := openSource(t, files, Options{Now: clk.Now})
	clientFiles, _ := install(t, root, nodeRequest("node-2"))
	clientFiles.CRL = writeFile(t, t.TempDir(), "crl.pem", must(root.Revoke(nil, 0))(t), 0o644)
	client := openSource(t, clientFiles, Options{Now: clk.Now})
	if _, sErr, cErr := handshake(t, server.ServerConfig(), client.ClientConfig("node-1", "")); sErr != nil || cErr != nil {
		t.Fatalf("server %v, client %v", sErr, cErr)
	}
	if _, _, cErr := handshake(t, server.OptionalServerConfig(), must(PinnedConfig(Pin(root.Cert), clk.Now))(t)); cErr != nil {
		t.Errorf("pin of the root: %v", cErr)
	}
	ok(t, replaceFile(clientFiles.CRL, must(root.Revoke(nil, 0, site.Cert.SerialNumber))(t), 0o644))
	ok(t, client.Reload())
	_, _, cErr := handshake(t, server.ServerConfig(), client.ClientConfig("node-1", ""))
	if r, isRefusal := errors.AsType[*Refusal](cErr); !isRefusal || r.Reason != Revoked || !strings.Contains(r.Error(), "is signed by") {
		t.Errorf("revoked intermediate: %v", cErr)
	}
}

func TestExpiredCAIsNamed(t *testing.T) {
	clk := newClock()
	ca := must(NewCA(CAOptions{Cluster: "prod", Valid: time.Hour, Now: clk.Now}))(t)
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	longer := *ca.Cert
	longer.NotAfter = longer.NotAfter.Add(24 * time.Hour)
	outlives := must((&CA{Cert: &longer, Cluster: "prod", Now: clk.Now, key: ca.key}).Issue(nodeRequest("node-2")))(t)
	clk.Advance(2 * time.Hour)
	_, sErr, _ := handshake(t, server.ServerConfig(), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*pairOf(t, outlives)}}) //nolint:gosec // the server is under test
	r, isRefusal := errors.AsType[*Refusal](sErr)
	if !isRefusal || r.Reason != Expired || !strings.Contains(r.Error(), "is signed by a CA that expired") {
		t.Errorf("error %v", sErr)
	}
}

func TestRevocationIsByIssuer(t *testing.T) {
	clk := newClock()
	a, b := newTestCA(t, "prod", clk), newTestCA(t, "prod", clk)
	serial := big.NewInt(4711)
	list := must(parseCRL(must(a.Revoke(nil, 0, serial))(t), []*x509.Certificate{a.Cert, b.Cert}))(t)
	leaf := func(ca *CA) []*x509.Certificate {
		pair := craft(t, ca, nodeRequest("node-1"), func(c *x509.Certificate) { c.SerialNumber = serial })
		return []*x509.Certificate{must(x509.ParseCertificate(pair.Certificate[0]))(t), ca.Cert}
	}
	if cert, _ := list.revokedIn(leaf(a)); cert == nil {
		t.Error("not revoked")
	}
	if cert, _ := list.revokedIn(leaf(b)); cert != nil {
		t.Error("revoked by another CA's list")
	}
}

// A delta or a part of a list read as the whole would forget who is revoked.
func TestPartialCRLIsRefused(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	der := must(x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(2), ThisUpdate: clk.Now(), NextUpdate: clk.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}, // delta, based on number 1
	}, ca.Cert, ca.key))(t)
	if _, err := parseCRL(der, []*x509.Certificate{ca.Cert}); err == nil || !strings.Contains(err.Error(), "critical extension 2.5.29.27") {
		t.Errorf("error %v", err)
	}
}
