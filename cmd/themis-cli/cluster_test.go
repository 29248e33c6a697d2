package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

const airports = "../../testdata/airports.ndjson"

// TestACluster makes a cluster of three processes, fills it, kills a node under writes, kills them all, and compares every document.
func TestACluster(t *testing.T) {
	t.Setenv("THEMIS_SHARDING_CLUSTER_ACTIVE_SHARDS", "5") // the nodes' own word, which flags go over
	f := newFleet(t, 3)
	t.Run("founding", func(t *testing.T) { f.t = t; storyFounding(f) })
	t.Run("documents", func(t *testing.T) { f.t = t; storyDocuments(f) })
	t.Run("answers", func(t *testing.T) { f.t = t; storyAnswers(f) })
	t.Run("a token", func(t *testing.T) { f.t = t; storyToken(f) })
	t.Run("dry runs", func(t *testing.T) { f.t = t; storyDryRuns(f) })
	t.Run("settings", func(t *testing.T) { f.t = t; storySettings(f) })
	t.Run("modes", func(t *testing.T) { f.t = t; storyModes(f) })
	t.Run("kill", func(t *testing.T) { f.t = t; storyKilled(f) })
	t.Run("kill all", func(t *testing.T) { f.t = t; storyKilledAll(f) })
	f.t = t
}

func storyFounding(f *fleet) {
	nodes := f.endpoints()
	f.eventually("the nodes", func() bool { exit, _, _ := f.cli("node", "describe"); return exit == 0 })
	f.contains(f.must("node", "describe"), "node-1", "node-3")
	f.contains(f.exits(3, "cluster", "health"), "belongs to no cluster yet", "next: themis-cli cluster init")
	f.contains(f.exits(2, "cluster", "init", "--nodes", nodes, "--replication-factor", "4"), "needs 4 nodes")
	f.contains(f.exits(2, "cluster", "init", "--nodes", nodes, "--name", "other"), "a cluster named demo")
	f.contains(f.must("cluster", "init", "--nodes", nodes, "--dry-run"), "would be made", "shard-5")
	if _, _, said := f.cli("cluster", "init", "--nodes", nodes, "--dry-run"); !strings.Contains(said, "# sharding.cluster.active_shards 5 (node-1, env THEMIS_SHARDING_CLUSTER_ACTIVE_SHARDS)") {
		f.t.Errorf("where it comes from: %s", said)
	}
	f.contains(f.exits(3, "cluster", "health"), "belongs to no cluster yet")

	f.contains(f.must("cluster", "init", "--nodes", nodes, "--shards", "4", "--replication-factor", "2"), "cluster demo is made", "control plane: node-1,node-2,node-3", "context: demo")
	r := f.until("service", func(_ int, r health.Report) bool { return serving(r) })
	if r.Cluster != "demo" || len(r.Shards) != 4 || len(r.Nodes) != 3 {
		f.t.Fatalf("%+v", r)
	}
	f.contains(f.must("cluster", "init", "--nodes", nodes, "--shards", "4"), "exists already; nothing was changed")
	f.contains(f.exits(8, "cluster", "init", "--nodes", nodes), "exists with 4 shards and replication factor 2; 5 and 2 were asked for")
	f.contains(f.must("cluster", "init", "--nodes", f.addr("node-1", 0)+","+f.addr("node-2", 0), "--shards", "4"), "exists already; nothing was changed") // members that joined since are no difference
	f.until("health", func(exit int, r health.Report) bool { return exit == 0 && r.Status == health.Healthy })
	if exit := run(f.t.Context(), []string{"cluster", "status"}, nil, new(discard), new(discard)); exit != 0 {
		f.t.Fatalf("by the new context: exit %d", exit)
	}
}

