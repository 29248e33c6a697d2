package web

import (
	"crypto/tls"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// every is one request of each kind.
var every = []struct{ method, path string }{
	{"GET", "/"}, {"GET", "/healthz"}, {"GET", "/readyz"}, {"GET", "/metrics"}, {"GET", "/cluster/health"}, {"GET", "/cluster/status"},
	{"GET", docs + "/a"}, {"HEAD", docs + "/a"}, {"PUT", docs + "/a"}, {"DELETE", docs + "/a"}, {"POST", docs}, {"GET", docs}, {"GET", "/nowhere"}, {"POST", "/healthz"},
}

func reads(method string) bool { return method == "GET" || method == "HEAD" }

func TestCertificatesDecide(t *testing.T) {
	f := startFace(t, nil)
	f.twin.before = nil
	for name, who := range map[string]struct {
		client      *http.Client
		read, write bool
		code        themis.Code
	}{
		"nobody":  {f.stranger(t), false, false, themis.Unauthenticated},
		"reader":  {f.client(t, pki.Read), true, false, themis.PermissionDenied},
		"writer":  {f.client(t, pki.Write), false, true, themis.PermissionDenied},
		"both":    {f.client(t, pki.Read, pki.Write), true, true, ""},
		"neither": {f.client(t, pki.Admin, pki.Replicate), false, false, themis.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range every {
				got := ask(t, who.client, r.method, f.tls()+r.path, "")
				may := who.write
				if reads(r.method) {
					may = who.read
				}
				if may == (got.status == 401 || got.status == 403) {
					t.Errorf("%s %s: status %d", r.method, r.path, got.status)
				}
				if may || r.method == "HEAD" {
					continue
				}
				need := pki.Write
				if reads(r.method) {
					need = pki.Read
				}
				if who.code == themis.PermissionDenied {
					got.problem(t, who.code, "lacks the capability "+need)
				} else {
					got.problem(t, who.code, "certificate required")
				}
			}
		})
	}
}

