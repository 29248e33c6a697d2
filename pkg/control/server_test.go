package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

const nodeHost = "node.c1.themis.internal"

// authority is a CA of a few lines.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "ca", nil, nil)
	return a
}

// issue writes NAME.crt and NAME.key; without a parent it signs itself.
func (a *authority) issue(t *testing.T, name string, parent *authority, hosts []string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: hosts,
	}
	signer, signKey := tmpl, key
	if parent == nil {
		tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
	} else {
		signer, signKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, signer, &key.PublicKey, signKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for ext, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(a.dir, name+ext), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// client is a TLS configuration with a certificate of that name.
func (a *authority) client(t *testing.T, name string, hosts ...string) *tls.Config {
	t.Helper()
	a.issue(t, name, a, hosts)
	pair, err := tls.LoadX509KeyPair(a.file(name+".crt"), a.file(name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS13}
}

// ensemble is three members with mTLS in one process.
type ensemble struct {
	t       *testing.T
	ca      *authority
	initial map[string]string
	opts    map[string]ServerOptions
	running map[string]*Server
}

func newEnsemble(t *testing.T) *ensemble {
	return &ensemble{t: t, ca: newAuthority(t), initial: map[string]string{}, opts: map[string]ServerOptions{}, running: map[string]*Server{}}
}

func (e *ensemble) add(name string) ServerOptions {
	e.ca.issue(e.t, name, e.ca, []string{nodeHost})
	o := ServerOptions{
		Name: name, Dir: filepath.Join(e.t.TempDir(), "control"), Cluster: "c1", PeerURL: freeURL(e.t, "https"), ClientURL: freeURL(e.t, "https"),
		CertFile: e.ca.file(name + ".crt"), KeyFile: e.ca.file(name + ".key"), CAFile: e.ca.file("ca.crt"), AllowedHostname: nodeHost,
		Tick: 20 * time.Millisecond, Election: 200 * time.Millisecond, InitialCluster: e.initial, noFsync: true,
	}
	e.initial[name] = o.PeerURL
	e.opts[name] = o
	return o
}

func (e *ensemble) start(names ...string) {
	e.t.Helper()
	var starting sync.WaitGroup
	var mu sync.Mutex
	for _, name := range names {
		starting.Go(func() {
			ctx, cancel := context.WithTimeout(e.t.Context(), 20*time.Second)
			defer cancel()
			s, err := StartEmbedded(ctx, e.opts[name])
			if err != nil {
				e.t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			e.running[name] = s
			e.t.Cleanup(func() {
				if err := s.Stop(); err != nil {
					e.t.Error(err)
				}
			})
		})
	}
	starting.Wait()
	if e.t.Failed() {
		e.t.FailNow()
	}
}

func always(conf *tls.Config) func() (*tls.Config, error) {
	return func() (*tls.Config, error) { return conf, nil }
}

func (e *ensemble) connect(conf *tls.Config) (*Etcd, error) {
	var endpoints []string
	for _, name := range slices.Sorted(maps.Keys(e.opts)) {
		endpoints = append(endpoints, e.opts[name].ClientURL)
	}
	ctx, cancel := context.WithTimeout(e.t.Context(), 10*time.Second)
	defer cancel()
	kv, err := Connect(ctx, Dial{Endpoints: endpoints, TLS: always(conf)})
	if err == nil {
		e.t.Cleanup(func() {
			if err := kv.Close(); err != nil {
				e.t.Error(err)
			}
		})
	}
	return kv, err
}

// leader is the running member that leads.
func (e *ensemble) leader() (name string) {
	until(e.t, "a leader", func() bool {
		for n, s := range e.running {
			if st := s.Status(e.t.Context()); st.Leader == st.ID && st.Quorum {
				name = n
				return true
			}
		}
		return false
	})
	return name
}

// TestThreeMembers: mTLS on every port; only node certificates come in; the leader ends and writes go on; it comes back.
func TestThreeMembers(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t)
	for _, n := range []string{"node-1", "node-2", "node-3"} {
		e.add(n)
	}
	e.start("node-1", "node-2", "node-3")
	kv, err := e.connect(e.ca.client(t, "me", nodeHost))
	if err != nil {
		t.Fatal(err)
	}
	m, v, c := start(t, kv, 4)
	w := follow(t, m)
	awaitView(t, w, "four shards", func(v cluster.View) bool { return len(v.Shards) == 4 })

	t.Run("foreign certificates", func(t *testing.T) {
		for name, conf := range map[string]*tls.Config{
			"an operator's":   e.ca.client(t, "operator"),
			"of another CA":   withRoots(newAuthority(t).client(t, "me", nodeHost), e.ca),
			"no certificate":  withRoots(&tls.Config{MinVersion: tls.VersionTLS13}, e.ca),
			"TLS 1.2 at most": older(e.ca.client(t, "old", nodeHost)),
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
			kv, err := Connect(ctx, Dial{Endpoints: []string{e.opts["node-1"].ClientURL}, TLS: always(conf)})
			cancel()
			if err == nil {
				t.Errorf("%s came in", name)
				_ = kv.Close()
			} else if themis.CodeOf(err) != themis.Unreachable {
				t.Errorf("%s: %v", name, err)
			}
		}
	})

	was := e.leader()
	members, err := e.running[was].Members(t.Context())
	if err != nil || len(members) != 3 {
		t.Fatal(members, err)
	}
	for _, m := range members {
		if m.State != MemberVoter || m.Leader != (m.Name == was) || m.ClientURL == "" || m.PeerURL == "" {
			t.Errorf("%+v", m)
		}
	}
	if err := e.running[was].Stop(); err != nil {
		t.Fatal(err)
	}
	stopped := was
	delete(e.running, was)
	s := v.Shards["shard-1"]
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	if _, err := m.Crown(ctx, s, c, crown(t, s, s.ISR[0], "boot")); err != nil {
		t.Fatalf("no write after the leader has gone: %v", err)
	}
	awaitView(t, w, "the coronation", func(v cluster.View) bool { return v.Shards["shard-1"].Epoch == 1 })
	was = e.leader()
	if members, err = e.running[was].Members(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if down := m.State == MemberDown; down != (m.Name == stopped) {
			t.Errorf("%s is %s", m.Name, m.State)
		}
	}
	e.start(stopped)
	if st := e.running[stopped].Status(t.Context()); !st.Quorum || st.DBBytes == 0 || len(st.Alarms) > 0 {
		t.Errorf("%+v", st)
	}
}

func withRoots(c *tls.Config, a *authority) *tls.Config {
	c.RootCAs = x509.NewCertPool()
	c.RootCAs.AddCert(a.cert)
	return c
}

func older(c *tls.Config) *tls.Config {
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	return c
}

// TestGrow: one member becomes three, one at a time; a wiped one is refused, with its marker and without, and replaced; one
// that runs is removed.
// TestStopTogether: members that stop at the same time don't wait for each other; of one that stops alone another leads at once.
func TestStopTogether(t *testing.T) {
	e := newEnsemble(t)
	names := []string{"node-1", "node-2", "node-3"}
	for _, n := range names {
		e.add(n)
	}
	for _, n := range names { // time enough for etcd's own way to be seen
		o := e.opts[n]
		o.Tick, o.Election = 100*time.Millisecond, time.Second
		e.opts[n] = o
	}
	e.start(names...)
	was := e.leader()
	s := e.running[was]
	s.handOn()
	until(t, "another leader", func() bool { return s.Status(t.Context()).Leader != s.Status(t.Context()).ID })
	began := time.Now()
	var stopping sync.WaitGroup
	for _, s := range e.running {
		stopping.Go(func() {
			if err := s.Stop(); err != nil {
				t.Error(err)
			}
		})
	}
	stopping.Wait()
	if took := time.Since(began); took > 5*time.Second { // about 1.5 s; seven and more by etcd's own way
		t.Errorf("three members took %s to stop together", took)
	}
	t.Logf("stopped together in %s", time.Since(began).Round(time.Millisecond))
}

func TestGrow(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t)
	e.add("node-1")
	e.start("node-1")
	kv, err := e.connect(e.ca.client(t, "me", nodeHost))
	if err != nil {
		t.Fatal(err)
	}
	write(t, kv, "/x", "1")
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	one := e.running["node-1"]
	grow := func(name string) uint64 {
		t.Helper()
		o := e.opts[name]
		id, initial, err := one.AddLearner(ctx, name, o.PeerURL)
		if err != nil {
			t.Fatal(err)
		}
		if again, _, err := one.AddLearner(ctx, name, o.PeerURL); err != nil || again != id {
			t.Fatalf("prepared twice: %x, then %x, %v", id, again, err)
		}
		o.InitialCluster, o.Existing = initial, true
		e.opts[name] = o
		e.start(name)
		if err := errors.Join(one.Promote(ctx, id), one.Promote(ctx, id)); err != nil {
			t.Fatal(err)
		}
		<-e.running[name].Ready()
		return id
	}
	e.add("node-2")
	two := grow("node-2")
	e.add("node-3")
	grow("node-3")
	if members, err := one.Members(ctx); err != nil || len(members) != 3 || slices.ContainsFunc(members, func(m Member) bool { return m.State != MemberVoter }) {
		t.Errorf("%+v, %v", members, err)
	}

	if err := e.running["node-2"].Stop(); err != nil {
		t.Fatal(err)
	}
	dir := e.opts["node-2"].Dir
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if s, err := StartEmbedded(ctx, e.opts["node-2"]); themis.CodeOf(err) != themis.RefusedUnsafe {
		t.Fatalf("a wiped voter started: %v, %v", s, err)
	}
	if err := os.Remove(dir + ".member"); err != nil {
		t.Fatal(err)
	}
	if s, err := StartEmbedded(ctx, e.opts["node-2"]); themis.CodeOf(err) != themis.RefusedUnsafe {
		t.Fatalf("a voter wiped with its marker started: %v, %v", s, err)
	}
	if err := errors.Join(one.RemoveMember(ctx, two), one.RemoveMember(ctx, two)); err != nil {
		t.Fatal(err)
	}
	if _, err := StartEmbedded(ctx, e.opts["node-2"]); themis.CodeOf(err) != themis.NotFound {
		t.Fatalf("a member that nobody expects: %v", err)
	}
	if id := grow("node-2"); id == two {
		t.Error("the replacement has the old id")
	}
	if v := value(t, kv, "/x"); v != "1" {
		t.Errorf("lost: %q", v)
	}

	gone := e.running["node-3"] // removed while it runs, it ends by itself and says so
	if err := one.RemoveMember(ctx, gone.Status(ctx).ID); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone.Done():
		if !errors.Is(gone.Err(), ErrStopped) {
			t.Errorf("ended with %v", gone.Err())
		}
	case <-ctx.Done():
		t.Fatal("a removed member runs on")
	}
}

