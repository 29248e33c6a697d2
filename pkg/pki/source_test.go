package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

func TestOpenRefuses(t *testing.T) {
	clk := newClock()
	ca, foreign := newTestCA(t, "prod", clk), newTestCA(t, "prod", clk)
	other := must(ca.Issue(nodeRequest("node-1")))(t)
	past := &CA{Cert: ca.Cert, Cluster: "prod", Now: clk.Now, key: ca.key}
	short := nodeRequest("node-1")
	short.Valid = time.Minute
	crafted := func(change func(*x509.Certificate)) (certPEM, keyPEM []byte) {
		pair := craft(t, ca, nodeRequest("node-1"), change)
		return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: pair.Certificate[0]}), must(encodeKey(pair.PrivateKey.(*ecdsa.PrivateKey)))(t)
	}
	for _, c := range []struct {
		name string
		do   func(t *testing.T, f *Files)
		want string
	}{
		{"no certificate file", func(_ *testing.T, f *Files) { f.Cert += ".gone" }, "certificate: open "},
		{"no key file", func(_ *testing.T, f *Files) { f.Key += ".gone" }, "key: open "},
		{"no CA file", func(_ *testing.T, f *Files) { f.CA += ".gone" }, "CA certificate: open "},
		{"no CRL file", func(_ *testing.T, f *Files) { f.CRL = "gone.pem" }, "revocation list: open gone.pem"},
		{"no path", func(_ *testing.T, f *Files) { f.Key = "" }, "key: no file given"},
		{"a directory", func(t *testing.T, f *Files) { f.CA = t.TempDir() }, "not a regular file"},
		{"key readable by others", func(t *testing.T, f *Files) { ok(t, os.Chmod(f.Key, 0o644)) }, "mode 0644 lets others reach the private key"},
		{"another key", func(t *testing.T, f *Files) { ok(t, replaceFile(f.Key, other.KeyPEM, 0o600)) }, "does not match"},
		{"no PEM", func(t *testing.T, f *Files) { ok(t, replaceFile(f.CA, []byte("x"), 0o644)) }, "no PEM block of type CERTIFICATE"},
		{"foreign CA", func(t *testing.T, f *Files) { ok(t, replaceFile(f.CA, foreign.CertPEM(), 0o644)) }, "is no CA of cluster prod"},
		{"a leaf as CA", func(t *testing.T, f *Files) { ok(t, replaceFile(f.CA, other.CertPEM, 0o644)) }, "is not a CA certificate"},
		{"expired", func(t *testing.T, f *Files) {
			past.Now = func() time.Time { return clk.Now().Add(-2 * time.Minute) }
			ok(t, must(past.Issue(short))(t).Save(*f))
		}, "expired 2026-06-01T11:59:00Z, 1m0s ago"},
		{"not yet valid", func(t *testing.T, f *Files) {
			past.Now = func() time.Time { return clk.Now().Add(time.Hour) }
			ok(t, must(past.Issue(nodeRequest("node-1")))(t).Save(*f))
		}, "is valid from 2026-06-01T12:55:00Z"},
		{"no server", func(t *testing.T, f *Files) {
			cert, key := crafted(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })
			ok(t, replaceFile(f.Key, key, 0o600))
			ok(t, replaceFile(f.Cert, cert, 0o644))
		}, "server authentication"},
		{"an extension is missing", func(t *testing.T, f *Files) {
			cert, key := crafted(func(c *x509.Certificate) { c.ExtraExtensions = c.ExtraExtensions[1:] })
			ok(t, replaceFile(f.Key, key, 0o600))
			ok(t, replaceFile(f.Cert, cert, 0o644))
		}, "(shardId): missing"},
		{"foreign CRL", func(t *testing.T, f *Files) {
			f.CRL = writeFile(t, t.TempDir(), "crl.pem", must(foreign.Revoke(nil, 0))(t), 0o644)
		}, "not signed by a CA of this cluster"},
		{"no CRL in the file", func(t *testing.T, f *Files) { f.CRL = f.CA }, "no PEM block of type X509 CRL"},
		{"empty CRL file", func(t *testing.T, f *Files) { f.CRL = writeFile(t, t.TempDir(), "crl.pem", nil, 0o644) }, "empty"},
		{"a key that can't sign ballots", func(t *testing.T, f *Files) { writeP384(t, ca, f) }, "P-384"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files, _ := install(t, ca, nodeRequest("node-1"))
			c.do(t, &files)
			_, err := Open(files, Options{Now: clk.Now})
			wantCode(t, err, themis.InvalidArgument)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			if c.name == "expired" && asThemis(err).Fix != "themis-cli pki renew node-1.crt" {
				t.Errorf("what to do: %q", asThemis(err).Fix)
			}
		})
	}
}

