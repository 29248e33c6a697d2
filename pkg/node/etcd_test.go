package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	etcdtls "go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/themisdb/themis/pkg/loopback"
)

// etcdVariable makes this test binary an etcd of its own: the operator's, in a process that themis has no part in.
const etcdVariable = "THEMIS_TEST_ETCD"

func TestMain(m *testing.M) {
	if spec := os.Getenv(etcdVariable); spec != "" {
		if err := runEtcd(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// etcdSpec is one member of an operator's etcd.
type etcdSpec struct {
	Name, Dir, Peer, Client, Cluster string
	CA, Cert, Key                    string // of the client port; empty: plain text
}

func runEtcd(text string) error {
	var s etcdSpec
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster, cfg.LogLevel = s.Name, s.Dir, s.Cluster, "error"
	cfg.BcryptCost = 4 // the default takes seconds under the race detector
	at := func(s string) []url.URL {
		u, err := url.Parse(s)
		if err != nil {
			panic(err)
		}
		return []url.URL{*u}
	}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = at(s.Peer), at(s.Peer)
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = at(s.Client), at(s.Client)
	if s.CA != "" {
		cfg.ClientTLSInfo = etcdtls.TLSInfo{CertFile: s.Cert, KeyFile: s.Key, TrustedCAFile: s.CA, ClientCertAuth: true}
	}
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	return <-e.Err()
}

// userEtcd is an operator's etcd of its own processes.
type userEtcd struct {
	t       *testing.T
	specs   []etcdSpec
	running map[string]*exec.Cmd
	tls     *tls.Config
}

// newUserEtcd starts so many members; with a directory of certificates their client ports speak TLS.
func newUserEtcd(t *testing.T, members int, certs string) *userEtcd {
	t.Helper()
	e := &userEtcd{t: t, running: map[string]*exec.Cmd{}}
	dir := t.TempDir()
	var initial []string
	for i := range members {
		s := etcdSpec{Name: fmt.Sprint("etcd-", i+1), Peer: "http://" + loopback.Addr(t), Client: "http://" + loopback.Addr(t)}
		s.Dir = filepath.Join(dir, s.Name)
		if certs != "" {
			s.Client = strings.Replace(s.Client, "http", "https", 1)
			s.CA, s.Cert, s.Key = filepath.Join(certs, "ca.crt"), filepath.Join(certs, "etcd.crt"), filepath.Join(certs, "etcd.key")
		}
		initial = append(initial, s.Name+"="+s.Peer)
		e.specs = append(e.specs, s)
	}
	if certs != "" {
		e.tls = clientOf(t, certs, "admin")
	}
	for i := range e.specs {
		e.specs[i].Cluster = strings.Join(initial, ",")
		e.start(e.specs[i])
	}
	t.Cleanup(func() {
		for name := range e.running {
			e.kill(name)
		}
	})
	e.until("it serves", func(ctx context.Context, c *clientv3.Client) error {
		_, err := c.Put(ctx, "/other/users", "of this etcd")
		return err
	})
	return e
}

func (e *userEtcd) start(s etcdSpec) {
	e.t.Helper()
	spec, err := json.Marshal(s)
	if err != nil {
		e.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^$")
	cmd.Env = append(os.Environ(), etcdVariable+"="+string(spec))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	e.running[s.Name] = cmd
}

func (e *userEtcd) kill(name string) {
	cmd := e.running[name]
	delete(e.running, name)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func (e *userEtcd) endpoints() string {
	var out []string
	for _, s := range e.specs {
		out = append(out, s.Client)
	}
	return strings.Join(out, ",")
}

func (e *userEtcd) client(user, password string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: strings.Split(e.endpoints(), ","), TLS: e.tls, Username: user, Password: password, Logger: zap.NewNop(), DialTimeout: time.Second})
}

// until does it as the operator would by etcdctl, and waits until it is done.
func (e *userEtcd) until(what string, do func(context.Context, *clientv3.Client) error) {
	e.t.Helper()
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		var c *clientv3.Client
		if c, err = e.client("", ""); err == nil {
			ctx, cancel := context.WithTimeout(e.t.Context(), 15*time.Second)
			err = do(ctx, c)
			cancel()
			_ = c.Close()
		}
		if err == nil {
			return
		}
		<-time.After(50 * time.Millisecond)
	}
	e.t.Fatalf("etcd: %s: %v", what, err)
}

// authority makes a CA of the operator's, of which themis knows nothing but the file, and certificates under it.
func authority(t *testing.T, dir string, serverNames, clients []string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial := int64(0)
	issue := func(name string, tmpl *x509.Certificate, parent *x509.Certificate, own *ecdsa.PrivateKey) *x509.Certificate {
		serial++
		tmpl.SerialNumber, tmpl.Subject = big.NewInt(serial), pkix.Name{CommonName: name}
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
		if parent == nil {
			parent = tmpl
		}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, own.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		keyDER, err := x509.MarshalPKCS8PrivateKey(own)
		if err != nil {
			t.Fatal(err)
		}
		write := func(file, kind string, der []byte) {
			var b bytes.Buffer
			_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
			if err := os.WriteFile(filepath.Join(dir, file), b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write(name+".crt", "CERTIFICATE", der)
		write(name+".key", "PRIVATE KEY", keyDER)
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	ca := issue("ca", &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, nil, key)
	leaf := func(name string, tmpl *x509.Certificate) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		issue(name, tmpl, ca, own)
	}
	server := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range serverNames {
		if ip := net.ParseIP(n); ip != nil {
			server.IPAddresses = append(server.IPAddresses, ip)
		} else {
			server.DNSNames = append(server.DNSNames, n)
		}
	}
	leaf("etcd", server)
	for _, c := range clients {
		leaf(c, &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	}
}

func clientOf(t *testing.T, dir, name string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true} // the operator's own tool
}