func TestSecondProcess(t *testing.T) {
	s := single(t, nil)
	o := s.o
	o.PeerURL, o.ClientURL = freeURL(t, "http"), freeURL(t, "http")
	o.InitialCluster = map[string]string{o.Name: o.PeerURL}
	if _, err := StartEmbedded(t.Context(), o); themis.CodeOf(err) != themis.RefusedUnsafe {
		t.Errorf("two on one directory: %v", err)
	}
}

// TestNoQuorum: one of three can't serve; when the caller's patience ends it is stopped, without hanging.
func TestNoQuorum(t *testing.T) {
	t.Parallel()
	e := newEnsemble(t)
	for _, n := range []string{"node-1", "node-2", "node-3"} {
		e.add(n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := StartEmbedded(ctx, e.opts["node-1"])
	if themis.CodeOf(err) != themis.Deadline || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "node-2=") {
		t.Errorf("%v", err)
	}
	if l, err := takeLock(filepath.Join(e.opts["node-1"].Dir, "LOCK")); err != nil {
		t.Errorf("the directory was not freed: %v", err)
	} else if err := l.release(); err != nil {
		t.Error(err)
	}
	e.start("node-1", "node-2", "node-3") // what never served may begin again
}

// TestQuota: a full database says so, reads go on, and Reclaim brings it back.
func TestQuota(t *testing.T) {
	s := single(t, func(o *ServerOptions) { o.QuotaBytes = 8 << 20 })
	kv := connect(t, s)
	var err error
	large := make([]byte, 512<<10)
	for i := 0; (err == nil || errors.Is(err, ErrUnknownOutcome)) && i < 200; i++ { // a slow disk may leave an outcome open
		_, _, err = kv.Txn(t.Context(), Txn{Put: []Put{{Key: "/x", Value: large}}})
	}
	if !errors.Is(err, ErrNoSpace) || themis.CodeOf(err) != themis.ReadOnly || errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("full: %v", err)
	}
	if _, _, err := kv.Grant(t.Context(), time.Second); !errors.Is(err, ErrNoSpace) {
		t.Errorf("grant: %v", err)
	}
	if r, err := kv.Get(t.Context(), "/x"); err != nil || r.Revision == 0 {
		t.Errorf("read: %v", err)
	}
	if st := s.Status(t.Context()); !slices.Equal(st.Alarms, []string{"NOSPACE"}) || st.Quota != 8<<20 {
		t.Errorf("%+v", st)
	}
	if err := s.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, kv, "/x", "small")
	if st := s.Status(t.Context()); len(st.Alarms) > 0 || st.DBBytes > 4<<20 {
		t.Errorf("%+v", st)
	}
}

