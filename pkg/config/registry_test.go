package config

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write docs/reference/config.md anew")

// annexA are all keys that the product's sources name, with a value that each must accept (DEP-10).
var annexA = map[string]string{
	"sharding.communication.rpc_enabled": "true", "sharding.communication.rpc_fallback_to_http": "true", "sharding.communication.rpc.protocol": "grpc",
	"sharding.communication.rpc.listen_address": "0.0.0.0:50051", "sharding.communication.rpc.mtls.enabled": "true",
	"sharding.communication.rpc.mtls.cert_path": "/etc/themis/certs/shard.crt", "sharding.communication.rpc.mtls.key_path": "/etc/themis/certs/shard.key",
	"sharding.communication.rpc.mtls.ca_cert_path": "/etc/themis/certs/ca.crt", "sharding.communication.rpc.mtls.crl_path": "/etc/themis/certs/crl.pem",
	"sharding.communication.rpc.mtls.verify_peer": "true", "sharding.communication.rpc.mtls.verify_hostname": "true",
	"sharding.communication.rpc.connection.max_connections_per_shard": "10", "sharding.communication.rpc.connection.connection_timeout_ms": "5000",
	"sharding.communication.rpc.connection.request_timeout_ms": "30000", "sharding.communication.rpc.connection.keepalive_time_ms": "60000",
	"sharding.communication.http.enabled": "true", "sharding.communication.http.port": "8080",
	"sharding.strategy": "hash", "sharding.key": "created_at", "sharding.ranges[].shard": "1", "sharding.ranges[].min": "2020-01-01", "sharding.ranges[].max": "2022-12-31",
	"sharding.co_location.enabled": "true", "sharding.co_location.rules[].tables": "[orders, customers]", "sharding.co_location.rules[].key": "customer_id",
	"sharding.virtual_nodes": "150", "AdaptiveConfig.learning_rate": "0.1", "AdaptiveConfig.exploration_factor": "0.05",
	"AdaptiveConfig.enable_predictive_routing": "true", "AdaptiveConfig.latency_weight": "0.7", "AdaptiveConfig.load_weight": "0.3",
	"rebalance.auto_trigger": "true", "rebalance.skew_threshold": "0.15", "rebalance.disk_threshold": "0.70", "rebalance.max_parallel_moves": "4",
	"rebalance.chunk_size_mb": "32", "rebalance.rate_limit_mbps": "500", "LiveMigrationConfig.enable_dual_write": "true",
	"LiveMigrationConfig.verify_after_bulk_copy": "true", "LiveMigrationConfig.rate_limit_keys_per_sec": "10000", "LiveMigrationConfig.batch_size": "500",
	"HotShardSplitPolicy.qps_threshold": "50000", "HotShardSplitPolicy.enable_predictive_splitting": "true", "HotShardSplitPolicy.min_split_interval_seconds": "300",
	"HotShardSplitPolicy.split_priority_threshold": "0.8",
	"cluster.name": "themis-prod-highperf", "cluster.mode": "GEO_MIRROR", "shard.id": "shard_001", "shard.replication.mode": "STRIPE_MIRROR",
	"shard.replication.replication_factor": "3", "shard.replication.write_concern": "LOCAL_QUORUM", "shard.replication.sync_mode": "ASYNC_WAL",
	"shard.replication.geo_regions[].region": "eu-central-1", "shard.replication.geo_regions[].datacenter": "dc1", "shard.replication.read_preference": "NEAREST",
	"shard.failover.auto_failover": "true", "shard.failover.election_timeout_ms": "5000", "shard.failover.heartbeat_interval_ms": "1000",
	"shard.stripe_width": "4", "shard.chunk_size_kb": "256", "shard.stripe_groups[].group_id": "1", "shard.stripe_groups[].shards": "[shard_001, shard_002]",
	"shard.stripe_groups[].replication_factor": "2", "shard.erasure_coding.data_shards": "8", "shard.erasure_coding.parity_shards": "3",
	"shard.erasure_coding.algorithm": "reed_solomon",
	"sharding.cluster.active_shards": "4", "sharding.cluster.hot_spares": "2", "sharding.hot_spare.enabled": "true", "sharding.hot_spare.promotion_timeout_ms": "5000",
	"sharding.hot_spare.health_check_interval_ms": "1000", "sharding.hot_spare.failure_threshold": "3", "sharding.nodes[].id": "hot-spare-1",
	"sharding.nodes[].host": "10.0.1.10", "sharding.nodes[].port": "8765", "sharding.nodes[].role": "hot_spare", "sharding.nodes[].replicate_from": "shard-1",
	"network.rtt_threshold": "10ms", "network.adaptive_batching": "true", "network.compression": "lz4",
	"replication.mode": "synchronous", "replication.quorum": "1", "replication.timeout_ms": "100", "replication.lag_target_ms": "50", "replication.buffer_size_mb": "256",
	"replication.synchronous_shards": "[shard-1, shard-2]", "replication.asynchronous_shards": "[shard-3, shard-4]", "replication.hot_spares_sync": "true",
	"wal.directories[].path": "/mnt/nvme0/wal", "wal.directories[].type": "mirror", "wal.directories[].fsync_mode": "always", "wal.segment_size_mb": "64",
	"wal.buffer_size_mb": "256", "wal.compression": "lz4", "wal.keep_segments": "200", "wal.max_size_gb": "10", "wal.fsync": "true",
	"ReplicationConfig.heartbeat_interval_ms": "1000", "ReplicationConfig.election_timeout_min_ms": "3000", "ReplicationConfig.min_sync_replicas": "1",
	"ReplicationConfig.mode": "SEMI_SYNC", "ReplicationConfig.conflict_strategy": "LWW", "wal_directory": "/var/lib/themis/wal",
	"ParallelConfig.worker_threads": "8", "ParallelConfig.queue_size": "10000", "ParallelConfig.use_dependency_tracking": "true", "ParallelConfig.group_transactions": "true",
	"CompressionConfig.algorithm": "ZSTD", "CompressionConfig.compression_level": "6", "CompressionConfig.adaptive": "true", "CompressionConfig.min_batch_size": "1024",
	"QuorumReadConfig.read_quorum": "2", "QuorumReadConfig.read_timeout_ms": "1000", "QuorumReadConfig.repair_on_read": "true", "QuorumReadConfig.session_token_ttl_ms": "30000",
	"batch_size": "100", "slots[].name": "analytics", "slots[].plugin": "Protobuf", "slots[].filter.include": "[orders]", "slots[].filter.exclude": "[audit]",
	"slots[].filter.predicate": "tenant == 'acme'", "slots[].initial_sync": "true", "slots[].snapshot": "s-1", "slots[].replicate_ddl": "true",
	"slots[].source_version": "v1.5", "slots[].target_version": "v1.6", "Config.transform": "mask", "parallel_decoding": "false",
	"BidiConfig.local_node_id": "us-west-1", "BidiConfig.remote_node_id": "us-east-1", "BidiConfig.remote_endpoint": "us-east-1.example.com:7000",
	"BidiConfig.default_strategy": "LAST_WRITE_WINS", "BidiConfig.collection_strategies": "{critical_data: CUSTOM}", "BidiConfig.track_origin": "true",
	"BidiConfig.replicate_foreign_changes": "false", "BidiConfig.sync_interval_ms": "1000", "BidiConfig.bidirectional_sync": "true",
	"GeoConfig.local_region": "eu", "GeoConfig.regions": "[eu, us]", "GeoConfig.replication_factor": "3", "GeoConfig.local_replicas": "2", "GeoConfig.global_replicas": "1",
	"GeoConfig.default_consistency": "SESSION", "GeoConfig.max_staleness_ms": "5s", "GeoConfig.session_token_ttl_ms": "30000",
	"TierConfig.tier": "1", "TierConfig.replica_count": "3", "TierConfig.mode": "SYNC", "TierConfig.max_latency_ms": "10", "TierConfig.min_availability_percent": "99.99",
	"ArchivalConfig.storage_type": "gcs", "ArchivalConfig.bucket_name": "themisdb-wal-archive", "ArchivalConfig.prefix": "prod-cluster/",
	"ArchivalConfig.archive_after_segments": "50", "ArchivalConfig.local_retention_segments": "10", "ArchivalConfig.compress_before_upload": "true",
	"ArchivalConfig.encrypt_at_rest": "true", "ArchivalConfig.transition_to_cold_after_days": "30", "ArchivalConfig.delete_after_days": "365",
	"cdc.max_queue_depth": "1000", "CrossShardTransactionConfig.protocol": "TWO_PHASE_COMMIT", "CrossShardTransactionConfig.isolation_level": "SERIALIZABLE",
	"CrossShardTransactionConfig.timeout_ms": "5000", "slots[].slot_type": "physical", "slots[].temporary": "false",
	"restore.target_time": "2026-01-06T12:00:00Z", "restore.wal_archive_path": "/backup/wal-archive", "restore.recovery_mode": "pause",
	"transfer.chunk_size_mb": "100", "transfer.compression": "Snappy", "transfer.checksum": "XXH64",
}

