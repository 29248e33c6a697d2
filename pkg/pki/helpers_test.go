package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// clock is the time of a test; it moves when told to.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.ns.Store(noon.UnixNano())
	return c
}

func (c *clock) Now() time.Time          { return time.Unix(0, c.ns.Load()).UTC() }
func (c *clock) Advance(d time.Duration) { c.ns.Add(int64(d)) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newTestCA(t testing.TB, cluster string, clk *clock) *CA {
	t.Helper()
	return must(NewCA(CAOptions{Cluster: cluster, Now: clk.Now}))(t)
}

// nodeRequest is a node that is dialled as localhost.
func nodeRequest(node string) Request {
	return Request{
		Node: themis.NodeID(node), Datacenter: "dc1", Rack: "rack01", Loopback: true,
		Capabilities: []string{Read, Write, Replicate, Admin},
	}
}

// install issues a certificate into a directory of its own.
func install(t testing.TB, ca *CA, r Request) (Files, *Issued) {
	t.Helper()
	issued := must(ca.Issue(r))(t)
	files := FilesIn(t.TempDir(), "own")
	ok(t, issued.Save(files))
	return files, issued
}

func openSource(t testing.TB, files Files, o Options) *Source {
	t.Helper()
	return must(Open(files, o))(t)
}

func newSource(t testing.TB, ca *CA, r Request, o Options) *Source {
	t.Helper()
	files, _ := install(t, ca, r)
	return openSource(t, files, o)
}

// handshake connects the two over TCP and returns what each side made of it. The client reads a byte, since only then does a TLS 1.3
// client learn that it was refused.
func handshake(t testing.TB, server, client *tls.Config) (serverState tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	listener := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer listener.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := listener.Accept()
		if err != nil {
			serverErr = err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		if serverErr = conn.Handshake(); serverErr == nil {
			serverState = conn.ConnectionState()
			_, serverErr = conn.Write([]byte{1})
		}
	}()
	raw := must(net.Dial("tcp", listener.Addr().String()))(t)
	conn := tls.Client(raw, client)
	if clientErr = conn.Handshake(); clientErr == nil {
		_, clientErr = conn.Read(make([]byte, 1))
	}
	conn.Close()
	<-done
	return serverState, serverErr, clientErr
}

func wantCode(t testing.TB, err error, code themis.Code) *themis.Error {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", code)
	}
	if got := themis.CodeOf(err); got != code {
		t.Fatalf("error %q is %s, want %s", err, got, code)
	}
	return asThemis(err)
}

func writeFile(t testing.TB, dir, name string, data []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	ok(t, os.WriteFile(path, data, mode))
	ok(t, os.Chmod(path, mode))
	return path
}

func parseOne(t testing.TB, pemBytes []byte) *x509.Certificate {
	t.Helper()
	return must(ParseCertificates(pemBytes))(t)[0]
}
