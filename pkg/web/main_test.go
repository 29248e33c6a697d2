package web

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/themis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test on real time.
const patience = 20 * time.Second

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// face is a Serve in a test, on a real listener with real certificates.
type face struct {
	addr string
	twin *twin
	ca   *pki.CA
	stop context.CancelFunc
	done <-chan error
}

// startFace serves a twin with plain_loopback full; change adapts the options first.
func startFace(t testing.TB, change func(*Options)) *face {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	ca := must(pki.NewCA(pki.CAOptions{Cluster: "demo"}))(t)
	node := identity(t, ca, pki.Request{Node: "node-1", Datacenter: "dc1", Loopback: true, Capabilities: []string{pki.Read, pki.Write}})
	f := &face{addr: l.Addr().String(), twin: newTwin(3), ca: ca}
	o := f.twin.options()
	o.TLS = node.OptionalServerConfig()
	o.CheckPeer = func(cs tls.ConnectionState) error { return node.CheckPeer(cs, true) }
	o.CheckBearer = node.CheckBearer
	if change != nil {
		change(&o)
	}
	f.stop, f.done = serve(t, l, o)
	return f
}

// serve runs Serve until the test ends.
func serve(t testing.TB, l net.Listener, o Options) (stop context.CancelFunc, done <-chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended, all := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(all)
		ended <- Serve(ctx, l, o)
	}()
	t.Cleanup(func() {
		cancel()
		<-all
	})
	return cancel, ended
}

func identity(t testing.TB, ca *pki.CA, r pki.Request) *pki.Source {
	t.Helper()
	files := pki.FilesIn(t.TempDir(), "own")
	if err := must(ca.Issue(r))(t).Save(files); err != nil {
		t.Fatal(err)
	}
	return must(pki.Open(files, pki.Options{}))(t)
}

// client has a certificate with these capabilities.
func (f *face) client(t testing.TB, capabilities ...string) *http.Client {
	t.Helper()
	return clientOf(t, identity(t, f.ca, pki.Request{Client: "somebody", Capabilities: capabilities}).ClientConfig("node-1", ""))
}

// stranger trusts the node and has no certificate.
func (f *face) stranger(t testing.TB) *http.Client {
	t.Helper()
	config := identity(t, f.ca, pki.Request{Client: "somebody"}).ClientConfig("node-1", "")
	config.GetClientCertificate = nil
	return clientOf(t, config)
}

func clientOf(t testing.TB, config *tls.Config) *http.Client {
	transport := &http.Transport{TLSClientConfig: config, ExpectContinueTimeout: patience}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func plainClient(t testing.TB) *http.Client { return clientOf(t, nil) }

func (f *face) tls() string   { return "https://" + f.addr }
func (f *face) plain() string { return "http://" + f.addr }

// reply is an answer that was read to its end.
type reply struct {
	status  int
	proto   string
	header  http.Header
	trailer http.Header
	body    string
	err     error // of the body
}

// ask sends one request; headers are "Name: value".
func ask(t testing.TB, c *http.Client, method, url, body string, headers ...string) reply {
	t.Helper()
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	return askBody(t, c, method, url, in, headers...)
}

func askBody(t testing.TB, c *http.Client, method, url string, body io.Reader, headers ...string) reply {
	t.Helper()
	req := must(http.NewRequestWithContext(context.Background(), method, url, body))(t)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
			continue
		}
		req.Header.Add(name, value)
	}
	res := must(c.Do(req))(t)
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Proto, res.Header, res.Trailer, string(b), err}
}

// problem checks that r is that problem, in every place where its code and status stand, and that the detail contains a text.
func (r reply) problem(t testing.TB, code themis.Code, detail string) rpc.Problem {
	t.Helper()
	return r.problemWith(t, code, code.Info().Status, detail)
}

func (r reply) problemWith(t testing.TB, code themis.Code, status int, detail string) rpc.Problem {
	t.Helper()
	p, err := rpc.ParseProblem([]byte(r.body))
	switch {
	case err != nil:
		t.Fatalf("status %d: %q is no problem: %v", r.status, r.body, err)
	case r.status != status, p.Status != status, p.Code != code, p.Cluster != "demo", p.Title == "":
		t.Fatalf("status %d, want %d with %s: %s", r.status, status, code, r.body)
	case r.header.Get("Content-Type") != rpc.ProblemType:
		t.Fatalf("Content-Type %q", r.header.Get("Content-Type"))
	case !strings.Contains(p.Detail, detail):
		t.Fatalf("detail %q does not contain %q", p.Detail, detail)
	}
	return p
}

func (r reply) want(t testing.TB, status int, body string) {
	t.Helper()
	if r.status != status || r.body != body {
		t.Fatalf("status %d, body %.300q, want %d, %.300q", r.status, r.body, status, body)
	}
}

// pipes is a listener without a network, for tests on virtual time. Its clients come from from.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	from   net.Addr
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{}), from: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	select {
	case <-p.closed:
		return net.ErrClosed
	default:
		close(p.closed)
		return nil
	}
}

func (p *pipes) Addr() net.Addr { return p.from }

func (p *pipes) dial(t testing.TB) net.Conn {
	t.Helper()
	near, far := net.Pipe()
	select {
	case p.conns <- fromAddr{far, p.from}:
	case <-p.closed:
		t.Fatal("the listener is closed")
	}
	return near
}

func (p *pipes) client(t testing.TB) *http.Client {
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return p.dial(t), nil }}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

type fromAddr struct {
	net.Conn
	addr net.Addr
}

func (c fromAddr) RemoteAddr() net.Addr { return c.addr }

// elsewhere makes the connections of a listener come from another machine.
type elsewhere struct{ net.Listener }

func (l elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return fromAddr{c, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 4711}}, nil
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
