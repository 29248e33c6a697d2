package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// stubborn is a node that answers every change with the same error, or with a panic.
type stubborn struct {
	nodev1.UnimplementedAdminServiceServer
	err error // nil: it panics
}

func (s *stubborn) Describe(context.Context, *nodev1.DescribeRequest) (*nodev1.DescribeResponse, error) {
	return &nodev1.DescribeResponse{NodeId: "node-1", ClusterId: "c1", ClusterName: "demo"}, nil
}

func (s *stubborn) Act(context.Context, *nodev1.ActRequest) (*nodev1.ActResponse, error) {
	return nil, s.answer()
}

func (s *stubborn) ApplyConfig(context.Context, *nodev1.ApplyConfigRequest) (*nodev1.ApplyConfigResponse, error) {
	return nil, s.answer()
}

func (s *stubborn) answer() error {
	if s.err == nil {
		panic("nobody thought of that")
	}
	return s.err
}

// The exit code is that of the error's code, from a real server over a real connection to the end of the program.
func TestExitCodesOfAnswers(t *testing.T) {
	t.Parallel()
	ca, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := ca.Save(dir); err != nil {
		t.Fatal(err)
	}
	for _, r := range []pki.Request{
		{Node: "node-1", Datacenter: "dc1", Loopback: true, Capabilities: []string{pki.Read, pki.Write, pki.Admin}},
		{Client: "op", Capabilities: []string{pki.Read, pki.Write, pki.Admin}},
	} {
		issued, err := ca.Issue(r)
		if err == nil {
			err = issued.Save(pki.FilesIn(dir, string(r.Node)+r.Client))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	source, err := pki.Open(pki.FilesIn(dir, "node-1"), pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	node := &stubborn{}
	addr := serveStubborn(t, node, source)
	c := &contract{t: t, root: dir}
	settings, op := c.write("settings.yaml", "failover:\n  probe_interval_ms: 700\n"), pki.FilesIn(dir, "op")
	stale := themis.Errorf(themis.StalePlan, "the records of the shards change too fast").Do("run the same command again")
	for _, k := range []struct {
		err  error
		exit int
		code themis.Code
		fix  string
		args string
	}{
		{stale, 6, themis.StalePlan, stale.Fix, "node remove node-2"},
		{stale, 6, themis.StalePlan, stale.Fix, "shard remove-copy 1 node-2"},
		{stale, 6, themis.StalePlan, stale.Fix, "replication set-mode semi_sync"},
		{stale, 6, themis.StalePlan, stale.Fix, "cluster apply-config " + settings},
		{themis.Errorf(themis.StalePlan, "it was removed meanwhile"), 6, themis.StalePlan, "make the plan again", "node remove node-2"},
		{nil, 70, themis.Internal, "please report it with the node's log", "node remove node-2"},
		{nil, 70, themis.Internal, "please report it with the node's log", "replication set-mode semi_sync"},
		{nil, 70, themis.Internal, "please report it with the node's log", "cluster apply-config " + settings},
		{themis.Errorf(themis.RefusedUnsafe, "it has copies"), 8, themis.RefusedUnsafe, "", "node remove node-2"},
		{themis.Errorf(themis.Deadline, "nobody answers"), 9, themis.Deadline, "ask again, or give it more time: --timeout TIME", "node remove node-2"},
		{themis.Errorf(themis.Corrupt, "a record"), 1, themis.Corrupt, "themisdb-repl-doctor check", "node remove node-2"},
	} {
		node.err = k.err
		var out, errOut bytes.Buffer
		args := append(strings.Fields(k.args), "--endpoint", addr, "--cacert", op.CA, "--cert", op.Cert, "--key", op.Key, "-o", "json", "--timeout", "10s")
		exit := run(t.Context(), args, strings.NewReader(""), &out, &errOut)
		var p rpc.Problem
		if err := json.Unmarshal(errOut.Bytes(), &p); err != nil || exit != k.exit || p.Code != k.code || p.Fix != k.fix || out.Len() > 0 {
			t.Errorf("%s, %v: exit %d, want %d; %v\n%s%s", k.args, k.err, exit, k.exit, err, out.String(), errOut.String())
		}
	}
}

func serveStubborn(t *testing.T, node *stubborn, source *pki.Source) (addr string) {
	t.Helper()
	lis, err := rpc.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := rpc.NewServer(rpc.ServerOptions{Source: source, Cluster: "demo", Grace: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	nodev1.RegisterAdminServiceServer(s, node)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, lis) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return lis.Addr().String()
}