func writeP384(t *testing.T, ca *CA, f *Files) {
	key := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))(t)
	r := must(nodeRequest("node-1").complete(ca, ca.Now()))(t)
	der := must(x509.CreateCertificate(rand.Reader, must(r.template(ca.Now()))(t), ca.Cert, key.Public(), ca.key))(t)
	ok(t, replaceFile(f.Key, must(encodeKey(key))(t), 0o600))
	ok(t, replaceFile(f.Cert, pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der}), 0o644))
}

// Forty rotations, each with a moment in which key and certificate don't match, under handshakes that never stop.
func TestRotationUnderHandshakes(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	serverFiles, _ := install(t, ca, nodeRequest("node-1"))
	clientFiles, _ := install(t, ca, nodeRequest("node-2"))
	server, client := openSource(t, serverFiles, Options{Now: clk.Now}), openSource(t, clientFiles, Options{Now: clk.Now})
	serverConfig, clientConfig := server.ServerConfig(), client.ClientConfig("node-1", "")

	var stop atomic.Bool
	var done atomic.Int64
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for !stop.Load() {
				if _, sErr, cErr := handshake(t, serverConfig, clientConfig); sErr != nil || cErr != nil {
					t.Errorf("server %v, client %v", sErr, cErr)
					return
				}
				done.Add(1)
			}
		})
	}
	defer workers.Wait()
	defer stop.Store(true)
	connect := func() string {
		state, sErr, cErr := handshake(t, serverConfig, clientConfig)
		if sErr != nil || cErr != nil {
			t.Fatalf("server %v, client %v", sErr, cErr)
		}
		return must(PeerInfo(state))(t).Serial
	}
	for i := range 40 {
		files, node := serverFiles, "node-1"
		if i%2 == 1 {
			files, node = clientFiles, "node-2"
		}
		next := must(ca.Issue(nodeRequest(node)))(t)
		ok(t, replaceFile(files.Key, next.KeyPEM, 0o600))
		clk.Advance(checkEvery)
		connect()
		ok(t, replaceFile(files.Cert, next.CertPEM, 0o644))
		clk.Advance(checkEvery)
		// A worker may be reading the files at this very moment; until it is done the old set serves.
		rotated := map[string]*Source{"node-1": server, "node-2": client}[node]
		for deadline := time.Now().Add(10 * time.Second); rotated.Info().Serial != next.Info.Serial; {
			if time.Now().After(deadline) {
				t.Fatalf("rotation %d: %s still has %s, want %s", i, node, rotated.Info().Serial, next.Info.Serial)
			}
		}
		if serial := connect(); node == "node-2" && serial != next.Info.Serial {
			t.Fatalf("rotation %d: the server saw %s, want %s", i, serial, next.Info.Serial)
		}
		if server.Status().Problem+client.Status().Problem != "" {
			t.Fatalf("rotation %d: %q %q", i, server.Status().Problem, client.Status().Problem)
		}
	}
	if got := server.Status(); got.Reloads < 20 || got.FailedReloads == 0 {
		t.Errorf("%d reloads, %d failed: want at least 20, and a failed one in each torn moment", got.Reloads, got.FailedReloads)
	}
	stop.Store(true)
	workers.Wait()
	t.Logf("%d handshakes", done.Load())
}