// TestDeadEndpoints: what surely was not sent is never called unknown.
func TestDeadEndpoints(t *testing.T) {
	s := single(t, nil)
	kv := connect(t, s)
	write(t, kv, "/x", "1")
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	until(t, "the connection's end is noticed", func() bool {
		_, _, err := kv.Txn(t.Context(), Txn{Put: []Put{{Key: "/x"}}})
		return themis.CodeOf(err) == themis.Unreachable && !errors.Is(err, ErrUnknownOutcome)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	if _, err := kv.Get(ctx, "/x"); themis.CodeOf(err) != themis.Unreachable {
		t.Errorf("read: %v", err)
	}
	if _, err := Connect(ctx, Dial{Endpoints: []string{s.ClientURL()}}); themis.CodeOf(err) != themis.Unreachable {
		t.Errorf("connect: %v", err)
	}
}

// TestRestart: the data is there again, the marker is accepted, and another cluster's directory isn't.
func TestRestart(t *testing.T) {
	s := single(t, nil)
	kv := connect(t, s)
	if _, err := watching(t, kv, "/x", write(t, kv, "/x", "1"))(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := errors.Join(s.Stop(), s.Stop()); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("with a watch open it took %s to stop", d)
	}
	other := s.o
	other.Cluster = "c2"
	if _, err := StartEmbedded(t.Context(), other); themis.CodeOf(err) != themis.RefusedUnsafe {
		t.Errorf("another cluster's directory: %v", err)
	}
	again := single(t, func(o *ServerOptions) { *o = s.o })
	if v := value(t, connect(t, again), "/x"); v != "1" {
		t.Errorf("after a restart: %q", v)
	}
	if err := again.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.o.Dir); err != nil {
		t.Fatal(err)
	}
	if _, err := StartEmbedded(t.Context(), s.o); themis.CodeOf(err) != themis.RefusedUnsafe {
		t.Errorf("a wiped member began a new cluster: %v", err)
	}
}

// TestHTTPSocket: the split-off HTTP answers on the socket, and only there.
func TestHTTPSocket(t *testing.T) {
	s := single(t, nil)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", s.HTTPSocket())
	}
	hc := &http.Client{Transport: &http.Transport{DialContext: dial}}
	defer hc.CloseIdleConnections()
	for _, path := range []string{"/readyz", "/livez", "/metrics"} {
		resp, err := hc.Get("http://control" + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if info, err := os.Stat(filepath.Dir(s.HTTPSocket())); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory: %v, %v", info.Mode(), err)
	}
	if resp, err := http.Get(s.ClientURL() + "/metrics"); err == nil {
		_ = resp.Body.Close()
		t.Errorf("the client port speaks HTTP: %s", resp.Status)
	}
	families, err := Gatherer().Gather()
	found := false
	for _, f := range families {
		found = found || f.GetName() == "etcd_server_has_leader"
	}
	if err != nil || !found {
		t.Errorf("etcd's metrics are not where they are said to be: %v", err)
	}
}

func TestServerOptions(t *testing.T) {
	good := func() ServerOptions {
		return ServerOptions{Name: "node-1", Dir: "d", Cluster: "c1", PeerURL: "http://127.0.0.1:20001", ClientURL: "http://127.0.0.1:20002",
			InitialCluster: map[string]string{"node-1": "http://127.0.0.1:20001"}}
	}
	for name, spoil := range map[string]func(*ServerOptions){
		"name":               func(o *ServerOptions) { o.Name = "Node 1" },
		"no dir":             func(o *ServerOptions) { o.Dir = "" },
		"cluster":            func(o *ServerOptions) { o.Cluster = "a/b" },
		"not in the list":    func(o *ServerOptions) { o.InitialCluster = nil },
		"port 0":             func(o *ServerOptions) { o.ClientURL = "http://127.0.0.1:0" },
		"a name for an ip":   func(o *ServerOptions) { o.ClientURL = "http://localhost:20002" },
		"plain on a network": func(o *ServerOptions) { o.ClientURL = "http://10.0.0.1:20002" },
		"https without":      func(o *ServerOptions) { o.ClientURL = "https://127.0.0.1:20002" },
		"half of tls":        func(o *ServerOptions) { o.CertFile = "x" },
		"hostname alone":     func(o *ServerOptions) { o.AllowedHostname = "x" },
		"election":           func(o *ServerOptions) { o.Tick, o.Election = time.Second, time.Second },
	} {
		o := good()
		spoil(&o)
		if _, err := StartEmbedded(t.Context(), o); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	var log strings.Builder
	o := good()
	o.Logger, o.ClientURL = slog.New(slog.NewTextHandler(&log, nil)), "http://127.0.0.1:40002"
	if err := o.check(); err != nil || !strings.Contains(log.String(), "40002") {
		t.Errorf("an ephemeral port: %v, log %q", err, log.String())
	}
}

func TestLog(t *testing.T) {
	var out strings.Builder
	lg := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	said, code := "", 0
	z := zap.New(bridge{to: lg}, zap.WithFatalHook(lastWords{func(s string) { said += s }, func(c int) { code = c; panic("exit") }, &sync.Once{}}))
	z = z.With(zap.String("b", "2"))
	z.Info("dropped")
	z.Warn("slow", zap.Int("a", 1))
	z.Error("bad", zap.Error(errFault))
	func() {
		defer func() { _ = recover() }()
		z.Fatal("disk", zap.Error(errFault))
	}()
	want := `level=WARN msg=slow part=etcd a=1 b=2
level=ERROR msg=bad part=etcd b=2 error="a fault of the test"
level=ERROR msg=disk part=etcd b=2 error="a fault of the test"
`
	if out.String() != want {
		t.Errorf("log:\n%s", out.String())
	}
	if said != "disk: a fault of the test" || code != themis.ExitFailed {
		t.Errorf("last words %q, exit %d", said, code)
	}
	var _ zapcore.CheckWriteHook = lastWords{}
}

func TestVersions(t *testing.T) {
	for v, ok := range map[string]bool{"3.6.11": true, "3.7.3": true, "4.0.0-rc.1": true, "3.6.10": false, "3.5.21": false, "": false, "x.y.z": false} {
		if err := checkVersion("e", v); (err == nil) != ok {
			t.Errorf("%q: %v", v, err)
		}
	}
	if _, err := Connect(t.Context(), Dial{}); themis.CodeOf(err) != themis.InvalidArgument {
		t.Errorf("no endpoints: %v", err)
	}
}

func TestClusterID(t *testing.T) {
	for _, id := range []string{"", "a/b", "..", fmt.Sprintf("%065d", 1)} {
		if _, err := NewMap(NewMemory(nil), themis.ClusterID(id), Options{}); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%q: %v", id, err)
		}
	}
}

// A learner that was taken back can be prepared again under the same address.
func TestALearnerThatWasTakenBackIsPreparedAgain(t *testing.T) {
	t.Parallel()
	s := single(t, nil)
	peer := freeURL(t, "http")
	for range 3 {
		id, initial, err := s.AddLearner(t.Context(), "node-2", peer)
		if err != nil || len(initial) != 2 {
			t.Fatal(initial, err)
		}
		if err := s.RemoveMember(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
}