func storyDocuments(f *fleet) {
	f.contains(f.must("doc", "put", "notes", "a", `{"n": 1}`, "--if-none-match"), "notes/a stored: version ")
	if out := f.must("doc", "get", "notes", "a"); out != `{"n": 1}` {
		f.t.Fatalf("%q", out)
	}
	f.contains(f.exits(1, "doc", "put", "notes", "a", `{}`, "--if-none-match", "-o", "json"), `"code":"VERSION_MISMATCH","status":412`, `"cluster":"demo"`)
	var w writtenAnswer
	if err := json.Unmarshal([]byte(f.must("doc", "put", "notes", "a", `{"n": 2}`, "--request-id", "r1", "-o", "json")), &w); err != nil || w.Version == "" || !w.Existed {
		f.t.Fatalf("%+v, %v", w, err)
	}
	f.contains(f.must("doc", "put", "notes", "a", `{"n": 2}`, "--request-id", "r1", "-o", "json"), w.Version)
	f.contains(f.exits(1, "doc", "put", "notes", "a", `{"n": 3}`, "--request-id", "r1"), "the idempotency key was used for another request")
	f.contains(f.must("doc", "delete", "notes", "a", "--if-match", w.Version), "removed")
	f.contains(f.exits(1, "doc", "get", "notes", "a"), "there is no such thing")
	f.contains(f.exits(1, "doc", "delete", "notes", "a"), "there is no such thing")
	if exit, _, errOut := f.as("reader", "doc", "put", "notes", "b", `{}`); exit != 4 {
		f.t.Fatalf("exit %d: %s", exit, errOut)
	}
	file := filepath.Join(f.t.TempDir(), "large.json")
	if err := os.WriteFile(file, []byte(`"`+strings.Repeat("x", themis.MaxDocumentBytes)+`"`), 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.contains(f.exits(1, "doc", "put", "notes", "large", "@"+file), "16 MiB")

	f.contains(f.must("load", airports, "--verify", "--workers", "64"), "5210 of 5210 documents written to airports", "5210 documents read back and equal, 0 different")
	if n := strings.Count(f.must("doc", "scan", "airports"), "\n"); n != 5210 {
		f.t.Fatalf("a scan has %d documents", n)
	}
	f.contains(f.exits(7, "load", f.file("bad.ndjson", `{"_key":"ok"}`+"\n{\n"+`{"x":1}`+"\n\n"+`{"_key":7}`+"\n"), "--collection", "mixed"), "2 of 4 documents written", "line 2: byte 0 of the line: not valid JSON", `line 3: "_key": missing`)
	f.contains(f.must("load", f.file("twice.ndjson", `{"_key":"a","n":1}`+"\n"+`{"_key":"a","n":2}`+"\n"), "--verify"), "1 documents read back and equal")
	f.contains(f.must("load", f.file("twice.ndjson", `{"_key":"a","n":3}`+"\n{\"_key\":\"b\"}\n"+`{"_key":"a","n":4}`+"\n"), "--resume", "0a1b2c3d"), "2 of 3 documents written", "1 line left out: the same key comes again further down")
	f.contains(f.must("doc", "get", "twice", "a"), `"n":4`)
	f.contains(f.exits(1, "load", f.file("halves.ndjson", `{"_key":"\ud800"}`+"\n"+`{"_key":1.5}`+"\n"+`{"_key":"a","_key":"b"}`+"\n")),
		"0 of 3 documents written", `\ud800 is half of a surrogate pair`, "1.5 is neither a string nor a whole number", "there twice")
	f.contains(f.must("doc", "put", "odd", "a\n\x1b[2J", `{}`), `odd/"a\n\x1b[2J" stored`)
	f.contains(f.must("doc", "scan", "odd"), `"a\n\x1b[2J"`+"\t{}\n")
	f.contains(f.exits(1, "load", f.file("twice.ndjson", `{"_key":"a","n":3}`+"\n"), "--verify-only"), "0 documents read back and equal, 1 different")
	f.contains(f.exits(1, "load", f.file("twice.ndjson", `{"id":"a","n":3}`+"\n"), "--verify-only"), "0 documents read back and equal, 1 different", "can't be compared")
}

func storyAnswers(f *fleet) {
	var page scanAnswer
	f.decode(f.must("doc", "scan", "airports", "--limit", "10", "-o", "json"), &page)
	var next scanAnswer
	f.decode(f.must("doc", "scan", "airports", "--limit", "10", "--after", page.Next, "-o", "json"), &next)
	if len(page.Documents) != 10 || len(next.Documents) != 10 || page.Documents[9].Token > next.Documents[0].Token {
		f.t.Fatalf("%d and %d documents", len(page.Documents), len(next.Documents))
	}
	f.contains(f.must("cluster", "status"), "control", "embedded: ", "(leader)", "shard-4")
	f.contains(f.must("shard", "list"), "SHARD", "shard-1")
	f.contains(f.must("shard", "show", "1"), "commit seq", "node-")
	var would health.Candidates
	f.decode(f.must("shard", "failover", "candidates", "1", "-o", "json"), &would)
	if would.Winner == "" || would.Winner == would.Primary || would.MayLose || len(would.Copies) != 2 || would.Copies[0].Seq == nil {
		f.t.Errorf("%+v", would)
	}
	f.contains(f.must("shard", "failover", "candidates", "1"), "would lead", "leads now", string(would.Winner)+" would lead and lack nothing that was acknowledged")
	f.contains(f.exits(1, "shard", "failover", "candidates", "9"), `no shard "shard-9"`)
	f.contains(f.exits(1, "shard", "failover", "shard-1", "--to", "node-2"), "not served by this version", "next: themis-cli shard failover candidates SHARD")
	f.contains(f.exits(1, "shard", "show", "9"), `no shard "shard-9"`, "next: themis-cli shard list")
	f.contains(f.must("node", "list", "-o", "wide"), "127.0.0.1:")
	f.contains(f.must("node", "show", "node-1"), "SHARD", "PRIMARY")
	f.exits(1, "node", "show", "node-9")
	f.contains(f.must("cluster", "events"), "cluster_init", "done", "operator:op")
	for line := range strings.Lines(f.must("cluster", "events", "-o", "ndjson")) {
		var e map[string]any
		f.decode(line, &e)
	}
	health := f.must("cluster", "health", "-o", "json")
	for _, field := range contractFields {
		f.contains(health, `"`+field+`":`)
	}
	f.contains(f.must("cluster", "health", "-o", "yaml"), "status: HEALTHY")
	f.contains(f.must("cluster", "health"), "| CLUSTER HEALTH: HEALTHY ", "PRIMARY [ok] node-")
	f.must("cluster", "health", "--exit-style", "nagios")
}

// contractFields are those that the contract names for `cluster health -o json`.
var contractFields = strings.Fields(`status cluster time control mode leader members node state nodes id role storage_id version last_heartbeat_ms disk_used_ratio
	shards epoch replication_factor min_sync_replicas readable writable crash_cost entries ms primary isr bytes documents token_share replicas age_ms rebuild
	seq lsn lag_entries lag_bytes lag_ms findings config_version routing_version`)

// storyDryRuns: what would happen to the membership, or why it may not; the nodes and the audit trail stay as they are. That nothing changes in
// the control plane is shown by pkg/node.TestDryRunsChangeNothing.
func storyDryRuns(f *fleet) {
	before := f.must("node", "list", "-o", "json")
	f.contains(f.exits(8, "node", "remove", "node-1", "--dry-run"), "its copies are needed", "next: ")
	f.contains(f.must("node", "remove", "node-9", "--dry-run"), "was no member; nothing was changed")
	f.contains(f.must("node", "join", f.addr("node-3", 0), "--dry-run"), "node-3 was a member already; nothing was changed")
	f.contains(f.exits(5, "node", "join", "127.0.0.1:1", "--dry-run"), "no node answers at 127.0.0.1:1", "next: start themisd there, or correct the address: themis-cli node describe --endpoint 127.0.0.1:1")
	f.contains(f.exits(2, "node", "join", f.addr("node-3", 0), "--control", "perhaps", "--dry-run"), "want auto, yes or no")
	f.contains(f.exits(2, "node", "token", "create", "--ttl", "1000h", "--dry-run"), "ttl")
	f.contains(f.must("node", "token", "create", "--dry-run"), "a token would be made; nothing was changed", "ca pin")
	if text := f.must("node", "token", "create", "--dry-run"); strings.Contains(text, "themis.") {
		f.t.Errorf("a dry run shows a token: %s", text)
	}

	var token struct{ Token, Endpoint, CA_Pin string } //nolint:revive // as the JSON has it
	f.decode(f.must("node", "token", "create", "-o", "json"), &token)
	join := func(pin string, more ...string) []string {
		return append([]string{"node", "join", "--endpoint", token.Endpoint, "--token", token.Token, "--ca-pin", pin, "--id", "node-9", "--out", f.path("new")}, more...)
	}
	f.contains(f.must(join(token.CA_Pin, "--dry-run")...), "node-9 would get a key and a certificate; nothing was changed", "which is under the pinned CA")
	f.contains(f.exits(4, join("sha256:"+strings.Repeat("0", 64), "--dry-run")...), "pin sha256:000")
	if _, err := os.Stat(f.path("new")); !errors.Is(err, os.ErrNotExist) {
		f.t.Errorf("a dry run wrote: %v", err)
	}
	f.contains(f.must(join(token.CA_Pin)...), "certificate") // the token was not used up
	for _, text := range []string{f.must("node", "list", "-o", "json"), before} {
		var nodes []health.NodeReport
		if f.decode(text, &nodes); len(nodes) != 3 {
			f.t.Errorf("%d nodes", len(nodes))
		}
	}
	if events := f.must("cluster", "events"); strings.Contains(events, "node_remove") || strings.Contains(events, "node_join") {
		f.t.Errorf("a dry run is in the audit trail:\n%s", events)
	}
}

// storyToken reads over HTTP without a certificate, by a token that the CLI signs.
func storyToken(f *fleet) {
	token := strings.TrimSpace(f.must("pki", "token", "--cacert", f.path("pki", "ca.crt"), "--cert", f.path("pki", "reader.crt"), "--key", f.path("pki", "reader.key")))
	ca, err := os.ReadFile(f.path("pki", "ca.crt"))
	if err != nil {
		f.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true}}
	for _, c := range []struct {
		method, path, token string
		status              int
	}{{"GET", "/cluster/health", token, 200}, {"GET", "/cluster/health", "", 401}, {"PUT", "/api/v1/collections/notes/documents/a", token, 403}} {
		req, err := http.NewRequestWithContext(f.t.Context(), c.method, "https://"+f.addr("node-2", 1)+c.path, strings.NewReader("{}"))
		if err != nil {
			f.t.Fatal(err)
		}
		if c.token != "" {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		res, err := web.Do(req)
		if err != nil {
			f.t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != c.status {
			f.t.Errorf("%s %s with token %t: status %d, want %d", c.method, c.path, c.token != "", res.StatusCode, c.status)
		}
	}
}

func storySettings(f *fleet) {
	good := f.file("good.yaml", "failover:\n  probe_interval_ms: 700\nnode:\n  rack: r1\n")
	f.contains(f.exits(10, "cluster", "apply-config", good, "--dry-run", "--exit-code"), "failover.probe_interval_ms", "1000", "700", "takes effect at once", "not applied")
	f.contains(f.exits(2, "cluster", "apply-config", f.file("bad.yaml", "rebalance:\n  skew_treshold: 0.2\n")), "bad.yaml:2: rebalance.skew_treshold", "rebalance.skew_threshold")
	f.contains(f.must("cluster", "apply-config", good, "--exit-code"), "left out: node.rack belongs to each node", "applied as configuration version 1")
	f.eventually("the settings", func() bool {
		_, out, _ := f.cli("cluster", "apply-config", good)
		return strings.Contains(out, "nothing to change")
	})
	shown := f.must("config", "show", "--set")
	for _, line := range []string{`failover.probe_interval_ms +700 +cluster `, `sharding.cluster.active_shards +4 +cluster `} { // applied, and made with
		if !regexp.MustCompile(`(?m)^` + line).MatchString(shown) {
			f.t.Errorf("no line %q in:\n%s", line, shown)
		}
	}
	f.t.Chdir("../../docs/examples") // D-08 as written
	f.must("cluster", "apply-config", "config/sharding/shard-router.yaml", "--dry-run")
	f.contains(f.must("cluster", "events"), "apply_config")
}

// storyModes changes when writes are acknowledged, of one shard and of all, while the cluster serves.
func storyModes(f *fleet) {
	set := func(args ...string) []string { return append([]string{"replication", "set-mode"}, args...) }
	f.contains(f.must(set("semi_sync", "--dry-run")...), "shard-4  sync with 1 follower  semi_sync with 1 follower  would be changed", "nothing was changed: --dry-run")
	f.contains(f.exits(2, set("fast")...), `"fast"`, "want sync, semi_sync, async or hybrid")
	f.contains(f.exits(2, set("hybrid")...), "--sync-shards must name", "next: themis-cli replication set-mode hybrid --sync-shards")
	f.contains(f.exits(2, set("sync", "--sync-shards", "1")...), "only with hybrid")
	f.contains(f.exits(2, set("async", "--min-sync-replicas", "1")...), "no follower is waited for")
	f.contains(f.exits(2, set("sync", "--min-sync-replicas", "2")...), "min_sync_replicas 2 needs 3 copies, replication_factor is 2")
	f.contains(f.exits(1, set("async", "--shard", "shard-1,shard-9")...), `there is no shard "shard-9"`)
	var one setMode
	f.decode(f.must(set("async", "--shard", "2", "-o", "json")...), &one)
	if len(one.Shards) != 1 || !one.Shards[0].Changed || !one.Shards[0].InForce || one.Shards[0].Have.Mode != themis.Async || one.Shards[0].Before.Mode != themis.Sync {
		f.t.Errorf("%+v", one)
	}
	f.must("doc", "put", "airports", "under-async", `{"n":1}`)
	f.contains(f.must(set("hybrid", "--sync-shards", "1,2,3")...), "shard-2  async", "shard-4  sync with 1 follower  async", "in force")
	f.must("doc", "put", "airports", "under-hybrid", `{"n":1}`)
	f.contains(f.must(set("sync")...), "shard-1  sync with 1 follower  sync with 1 follower  in force already", "shard-4  async", "sync with 1 follower  in force")
	f.contains(f.must(set("sync")...), "nothing to change")
	f.contains(f.must("cluster", "events"), "set_mode", "policy_change", "async, replication factor 2, min_sync_replicas 0 to sync, replication factor 2, min_sync_replicas 1")
	f.contains(f.must("doc", "get", "airports", "under-async"), `{"n":1}`)
}

func storyKilled(f *fleet) {
	before := f.until("health", func(_ int, r health.Report) bool { return serving(r) })
	victim := before.Shards[0].Primary
	if primaries(before, victim) == 0 {
		f.t.Fatalf("%s leads nothing", victim)
	}
	done := make(chan string, 1)
	f.t.Chdir(f.dir)
	go func() {
		exit, out, errOut := f.cli("load", "airports.ndjson", "--collection", "under_fire", "--workers", "16", "-o", "json")
		if exit != 0 {
			out += errOut
		}
		done <- out
	}()
	f.eventually("the load", func() bool { exit, _, _ := f.cli("doc", "get", "under_fire", "5A8"); return exit == 0 })
	f.kill(string(victim))
	r := f.until("DEGRADED", func(exit int, r health.Report) bool {
		n, _ := r.Node(victim)
		return exit == 1 && r.Status == health.Degraded && n.State == "FAILED"
	})
	if primaries(r, victim) != 0 && serving(r) {
		f.t.Fatalf("the dead %s leads", victim)
	}
	f.contains(f.exits(1, "cluster", "health"), "CLUSTER HEALTH: DEGRADED")
	if exit, _, _ := f.cli("cluster", "health", "--exit-style", "nagios"); exit != 1 {
		f.t.Fatalf("nagios: exit %d", exit)
	}
	var out loadAnswer
	f.decode(<-done, &out)
	if out.Written != 5210 || out.Failed != 0 {
		f.t.Fatalf("under a kill: %+v", out)
	}
	f.until("service", func(_ int, r health.Report) bool { return serving(r) })
	for _, c := range []string{"airports", "under_fire"} {
		f.contains(f.must("load", "airports.ndjson", "--collection", c, "--verify-only"), "5210 documents read back and equal, 0 different")
	}
	f.contains(f.must("cluster", "events"), string(victim))
	f.start(string(victim))
	f.until("HEALTHY again", func(exit int, r health.Report) bool { return exit == 0 && r.Status == health.Healthy })
}

func storyKilledAll(f *fleet) {
	for _, name := range f.names {
		f.kill(name)
	}
	f.contains(f.exits(5, "cluster", "health"), "no endpoint answers", "refused the connection")
	for _, name := range f.names {
		f.start(name)
	}
	f.until("HEALTHY again", func(exit int, r health.Report) bool { return exit == 0 && r.Status == health.Healthy })
	f.t.Chdir(f.dir)
	for _, c := range []string{"airports", "under_fire"} {
		f.contains(f.must("load", "airports.ndjson", "--collection", c, "--verify-only"), "5210 documents read back and equal, 0 different")
	}
}