// Who can't show a certificate shows a token that its key has signed; where both are there, the token decides.
func TestBearerTokens(t *testing.T) {
	f := startFace(t, nil)
	f.twin.before = nil
	reader := identity(t, f.ca, pki.Request{Client: "reader", Capabilities: []string{pki.Read}})
	token, _, err := reader.NewBearer(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	bearer := "Authorization: Bearer " + token
	for name, c := range map[string]*http.Client{"without a certificate": f.stranger(t), "with one that may more": f.client(t, pki.Read, pki.Write)} {
		t.Run(name, func(t *testing.T) {
			ask(t, c, "GET", f.tls()+"/healthz", "", bearer).want(t, 200, "ok\n")
			ask(t, c, "GET", f.tls()+"/healthz", "", "authorization: bearer  "+token).want(t, 200, "ok\n")
			ask(t, c, "PUT", f.tls()+docs+"/a", "{}", bearer).problem(t, themis.PermissionDenied, "reader lacks the capability write")
			for header, text := range map[string]string{
				"Authorization: Bearer " + token[:strings.LastIndexByte(token, '.')+1] + strings.Repeat("A", 86): "its key has not signed",
				"Authorization: Bearer":     "malformed",
				"Authorization: Basic YTpi": `Authorization "Basic": want Bearer and one token`,
			} {
				got := ask(t, c, "GET", f.tls()+"/healthz", "", header)
				got.problem(t, themis.Unauthenticated, text)
				if got.header.Get("WWW-Authenticate") != "Bearer" {
					t.Errorf("%s: %v", header, got.header)
				}
			}
			ask(t, c, "GET", f.tls()+"/healthz", "", bearer, bearer).problem(t, themis.Unauthenticated, "one token")
		})
	}
	none := startFace(t, func(o *Options) { o.CheckBearer = nil })
	ask(t, none.client(t, pki.Read), "GET", none.tls()+"/healthz", "", bearer).problem(t, themis.Unauthenticated, "want Bearer")
}

func TestForeignCertificateIsNoCertificate(t *testing.T) {
	f := startFace(t, nil)
	other := must(pki.NewCA(pki.CAOptions{Cluster: "other"}))(t)
	config := identity(t, f.ca, pki.Request{Client: "somebody"}).ClientConfig("node-1", "")
	config.GetClientCertificate = identity(t, other, pki.Request{Client: "somebody", Capabilities: []string{pki.Read}}).ClientConfig("", "").GetClientCertificate
	req := must(http.NewRequestWithContext(t.Context(), "GET", f.tls()+"/healthz", nil))(t)
	res, err := clientOf(t, config).Do(req)
	if err == nil {
		res.Body.Close()
		t.Fatalf("status %d", res.StatusCode)
	}
}

// A connection may outlive the trust in its certificate.
func TestRevokedOnAnOpenConnection(t *testing.T) {
	var revoked atomic.Bool
	var looks atomic.Int32
	f := startFace(t, func(o *Options) {
		o.CheckPeer = func(tls.ConnectionState) error {
			looks.Add(1)
			if revoked.Load() {
				return themis.Errorf(themis.Unauthenticated, "certificate 7F was revoked")
			}
			return nil
		}
	})
	c := f.client(t, pki.Read)
	ask(t, c, "GET", f.tls()+"/healthz", "").want(t, 200, "ok\n")
	ask(t, c, "GET", f.tls()+"/healthz", "").want(t, 200, "ok\n")
	if n := looks.Load(); n < 1 || n > 2 {
		t.Errorf("looked %d times in a moment", n)
	}
	revoked.Store(true)
	c.CloseIdleConnections() // a new connection looks at once
	ask(t, c, "GET", f.tls()+"/healthz", "").problem(t, themis.Unauthenticated, "revoked")
}

// An open connection is looked at again after a second, not at every request.
func TestRecheckOnOneConnection(t *testing.T) {
	o := newTwin(1).options()
	var verdict error
	o.CheckPeer = func(tls.ConnectionState) error { return verdict }
	s := must(newServer(o))(t)
	ctx := withPeer(t.Context())
	r := must(http.NewRequestWithContext(ctx, "GET", "/", nil))(t)
	r.TLS = &tls.ConnectionState{}
	info := pki.Info{NotAfter: time.Now().Add(time.Hour)}
	if err := s.recheck(r, info); err != nil {
		t.Fatal(err)
	}
	verdict = themis.Errorf(themis.Unauthenticated, "revoked")
	if err := s.recheck(r, info); err != nil {
		t.Errorf("looked again at once: %v", err)
	}
	ctx.Value(peerKey{}).(*peer).checked = time.Now().Add(-recheckEvery)
	if err := s.recheck(r, info); themis.CodeOf(err) != themis.Unauthenticated {
		t.Errorf("a second later: %v", err)
	}
	if err := s.recheck(r, info); themis.CodeOf(err) != themis.Unauthenticated {
		t.Errorf("and then: %v", err)
	}
}

// A certificate may also end while its connection is open.
func TestEndedOnAnOpenConnection(t *testing.T) {
	s := must(newServer(newTwin(1).options()))(t)
	r := must(http.NewRequestWithContext(withPeer(t.Context()), "GET", "/", nil))(t)
	info := pki.Info{Kind: pki.KindClient, Client: "somebody", NotAfter: time.Now().Add(time.Hour)}
	if err := s.recheck(r, info); err != nil {
		t.Error(err)
	}
	info.NotAfter = time.Now().Add(-time.Second)
	if err := s.recheck(r, info); themis.CodeOf(err) != themis.Unauthenticated {
		t.Errorf("ended, and %v", err)
	}
}

func TestPlainLoopback(t *testing.T) {
	status := func(method, path string) bool {
		return reads(method) && (path == "/healthz" || path == "/readyz" || path == "/metrics" || path == "/cluster/health" || path == "/cluster/status")
	}
	for mode, serves := range map[string]func(method, path string) bool{
		PlainOff:    func(string, string) bool { return false },
		PlainFull:   func(string, string) bool { return true },
		PlainStatus: status,
		"":          status,
	} {
		t.Run("mode "+mode, func(t *testing.T) {
			f := startFace(t, func(o *Options) { o.PlainLoopback = mode })
			c := plainClient(t)
			for _, r := range append(every, []struct{ method, path string }{
				{"GET", "/cluster/../api/v1/collections/people/documents/a"}, {"GET", "/healthz/../api/v1/collections/people/documents/a"}, {"GET", "/%68ealthz"},
			}...) {
				got := ask(t, c, r.method, f.plain()+r.path, "")
				want := serves(r.method, r.path)
				if len(r.path) > 12 && r.path[:12] == "/cluster/../" {
					want = mode != PlainOff // it is let through, and is no path
					if got.status == 200 {
						t.Errorf("%s: served", r.path)
					}
				}
				if want == (got.status == 403) {
					t.Errorf("%s %s: status %d", r.method, r.path, got.status)
				}
				if !want && r.method != "HEAD" {
					got.problem(t, themis.PermissionDenied, "http.plain_loopback")
				}
			}
			// TLS is served in every mode.
			ask(t, f.client(t, pki.Read), "GET", f.tls()+"/healthz", "").want(t, 200, "ok\n")
		})
	}
}

func TestPlainFromElsewhere(t *testing.T) {
	twin := newTwin(1)
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	serve(t, elsewhere{l}, twin.options())
	for _, r := range every {
		if r.method != "HEAD" {
			ask(t, plainClient(t), r.method, "http://"+l.Addr().String()+r.path, "").problem(t, themis.PermissionDenied, "this machine alone")
		}
	}
}

func TestHostAndOrigin(t *testing.T) {
	f := startFace(t, nil)
	plain, secure := plainClient(t), f.client(t, pki.Read, pki.Write)
	for _, row := range []struct {
		what   string
		header []string
		plain  bool // served without TLS
		tls    bool
	}{
		{"localhost", []string{"Host: localhost:8765"}, true, true},
		{"LOCALHOST without a port", []string{"Host: LOCALHOST"}, true, true},
		{"IPv4", []string{"Host: 127.0.0.1:1"}, true, true},
		{"IPv6", []string{"Host: [::1]:8765"}, true, true},
		{"IPv6 without a port", []string{"Host: [::1]"}, true, true},
		{"a rebound name", []string{"Host: evil.example:8765"}, false, true},
		{"a name that begins well", []string{"Host: localhost.evil.example"}, false, true},
		{"an address that begins well", []string{"Host: 127.0.0.1.evil.example"}, false, true},
		{"another loopback address", []string{"Host: 127.0.0.2:1"}, false, true},
		{"a foreign origin", []string{"Origin: https://evil.example"}, false, false},
		{"no origin to name", []string{"Origin: null"}, false, false},
		{"the wrong scheme", []string{"Host: localhost:1", "Origin: ftp://localhost:1"}, false, false},
		{"another port", []string{"Host: localhost:1", "Origin: http://localhost:2"}, false, false},
		{"two origins", []string{"Host: localhost:1", "Origin: http://localhost:1", "Origin: http://evil.example"}, false, false},
		{"the own origin, plain", []string{"Host: localhost:1", "Origin: http://localhost:1"}, true, false},
		{"the own origin, TLS", []string{"Host: localhost:1", "Origin: https://localhost:1"}, false, true},
	} {
		t.Run(row.what, func(t *testing.T) {
			for _, r := range every {
				for base, c := range map[string]*http.Client{f.plain(): plain, f.tls(): secure} {
					want := row.plain
					if c == secure {
						want = row.tls
					}
					got := ask(t, c, r.method, base+r.path, "", row.header...)
					if want == (got.status == 403) {
						t.Errorf("%s %s: status %d", r.method, base+r.path, got.status)
					}
				}
			}
		})
	}
	t.Run("a browser's other site", func(t *testing.T) {
		for base, c := range map[string]*http.Client{f.plain(): plain, f.tls(): secure} {
			ask(t, c, "PUT", base+docs+"/a", "1", "Sec-Fetch-Site: cross-site").problem(t, themis.PermissionDenied, "cross-origin")
			ask(t, c, "GET", base+"/healthz", "", "Sec-Fetch-Site: cross-site").want(t, 200, "ok\n")
			if got := ask(t, c, "PUT", base+docs+"/a", "1", "Sec-Fetch-Site: same-origin"); got.status != 200 {
				t.Errorf("same origin: %d", got.status)
			}
		}
	})
}

func TestNoTLSConfigured(t *testing.T) {
	f := startFace(t, func(o *Options) { o.TLS = nil })
	conn, err := tls.Dial("tcp", f.addr, &tls.Config{InsecureSkipVerify: true})
	if err == nil {
		conn.Close()
		t.Fatal("TLS without a certificate was served")
	}
	ask(t, plainClient(t), "GET", f.plain()+"/healthz", "").want(t, 200, "ok\n")
}

func TestUnknownMode(t *testing.T) {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	o := newTwin(1).options()
	o.PlainLoopback = "all"
	if err := Serve(t.Context(), l, o); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("error %v", err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("the listener is open")
	}
}
