package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

func load(text string) (Config, error) {
	return Load([]Source{{"test.yaml", []byte(text)}}, nil, nil)
}

func mustLoad(t *testing.T, text string) Config {
	t.Helper()
	c, err := load(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func warns(c Config) string {
	var out []string
	for _, w := range c.Warnings() {
		out = append(out, w.Error())
	}
	return strings.Join(out, "\n")
}

func valueOf(t *testing.T, c Config, key string) Value {
	t.Helper()
	for _, v := range c.Values() {
		if v.Key == key {
			return v
		}
	}
	t.Fatalf("no value for %s", key)
	return Value{}
}

func TestDefaults(t *testing.T) {
	for _, text := range []string{"", "---\n", "# nothing\n", "null\n"} {
		c := mustLoad(t, text)
		if len(c.Warnings()) > 0 {
			t.Errorf("the defaults warn:\n%s", warns(c))
		}
		if c.Node.GRPCListen != ":50051" || c.Node.HTTPListen != ":8765" || c.Node.MetricsListen != ":9090" || c.Metrics.Port != 9090 || !c.Metrics.Enabled {
			t.Errorf("addresses: %+v %+v", c.Node, c.Metrics)
		}
		if c.Replication.Mode != themis.Sync || c.Replication.MinSyncReplicas != 1 || c.Replication.ReplicationFactor != 2 || c.Replication.Concern() != themis.ConcernDefault {
			t.Errorf("replication: %+v", c.Replication)
		}
		want := Failover{time.Second, 200 * time.Millisecond, 3, time.Second, 3 * time.Second}
		if c.Failover != want {
			t.Errorf("failover: %+v", c.Failover)
		}
		if c.WAL.SegmentMB != 8 || c.WAL.KeepSegments != 100 {
			t.Errorf("wal: %+v", c.WAL)
		}
		if c.Control.Tick != 100*time.Millisecond || c.Control.QuotaBytes != 2<<30 || c.HTTP.PlainLoopback != "status" || c.Sharding.VirtualNodes != 150 {
			t.Errorf("%+v %+v %+v", c.Control, c.HTTP, c.Sharding)
		}
		if v := valueOf(t, c, "wal.segment_size_mb"); v.From != "default" || v.Value != "8" || v.Meaning == "" || !v.Served {
			t.Errorf("%+v", v)
		}
		if len(c.Applied()) != 0 {
			t.Errorf("nothing was set, yet %v would be applied", c.Applied())
		}
	}
}

// TestPrecedence shows for every type of value that a flag beats the environment, the environment a file, and a later file an earlier one.
func TestPrecedence(t *testing.T) {
	for _, c := range []struct{ key, first, second, env, flag string }{
		{"metrics.enabled", "true", "false", "true", "false"},
		{"wal.keep_segments", "101", "102", "103", "104"},
		{"rebalance.skew_threshold", "0.2", "0.3", "0.4", "0.5"},
		{"replication.timeout_ms", "101", "102ms", "103", "104ms"},
		{"cluster.name", "one", "two", "three", "four"},
		{"node.data_dir", "/1", "/2", "/3", "/4"},
		{"node.http_listen", ":8001", ":8002", ":8003", ":8004"},
		{"log.level", "debug", "warn", "error", "DEBUG"},
		{"replication.mode", "SEMI_SYNC", "async", "synchronous", "semi_sync"},
		{"node.id", "n-1", "n-2", "n-3", "n-4"},
		{"shard.id", "shard_001", "2", "shard-003", "4"},
		{"control.endpoints", "[a:1]", "[b:1]", "c:1,c:2", "[d:1]"},
		{"bidi.collection_strategies", "{a: CRDT}", "{b: CRDT}", "{c: custom}", "{d: CRDT}"},
		{"wal.directories", "[{path: /a}]", "[{path: /b}]", `[{"path":"/c"}]`, "[{path: /d}]"},
	} {
		k, ok := Lookup(c.key)
		if !ok {
			t.Fatalf("no key %s", c.key)
		}
		parts := strings.SplitN(c.key, ".", 2)
		file := func(v string) []byte { return []byte(parts[0] + ":\n  " + parts[1] + ": " + v + "\n") }
		files := []Source{{"one.yaml", file(c.first)}, {"two.yaml", file(c.second)}}
		env, flags := map[string]string{k.Env(): c.env}, map[string]string{k.Flag(): c.flag}
		for _, step := range []struct {
			files      []Source
			env, flags map[string]string
			from       string
			as         string
		}{
			{files[:1], nil, nil, "file one.yaml:2", c.first}, {files, nil, nil, "file two.yaml:2", c.second},
			{files, env, nil, "env " + k.Env(), c.env}, {files, env, flags, "flag --" + k.Flag(), c.flag}, {nil, env, flags, "flag --" + k.Flag(), c.flag},
			{files, map[string]string{k.Env(): ""}, nil, "file two.yaml:2", c.second}, // an empty variable is none
		} {
			got, err := Load(step.files, step.env, step.flags)
			if err != nil {
				t.Errorf("%s: %v", c.key, err)
				continue
			}
			r := newReader()
			r.text(k, k.Path, step.as, 1, "test")
			if v := valueOf(t, got, c.key); v.From != step.from || v.Value != show(r.cells[k.Path].value) {
				t.Errorf("%s = %s from %s, want %s from %s", c.key, v.Value, v.From, step.as, step.from)
			}
		}
	}
}

func TestFlagsByPath(t *testing.T) {
	c, err := Load(nil, nil, map[string]string{"node.data_dir": "/x", "control-tick-ms": "50"})
	if err != nil || c.Node.DataDir != "/x" || c.Control.Tick != 50*time.Millisecond {
		t.Errorf("%+v %v", c.Node, err)
	}
	for flags, want := range map[[2]string]string{
		{"data_dri", ""}:               "flag --data_dri: unknown; did you mean --data-dir?",
		{"data-dir", "node.data_dir"}:  "the two are one setting",
		{"wal.directories[].path", ""}: "flag --wal.directories[].path: unknown",
		{"role", ""}:                   `flag --role: node.role: "x-role": want one of active, hot_spare, controller`,
	} {
		m := map[string]string{}
		for _, f := range flags {
			if f != "" {
				m[f] = "x-" + f
			}
		}
		if _, err := Load(nil, nil, m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", flags, err, want)
		}
	}
}

func TestEnviron(t *testing.T) {
	env := Environ([]string{"HOME=/root", "THEMIS_NODE_ROLE=controller", "THEMIS_BROKEN", "THEMIS_METRICS_ENABLED=false", "THEMIS_ENDPOINT=a:1", "THEMIS_NODE_RLOE=active"})
	c, err := Load(nil, env, nil)
	if err != nil || c.Node.Role != "controller" || c.Metrics.Enabled {
		t.Errorf("%+v, %v", c.Node, err)
	}
	if w := warns(c); w != "env THEMIS_NODE_RLOE: sets nothing; did you mean THEMIS_NODE_ROLE?" {
		t.Errorf("warnings: %s", w)
	}
	for _, odd := range []string{"NaN", "Inf", "-Inf", "1e400"} {
		if _, err := Load(nil, map[string]string{"THEMIS_REBALANCE_SKEW_THRESHOLD": odd}, nil); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("skew %s: %v", odd, err)
		}
	}
	if _, err := Load(nil, map[string]string{"THEMIS_METRICS_ENABLED": "maybe"}, nil); err == nil || !strings.Contains(err.Error(), "env THEMIS_METRICS_ENABLED: metrics.enabled: \"maybe\": want true or false") {
		t.Errorf("%v", err)
	}
}

// TestFaults: each bad file, and what must be said about it, all of it at once.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"all at once": {"wal:\n  segment_size_mb: big\n  keep_segmnts: 7\n\nnode:\n  role: boss\n", []string{
			`test.yaml:2: wal.segment_size_mb: "big": want a whole number, 1 to 64`,
			"test.yaml:3: wal.keep_segmnts: unknown key; did you mean wal.keep_segments?",
			`test.yaml:6: node.role: "boss": want one of active, hot_spare, controller`}},
		"wrong section":      {"keep_segments: 7\n", []string{"test.yaml:1: keep_segments: unknown key; did you mean wal.keep_segments?"}},
		"mistyped section":   {"replicaton:\n  mode: sync\n", []string{"test.yaml:1: replicaton: unknown key; did you mean replication?"}},
		"far from all":       {"zzzzzzzz: 1\n", []string{"test.yaml:1: zzzzzzzz: unknown key"}},
		"case":               {"WAL:\n  fsync: true\n", []string{"test.yaml:1: WAL: unknown key; did you mean"}},
		"twice":              {"node:\n  rack: a\n  rack: b\n", []string{"test.yaml:3: node.rack: is in line 2 already"}},
		"section twice":      {"node:\n  rack: a\nnode:\n  region: b\n", []string{"test.yaml:3: node: is in line 1 already"}},
		"section as value":   {"wal: 3\n", []string{"test.yaml:1: wal: is a section"}},
		"value as section":   {"node:\n  rack:\n    a: 1\n", []string{"test.yaml:3: node.rack: want text"}},
		"no value":           {"node:\n  rack:\n", []string{"test.yaml:2: node.rack: no value: want text, or leave the key out"}},
		"empty":              {"node:\n  rack: ''\n  data_dir: ''\n", []string{"node.rack: empty", "node.data_dir: empty"}},
		"quoted number":      {"wal:\n  keep_segments: '7'\n", []string{`wal.keep_segments: "7": want a whole number`}},
		"fraction":           {"wal:\n  keep_segments: 7.5\n", []string{`wal.keep_segments: "7.5": want a whole number`}},
		"huge":               {"wal:\n  keep_segments: 99999999999999999999\n", []string{`want a whole number`}},
		"too high":           {"rebalance:\n  disk_threshold: 1.5\n", []string{`rebalance.disk_threshold: "1.5": want a number, 0.05 to 0.99`}},
		"not a number":       {"rebalance:\n  skew_threshold: .nan\n", []string{`rebalance.skew_threshold: ".nan": want a number, 0.01 to 10`}},
		"yes":                {"metrics:\n  enabled: yes\n", []string{`metrics.enabled: "yes": want true or false`}},
		"quoted bool":        {"metrics:\n  enabled: 'true'\n", []string{`metrics.enabled: "true": want true or false`}},
		"too low":            {"control:\n  lease_ttl_ms: 1s\n", []string{`control.lease_ttl_ms: "1s": want milliseconds, or a duration such as 10ms, 2000 to 60000`}},
		"half a millisecond": {"network:\n  rtt_threshold: 1500us\n", []string{`network.rtt_threshold: "1500us"`}},
		"negative":           {"network:\n  rtt_threshold: -1ms\n", []string{`network.rtt_threshold: "-1ms"`}},
		"address":            {"node:\n  http_listen: 8765\n  grpc_listen: ':99999'\n", []string{`node.http_listen: "8765": want host:port`, `node.grpc_listen: ":99999"`}},
		"node name":          {"node:\n  id: Node_1\n", []string{`node "Node_1": want a DNS label`}},
		"shard-0":            {"shard:\n  id: shard-0\n", []string{`shard "shard-0"`}},
		"worker threads":     {"ParallelConfig:\n  worker_threads: 65\n", []string{`ParallelConfig.worker_threads: "65": want a whole number, 1 to 64`}}, // C-43
		"list":               {"control:\n  endpoints: a:1\n", []string{"control.endpoints: want a list of texts"}},
		"list of lists":      {"control:\n  endpoints: [[a]]\n", []string{"control.endpoints: want a list of texts"}},
		"listed twice":       {"replication:\n  synchronous_shards: [1, shard_001]\n", []string{"shard-1 is named twice"}},
		"map":                {"bidi:\n  collection_strategies: {a: NEWEST, b: CRDT}\n", []string{`a: "NEWEST": want one of LAST_WRITE_WINS, CRDT, CUSTOM`}},
		"map twice":          {"bidi:\n  collection_strategies: {a: CRDT, a: CRDT}\n", []string{"a is named twice"}},
		"objects": {"wal:\n  directories:\n    - type: mirrors\n      sise: 3\n    - /mnt/x\n    - path: [a]\n", []string{
			`test.yaml:3: wal.directories[].type: "mirrors": want one of primary, mirror`,
			"test.yaml:4: wal.directories[].sise: unknown key", "test.yaml:3: wal.directories[].path: is missing: want a path",
			"test.yaml:5: wal.directories: want an object with the fields path, type, fsync_mode", "test.yaml:6: wal.directories[].path: want a path"}},
		"field of a list":   {"Config:\n  transform: x\n", []string{"test.yaml:2: Config.transform: is a field of the entries of slots: write it there"}},
		"anchor":            {"node: &n\n  rack: a\nwal: *n\n", []string{"test.yaml:3: wal: anchors, merges"}},
		"merge":             {"node:\n  <<: {rack: a}\n", []string{"test.yaml:2: node.<<: anchors, merges"}},
		"two documents":     {"node:\n  rack: a\n---\nnode:\n  rack: b\n", []string{"test.yaml:3: more than one document"}},
		"not YAML":          {"node: [\n", []string{"test.yaml:1: did not find"}},
		"a list at the top": {"- a\n", []string{"test.yaml:1: want keys and values"}},
		"two names": {"pki:\n  cert: /a\n  key: /k\nsharding:\n  communication:\n    rpc:\n      mtls:\n        cert_path: /b\n", []string{
			"test.yaml:8: sharding.communication.rpc.mtls.cert_path: /b, but pki.cert (test.yaml:2) says /a: the two are one setting"}},
		"redundancy as mode": {"replication:\n  mode: MIRROR\n", []string{`test.yaml:2: replication.mode: "MIRROR" is a redundancy mode, its key is cluster.mode (or shard.replication.mode)`}}, // C-21
		"mode as redundancy": {"shard:\n  replication:\n    mode: hybrid\n", []string{`test.yaml:3: shard.replication.mode: "hybrid" says when writes are acknowledged, its key is replication.mode`}},
		"cluster and shard":  {"cluster:\n  mode: MIRROR\nshard:\n  replication:\n    mode: NONE\n", []string{"test.yaml:5: shard.replication.mode: NONE, but cluster.mode (test.yaml:2) says MIRROR"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(c.text)
			checkFaults(t, err, c.want)
		})
	}
}

