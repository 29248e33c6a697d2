package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// fleet is a cluster of nodes in this process: real sockets, real etcd members, real disks.
type fleet struct {
	t     *testing.T
	dir   string
	pool  *rpc.Pool
	nodes map[string]*fleetNode
	peer  map[string]string // control addresses, the same at every start
	ca    *pki.CA
	more  map[string]string    // settings beside those of every fleet
	said  map[string]*logLines // by node

	keepUnused time.Duration // 0: as in production
}

// logLines is what a node logged.
type logLines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if testing.Verbose() {
		_, _ = os.Stderr.Write(b)
	}
	return l.b.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

type fleetNode struct {
	addr Addresses
	stop context.CancelFunc
	done chan error

	inside atomic.Pointer[Node]
}

func newFleet(t *testing.T, names ...string) *fleet {
	t.Helper()
	f := newFleetWith(t, nil, names...)
	for _, n := range names {
		f.start(n)
	}
	return f
}

// newFleetWith makes certificates and addresses, and starts nothing.
func newFleetWith(t *testing.T, more map[string]string, names ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), nodes: map[string]*fleetNode{}, peer: map[string]string{}, more: more, said: map[string]*logLines{}}
	ca, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	f.ca = ca
	if err == nil {
		err = ca.Save(f.path("pki"))
	}
	if err != nil {
		t.Fatal(err)
	}
	all := []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}
	for _, n := range names {
		f.issue(ca, pki.Request{Node: themis.NodeID(n), Datacenter: "dc1", Capabilities: all, Loopback: true}, n)
		f.peer[n+"/peer"], f.peer[n+"/client"], f.peer[n+"/grpc"] = loopback.Addr(t), loopback.Addr(t), loopback.Addr(t)
	}
	f.issue(ca, pki.Request{Client: "operator", Capabilities: []string{pki.Read, pki.Write, pki.Admin}}, "operator")
	src, err := pki.Open(pki.FilesIn(f.path("pki"), "operator"), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if f.pool, err = rpc.NewPool(rpc.PoolOptions{Source: src}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for n := range f.nodes {
			f.stop(n)
		}
		_ = f.pool.Close()
	})
	return f
}

