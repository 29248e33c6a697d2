package config

import (
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

const (
	fileNode     = "themisd.yaml"
	fileSharding = "sharding.yaml"
	fileRouter   = "sharding/shard-router.yaml"
	fileRange    = "sharding/range-sharding.yaml"
	fileCluster  = "sharding/cluster.yaml"
	fileWAL      = "storage/wal.yaml"
)

// in fills what all rows of one table share. A row that says otherwise keeps its own.
func in(file string, scope Scope, apply Apply, rows ...Key) []Key {
	for i := range rows {
		k := &rows[i]
		if k.File == "" {
			k.File = file
		}
		if k.Scope == "" {
			k.Scope = scope
		}
		if k.Apply == "" {
			k.Apply = apply
		}
	}
	return rows
}

const mtls = "sharding.communication.rpc.mtls."

var nodeKeys = in(fileNode, NodeLocal, AtRestart,
	Key{Path: "node.id", Type: Name, Meaning: "name of this node; its certificate carries it"},
	Key{Path: "node.role", Type: Enum, Default: "active", Range: "active|hot_spare|controller", Meaning: "what the node is for; a controller keeps control-plane state only"},
	Key{Path: "node.data_dir", Type: Path, Meaning: "directory of all that the node keeps"},
	Key{Path: "node.disk_reserve_mb", Type: Int, Default: "256", Range: "16..1048576", Meaning: "room kept free on the disk of the data directory, in MiB, at most an eighth of it: with less the node takes no client writes"},
	Key{Path: "node.disk_ballast_mb", Type: Int, Default: "32", Range: "0..65536", Meaning: "size of a file that only holds room, in MiB, at most a 32nd of the disk: it is given up piece by piece to what must go on when the disk is full, such as the control plane"},
	Key{Path: "node.region", Type: Text, Meaning: "region, for placing replicas apart"},
	Key{Path: "node.datacenter", Type: Text, Meaning: "datacenter, for placing replicas apart"},
	Key{Path: "node.rack", Type: Text, Meaning: "rack, for placing replicas apart"},
	Key{Path: "node.grpc_listen", Type: Addr, Default: ":50051", Aliases: []string{"sharding.communication.rpc.listen_address"}, Meaning: "all gRPC services: inter-shard, admin, data"},
	Key{Path: "node.http_listen", Type: Addr, Default: ":8765", Meaning: "REST, status and dashboard"},
	Key{Path: "node.metrics_listen", Type: Addr, Default: ":9090", Meaning: "metrics for Prometheus"},
	Key{Path: "node.advertise_grpc", Type: Addr, Meaning: "address under which others reach gRPC; empty: the one listened on"},
	Key{Path: "node.advertise_http", Type: Addr, Meaning: "address under which others reach HTTP; empty: the one listened on"},
	Key{Path: "node.advertise_metrics", Type: Addr, Meaning: "address under which others reach metrics; empty: the one listened on"},
	Key{Path: "node.development_mode", Type: Bool, Default: "false", Meaning: "allows what must not be in production, such as traffic without TLS; a warning stays visible"},
	Key{Path: "control.mode", Type: Enum, Default: "embedded", Range: "embedded|external", Meaning: "where the control plane's etcd runs: in themisd, or in a cluster of its own"},
	Key{Path: "control.endpoints", Type: Texts, Meaning: "external etcd: its client addresses, https://host:port or host:port; http:// on loopback, elsewhere only with node.development_mode"},
	Key{Path: "control.ca", Type: Path, Apply: Live, Meaning: "external etcd: CA of its certificates (PEM); empty: pki.ca"},
	Key{Path: "control.cert", Type: Path, Apply: Live, Meaning: "external etcd: certificate that this node shows it (PEM); empty: pki.cert"},
	Key{Path: "control.key", Type: Path, Apply: Live, Meaning: "external etcd: key of that certificate (PEM, mode 0600); empty: pki.key"},
	Key{Path: "control.server_name", Type: Text, Meaning: "external etcd: name that its certificates must carry; empty: the host of each endpoint"},
	Key{Path: "control.username", Type: Text, Meaning: "external etcd: user, where it asks for one"},
	Key{Path: "control.password_file", Type: Path, Apply: Live, Meaning: "external etcd: file with the user's password (mode 0600)"},
	Key{Path: "control.peer_listen", Type: Addr, Default: ":2380", Meaning: "embedded etcd: between its members"},
	Key{Path: "control.client_listen", Type: Addr, Default: ":2379", Meaning: "embedded etcd: for the other nodes"},
	Key{Path: "control.tick_ms", Type: Millis, Default: "100", Range: "10..1000", Meaning: "etcd heartbeat; 50 on a quiet LAN"},
	Key{Path: "control.election_ms", Type: Millis, Default: "1000", Range: "100..50000", Meaning: "etcd election timeout; at least 5 ticks"},
	Key{Path: "control.quota_bytes", Type: Int, Default: "2147483648", Range: "33554432..8589934592", Meaning: "size at which etcd refuses writes; alarm at half of it"},
	Key{Path: "control.lease_ttl_ms", Type: Millis, Default: "5000", Range: "2000..60000", Meaning: "life of a node's lease (the reign lease)"},
	Key{Path: "http.plain_loopback", Type: Enum, Default: "status", Range: "off|status|full", Meaning: "what HTTP without TLS may do on loopback: nothing, read the status, everything"},
	Key{Path: "metrics.enabled", Type: Bool, Default: "true", Meaning: "serve metrics"},
	Key{Path: "metrics.port", Type: Int, Range: "0..65535", Meaning: "port of node.metrics_listen; the two must agree where both are set in one place"},
	Key{Path: "pki.cert", Type: Path, Aliases: []string{mtls + "cert_path"}, Apply: Live, Meaning: "certificate of this node (PEM); read again when it changes"},
	Key{Path: "pki.key", Type: Path, Aliases: []string{mtls + "key_path"}, Apply: Live, Meaning: "key of the certificate (PEM, mode 0600); read again when it changes"},
	Key{Path: "pki.ca", Type: Path, Aliases: []string{mtls + "ca_cert_path"}, Apply: Live, Meaning: "root certificate of the cluster (PEM); read again when it changes"},
	Key{Path: "pki.crl", Type: Path, Aliases: []string{mtls + "crl_path"}, Apply: Live, Meaning: "revocation list (PEM); read again when it changes"},
	Key{Path: "pki.issuer_key", Type: Path, Meaning: "key of the CA in pki.ca (PEM, mode 0600): this node then signs certificates for one-time tokens (themis-cli node token create)"},
	Key{Path: "pki.enabled", Type: Bool, Default: "true", Aliases: []string{mtls + "enabled"}, Unready: true, Meaning: "mutual TLS; it is always on"},
	Key{Path: "pki.verify_peer", Type: Bool, Default: "true", Aliases: []string{mtls + "verify_peer"}, Meaning: "check the other side's chain"},
	Key{Path: "pki.verify_hostname", Type: Bool, Default: "true", Aliases: []string{mtls + "verify_hostname"}, Meaning: "check the other side's name"},
	Key{Path: "rpc.max_connections_per_shard", Type: Int, Default: "10", Range: "1..1000", Aliases: []string{connection + "max_connections_per_shard"}, Unready: true, Meaning: "most connections to one shard"},
	Key{Path: "rpc.connection_timeout_ms", Type: Millis, Default: "5000", Range: "10..600000", Aliases: []string{connection + "connection_timeout_ms"}, Meaning: "limit for connecting"},
	Key{Path: "rpc.request_timeout_ms", Type: Millis, Default: "30000", Range: "10..3600000", Aliases: []string{connection + "request_timeout_ms"}, Meaning: "limit for one request"},
	Key{Path: "rpc.keepalive_time_ms", Type: Millis, Default: "60000", Range: "1000..3600000", Aliases: []string{connection + "keepalive_time_ms"}, Unready: true, Meaning: "ping an idle connection this often"},
	Key{Path: "store.cache_mb", Type: Int, Default: "64", Range: "1..1048576", Meaning: "block cache of the node, in MiB, shared by its shards"},
	Key{Path: "store.memtable_mb", Type: Int, Default: "32", Range: "1..1024", Meaning: "collected in memory for each shard before a table is written, in MiB"},
	Key{Path: "log.level", Type: Enum, Default: "info", Range: "debug|info|warn|error", Meaning: "least important line that is logged"},
	Key{Path: "log.format", Type: Enum, Default: "text", Range: "text|json", Meaning: "form of log lines"},
)

const connection = "sharding.communication.rpc.connection."

var clusterKeys = in(fileCluster, ClusterWide, Live,
	Key{Path: "cluster.name", Type: Text, Apply: AtInit, Meaning: "name of the cluster"},
	Key{Path: "cluster.mode", Type: Enum, Default: "MIRROR", Range: redundancy, Aliases: []string{"shard.replication.mode"}, Apply: AtInit, Meaning: "redundancy mode; NONE and MIRROR are served"},
	Key{Path: "shard.id", Type: Shard, Unready: true, Meaning: "the shard that the settings below shard. are for; they hold for all shards"},
	Key{Path: "shard.replication.sync_mode", Type: Enum, Default: "ASYNC_WAL", Range: "ASYNC_WAL", Unready: true, Meaning: "how a replica applies: after it has acknowledged the log entry"},
	Key{Path: "shard.replication.read_preference", Type: Enum, Default: "PRIMARY", Range: "PRIMARY|NEAREST", Unready: true, Meaning: "which copy answers reads"},
	Key{Path: "shard.replication.geo_regions", Type: Objects, Unready: true, Meaning: "places of the copies"},
	Key{Path: "shard.replication.geo_regions[].region", Type: Text, Required: true, Unready: true, Meaning: "region of a copy"},
	Key{Path: "shard.replication.geo_regions[].datacenter", Type: Text, Unready: true, Meaning: "datacenter of a copy"},
	Key{Path: "shard.stripe_width", Type: Int, Default: "4", Range: "1..64", Unready: true, Meaning: "STRIPE: shards that share a document"},
	Key{Path: "shard.chunk_size_kb", Type: Int, Default: "256", Range: "1..65536", Unready: true, Meaning: "STRIPE: size of a chunk, in KiB"},
	Key{Path: "shard.stripe_groups", Type: Objects, Unready: true, Meaning: "STRIPE_MIRROR: groups of shards"},
	Key{Path: "shard.stripe_groups[].group_id", Type: Int, Range: "1..", Required: true, Unready: true, Meaning: "number of the group"},
	Key{Path: "shard.stripe_groups[].shards", Type: Shards, Required: true, Unready: true, Meaning: "its shards"},
	Key{Path: "shard.stripe_groups[].replication_factor", Type: Int, Default: "2", Range: "1..7", Unready: true, Meaning: "its copies"},
	Key{Path: "shard.erasure_coding.data_shards", Type: Int, Default: "4", Range: "1..128", Unready: true, Meaning: "PARITY: pieces that carry data"},
	Key{Path: "shard.erasure_coding.parity_shards", Type: Int, Default: "2", Range: "1..128", Unready: true, Meaning: "PARITY: pieces that may be lost"},
	Key{Path: "shard.erasure_coding.algorithm", Type: Enum, Default: "reed_solomon", Range: "reed_solomon", Unready: true, Meaning: "PARITY: the code"},

	Key{Path: "sharding.cluster.active_shards", Type: Int, Default: "4", Range: "1..1024", Apply: AtInit, Meaning: "shards of a new cluster: shard-1 to shard-N"},
	Key{Path: "sharding.cluster.hot_spares", Type: Int, Default: "0", Range: "0..64", Apply: AtInit, Unready: true, Meaning: "spare nodes that a new cluster should have"},
	Key{Path: "sharding.hot_spare.enabled", Type: Bool, Default: "true", Unready: true, Meaning: "let spares take over"},
	Key{Path: "sharding.nodes", Type: Objects, Apply: AtInit, Unready: true, Meaning: "the nodes to begin with"},
	Key{Path: "sharding.nodes[].id", Type: Name, Required: true, Unready: true, Meaning: "name of the node"},
	Key{Path: "sharding.nodes[].host", Type: Text, Required: true, Unready: true, Meaning: "its host name or IP"},
	Key{Path: "sharding.nodes[].port", Type: Int, Default: "8765", Range: "1..65535", Unready: true, Meaning: "its HTTP port"},
	Key{Path: "sharding.nodes[].role", Type: Enum, Default: "active", Range: "active|hot_spare|controller", Unready: true, Meaning: "what it is for"},
	Key{Path: "sharding.nodes[].replicate_from", Type: Shard, Unready: true, Meaning: "the shard that a spare prefers to follow"},
	Key{Path: "monitoring.endpoints", Type: Objects, Unready: true, Meaning: "where the cluster is watched"},
	Key{Path: "monitoring.endpoints[].name", Type: Text, Required: true, Unready: true, Meaning: "what watches: prometheus, grafana"},
	Key{Path: "monitoring.endpoints[].url", Type: Text, Required: true, Unready: true, Meaning: "its address"},
	Key{Path: "network.rtt_threshold", Type: Millis, Default: "10", Range: "1..60000", Unready: true, Meaning: "a link is slow from this round trip on"},
	Key{Path: "network.adaptive_batching", Type: Bool, Default: "true", Unready: true, Meaning: "larger batches on slow links"},
	Key{Path: "network.compression", Type: Enum, Default: "lz4", Range: compressions, Unready: true, Meaning: "compression on slow links"},
)

const compressions = "none|lz4|zstd|snappy"

var redundancy = strings.Join(themis.Redundancies, "|")
