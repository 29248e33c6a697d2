package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/doctor"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what is made now; run with -rewrite and judge the difference. Got:\n%s", file, got)
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// evidence is a cluster of three: one silent, one with a clock that is off, and a thin shard.
func evidence() doctor.Evidence {
	yes := true
	age := int64(40)
	e := doctor.Evidence{Began: noon.Add(-1400 * time.Millisecond), Ended: noon, Own: doctor.Own{Name: "client operator of cluster demo", Expires: noon.AddDate(1, 0, 0)}}
	for i, n := range []themis.NodeID{"node-1", "node-2"} {
		at := noon.Add(-200 * time.Millisecond)
		r := health.Report{Cluster: "demo", Revision: 412, Shards: []health.ShardReport{{ID: "shard-1", Readable: &yes, Replicas: []health.ReplicaReport{{Node: "node-1", AgeMs: &age}}}}}
		r.Findings = []health.Finding{{
			Code: health.ISROfOne, Severity: health.Warning, Subject: "shard-1", Title: "Only one copy is in sync",
			Why: "only node-1 holds all that was acknowledged, of 2 copies", Fix: "themis-cli shard show shard-1", Evidence: map[string]any{"rf": 2},
		}}
		m := &doctor.MapWord{At: at, ClusterID: "c-1", Cluster: "demo", Revision: 412, Routing: 1, Settings: 3, Controller: cluster.Controller{Term: 2, Node: "node-1"}}
		for _, n := range []themis.NodeID{"node-1", "node-2", "node-3"} {
			m.Members = append(m.Members, cluster.Node{ID: n, Storage: themis.StorageID("disk-" + n)})
		}
		e.Witnesses = append(e.Witnesses, doctor.Witness{
			Node: n, Addr: fmt.Sprintf("10.0.0.%d:50051", i+1), Member: true, SelfAt: at,
			Self:  &client.Description{Node: n, Storage: themis.StorageID("disk-" + n), ClusterID: "c-1", Cluster: "demo", Version: "1.0"},
			Cert:  &doctor.Certificate{Subject: "CN=" + string(n), NotAfter: noon.AddDate(1, 0, 0)},
			Clock: &doctor.Clock{Skew: time.Duration(i)*2*time.Second + 300*time.Microsecond, Error: 600 * time.Microsecond, At: at},
			Looks: []doctor.Look{{At: at, Report: r, Map: m}},
		})
	}
	e.Witnesses = append(e.Witnesses, doctor.Witness{Node: "node-3", Addr: "10.0.0.3:50051", Member: true, Err: "connection refused", Code: themis.Unreachable})
	return e
}

func TestDrawDiagnosis(t *testing.T) {
	var b bytes.Buffer
	d := doctor.Diagnose(evidence())
	drawDiagnosis(&b, d)
	golden(t, "check.txt", b.String())
	j, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "check.json", string(j)+"\n")
}