func TestRevocationAtRunTime(t *testing.T) {
	clk, seen := newClock(), &refusals{}
	ca := newTestCA(t, "prod", clk)
	list := must(ca.Revoke(nil, 0))(t)
	files, _ := install(t, ca, nodeRequest("node-1"))
	files.CRL = writeFile(t, t.TempDir(), "crl.pem", list, 0o644)
	server := openSource(t, files, Options{Now: clk.Now, OnRefuse: seen.add})
	clientFiles, issued := install(t, ca, nodeRequest("node-2"))
	client := openSource(t, clientFiles, Options{Now: clk.Now})
	config := server.ServerConfig()
	state, sErr, cErr := handshake(t, config, client.ClientConfig("node-1", ""))
	if sErr != nil || cErr != nil {
		t.Fatalf("server %v, client %v", sErr, cErr)
	}
	ok(t, server.CheckPeer(state, true))

	list = must(ca.Revoke(list, 0, issued.Cert.SerialNumber))(t)
	ok(t, replaceFile(files.CRL, list, 0o644))
	clk.Advance(checkEvery)
	if _, sErr, cErr := handshake(t, config, client.ClientConfig("node-1", "")); sErr == nil || cErr == nil {
		t.Fatalf("a revoked client connected: server %v, client %v", sErr, cErr)
	}
	if got := seen.one(t); got.Reason != Revoked || got.Peer != "node-2" || got.Serial != issued.Info.Serial || !strings.Contains(got.Error(), "was revoked 2026-06-01T12:00:00Z") {
		t.Errorf("refusal %+v: %v", got, got)
	}
	// The connection that was open before can be found out.
	if r, isRefusal := errors.AsType[*Refusal](server.CheckPeer(state, true)); !isRefusal || r.Reason != Revoked {
		t.Error("the open connection passes")
	}
	if st := server.Status(); len(st.CRLs) != 1 || st.CRLs[0].Number != "2" || st.CRLs[0].Entries != 1 || st.Revoked {
		t.Errorf("status %+v", st)
	}

	// The list keeps what it had, and says whom it does not know.
	list = must(ca.Revoke(list, 0, big.NewInt(5), issued.Cert.SerialNumber))(t)
	parsed := must(parseCRL(list, []*x509.Certificate{ca.Cert}))(t)
	if parsed.lists[0].Entries != 2 || parsed.lists[0].Number != "3" {
		t.Errorf("third list: %+v", parsed.lists[0])
	}
	for name, do := range map[string]func() ([]byte, error){
		"another CA's list": func() ([]byte, error) { return newTestCA(t, "prod", clk).Revoke(list, 0) },
		"not a list":        func() ([]byte, error) { return ca.Revoke(ca.CertPEM(), 0) },
		"serial 0":          func() ([]byte, error) { return ca.Revoke(list, 0, big.NewInt(0)) },
		"valid":             func() ([]byte, error) { return ca.Revoke(list, -time.Hour) },
	} {
		if _, err := do(); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOwnRevocationIsTold(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	files, issued := install(t, ca, nodeRequest("node-1"))
	files.CRL = writeFile(t, t.TempDir(), "crl.pem", must(ca.Revoke(nil, 0, issued.Cert.SerialNumber))(t), 0o644)
	if st := openSource(t, files, Options{Now: clk.Now}).Status(); !st.Revoked {
		t.Error("the status hides that the own certificate is revoked")
	}
}

func TestStaleCRL(t *testing.T) {
	for _, demand := range []bool{false, true} {
		clk, seen := newClock(), &refusals{}
		ca := newTestCA(t, "prod", clk)
		files, _ := install(t, ca, nodeRequest("node-1"))
		files.CRL = writeFile(t, t.TempDir(), "crl.pem", must(ca.Revoke(nil, time.Hour))(t), 0o644)
		server := openSource(t, files, Options{Now: clk.Now, OnRefuse: seen.add, DemandFreshCRL: demand})
		client := newSource(t, ca, nodeRequest("node-2"), Options{Now: clk.Now})
		clk.Advance(2 * time.Hour)
		_, sErr, _ := handshake(t, server.ServerConfig(), client.ClientConfig("node-1", ""))
		if (sErr != nil) != demand {
			t.Errorf("demand %v: error %v", demand, sErr)
		}
		if demand && seen.one(t).Reason != StaleCRL {
			t.Errorf("reason %v", sErr)
		}
		if want := noon.Add(time.Hour); !server.Status().CRLStaleSince.Equal(want) {
			t.Errorf("stale since %s, want %s", server.Status().CRLStaleSince, want)
		}
	}
}

// reloads is the observer of a test.
type reloads struct{ seen []Status }

func (r *reloads) add(s Status) { r.seen = append(r.seen, s) }

func TestBadFilesAreReportedAndNotUsed(t *testing.T) {
	clk, seen := newClock(), &reloads{}
	ca := newTestCA(t, "prod", clk)
	files, first := install(t, ca, nodeRequest("node-1"))
	s := openSource(t, files, Options{Now: clk.Now, OnReload: seen.add})
	other := nodeRequest("node-1")
	other.Cluster = "test"
	withID := nodeRequest("node-1")
	withID.ClusterID = "id-1"
	short := nodeRequest("node-1")
	short.Valid = time.Second / 2
	for i, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"torn", func() { ok(t, replaceFile(files.Cert, must(ca.Issue(nodeRequest("node-1")))(t).CertPEM, 0o644)) }, "does not match"},
		{"another node", func() { ok(t, must(ca.Issue(nodeRequest("node-2")))(t).Save(files)) }, "now of node node-2 of cluster prod, this process runs as node node-1"},
		{"another cluster", func() { ok(t, must(ca.Issue(other))(t).Save(files)) }, "now of node node-1 of cluster test"},
		{"a client of that name", func() { ok(t, must(ca.Issue(Request{Client: "node-1"}))(t).Save(files)) }, "now of client node-1"},
		{"expired", func() { ok(t, must(ca.Issue(short))(t).Save(files)) }, "expired"},
		{"gone", func() { ok(t, os.Remove(files.Key)) }, "no such file"},
		{"half a file", func() { ok(t, replaceFile(files.Cert, first.CertPEM[:200], 0o644)) }, ""},
	} {
		c.do()
		clk.Advance(checkEvery)
		st := s.Status()
		if st.Problem == "" || !strings.Contains(st.Problem, c.want) {
			t.Errorf("%s: problem %q does not say %q", c.name, st.Problem, c.want)
		}
		if st.Info.Serial != first.Info.Serial || st.FailedReloads != i+1 {
			t.Errorf("%s: serial %s, %d failed", c.name, st.Info.Serial, st.FailedReloads)
		}
		if len(seen.seen) != i+1 || seen.seen[i].Problem != st.Problem {
			t.Errorf("%s: %d reports", c.name, len(seen.seen))
		}
	}
	// The same problem is not reported again, however often it is looked at.
	for range 30 {
		clk.Advance(checkEvery)
		s.Info()
	}
	if st := s.Status(); len(seen.seen) != 7 || st.FailedReloads != 7 {
		t.Errorf("%d reports, %d failed", len(seen.seen), st.FailedReloads)
	}
	good := must(ca.Issue(withID))(t)
	ok(t, good.Save(files))
	clk.Advance(checkEvery)
	if st := s.Status(); st.Problem != "" || st.Info.Serial != good.Info.Serial || st.Reloads != 1 || !st.Loaded.Equal(clk.Now()) {
		t.Errorf("status %+v", st)
	}
	otherID := withID
	otherID.ClusterID = "id-2"
	ok(t, must(ca.Issue(otherID))(t).Save(files))
	if err := s.Reload(); err == nil || s.Info().Serial != good.Info.Serial {
		t.Errorf("another cluster of the same name: %v", err)
	}
	if _, err := json.Marshal(s.Status()); err != nil {
		t.Error(err)
	}
}