func TestEveryDocumentedKeyIsKnown(t *testing.T) {
	for name, value := range annexA {
		k, ok := Lookup(name)
		if !ok {
			t.Errorf("%s is not in the table", name)
			continue
		}
		r := newReader()
		r.text(Key{Path: k.Path, Type: k.Type, Range: k.Range}, name, value, 1, "test")
		if len(r.faults) > 0 {
			t.Errorf("%s refuses its documented value %q: %v", name, value, r.faults)
		}
	}
}

func TestEveryRowIsWhole(t *testing.T) {
	names, envs, flags := map[string]string{}, map[string]string{}, map[string]string{}
	for _, k := range Keys() {
		if k.Type == "" || k.Meaning == "" || k.File == "" || k.Scope == "" || k.Apply == "" {
			t.Errorf("%s: a column is empty: %+v", k.Path, k)
		}
		if strings.ContainsAny(k.Meaning, "|\n") {
			t.Errorf("%s: the meaning would break the table", k.Path)
		}
		for _, n := range k.names() {
			if other, ok := names[n]; ok {
				t.Errorf("%s names %s and %s", n, other, k.Path)
			}
			names[n] = k.Path
			if known.sections[n] && k.Type != Objects {
				t.Errorf("%s is a key and a section", n)
			}
		}
		if k.Default != "" {
			if v, err := k.parseScalar(k.Default, "", true); err != nil {
				t.Errorf("%s: its own default is refused: %v", k.Path, err)
			} else if k.Type == Enum && show(v) != k.Default {
				t.Errorf("%s: default %q is spelled %v in the range", k.Path, k.Default, v)
			}
		}
		if lo, hi, _ := strings.Cut(k.Range, ".."); k.Type == Float && (lo == "" || hi == "") {
			t.Errorf("%s: a Float needs both ends: they keep NaN and infinity out", k.Path)
		}
		if !k.top() {
			continue
		}
		if other, ok := envs[k.Env()]; ok {
			t.Errorf("%s sets %s and %s", k.Env(), other, k.Path)
		}
		if other, ok := flags[k.Flag()]; ok {
			t.Errorf("--%s sets %s and %s", k.Flag(), other, k.Path)
		}
		envs[k.Env()], flags[k.Flag()] = k.Path, k.Path
		if k.Path != strings.ToLower(k.Path) {
			t.Errorf("%s: paths are lower-case", k.Path)
		}
	}
	for env, path := range map[string]string{"THEMIS_METRICS_ENABLED": "metrics.enabled", "THEMIS_METRICS_PORT": "metrics.port"} { // Annex A8
		if envs[env] != path {
			t.Errorf("%s sets %q, want %s", env, envs[env], path)
		}
	}
}