// brokenNode is a stopped node's directory whose log has a flipped bit, and writes that were rescued.
func brokenNode(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "node-2")
	shard := filepath.Join(dir, "shards", "shard-1")
	l, _, err := wal.Open(filepath.Join(shard, "wal"), wal.Options{Cluster: "c-1", Shard: "shard-1", Storage: "disk-a"})
	if err == nil {
		err = l.SetEpoch(3)
	}
	for i := 0; err == nil && i < 5; i++ {
		var a *wal.Append
		op := themis.Op{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: themis.Token(7).Placement(), Key: "k", Value: []byte(`{"a":1}`)}
		if a, err = l.Begin(themis.KindWrite, themis.Tags{}, themis.AppendOps(nil, []themis.Op{op}), 1); err == nil {
			err = a.Wait()
		}
	}
	if err == nil {
		err = l.Close()
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "node.json"), []byte(`{"format":1,"node_id":"node-2","storage_id":"disk-a","joined":{"cluster_id":"c-1"}}`), 0o600)
	}
	segment := filepath.Join(shard, "wal", "00000000000000000001")
	var b []byte
	if err == nil {
		b, err = os.ReadFile(segment)
	}
	if err == nil {
		b[len(b)/2] ^= 4
		err = os.WriteFile(segment, b, 0o600)
	}
	rescued := filepath.Join(shard, "rescued", "epoch-2-seq-3-3.ndjson")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(rescued), 0o700)
	}
	if err == nil {
		err = os.WriteFile(rescued, []byte(`{"shard":"shard-1","seq":3,"epoch":2,"hlc":"0000000000000001","op":"put","collection_id":1,"key":"k","placement":"AAAABw==","value":{}}`+"\n"), 0o600)
	}
	if err == nil {
		err = os.Chtimes(rescued, noon, noon)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// command runs the program without anything of this user's.
func command(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("XDG_CACHE_HOME", home)
	var o, e bytes.Buffer
	code = run(t.Context(), args, &o, &e)
	return code, o.String(), e.String()
}

func TestFilesOfAStoppedNode(t *testing.T) {
	dir := brokenNode(t)
	for _, c := range []struct {
		args   []string
		golden string
		code   int
	}{
		{[]string{"validate-wal", "--data-dir", dir}, "validate-wal.txt", 1},
		{[]string{"validate-wal", "--data-dir", dir, "--segment", "1", "--shard", "001"}, "validate-wal.txt", 1},
		{[]string{"losses", "--data-dir", dir}, "losses.txt", 1},
	} {
		code, out, errOut := command(t, c.args...)
		if code != c.code || errOut != "" {
			t.Errorf("%v: exit %d, %s", c.args, code, errOut)
		}
		out = strings.ReplaceAll(out, dir, "DIR")
		var lines []string
		for line := range strings.Lines(out) {
			lines = append(lines, strings.TrimRight(line, " \n"))
		}
		golden(t, c.golden, strings.Join(lines, "\n")+"\n")
	}
	code, out, _ := command(t, "validate-wal", "--data-dir", dir, "-o", "json")
	var r doctor.WALReport
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 1 || r.Verdict != doctor.LogDamaged || r.Entries != 4 {
		t.Errorf("exit %d, %v: %s", code, err, out)
	}
	at := r.Logs[0].Findings[0].At
	if at == nil || at.Seq != 3 || at.Segment != "00000000000000000001" || at.Offset == 0 || at.LSN == 0 {
		t.Errorf("%+v", at)
	}
}

// TestUsage: what can't be done is said, with the exit code of the contract and what to type.
func TestUsage(t *testing.T) {
	dir := brokenNode(t)
	empty := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{}, 2, "no command given"},
		{[]string{"chekc"}, 2, `unknown command "chekc"`},
		{[]string{"check"}, 2, "no cluster is named"},
		{[]string{"check", "extra"}, 2, "extra"},
		{[]string{"check", "--fail-on", "degraded"}, 2, "want info, warning or critical"},
		{[]string{"check", "--shard", "x"}, 2, `shard "x"`},
		{[]string{"check", "--context", "a", "--playground", "b"}, 2, "two clusters"},
		{[]string{"check", "--endpoint", "127.0.0.1:1"}, 2, "--cacert, --cert and --key"},
		{[]string{"check", "-o", "xml"}, 2, `--output "xml"`},
		{[]string{"check", "--timeout", "-1s"}, 2, "--timeout"},
		{[]string{"check", "--playground", empty}, 2, "playground.json"},
		{[]string{"validate-wal"}, 2, "--data-dir: none is given"},
		{[]string{"validate-wal", "--data-dir", empty}, 2, "is no data directory"},
		{[]string{"validate-wal", "--data-dir", dir, "--segment", "12345"}, 2, "segment 12345"},
		{[]string{"validate-wal", "--data-dir", dir, "--segment", "0"}, 2, "--segment 0"},
		{[]string{"validate-wal", "--data-dir", dir, "--shard", "7"}, 2, "no log of shard-7"},
		{[]string{"validate-wal", "--endpoint", "127.0.0.1:1"}, 2, "read on its own machine"},
		{[]string{"losses", "--data-dir", dir, "--shard", "7"}, 2, "no copy of a shard"},
		{[]string{"repair", "--replica", "node2"}, 1, "not served by this version"},
		{[]string{"analyze-lag", "--duration", "24h"}, 1, "not served by this version"},
		{[]string{"report", "-o", "json"}, 1, `"code":"UNIMPLEMENTED"`},
	} {
		code, out, errOut := command(t, c.args...)
		if code != c.code || out != "" || !strings.Contains(errOut, c.want) || !strings.Contains(errOut, "next:") && !strings.Contains(errOut, `"fix":"`) && code == 1 {
			t.Errorf("%v: exit %d, want %d\n%s%s", c.args, code, c.code, out, errOut)
		}
	}
	if code, out, _ := command(t, "version", "-o", "json"); code != 0 || !strings.Contains(out, `"version"`) {
		t.Errorf("version: %d %s", code, out)
	}
	if code, out, _ := command(t, "--help"); code != 0 || !strings.Contains(out, "validate-wal") {
		t.Errorf("help: %d %s", code, out)
	}
}

// TestUnreachable: nobody there is neither a finding nor inconclusive.
func TestUnreachable(t *testing.T) {
	f := &fleet{t: t, dir: t.TempDir()}
	f.authority()
	files := f.operator()
	addr := loopback.Addr(t)
	code, out, errOut := command(t, "check", "--endpoint", addr, "--cacert", files.CA, "--cert", files.Cert, "--key", files.Key, "-o", "json")
	if code != 5 || out != "" || !strings.Contains(errOut, `"code":"UNREACHABLE"`) {
		t.Errorf("exit %d\n%s%s", code, out, errOut)
	}
}

// TestClusterNamesAContext: D-13 as it is written, where a context has that name or that cluster.
func TestClusterNamesAContext(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("XDG_CACHE_HOME", home)
	d, err := client.UserContexts()
	if err != nil {
		t.Fatal(err)
	}
	for name, cluster := range map[string]string{"home": "demo", "prod": "prod-cluster", "eu": "eu-cluster"} {
		if err := d.Save(name, client.Context{Cluster: cluster, Endpoints: []string{name}, CA: "a", Cert: "b", Key: "c"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Use("home"); err != nil {
		t.Fatal(err)
	}
	for cluster, want := range map[string]string{"prod-cluster": "prod:50051", "eu": "eu:50051", "": "home:50051", "other": "home:50051"} {
		c, err := (&app{}).target(cluster)
		if err != nil || len(c.Endpoints) != 1 || c.Endpoints[0] != want {
			t.Errorf("%q: %v %v, want %s", cluster, c.Endpoints, err, want)
		}
	}
	if c, err := (&app{endpoints: []string{"here:1"}, ca: "x", cert: "y", key: "z"}).target("prod-cluster"); err != nil || c.Endpoints[0] != "here:1" || c.CA != "x" {
		t.Errorf("what is said outright counts: %+v %v", c, err)
	}
}

// An empty flag, as of a variable that is not set, is no word for another cluster or directory.
func TestEmptyFlags(t *testing.T) {
	for _, args := range [][]string{{"check", "--context", ""}, {"validate-wal", "--data-dir", ""}} {
		code, out, errOut := command(t, args...)
		if code != 2 || out != "" || !strings.Contains(errOut, "empty") {
			t.Errorf("%q: exit %d\n%s%s", args, code, out, errOut)
		}
	}
}