func (f *fleet) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *fleet) issue(ca *pki.CA, r pki.Request, name string) {
	f.t.Helper()
	is, err := ca.Issue(r)
	if err == nil {
		err = is.Save(pki.FilesIn(f.path("pki"), name))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) start(name string) {
	f.t.Helper()
	if err := f.tryStart(name, nil); err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
}

// tryStart starts a node with further settings; the error is why it ended before it listened.
func (f *fleet) tryStart(name string, more map[string]string) error {
	f.t.Helper()
	files := pki.FilesIn(f.path("pki"), name)
	settings := map[string]string{
		"node.id": name, "node.data_dir": f.path(name), "node.grpc_listen": f.peer[name+"/grpc"], "node.http_listen": "127.0.0.1:0", "node.metrics_listen": "127.0.0.1:0",
		"control.peer_listen": f.peer[name+"/peer"], "control.client_listen": f.peer[name+"/client"], "http.plain_loopback": "full",
		"pki.cert": files.Cert, "pki.key": files.Key, "pki.ca": files.CA, "pki.issuer_key": f.path("pki", pki.CAKeyFile), "replication.timeout_ms": "1000",
	}
	maps.Copy(settings, f.more)
	maps.Copy(settings, more)
	cfg, err := config.Load(nil, nil, settings)
	if err != nil {
		f.t.Fatal(err)
	}
	f.said[name] = &logLines{}
	ctx, stop := context.WithCancel(context.Background())
	n := &fleetNode{stop: stop, done: make(chan error, 1)}
	ready := make(chan Addresses, 1)
	log := slog.New(slog.NewTextHandler(f.said[name], nil))
	go func() {
		n.done <- Run(ctx, Options{Config: cfg, Version: "test", Logger: log, Listening: func(a Addresses) { ready <- a }, keepUnused: f.keepUnused, began: func(one *Node) { n.inside.Store(one) }})
	}()
	select {
	case n.addr = <-ready:
	case err := <-n.done:
		stop()
		return err
	}
	f.nodes[name] = n
	return nil
}

func (f *fleet) stop(name string) {
	f.t.Helper()
	n := f.nodes[name]
	delete(f.nodes, name)
	n.stop()
	select {
	case err := <-n.done:
		if err != nil {
			f.t.Errorf("%s ended: %v", name, err)
		}
	case <-time.After(30 * time.Second):
		f.t.Fatalf("%s does not end", name)
	}
}

func (f *fleet) admin(name string) nodev1.AdminServiceClient {
	f.t.Helper()
	c, err := f.pool.Admin(f.t.Context(), f.nodes[name].addr.GRPC, themis.NodeID(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fleet) documents(name string) nodev1.DocumentServiceClient {
	f.t.Helper()
	c, err := f.pool.Documents(f.t.Context(), f.nodes[name].addr.GRPC, themis.NodeID(name))
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func (f *fleet) found(a initArgs) {
	f.t.Helper()
	for n := range f.nodes {
		a.Nodes = append(a.Nodes, f.nodes[n].addr.GRPC)
	}
	b, err := json.Marshal(a)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 30*time.Second)
	defer cancel()
	if _, err := f.admin("node-1").Act(ctx, &nodev1.ActRequest{Verb: "cluster.init", ArgsJson: b}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) report(name string) (health.Report, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
	defer cancel()
	frame, err := f.admin(name).GetState(ctx, &nodev1.GetStateRequest{})
	if err != nil {
		return health.Report{}, err
	}
	var r health.Report
	return r, json.Unmarshal(frame.GetReportJson(), &r)
}

// until waits for a report that fits.
func (f *fleet) until(name, what string, ok func(health.Report) bool) health.Report {
	f.t.Helper()
	var last health.Report
	var lastErr error
	for deadline := time.Now().Add(40 * time.Second); time.Now().Before(deadline); {
		if last, lastErr = f.report(name); lastErr == nil && ok(last) {
			return last
		}
		select {
		case <-f.t.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	b, _ := json.MarshalIndent(last, "", " ")
	f.t.Fatalf("%s did not come about: %v\n%s", what, lastErr, b)
	return last
}

// checkShardKeys: where no collection has a rule, a shard key other than the key is refused on every way to a document, and leaves nothing behind.
func checkShardKeys(t *testing.T, f *fleet) {
	t.Helper()
	ctx := t.Context()
	for _, via := range []string{"node-1", "node-2", "node-3"} {
		for _, collection := range []string{"things", "unheard"} {
			for _, o := range []*nodev1.Operation{{Key: "k1", ShardKey: "other", Value: []byte("1")}, {Key: "k1", ShardKey: "other", Delete: true}} {
				_, err := f.documents(via).Write(ctx, &nodev1.WriteRequest{Collection: collection, Operations: []*nodev1.Operation{o}})
				wantNoShardKey(t, err)
			}
			_, err := f.documents(via).Read(ctx, &nodev1.ReadRequest{Collection: collection, Key: "k1", ShardKey: "other"})
			wantNoShardKey(t, err)
		}
		if _, err := f.documents(via).Read(ctx, &nodev1.ReadRequest{Collection: "things", Key: "k1", ShardKey: "k1"}); err != nil {
			t.Errorf("placed by its key, in so many words: %v", err)
		}
	}
	if cs := f.clientMap("node-1").Collections; len(cs) != 1 || cs[0].Name != "things" {
		t.Errorf("collections %v", cs)
	}
}

func wantNoShardKey(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*themis.Error](err)
	if !ok || e.Code != themis.InvalidArgument || !strings.Contains(e.Detail, `shard_key "other": collection`) || !strings.Contains(e.Fix, "themis-cli doc scan ") {
		t.Errorf("a shard key where there is no rule: %v", err)
	}
}

func TestClusterServesAndFailsOver(t *testing.T) {
	f := newFleet(t, "node-1", "node-2", "node-3")
	f.found(initArgs{Name: "demo", Shards: 4, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Sync})
	healthy := func(r health.Report) bool { return r.Status == health.Healthy }
	f.until("node-1", "HEALTHY", healthy)

	ctx := t.Context()
	put := func(via, key, value string) error {
		_, err := f.documents(via).Write(ctx, &nodev1.WriteRequest{Collection: "things", RequestId: key + value, Operations: []*nodev1.Operation{{Key: key, Value: []byte(value)}}})
		return err
	}
	get := func(via, key string) (string, error) {
		m, err := f.documents(via).Read(ctx, &nodev1.ReadRequest{Collection: "things", Key: key})
		return string(m.GetValue()), err
	}
	for i := range 60 {
		via := fmt.Sprintf("node-%d", i%3+1)
		if err := put(via, fmt.Sprint("k", i), fmt.Sprintf(`{"i":%d}`, i)); err != nil {
			t.Fatalf("put %d via %s: %v", i, via, err)
		}
	}
	for i := range 60 {
		via := fmt.Sprintf("node-%d", (i+1)%3+1)
		if got, err := get(via, fmt.Sprint("k", i)); err != nil || got != fmt.Sprintf(`{"i":%d}`, i) {
			t.Fatalf("get %d via %s: %q, %v", i, via, got, err)
		}
	}
	checkShardKeys(t, f)
	if _, err := get("node-1", "nothing"); themis.CodeOf(err) != themis.NotFound {
		t.Fatalf("get of nothing: %v", err)
	}
	watched, err := f.admin("node-3").WatchState(ctx, &nodev1.WatchStateRequest{})
	if err == nil {
		_, err = watched.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	f.stop("node-3")
	for err == nil {
		_, err = watched.Recv()
	}
	if !strings.Contains(err.Error(), "node-3 stops") { // by itself, not cut after the servers' grace
		t.Errorf("a watch of a node that stops ended with %v", err)
	}
	for i := range 60 {
		if got, err := get("node-1", fmt.Sprint("k", i)); err != nil || got != fmt.Sprintf(`{"i":%d}`, i) {
			t.Fatalf("get %d with a node down: %q, %v", i, got, err)
		}
	}
	for i := range 20 {
		if err := put("node-2", fmt.Sprint("k", i), `{"after":true}`); err != nil {
			t.Fatalf("put %d with a node down: %v", i, err)
		}
	}
	f.start("node-3")
	f.until("node-1", "HEALTHY again", healthy)
	want := []string{"take_controller", "elect", "declare_failed", "join", "install", "isr_add", "isr_remove", "clear_failed"}
	f.until("node-1", "an audit trail that tells of all that was done, with its reason", func(health.Report) bool {
		events, err := f.admin("node-1").ListEvents(ctx, &nodev1.ListEventsRequest{})
		if err != nil {
			return false
		}
		said := map[string]bool{}
		for _, b := range events.GetEventsJson() {
			var e cluster.Event
			if err := json.Unmarshal(b, &e); err != nil {
				t.Fatal(err)
			}
			if e.Reason != "" && e.Outcome == "done" {
				said[e.Action] = true
			}
		}
		return !slices.ContainsFunc(want, func(action string) bool { return !said[action] })
	})
}