// TestStructHasEveryServedKey: the way back, served keys without a field, is an error of UnmarshalExact in every Load.
func TestStructHasEveryServedKey(t *testing.T) {
	var walk func(prefix string, typ reflect.Type)
	walk = func(prefix string, typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			if !f.IsExported() {
				continue
			}
			path := prefix + f.Tag.Get("mapstructure")
			ft := f.Type
			if ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct {
				path, ft = path+"[]", ft.Elem()
			}
			if ft.Kind() == reflect.Struct {
				walk(path+".", ft)
				continue
			}
			if k, ok := Lookup(path); !ok || k.Path != path || !k.Served() {
				t.Errorf("field %s.%s has the key %q, which is not a served key", typ.Name(), f.Name, path)
			}
		}
	}
	walk("", reflect.TypeFor[Config]())
}

func TestWant(t *testing.T) {
	for path, want := range map[string]string{
		"wal.segment_size_mb": "a whole number, 1 to 64", "wal.directories[].type": "one of primary, mirror", "node.grpc_listen": "host:port",
		"rebalance.hot_split.qps_threshold": "a whole number, at least 1", "wal.linger_us": "a whole number, -1 to 10000",
	} {
		if k, _ := Lookup(path); k.Want() != want {
			t.Errorf("%s: %q, want %q", path, k.Want(), want)
		}
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	const file = "../../docs/reference/config.md"
	want := Reference()
	if *rewrite {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || string(got) != want {
		t.Errorf("%s is not what the table says (%v): go test ./pkg/config -run Reference -rewrite", file, err)
	}
	for _, k := range Keys() {
		if !strings.Contains(want, "| `"+k.Path+"` |") {
			t.Errorf("%s is not in the reference", k.Path)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"mode", "mode", 0}, {"mdoe", "mode", 1}, {"mod", "mode", 1}, {"moode", "mode", 1}, {"made", "mode", 1}, {"wal", "log", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// A key that the reference calls served is one that the program acts on: its field is read somewhere, written as Section.Field.
func TestWhatIsServedIsActedOn(t *testing.T) {
	here := map[string]string{ // read in this package, or with one value that is served
		"Node.DevelopmentMode":          "checks allow by it what must not be in production",
		"Metrics.Port":                  "becomes the port of Node.MetricsListen",
		"Replication.WriteConcern":      "Replication.Concern",
		"Sharding.Strategy":             "hash is the one that is served; another is a warning",
		"WAL.Fsync":                     "false is refused",
		"Cluster.Name":                  "fixed when the cluster was made: apply-config refuses another",
		"Cluster.Mode":                  "fixed",
		"Sharding.VirtualNodes":         "fixed",
		"Sharding.Cluster.ActiveShards": "fixed",
		"Replication.Mode":              "fixed",
		"Replication.MinSyncReplicas":   "fixed",
		"Replication.ReplicationFactor": "fixed",
		"Replication.SyncShards":        "fixed",
		"Replication.AsyncShards":       "fixed",
	}
	var files []string
	for _, dir := range []string{"../../pkg", "../../cmd", "../../tui"} {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "../../pkg/config/") {
				return err
			}
			b, err := os.ReadFile(path)
			files = append(files, string(b))
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	isRead := func(name string) bool { // as x.Section.Field, or as s.Field where s is x.Section
		dot := strings.LastIndexByte(name, '.')
		section, field := regexp.QuoteMeta(name[:dot]), regexp.QuoteMeta(name[dot:])
		whole := regexp.MustCompile(`\.` + section + field + `\b`)
		alias := regexp.MustCompile(`(\w+)(?:, \w+)? := [\w.()]+\.` + section + `\b[^.]`)
		return slices.ContainsFunc(files, func(text string) bool {
			if !strings.Contains(text, name[dot:]) {
				return false
			}
			if whole.MatchString(text) {
				return true
			}
			return slices.ContainsFunc(alias.FindAllStringSubmatch(text, -1), func(m []string) bool {
				return regexp.MustCompile(`\b` + m[1] + field + `\b`).MatchString(text)
			})
		})
	}
	seen := 0
	var look func(typ reflect.Type, path string)
	look = func(typ reflect.Type, path string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := strings.TrimPrefix(path+"."+f.Name, ".")
			switch {
			case !f.IsExported():
			case f.Type.Kind() == reflect.Struct:
				look(f.Type, name)
			default:
				seen++
				read := isRead(name)
				if _, excused := here[name]; read == excused {
					t.Errorf("%s: read elsewhere: %v, excused: %v", name, read, excused)
				}
			}
		}
	}
	look(reflect.TypeFor[Config](), "")
	if seen < 40 {
		t.Errorf("only %d fields were looked at", seen)
	}
}
