package pki

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

func asThemis(err error) *themis.Error {
	e, _ := errors.AsType[*themis.Error](err)
	return e
}

func TestCASavesAndLoads(t *testing.T) {
	ca := newTestCA(t, "prod", newClock())
	dir := filepath.Join(t.TempDir(), "pki")
	ok(t, ca.Save(dir))

	for name, want := range map[string]os.FileMode{"": 0o700, CAKeyFile: 0o600, CACertFile: 0o644} {
		info := must(os.Stat(filepath.Join(dir, name)))(t)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %q is %04o, want %04o", name, got, want)
		}
	}
	if left := must(os.ReadDir(dir))(t); len(left) != 2 {
		t.Errorf("files left in %s: %v", dir, left)
	}
	loaded := must(LoadCA(dir))(t)
	if !loaded.Cert.Equal(ca.Cert) || loaded.Cluster != "prod" {
		t.Errorf("loaded %s of cluster %q", loaded.Cert.Subject, loaded.Cluster)
	}
	if got := loaded.Cert.Subject.CommonName; got != "themis-cluster-ca" {
		t.Errorf("common name %q", got)
	}
	loaded.Now = ca.Now
	issued := must(loaded.Issue(nodeRequest("node-1")))(t)
	if err := issued.Cert.CheckSignatureFrom(ca.Cert); err != nil {
		t.Error(err)
	}
}

func TestCAKeyIsNeverOverwritten(t *testing.T) {
	dir := t.TempDir()
	first := newTestCA(t, "prod", newClock())
	ok(t, first.Save(dir))
	err := newTestCA(t, "prod", newClock()).Save(dir)
	wantCode(t, err, themis.RefusedUnsafe)
	if !must(LoadCA(dir))(t).Cert.Equal(first.Cert) {
		t.Error("the first CA is gone")
	}
	if left := must(os.ReadDir(dir))(t); len(left) != 2 {
		t.Errorf("files left: %v", left)
	}
}

func TestLoadCARefuses(t *testing.T) {
	clk := newClock()
	ca, other := newTestCA(t, "prod", clk), newTestCA(t, "prod", clk)
	leaf := must(ca.Issue(nodeRequest("node-1")))(t)
	key, otherKey := must(encodeKey(ca.key))(t), must(encodeKey(other.key))(t)
	for _, c := range []struct {
		name      string
		cert, key []byte
		mode      os.FileMode
		want      string
	}{
		{"key readable by others", ca.CertPEM(), key, 0o644, "mode 0644"},
		{"key readable by the group", ca.CertPEM(), key, 0o640, "mode 0640"},
		{"another CA's key", ca.CertPEM(), otherKey, 0o600, "does not match"},
		{"a leaf", leaf.CertPEM, leaf.KeyPEM, 0o600, "not a CA certificate"},
		{"an encrypted key", ca.CertPEM(), []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), 0o600, "encrypted"},
		{"no certificate", []byte("nothing"), key, 0o600, CACertFile},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, dir, CACertFile, c.cert, 0o644)
			writeFile(t, dir, CAKeyFile, c.key, c.mode)
			_, err := LoadCA(dir)
			wantCode(t, err, themis.InvalidArgument)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
	_, err := LoadCA(t.TempDir())
	wantCode(t, err, themis.InvalidArgument)
}

func TestNewCARefuses(t *testing.T) {
	for name, o := range map[string]CAOptions{
		"no cluster":         {},
		"cluster with dots":  {Cluster: "a.b"},
		"upper case":         {Cluster: "Prod"},
		"algorithm":          {Cluster: "prod", Algorithm: "ed25519"},
		"valid":              {Cluster: "prod", Valid: -time.Hour},
		"common name":        {Cluster: "prod", CommonName: strings.Repeat("x", 65)},
		"name with controls": {Cluster: "prod", CommonName: "a\x1b[31m"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewCA(o)
			wantCode(t, err, themis.InvalidArgument)
		})
	}
}

func TestRSACA(t *testing.T) {
	clk := newClock()
	ca := must(NewCA(CAOptions{Cluster: "prod", Algorithm: RSA4096, Now: clk.Now}))(t)
	if key, isRSA := ca.Cert.PublicKey.(*rsa.PublicKey); !isRSA || key.N.BitLen() != 4096 || ca.Cert.SignatureAlgorithm != x509.SHA256WithRSA {
		t.Errorf("key %T, signature %s", ca.Cert.PublicKey, ca.Cert.SignatureAlgorithm)
	}
	server := newSource(t, ca, nodeRequest("node-1"), Options{Now: clk.Now})
	client := newSource(t, ca, nodeRequest("node-2"), Options{Now: clk.Now})
	if _, sErr, cErr := handshake(t, server.ServerConfig(), client.ClientConfig("node-1", "")); sErr != nil || cErr != nil {
		t.Errorf("server %v, client %v", sErr, cErr)
	}
}