// A certificate that is valid from tomorrow is taken into use tomorrow, though its file has not changed since.
func TestProblemsThatPassByThemselves(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	files, _ := install(t, ca, nodeRequest("node-1"))
	s := openSource(t, files, Options{Now: clk.Now})
	tomorrow := *ca
	tomorrow.Now = func() time.Time { return noon.Add(24 * time.Hour) }
	next := must(tomorrow.Issue(nodeRequest("node-1")))(t)
	ok(t, next.Save(files))
	clk.Advance(checkEvery)
	if st := s.Status(); !strings.Contains(st.Problem, "is valid from") {
		t.Fatalf("problem %q", st.Problem)
	}
	clk.Advance(24 * time.Hour)
	if st := s.Status(); st.Problem != "" || st.Info.Serial != next.Info.Serial {
		t.Errorf("problem %q, serial %s", st.Problem, st.Info.Serial)
	}
}

// Certificate and CRL do not hold each other back.
func TestHalvesReloadApart(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	files, first := install(t, ca, nodeRequest("node-1"))
	list := must(ca.Revoke(nil, 0))(t)
	files.CRL = writeFile(t, t.TempDir(), "crl.pem", list, 0o644)
	s := openSource(t, files, Options{Now: clk.Now})

	ok(t, os.Remove(files.Key))
	ok(t, replaceFile(files.CRL, must(ca.Revoke(list, 0, big.NewInt(9)))(t), 0o644))
	clk.Advance(checkEvery)
	if st := s.Status(); st.CRLs[0].Entries != 1 || st.Info.Serial != first.Info.Serial || !strings.Contains(st.Problem, "key: open") {
		t.Errorf("a broken certificate holds back the list: %+v", st)
	}

	second := must(ca.Issue(nodeRequest("node-1")))(t)
	ok(t, second.Save(files))
	ok(t, replaceFile(files.CRL, []byte("x"), 0o644))
	clk.Advance(checkEvery)
	if st := s.Status(); st.CRLs[0].Entries != 1 || st.Info.Serial != second.Info.Serial || !strings.Contains(st.Problem, "revocation list") {
		t.Errorf("a broken list holds back the certificate, or is used: %+v", st)
	}
}