// checkFaults wants exactly as many faults as texts, each in one of them.
func checkFaults(t *testing.T, err error, want []string) {
	t.Helper()
	if themis.CodeOf(err) != themis.InvalidArgument {
		t.Fatalf("%v, want INVALID_ARGUMENT", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("missing %q in:\n%v", w, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != len(want) {
		t.Errorf("%d faults, want %d:\n%v", n, len(want), err)
	}
	if f, ok := errors.AsType[Fault](err); !ok || f.Reason == "" {
		t.Errorf("no Fault in %v", err)
	}
}

func TestTwoNamesThatAgree(t *testing.T) {
	c := mustLoad(t, "replication:\n  quorum: 1\n  min_sync_replicas: 1\nReplicationConfig:\n  mode: SEMI_SYNC\n")
	if c.Replication.MinSyncReplicas != 1 || c.Replication.Mode != themis.SemiSync {
		t.Errorf("%+v", c.Replication)
	}
	_, err := Load([]Source{{"a.yaml", []byte("pki: {cert: /a, key: /k}")}, {"b.yaml", []byte("sharding: {communication: {rpc: {mtls: {cert_path: /b}}}}")}}, nil, nil)
	if err != nil {
		t.Errorf("a later file may say otherwise under another name: %v", err)
	}
}

func TestMetricsPort(t *testing.T) {
	for name, c := range map[string]struct {
		file   string
		env    map[string]string
		flags  map[string]string
		listen string
		port   int
	}{
		"port alone":            {"metrics: {port: 9191}", nil, nil, ":9191", 9191},
		"listen alone":          {"node: {metrics_listen: '127.0.0.1:9292'}", nil, nil, "127.0.0.1:9292", 9292},
		"environment over file": {"node: {metrics_listen: '127.0.0.1:9292'}", map[string]string{"THEMIS_METRICS_PORT": "9393"}, nil, "127.0.0.1:9393", 9393},
		"flag over environment": {"", map[string]string{"THEMIS_METRICS_PORT": "9393"}, map[string]string{"metrics-listen": ":0"}, ":0", 0},
		"port 0":                {"", map[string]string{"THEMIS_METRICS_PORT": "0"}, nil, ":0", 0},
	} {
		got, err := Load([]Source{{"f", []byte(c.file)}}, c.env, c.flags)
		if err != nil || got.Node.MetricsListen != c.listen || got.Metrics.Port != c.port {
			t.Errorf("%s: %s and %d, %v; want %s", name, got.Node.MetricsListen, got.Metrics.Port, err, c.listen)
		}
	}
	if _, err := load("metrics: {port: 9191}\nnode: {metrics_listen: ':9292'}"); err == nil || !strings.Contains(err.Error(), "set one of them") {
		t.Errorf("a contradiction in one file: %v", err)
	}
}

func TestExamplesLoad(t *testing.T) { // DEP-04
	const dir = "../../docs/examples/config"
	seen := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		seen++
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		c, err := Load([]Source{{path, b}}, nil, nil)
		if err != nil {
			t.Error(err)
		}
		for _, w := range c.Warnings() {
			if !strings.Contains(w.Reason, "in this version") && !strings.Contains(w.Reason, "by this version") && !strings.Contains(w.Reason, "ten times") &&
				!strings.Contains(w.Reason, "created_at is a time") && !strings.Contains(w.Reason, "no shard has keys before") {
				t.Errorf("unexpected warning: %v", w)
			}
		}
		return nil
	})
	if err != nil || seen < 7 {
		t.Errorf("%d files, %v", seen, err)
	}
	for _, want := range []string{"sharding.yaml", "sharding/shard-router.yaml", "sharding/shard-router-example.yaml", "sharding/range-sharding.yaml", "sharding/cluster.yaml", "storage/wal.yaml"} {
		if _, err := os.Stat(filepath.Join(dir, want)); err != nil {
			t.Error(err)
		}
	}
}

func example(t *testing.T, name string) Config {
	t.Helper()
	b, err := os.ReadFile("../../docs/examples/config/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return mustLoad(t, string(b))
}

func TestExampleValues(t *testing.T) {
	c := example(t, "sharding/cluster.yaml")
	if got := valueOf(t, c, "sharding.nodes").Value; !strings.HasSuffix(got, `{"host":"10.0.1.21","id":"hot-spare-2","port":8765,"replicate_from":"shard-2","role":"hot_spare"}]`) {
		t.Errorf("nodes: %s", got)
	}
	if got := c.Founding(); len(got) == 0 || !slices.ContainsFunc(got, func(v Value) bool {
		return v.Key == "replication.mode" && v.Value == "hybrid" && v.From == "file test.yaml:64"
	}) {
		t.Errorf("%+v", got)
	}
	if got := valueOf(t, c, "network.rtt_threshold"); got.Value != "10" {
		t.Errorf("10ms is %+v", got)
	}
	w := example(t, "storage/wal.yaml")
	want := `[{"fsync_mode":"always","path":"/mnt/nvme0/wal","type":"primary"},{"fsync_mode":"always","path":"/mnt/nvme1/wal-backup","type":"mirror"}]`
	if valueOf(t, w, "wal.directories").Value != want || w.WAL.SegmentMB != 64 || w.Replication.Mode != themis.Hybrid {
		t.Errorf("%+v", w.WAL)
	}
	if s := warns(w); !strings.Contains(s, "ten times this in memory") {
		t.Errorf("64 MB segments: %s", s)
	}
	s := example(t, "sharding.yaml")
	if s.PKI.Cert != "/etc/themis/certs/shard.crt" || s.PKI.CRL != "/etc/themis/certs/crl.pem" || s.Node.GRPCListen != "0.0.0.0:50051" || s.RPC.RequestTimeout != 30*time.Second {
		t.Errorf("%+v %+v", s.PKI, s.Node)
	}
	if n := example(t, "themisd.yaml"); n.CheckNode() != nil {
		t.Errorf("the node's example can't start: %v", n.CheckNode())
	}
	rs := example(t, "sharding/range-sharding.yaml")
	if got := valueOf(t, rs, "sharding.ranges").Value; !strings.HasSuffix(got, `{"max":null,"min":"2025-01-01","shard":"shard-3"}]`) {
		t.Errorf("ranges %s", got)
	}
}

func TestCheckNode(t *testing.T) {
	err := mustLoad(t, "").CheckNode()
	for _, key := range []string{"node.id", "node.data_dir", "pki.cert", "pki.key", "pki.ca"} {
		if err == nil || !strings.Contains(err.Error(), key+": is needed to start a node") {
			t.Errorf("%s: %v", key, err)
		}
	}
	if err := mustLoad(t, "node: {id: n-1, data_dir: /d}\npki: {cert: c, key: k, ca: a}").CheckNode(); err != nil {
		t.Error(err)
	}
}

func TestDiff(t *testing.T) {
	before := mustLoad(t, "cluster: {name: a}\nwal: {keep_segments: 5}\nlog: {level: info}")
	after := mustLoad(t, "cluster: {name: b}\nwal: {keep_segments: 6}\nlog: {level: debug}\nnode: {rack: r}\nparallel_apply: {worker_threads: 8}\nreplication: {timeout_ms: 100ms}")
	var got []string
	for _, c := range Diff(before, after) {
		got = append(got, c.Key+" "+c.Old+" → "+c.New+" "+string(c.Scope)+" "+string(c.Apply)+": "+c.Effect())
	}
	want := []string{
		"node.rack  → r node restart: belongs to each node's file; takes effect when the node is started again",
		"log.level info → debug node restart: belongs to each node's file; takes effect when the node is started again",
		"cluster.name a → b cluster init: can't be changed by a file once the cluster is made",
		"parallel_apply.worker_threads 4 → 8 cluster live: kept, without effect in this version",
		"wal.keep_segments 5 → 6 cluster live: takes effect at once",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(Diff(before, before)) != 0 {
		t.Error("no difference, yet changes")
	}
}

func TestApplied(t *testing.T) {
	c := example(t, "sharding/cluster.yaml")
	applied := c.Applied()
	if _, there := applied["replication.mode"]; there || applied["failover.retry_interval_ms"] != "200" || applied["monitoring.endpoints"] == "" {
		t.Errorf("%v", applied)
	}
	back, err := mustLoad(t, "node: {rack: r}\nfailover: {retry_interval_ms: 300}").With(applied)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range Diff(c, back) {
		if d.Key != "node.rack" && d.Apply != AtInit {
			t.Errorf("what was applied doesn't come back: %+v", d)
		}
	}
	if v := valueOf(t, back, "failover.retry_interval_ms"); v.From != "cluster" || v.Value != "200" {
		t.Errorf("the cluster's value must beat the file's: %+v", v)
	}
	if again, err := back.With(nil); err != nil || again.Failover.RetryInterval != 300*time.Millisecond {
		t.Errorf("what an earlier With laid over stays: %s, %v", again.Failover.RetryInterval, err)
	}
	for values, want := range map[[2]string]string{
		{"node.rack", "x"}:          "cluster: node.rack: belongs to each node, not to the cluster",
		{"wal.keep_segment", "1"}:   "unknown key; did you mean wal.keep_segments?",
		{"wal.keep_segments", "no"}: `cluster: wal.keep_segments: "no"`,
		{"sharding.nodes[].id", ""}: "unknown key",
	} {
		if _, err := c.With(map[string]string{values[0]: values[1]}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", values, err, want)
		}
	}
}

func TestNoneHasOneCopy(t *testing.T) {
	c := mustLoad(t, "cluster: {mode: NONE}")
	if c.Replication.ReplicationFactor != 1 || c.Replication.MinSyncReplicas != 0 {
		t.Errorf("%+v", c.Replication)
	}
	back, err := c.With(map[string]string{"cluster.mode": "MIRROR"})
	if err != nil || back.Replication.ReplicationFactor != 2 || back.Replication.MinSyncReplicas != 1 {
		t.Errorf("%+v, %v", back.Replication, err)
	}
}

func TestConcern(t *testing.T) {
	c := mustLoad(t, "shard: {replication: {write_concern: local_quorum}}")
	if c.Replication.Concern() != themis.ConcernLocalQuorum {
		t.Errorf("%q", c.Replication.Concern())
	}
}

func TestLargeInput(t *testing.T) {
	if _, err := load("# " + strings.Repeat("x", maxSource)); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("%v", err)
	}
	if _, err := load("control: {endpoints: [" + strings.Repeat("a,", maxItems) + "b]}"); err == nil || !strings.Contains(err.Error(), "entries: want at most") {
		t.Errorf("%v", err)
	}
}

func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("../../docs/examples/config/*/*.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, "", "")
	}
	f.Add([]byte("a: &x [*x]"), "[{path: /a}]", "hybrid")
	f.Add([]byte("slots: [{name: a, filter: {include: [b]}}]"), "a,b", "1ms")
	f.Fuzz(func(t *testing.T, b []byte, env, flag string) {
		c, err := Load([]Source{{"fuzz.yaml", b}}, map[string]string{"THEMIS_WAL_DIRECTORIES": env, "THEMIS_CONTROL_ENDPOINTS": env}, map[string]string{"role": flag})
		if err != nil {
			if themis.CodeOf(err) != themis.InvalidArgument {
				t.Fatalf("%s: %v", themis.CodeOf(err), err)
			}
			return
		}
		back, err := c.With(c.Applied())
		if err != nil {
			t.Fatalf("what was accepted from a file is refused from the cluster: %v", err)
		}
		if d := Diff(c, back); len(d) > 0 {
			t.Fatalf("changed on the way: %+v", d)
		}
	})
}
