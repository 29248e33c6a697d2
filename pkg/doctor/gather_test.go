package doctor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// authority is a CA of the test's own, which signs certificates of any dates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err == nil {
		a.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, a.file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return a
}

// serve shows a certificate to everybody who connects, until the test ends.
func (a *authority) serve(notBefore, notAfter time.Time) (addr string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(0xAB), Subject: pkix.Name{CommonName: "node-1"}, NotBefore: notBefore, NotAfter: notAfter, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				_ = c.(*tls.Conn).HandshakeContext(context.Background())
				_ = c.Close()
			})
		}
	})
	a.t.Cleanup(func() { _ = l.Close(); all.Wait() })
	return l.Addr().String()
}

func TestCertificateOnTheWire(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	ends := time.Now().Add(time.Hour).Truncate(time.Second)
	ended := time.Now().Add(-time.Hour).Truncate(time.Second)
	g := &gathering{timeout: 5 * time.Second, o: Options{Context: client.Context{CA: ours.file}}}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := silent.Addr().String()
	_ = silent.Close()
	for _, c := range []struct {
		name, addr string
		notAfter   time.Time
		untrusted  bool
	}{
		{"good", ours.serve(ended, ends), ends, false},
		{"ended", ours.serve(ended.Add(-time.Hour), ended), ended, false},
		{"foreign", theirs.serve(ended, ends), ends, true},
		{"nobody", gone, time.Time{}, false},
	} {
		got := g.certificate(t.Context(), c.addr)
		if c.name == "ended" && got != nil && strings.Contains(got.Untrusted, "expired") {
			t.Errorf("the date is not the CA's business: %+v", got)
		}
		switch {
		case c.name == "nobody":
			if got != nil {
				t.Errorf("%s: %+v", c.name, got)
			}
		case got == nil || !got.NotAfter.Equal(c.notAfter) || (got.Untrusted != "") != c.untrusted || got.Serial != "AB" || !strings.Contains(got.Subject, "node-1"):
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	g.o.Context.CA = filepath.Join(t.TempDir(), "none")
	if got := g.certificate(t.Context(), ours.serve(ended, ends)); got == nil || got.Untrusted == "" {
		t.Errorf("no CA vouches for nobody: %+v", got)
	}
}

// TestGatherWhereNobodyLetsUsIn: an ended certificate keeps every client out, and is still seen.
func TestGatherWhereNobodyLetsUsIn(t *testing.T) {
	dir := t.TempDir()
	ca, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	if err == nil {
		err = ca.Save(dir)
	}
	if err != nil {
		t.Fatal(err)
	}
	is, err := ca.Issue(pki.Request{Client: "operator", Capabilities: []string{pki.Read}})
	files := pki.FilesIn(dir, "operator")
	if err == nil {
		err = is.Save(files)
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := newAuthority(t)
	addr := ended.serve(time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
	o := Options{Context: client.Context{Endpoints: []string{addr}, CA: files.CA, Cert: files.Cert, Key: files.Key}, Timeout: 2 * time.Second}
	e, err := Gather(t.Context(), o)
	if err == nil || len(e.Witnesses) != 1 || e.Witnesses[0].Cert == nil {
		t.Fatalf("%+v %v", e, err)
	}
	d := Diagnose(e)
	var codes []string
	for _, f := range d.Findings {
		codes = append(codes, string(f.Code))
	}
	if text := strings.Join(codes, " "); d.Exit(health.Warning) != 1 || !strings.Contains(text, "CERT_EXPIRES") || !strings.Contains(text, "CERT_UNTRUSTED") {
		t.Errorf("%+v", d)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Context.Endpoints = []string{l.Addr().String()}
	_ = l.Close()
	e, err = Gather(t.Context(), o)
	if themis.CodeOf(err) != themis.Unreachable || len(e.Witnesses) != 0 {
		t.Errorf("nobody there: %+v %v", e, err)
	}
}