// An own certificate that has run out must not keep new CAs and lists away.
func TestExpiredInUse(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	r := nodeRequest("node-1")
	r.Valid = time.Hour
	files, first := install(t, ca, r)
	s := openSource(t, files, Options{Now: clk.Now})
	clk.Advance(2 * time.Hour)
	next := newTestCA(t, "prod", clk)
	ok(t, replaceFile(files.CA, append(ca.CertPEM(), next.CertPEM()...), 0o644))
	if err := s.Reload(); err != nil {
		t.Error(err)
	}
	if st := s.Status(); len(st.CAs) != 2 || st.Info.Serial != first.Info.Serial {
		t.Errorf("status %+v", st)
	}
	if got := must(ParseCertificates(s.CAPEM()))(t); len(got) != 2 {
		t.Errorf("%d CAs", len(got))
	}
}

// The CA itself is replaced without a gap: first all trust both, then all have certificates of the new one.
func TestCAReplaced(t *testing.T) {
	clk := newClock()
	old, next := newTestCA(t, "prod", clk), newTestCA(t, "prod", clk)
	var files [2]Files
	var nodes [2]*Source
	names := [2]string{"node-1", "node-2"}
	for i, name := range names {
		files[i], _ = install(t, old, nodeRequest(name))
		nodes[i] = openSource(t, files[i], Options{Now: clk.Now})
	}
	configs := [2]func() (error, error){}
	for i := range nodes {
		server, client := nodes[i].ServerConfig(), nodes[1-i].ClientConfig(themis.NodeID(names[i]), "")
		configs[i] = func() (error, error) {
			_, sErr, cErr := handshake(t, server, client)
			return sErr, cErr
		}
	}
	step := func(what string, do func(i int)) {
		for i := range files {
			do(i)
			clk.Advance(checkEvery)
			for _, connect := range configs {
				if sErr, cErr := connect(); sErr != nil || cErr != nil {
					t.Fatalf("%s of %s: server %v, client %v", what, names[i], sErr, cErr)
				}
			}
		}
	}
	step("both CAs", func(i int) { ok(t, replaceFile(files[i].CA, append(old.CertPEM(), next.CertPEM()...), 0o644)) })
	step("new certificate", func(i int) {
		issued := must(next.Issue(nodeRequest(names[i])))(t)
		ok(t, issued.Save(Files{Cert: files[i].Cert, Key: files[i].Key}))
	})
	step("new CA alone", func(i int) { ok(t, replaceFile(files[i].CA, next.CertPEM(), 0o644)) })
	for _, s := range nodes {
		if st := s.Status(); st.Problem != "" || len(st.CAs) != 1 || st.CAs[0].Fingerprint != Pin(next.Cert) {
			t.Errorf("status %+v", st)
		}
	}
}

func TestLooksOnceASecond(t *testing.T) {
	clk := newClock()
	ca := newTestCA(t, "prod", clk)
	files, first := install(t, ca, nodeRequest("node-1"))
	s := openSource(t, files, Options{Now: clk.Now})
	next := must(ca.Issue(nodeRequest("node-1")))(t)
	ok(t, next.Save(files))
	clk.Advance(checkEvery - 1)
	if got := s.Info().Serial; got != first.Info.Serial {
		t.Error("looked too early")
	}
	clk.Advance(1)
	if got := s.Info().Serial; got != next.Info.Serial {
		t.Error("not looked in time")
	}
	// A clock that was set back does not stop it.
	clk.Advance(-time.Minute)
	third := must(ca.Issue(nodeRequest("node-1")))(t)
	ok(t, third.Save(files))
	if got := s.Info().Serial; got != third.Info.Serial {
		t.Error("not looked after the clock was set back")
	}
}

func TestReplaceFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub") // a directory stands where the file should go
	ok(t, os.Mkdir(path, 0o700))
	ok(t, os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
	if err := replaceFile(path, []byte("new"), 0o600); err == nil {
		t.Error("replaced a directory")
	}
	if left := must(os.ReadDir(dir))(t); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if err := replaceFile(filepath.Join(dir, "gone", "x"), nil, 0o600); err == nil {
		t.Error("wrote into a directory that isn't there")
	}
}
