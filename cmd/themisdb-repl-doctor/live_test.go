package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/doctor"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/node"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// fleet is a cluster of nodes in this process, described by a playground.json: real sockets, real etcd members, real disks.
type fleet struct {
	t     *testing.T
	dir   string
	ca    *pki.CA
	nodes map[string]*running
	ports map[string]string // the same at every start
	play  client.Playground
}

type running struct {
	stop context.CancelFunc
	done chan error
}

func newFleet(t *testing.T, names ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: t.TempDir(), nodes: map[string]*running{}, ports: map[string]string{}}
	f.authority()
	for _, n := range names {
		f.issue(pki.Request{Node: themis.NodeID(n), Datacenter: "dc1", Capabilities: []string{pki.Read, pki.Write, pki.Replicate, pki.Admin}, Loopback: true}, n)
		for _, p := range []string{"peer", "client", "grpc"} {
			f.ports[n+"/"+p] = loopback.Addr(t)
		}
	}
	operator := f.operator()
	t.Cleanup(func() {
		for _, n := range names {
			f.stop(n)
		}
	})
	f.play = client.Playground{Cluster: "demo", CA: operator.CA, Cert: operator.Cert, Key: operator.Key}
	for _, n := range names {
		f.start(n)
		f.play.Nodes = append(f.play.Nodes, client.PlaygroundNode{ID: themis.NodeID(n), GRPC: f.ports[n+"/grpc"], DataDir: f.path(n)})
	}
	b, err := json.Marshal(f.play)
	if err == nil {
		err = os.WriteFile(f.path(client.PlaygroundFile), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fleet) path(parts ...string) string {
	return filepath.Join(append([]string{f.dir}, parts...)...)
}

func (f *fleet) authority() {
	f.t.Helper()
	var err error
	if f.ca, err = pki.NewCA(pki.CAOptions{Cluster: "demo"}); err == nil {
		err = f.ca.Save(f.path("pki"))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) operator() pki.Files {
	f.issue(pki.Request{Client: "operator", Capabilities: []string{pki.Read, pki.Write, pki.Admin}}, "operator")
	return pki.FilesIn(f.path("pki"), "operator")
}

func (f *fleet) issue(r pki.Request, name string) {
	f.t.Helper()
	is, err := f.ca.Issue(r)
	if err == nil {
		err = is.Save(pki.FilesIn(f.path("pki"), name))
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) start(name string) {
	f.t.Helper()
	files := pki.FilesIn(f.path("pki"), name)
	cfg, err := config.Load(nil, nil, map[string]string{
		"node.id": name, "node.data_dir": f.path(name), "node.grpc_listen": f.ports[name+"/grpc"], "node.http_listen": "127.0.0.1:0", "node.metrics_listen": "127.0.0.1:0",
		"control.peer_listen": f.ports[name+"/peer"], "control.client_listen": f.ports[name+"/client"],
		"pki.cert": files.Cert, "pki.key": files.Key, "pki.ca": files.CA, "replication.timeout_ms": "1000",
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &running{stop: stop, done: make(chan error, 1)}
	ready := make(chan node.Addresses, 1)
	go func() {
		r.done <- node.Run(ctx, node.Options{Config: cfg, Version: "test", Logger: slog.New(slog.DiscardHandler), Listening: func(a node.Addresses) { ready <- a }})
	}()
	f.nodes[name] = r
	select {
	case <-ready:
	case err := <-r.done:
		f.t.Fatalf("%s: %v", name, err)
	}
}

func (f *fleet) stop(name string) {
	f.t.Helper()
	r := f.nodes[name]
	if r == nil {
		return
	}
	delete(f.nodes, name)
	r.stop()
	select {
	case err := <-r.done:
		if err != nil {
			f.t.Errorf("%s ended: %v", name, err)
		}
	case <-time.After(30 * time.Second):
		f.t.Fatalf("%s does not end", name)
	}
}

// doctor runs the command, and reads its JSON into v where that is not nil.
func (f *fleet) doctor(v any, args ...string) (code int, errOut string) {
	f.t.Helper()
	var out, problems bytes.Buffer
	code = run(f.t.Context(), append(args, "--playground", f.dir, "-o", "json"), &out, &problems)
	if v != nil && out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), v); err != nil {
			f.t.Fatalf("%v: exit %d, %v\n%s%s", args, code, err, out.String(), problems.String())
		}
	}
	return code, problems.String()
}

// until asks again until the answer is as wanted.
func (f *fleet) until(what string, ok func(d doctor.Diagnosis, code int) bool, args ...string) doctor.Diagnosis {
	f.t.Helper()
	var d doctor.Diagnosis
	var code int
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); {
		d = doctor.Diagnosis{}
		if code, _ = f.doctor(&d, append([]string{"check"}, args...)...); ok(d, code) {
			return d
		}
	}
	b, _ := json.MarshalIndent(d, "", " ")
	f.t.Fatalf("%s did not come about: exit %d\n%s", what, code, b)
	return d
}

// TestLive examines a real cluster: whole, with a node down, and its files while it runs and when it doesn't.
func TestLive(t *testing.T) {
	f := newFleet(t, "node-1", "node-2", "node-3")
	c, err := client.New(t.Context(), client.Options{Endpoints: f.play.Context().Endpoints, Files: f.play.Context().Files(), Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Init(t.Context(), client.InitRequest{Name: "demo", Nodes: f.play.Context().Endpoints, Shards: 2, RF: 2, K: 1, Redundancy: "MIRROR", Mode: themis.Sync}); err != nil {
		t.Fatal(err)
	}
	healthy := func(d doctor.Diagnosis, code int) bool {
		return code == themis.ExitOK && d.Verdict == doctor.Passed || code == themis.ExitFailed && len(d.Findings) > 0 && len(sick(d)) == 0 && len(d.Inconclusive) == 0
	}
	f.until("a cluster that serves", healthy)
	for i := range 50 {
		if _, err := c.Put(t.Context(), "things", fmt.Sprint("k", i), fmt.Appendf(nil, `{"i":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	whole := f.until("a healthy cluster", healthy, "--cluster", "demo")
	checkWhole(t, whole)

	if code, text := f.doctor(nil, "check", "--shard", "shard-99"); code != 1 || !strings.Contains(text, "NOT_FOUND") || !strings.Contains(text, `no shard \"shard-99\"`) {
		t.Errorf("a shard that is not there: %d, %s", code, text)
	}
	if code, text := f.doctor(nil, "check", "--cluster", "prod"); code != 2 || !strings.Contains(text, "INVALID_ARGUMENT") || !strings.Contains(text, `is \"demo\"`) {
		t.Errorf("another cluster's name: exit %d, %s", code, text)
	}
	var logs doctor.WALReport
	if code, text := f.doctor(&logs, "validate-wal"); code != 0 || len(logs.Logs) != 4 || logs.Entries < 100 || logs.Verdict != doctor.LogSound {
		t.Errorf("logs of running nodes: exit %d, %+v %s", code, logs, text)
	}
	var none doctor.LossReport
	if code, _ := f.doctor(&none, "losses"); code != 0 || none.Copies != 4 {
		t.Errorf("losses: exit %d, %+v", code, none)
	}

	f.stop("node-3")
	down := f.until("the failed node", func(d doctor.Diagnosis, code int) bool {
		return code == 1 && slices.ContainsFunc(d.Findings, func(x doctor.Finding) bool { return x.Code == health.NodeFailed && x.Subject == "node-3" })
	})
	i := slices.IndexFunc(down.Findings, func(x doctor.Finding) bool { return x.Code == health.NodeFailed })
	if x := down.Findings[i]; len(x.SeenBy) == 0 || x.Cause == "" || x.AgeMs < 0 || x.AgeMs > 10_000 {
		t.Errorf("%+v", x)
	}
	stopped := f.path("node-3")
	if code := run(t.Context(), []string{"validate-wal", "--data-dir", stopped}, &bytes.Buffer{}, os.Stderr); code != 0 {
		t.Errorf("logs of the stopped node: exit %d", code)
	}
	segments, err := filepath.Glob(filepath.Join(stopped, "shards", "*", "wal", strings.Repeat("[0-9]", 20)))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v %v", segments, err)
	}
	b, err := os.ReadFile(segments[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/3] ^= 1
	if err := os.WriteFile(segments[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	var damaged doctor.WALReport
	if code, _ := f.doctor(&damaged, "validate-wal", "--data-dir", stopped); code != 1 || damaged.Verdict != doctor.LogDamaged {
		t.Errorf("a flipped bit: exit %d, %+v", code, damaged)
	}
}

// sick are the findings that are more than advice. The disk under the tests is not the cluster's doing.
func sick(d doctor.Diagnosis) (out []doctor.Finding) {
	for _, x := range d.Findings {
		if x.Severity != health.Info && x.Code != health.DiskAlmostFull {
			out = append(out, x)
		}
	}
	return out
}

// checkWhole looks at the diagnosis of a cluster that lacks nothing.
func checkWhole(t *testing.T, d doctor.Diagnosis) {
	t.Helper()
	if d.Cluster != "demo" || len(d.Nodes) != 3 {
		t.Errorf("%+v", d)
	}
	disk := slices.ContainsFunc(d.Findings, func(x doctor.Finding) bool { return x.Code == health.DiskAlmostFull })
	for _, c := range d.Checks {
		if c.Looked == 0 || c.Looked != c.Of || c.Verdict != doctor.Passed && (c.Name != "replication" || !disk) {
			t.Errorf("%+v", c)
		}
	}
	for _, n := range d.Nodes {
		if !n.Answers || n.Version != "test" || n.Revision == nil || n.SkewMs == nil || *n.SkewMs > 100 || *n.SkewMs < -100 || n.CertEnds == nil || n.StorageID == "" || n.Term == nil {
			t.Errorf("%+v", n)
		}
	}
}
