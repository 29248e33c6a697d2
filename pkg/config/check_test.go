package config

import (
	"strings"
	"testing"
)

// TestCrossChecks: what keys say together. want lists all faults; none means that it loads, with all of warn said.
func TestCrossChecks(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
		warn []string
	}{
		// C-05
		"ports":            {"node: {grpc_listen: ':8765', metrics_listen: '127.0.0.1:8765'}", []string{"node.http_listen: :8765 clashes with node.grpc_listen :8765", "node.metrics_listen: 127.0.0.1:8765 clashes with node.grpc_listen", "clashes with node.http_listen"}, nil},
		"other interfaces": {"node: {grpc_listen: '10.0.0.1:8765', http_listen: '10.0.0.2:8765'}", nil, nil},
		"port 0":           {"node: {grpc_listen: ':0', http_listen: ':0', metrics_listen: ':0'}", nil, nil},
		"metrics off":      {"node: {metrics_listen: ':8765'}\nmetrics: {enabled: false}", nil, nil},
		"control ports":    {"control: {peer_listen: ':2379'}", []string{"control.client_listen: :2379 clashes with control.peer_listen :2379"}, nil},
		"external control": {"control: {mode: external, endpoints: [a:2379], peer_listen: ':8765'}", nil, nil},
		"legacy port":      {"sharding: {communication: {http: {enabled: true, port: 9090}}}", []string{"sharding.communication.http.port: :9090 clashes with node.metrics_listen :9090"}, nil},
		"legacy off":       {"sharding: {communication: {http: {enabled: false, port: 9090}}}", nil, nil},
		"odd but allowed":  {"node: {http_listen: ':8766', grpc_listen: ':7000'}", nil, nil},
		// control plane
		"no endpoints": {"control: {mode: external}", []string{"test.yaml:1: control.endpoints: none, and control.mode is external"}, nil},
		"election":     {"control: {tick_ms: 300}", []string{"control.election_ms: 1000: want at least 5 × control.tick_ms = 1500"}, nil},
		// pki
		"cert alone":       {"pki: {cert: /c}", []string{"pki.cert: certificate and key go together"}, nil},
		"no TLS":           {"pki: {enabled: false}", []string{"pki.enabled: false: traffic between nodes without TLS is refused"}, nil},
		"development":      {"pki: {enabled: false}\nnode: {development_mode: true}", nil, []string{"pki.enabled: accepted, without effect in this version", "node.development_mode: true: traffic without TLS is allowed"}},
		"no verification":  {"pki: {verify_peer: false, verify_hostname: false}", nil, []string{"pki.verify_peer: false: this node may talk to an impostor", "pki.verify_hostname: false"}},
		"open on loopback": {"http: {plain_loopback: full}", nil, []string{"http.plain_loopback: full: every local user may write"}},
		// times (C-14)
		"elections":   {"replication: {election_timeout_min_ms: 6000}", []string{"replication.election_timeout_min_ms: 6000 is above failover.election_timeout_max_ms 5000"}, nil},
		"both names":  {"replication: {election_timeout_min_ms: 3000}\nshard: {failover: {election_timeout_ms: 5000}}", nil, nil},
		"detection":   {"failover: {failed_after_min_ms: 4000}", []string{"failover.failed_after_min_ms: 4000 is above failover.failed_after_max_ms 3000"}, nil},
		"retries":     {"failover: {retry_interval_ms: 1100, failure_threshold: 2}", []string{"failover.retry_interval_ms: 1100 is above failover.probe_interval_ms 1000"}, nil},
		"too slow":    {"failover: {failure_threshold: 12}", []string{"failover.failed_after_max_ms: 3000: 12 failed probes, 1000 ms apart at first and 200 ms then, take up to 3200 ms"}, nil},
		"lag":         {"replication: {lag_warning_ms: 200}", []string{"replication.lag_warning_ms: 200 is above replication.lag_alert_ms 100"}, nil},
		"no failover": {"failover: {auto: false}", nil, []string{"failover.auto: accepted, without effect in this version"}},
		// copies and quorum (SEC-07, C-22, C-71)
		"k 0 sync":        {"replication: {mode: SYNC, min_sync_replicas: 0}", []string{"replication.min_sync_replicas: 0 under sync"}, nil},
		"k 0 semi":        {"replication: {mode: SEMI_SYNC, quorum: 0}", []string{"replication.quorum: 0 under semi_sync"}, nil},
		"k 0 semi alone":  {"cluster: {mode: NONE}\nreplication: {mode: SEMI_SYNC}", []string{"replication.mode"}, nil},
		"k 0 hybrid":      {"replication: {mode: hybrid, quorum: 0, synchronous_shards: [1], asynchronous_shards: [2, 3, 4]}", []string{"replication.quorum: 0 under hybrid"}, nil},
		"k 0 all async":   {"replication: {mode: hybrid, quorum: 0, asynchronous_shards: [1, 2, 3, 4]}", nil, []string{"replication.quorum: 0: a write is acknowledged with one copy"}},
		"k 0 async":       {"replication: {mode: async, min_sync_replicas: 0}", nil, []string{"replication.min_sync_replicas: 0: a write is acknowledged with one copy and lost with it"}},
		"k too high":      {"replication: {min_sync_replicas: 2}", []string{"replication.min_sync_replicas: 2 followers and the primary are 3 copies, replication_factor is 2"}, nil},
		"k high async":    {"replication: {mode: async, min_sync_replicas: 2}", nil, nil},
		"k with one copy": {"cluster: {mode: NONE}\nreplication: {min_sync_replicas: 1}", []string{"replication.min_sync_replicas: 1: with 1 copy there is no follower to wait for"}, nil},
		"three copies":    {"replication: {min_sync_replicas: 2, replication_factor: 3}", nil, nil},
		"NONE with two":   {"cluster: {mode: NONE}\nreplication: {replication_factor: 2}", []string{"replication.replication_factor: 2: cluster.mode NONE keeps 1 copy"}, nil},
		"MIRROR with one": {"replication: {mode: async, replication_factor: 1}", []string{"replication.replication_factor: 1: cluster.mode MIRROR keeps at least 2 copies"}, nil},
		"broken mode":     {"replication: {mode: fast, min_sync_replicas: 0}", []string{`replication.mode: replication mode "fast"`}, nil}, // and nothing about 0
		// hybrid lists (REP-05)
		"both lists":    {"replication: {mode: hybrid, synchronous_shards: [1, 2, 3], asynchronous_shards: [3, 4]}", []string{"shard-3 is in replication.asynchronous_shards too"}, nil},
		"neither list":  {"replication: {mode: hybrid, synchronous_shards: [1, 2], asynchronous_shards: [4]}", []string{"shard-3 is in neither list: want each of shard-1 to shard-4 in one"}, nil},
		"unknown shard": {"sharding: {cluster: {active_shards: 2}}\nreplication: {mode: hybrid, synchronous_shards: [1], asynchronous_shards: [2, 3]}", []string{"shard-3: there are only shard-1 to shard-2"}, nil},
		"not hybrid":    {"replication: {synchronous_shards: [1]}", nil, []string{"the lists of shards count only under replication.mode hybrid; it is sync"}},
		// log (C-24, REP-08)
		"HA":             {"wal: {keep_segments: 200, segment_size_mb: 64}", []string{"wal.max_size_gb: 10: 200 segments of 64 MB are 12.8 GB; want at least 13"}, nil},
		"HA, enough":     {"wal: {keep_segments: 200, segment_size_mb: 64, max_size_gb: 13}", nil, []string{"wal.segment_size_mb: 64: an open log takes up to ten times this in memory"}},
		"no fsync":       {"wal: {fsync: false}", []string{"wal.fsync: false: a write is acknowledged only once it is on disk"}, nil},
		"no primary":     {"wal: {directories: [{path: /a, type: mirror}]}", []string{"0 primary directories: want 1"}, nil},
		"two primaries":  {"wal: {directories: [{path: /a}, {path: /b}]}", []string{"2 primary directories: want 1"}, nil},
		"two mirrors":    {"wal: {directories: [{path: /a}, {path: /b, type: mirror}, {path: /c, type: mirror}]}", []string{"2 mirror directories: want at most 1"}, nil},
		"one path twice": {"wal: {directories: [{path: /a}, {path: /a/, type: mirror}]}", []string{"/a stands there twice"}, nil},
		// ranges (SHD-06)
		"overlap":     {ranges("{shard: 1, min: null, max: 2022-12-31}", "{shard: 2, min: 2022-12-31, max: null}"), []string{"test.yaml:1: sharding.ranges: shard-1 [null, 2022-12-31] and shard-2 [2022-12-31, null] overlap"}, nil},
		"gap":         {ranges("{shard: 1, min: null, max: 2022-12-31}", "{shard: 2, min: 2023-01-02, max: null}"), []string{"gap between shard-1 [null, 2022-12-31] and shard-2 [2023-01-02, null]"}, nil},
		"unsorted":    {ranges("{shard: 2, min: 11, max: null}", "{shard: 1, max: 10}"), nil, nil},
		"leap day":    {ranges("{shard: 1, max: 2024-02-28}", "{shard: 2, min: 2024-02-29, max: 2024-02-29}", "{shard: 3, min: 2024-03-01}"), nil, nil},
		"inside":      {ranges("{shard: 1}", "{shard: 2, min: 3, max: 4}", "{shard: 3, min: 6, max: 7}"), []string{"shard-1 [null, null] and shard-2 [3, 4] overlap", "shard-1 [null, null] and shard-3 [6, 7] overlap"}, nil},
		"inverted":    {ranges("{shard: 1, max: 4}", "{shard: 2, min: 9, max: 5}", "{shard: 3, min: 5}"), []string{"shard-2 [9, 5]: min is behind max"}, nil},
		"mixed":       {ranges("{shard: 1, max: 4}", "{shard: 2, min: 2024-01-01}"), []string{"dates and numbers in one list"}, nil},
		"mixed range": {ranges("{shard: 1, min: 4, max: 2024-01-01}"), []string{"a date and a number"}, nil},
		"text bounds": {ranges("{shard: 1, min: a, max: m}"), []string{`sharding.ranges[].min: "a": want a date`, `sharding.ranges[].max: "m"`}, nil},
		"shard 9":     {ranges("{shard: 9}"), []string{"shard-9: there are only shard-1 to shard-4"}, nil},
		"open ends":   {ranges("{shard: 1, min: 1, max: 9}"), nil, []string{"no shard has keys before 1: min: null has them all", "no shard has keys behind 9"}},
		"no field":    {"sharding: {strategy: range, ranges: [{shard: 1}]}", []string{"sharding.key: is missing"}, nil},
		"no ranges":   {"sharding: {strategy: range, key: n}", []string{"sharding.ranges: none"}, nil},
		"hash":        {"sharding: {ranges: [{shard: 9}]}", nil, []string{"sharding.ranges: counts only under sharding.strategy range; it is hash"}},
		// nodes
		"node twice":    {nodes("{id: a, host: h1}", "{id: a, host: h2}"), []string{"node a stands there twice"}, nil},
		"address twice": {nodes("{id: a, host: h1}", "{id: b, host: h1}"), []string{"node b: another one has the address h1:8765 too"}, nil},
		"not a spare":   {nodes("{id: a, host: h1, replicate_from: shard-1}"), []string{"node a: replicate_from is for role hot_spare"}, nil},
		"spare of none": {nodes("{id: a, host: h1, role: hot_spare, replicate_from: shard-5}"), []string{"node a: replicate_from shard-5: there are only shard-1 to shard-4"}, nil},
		"spares":        {"sharding: {cluster: {hot_spares: 2}, nodes: [{id: a, host: h}]}", nil, []string{"sharding.cluster.hot_spares: 2, but sharding.nodes names 0 spares"}},
		// advice (SHD-09)
		"bad range key":   {"sharding: {strategy: range, key: created_at, ranges: [{shard: 1}]}", nil, []string{"sharding.key: created_at is a time: all new documents go to the newest shard"}},
		"bad rule":        {"sharding: {co_location: {enabled: true, rules: [{tables: [a, b], key: status}]}}", nil, []string{"status is few different values"}},
		"good rule":       {"sharding: {co_location: {enabled: true, rules: [{tables: [orders, customers], key: customer_id}]}}", nil, []string{"sharding.co_location.enabled: accepted, without effect"}},
		"rules, disabled": {"sharding: {co_location: {rules: [{tables: [a], key: user_id}]}}", nil, []string{"counts only with sharding.co_location.enabled"}},
		// parts that come later
		"weights":        {"AdaptiveConfig: {latency_weight: 0.9}", []string{"AdaptiveConfig.latency_weight: with load_weight it makes 1.2: want 1"}, nil},
		"geo copies":     {"geo: {local_replicas: 3}", []string{"geo.replication_factor: 3: local_replicas 3 + global_replicas 1 are 4"}, nil},
		"restore time":   {"restore: {target_time: yesterday}", []string{`restore.target_time: "yesterday": want a time such as 2026-01-06T12:00:00Z`}, nil},
		"without effect": {"parallel_apply: {worker_threads: 1}", nil, []string{"test.yaml:1: parallel_apply.worker_threads: accepted, without effect in this version"}},
		"as by default":  {"parallel_apply: {worker_threads: 4}", nil, nil},
		"later mode":     {"cluster: {mode: parity}", nil, []string{"cluster.mode: PARITY is accepted but not served"}},
		"later strategy": {"sharding: {strategy: range, key: n, ranges: [{shard: 1}]}", nil, []string{"sharding.strategy: range is accepted but not served"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := load(c.text)
			if len(c.want) > 0 {
				checkFaults(t, err, c.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			all := warns(got)
			if len(c.warn) == 0 && strings.Contains(all, "clash") || len(c.warn) == 0 && name == "as by default" && all != "" {
				t.Errorf("unexpected:\n%s", all)
			}
			for _, w := range c.warn {
				if !strings.Contains(all, w) {
					t.Errorf("missing %q in:\n%s", w, all)
				}
			}
		})
	}
}

func ranges(list ...string) string {
	return "sharding: {strategy: range, key: order_no, ranges: [" + strings.Join(list, ", ") + "]}"
}

func nodes(list ...string) string { return "sharding: {nodes: [" + strings.Join(list, ", ") + "]}" }

func TestShardKeyAdvice(t *testing.T) { // SHD-09
	for _, c := range []struct{ strategy, field, want string }{
		{"range", "created_at", "newest shard"}, {"range", "createdAt", "newest shard"}, {"hash", "timestamp", "one moment"}, {"range", "order-date", "newest shard"},
		{"range", "id", "sequential"}, {"range", "invoice_seq", "sequential"}, {"hash", "invoice_seq", ""}, {"hash", "_id", ""},
		{"hash", "status", "few different values"}, {"range", "order.state", "few different values"}, {"hash", "is_active", "few different values"}, {"hash", "hasAddress", "few different values"},
		{"hash", "user_id", ""}, {"hash", "uuid", ""}, {"hash", "customer_id", ""}, {"hash", "", ""}, {"hash", "__", ""}, {"hash", "estate", ""}, {"hash", "is", ""}, {"hash", "candidate", ""},
	} {
		got := ShardKeyAdvice(c.strategy, c.field)
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s by %s: %q, want %q", c.strategy, c.field, got, c.want)
		}
	}
}
