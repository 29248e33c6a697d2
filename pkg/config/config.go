// Package config turns files, environment and flags into checked values. It knows every key there is (Keys), and takes no
// other: an unknown key is an error that names file, line, key and the nearest known one. All faults are found at once, and
// a configuration with a fault gives no values at all.
//
//	default  <  file (later files over earlier)  <  THEMIS_*  <  flag  <  applied to the cluster (cluster-wide keys only)
//
// Load takes bytes and maps, never a path: nothing here opens a file or asks the environment. Values are safe to share.
// Durations are written in milliseconds or as 10ms; sizes carry their unit in the key. Some settings have several names,
// where the sources of the product used several: pki.cert is also sharding.communication.rpc.mtls.cert_path. Both are
// accepted, and must agree where both are set in one place.
package config

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/viper"

	"github.com/themisdb/themis/pkg/themis"
)

// Source is a file's name, as faults will call it, and its content.
type Source struct {
	Name string
	Data []byte
}

// Config is what the code uses, grouped as the keys are. A field's key is the path of the mapstructure tags.
type Config struct {
	Node        Node        `mapstructure:"node"`
	Cluster     Cluster     `mapstructure:"cluster"`
	Control     Control     `mapstructure:"control"`
	Sharding    Sharding    `mapstructure:"sharding"`
	Replication Replication `mapstructure:"replication"`
	Failover    Failover    `mapstructure:"failover"`
	WAL         WAL         `mapstructure:"wal"`
	Store       Store       `mapstructure:"store"`
	RPC         RPC         `mapstructure:"rpc"`
	HTTP        HTTP        `mapstructure:"http"`
	Metrics     Metrics     `mapstructure:"metrics"`
	PKI         PKI         `mapstructure:"pki"`
	Log         Log         `mapstructure:"log"`

	cells    map[string]cell
	own      map[string]cell // cells without what was applied to the cluster
	warnings []Fault
}

// Node is who and where this node is.
type Node struct {
	ID               themis.NodeID `mapstructure:"id"`
	Role             string        `mapstructure:"role"` // active, hot_spare, controller
	DataDir          string        `mapstructure:"data_dir"`
	DiskReserveMB    int           `mapstructure:"disk_reserve_mb"`
	DiskBallastMB    int           `mapstructure:"disk_ballast_mb"`
	Region           string        `mapstructure:"region"`
	Datacenter       string        `mapstructure:"datacenter"`
	Rack             string        `mapstructure:"rack"`
	GRPCListen       string        `mapstructure:"grpc_listen"`
	HTTPListen       string        `mapstructure:"http_listen"`
	MetricsListen    string        `mapstructure:"metrics_listen"`
	AdvertiseGRPC    string        `mapstructure:"advertise_grpc"`
	AdvertiseHTTP    string        `mapstructure:"advertise_http"`
	AdvertiseMetrics string        `mapstructure:"advertise_metrics"`
	DevelopmentMode  bool          `mapstructure:"development_mode"`
}

// Cluster is what was fixed when the cluster was made.
type Cluster struct {
	Name string `mapstructure:"name"`
	Mode string `mapstructure:"mode"` // NONE, MIRROR, …
}

// Control is the control plane's etcd.
type Control struct {
	Mode         string        `mapstructure:"mode"`      // embedded, external
	Endpoints    []string      `mapstructure:"endpoints"` // this and the next six: of an external etcd
	CA           string        `mapstructure:"ca"`
	Cert         string        `mapstructure:"cert"`
	Key          string        `mapstructure:"key"`
	ServerName   string        `mapstructure:"server_name"`
	Username     string        `mapstructure:"username"`
	PasswordFile string        `mapstructure:"password_file"`
	PeerListen   string        `mapstructure:"peer_listen"`
	ClientListen string        `mapstructure:"client_listen"`
	Tick         time.Duration `mapstructure:"tick_ms"`
	Election     time.Duration `mapstructure:"election_ms"`
	QuotaBytes   themis.Bytes  `mapstructure:"quota_bytes"`
	LeaseTTL     time.Duration `mapstructure:"lease_ttl_ms"`
}

// Sharding is the first placement.
type Sharding struct {
	Strategy     string `mapstructure:"strategy"` // hash
	VirtualNodes int    `mapstructure:"virtual_nodes"`
	Cluster      struct {
		ActiveShards int `mapstructure:"active_shards"`
	} `mapstructure:"cluster"`
}

// Replication is when a write is acknowledged.
type Replication struct {
	Mode              themis.Mode      `mapstructure:"mode"`
	MinSyncReplicas   int              `mapstructure:"min_sync_replicas"`  // followers, without the primary
	ReplicationFactor int              `mapstructure:"replication_factor"` // copies, with the primary
	WriteConcern      string           `mapstructure:"write_concern"`      // see Concern
	Timeout           time.Duration    `mapstructure:"timeout_ms"`
	SyncShards        []themis.ShardID `mapstructure:"synchronous_shards"`
	AsyncShards       []themis.ShardID `mapstructure:"asynchronous_shards"`
}

// Concern is what requests ask for that don't say.
func (r Replication) Concern() themis.WriteConcern {
	if r.WriteConcern == "DEFAULT" {
		return themis.ConcernDefault
	}
	return themis.WriteConcern(strings.ToLower(r.WriteConcern))
}

// Failover is how a dead node is noticed.
type Failover struct {
	ProbeInterval    time.Duration `mapstructure:"probe_interval_ms"`
	RetryInterval    time.Duration `mapstructure:"retry_interval_ms"`
	FailureThreshold int           `mapstructure:"failure_threshold"`
	FailedAfterMin   time.Duration `mapstructure:"failed_after_min_ms"`
	FailedAfterMax   time.Duration `mapstructure:"failed_after_max_ms"`
}

// WAL is the log on disk.
type WAL struct {
	SegmentMB    int  `mapstructure:"segment_size_mb"`
	BatchKB      int  `mapstructure:"batch_size_kb"`
	LingerUs     int  `mapstructure:"linger_us"` // -1: never
	KeepSegments int  `mapstructure:"keep_segments"`
	Fsync        bool `mapstructure:"fsync"` // always true
}

// Store is the memory of the document store.
type Store struct {
	CacheMB    int `mapstructure:"cache_mb"`
	MemtableMB int `mapstructure:"memtable_mb"`
}

// RPC is the connections between nodes.
type RPC struct {
	ConnectionTimeout time.Duration `mapstructure:"connection_timeout_ms"`
	RequestTimeout    time.Duration `mapstructure:"request_timeout_ms"`
}

// HTTP is the REST face.
type HTTP struct {
	PlainLoopback string `mapstructure:"plain_loopback"` // off, status, full
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	Enabled bool `mapstructure:"enabled"`
	Port    int  `mapstructure:"port"` // the port of Node.MetricsListen
}

// PKI is where this node's certificate lies.
type PKI struct {
	Cert           string `mapstructure:"cert"`
	Key            string `mapstructure:"key"`
	CA             string `mapstructure:"ca"`
	CRL            string `mapstructure:"crl"`
	IssuerKey      string `mapstructure:"issuer_key"` // of the CA in CA; only on a node that is to sign newcomers' certificates
	VerifyPeer     bool   `mapstructure:"verify_peer"`
	VerifyHostname bool   `mapstructure:"verify_hostname"`
}

// Log is what is logged.
type Log struct {
	Level  string `mapstructure:"level"`  // debug, info, warn, error
	Format string `mapstructure:"format"` // text, json
}

// Load reads files, then THEMIS_* variables, then flags; each goes over what came before. Flags are named as Key.Flag or by
// the key's path. An empty variable counts as not set; a THEMIS_ variable that belongs to no key is a warning, not an error.
// The error is INVALID_ARGUMENT and joins every Fault, each with file, line and key.
func Load(files []Source, env, flags map[string]string) (Config, error) {
	r := newReader()
	for i, s := range files {
		r.file(s, layer(i+1))
	}
	r.env(env)
	r.flags(flags)
	return r.finish()
}

// With lays the configuration that was applied to the cluster over c. values are cluster-wide keys and values as
// Config.Applied gives them, and replace those of an earlier With; any other key is an error.
func (c Config) With(values map[string]string) (Config, error) {
	r := newReader()
	maps.Copy(r.cells, c.own)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		k, ok := known.find(name)
		switch {
		case !ok || !k.top():
			r.unknown("cluster", name, false)
		case k.Scope != ClusterWide:
			r.fault("cluster", name, "belongs to each node, not to the cluster")
		default:
			r.text(k, name, values[name], layerApplied, "cluster")
		}
	}
	next, err := r.finish()
	next.own = c.own
	return next, err
}

// Environ makes a map of the lines "NAME=value" that a process is given.
func Environ(lines []string) map[string]string {
	out := map[string]string{}
	for _, l := range lines {
		if name, value, ok := strings.Cut(l, "="); ok && strings.HasPrefix(name, "THEMIS_") {
			out[name] = value
		}
	}
	return out
}

// otherEnv are THEMIS_ variables that belong to no key: the flags of the tools that find a cluster, and switches of tests.
var otherEnv = []string{"THEMIS_PLAYGROUND", "THEMIS_CONTEXT", "THEMIS_ENDPOINT", "THEMIS_CACERT", "THEMIS_CERT", "THEMIS_KEY", "THEMIS_CONFIG",
	"THEMIS_OUTPUT", "THEMIS_TIMEOUT", "THEMIS_RUN_PERF_TESTS"}

func (r *reader) env(env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		text := env[name]
		i, ok := known.byEnv[name]
		switch {
		case ok && text != "":
			r.text(known.keys[i], known.keys[i].Path, text, layerEnv, "env "+name)
		case !ok && strings.HasPrefix(name, "THEMIS_") && !slices.Contains(otherEnv, name):
			r.warn("env "+name, "", "sets nothing%s", didYouMean("", Nearest(name, maps.Keys(known.byEnv))))
		}
	}
}

func (r *reader) flags(flags map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		i, ok := known.byFlag[name]
		if !ok {
			i, ok = known.byName[name]
		}
		if !ok || !known.keys[i].top() {
			r.fault("flag --"+name, "", "unknown%s", didYouMean("--", Nearest(name, maps.Keys(known.byFlag))))
			continue
		}
		r.text(known.keys[i], known.keys[i].Path, flags[name], layerFlag, "flag --"+name)
	}
}

// finish checks across keys and makes the Config.
func (r *reader) finish() (Config, error) {
	r.derive()
	if !r.check() {
		return Config{}, r.err()
	}
	c := Config{cells: r.cells, own: r.cells, warnings: r.warnings}
	v := viper.NewWithOptions(viper.KeyDelimiter("::"))
	for _, k := range known.keys {
		if k.top() && k.Served() {
			v.Set(strings.ReplaceAll(k.Path, ".", "::"), typed(k, r.cells[k.Path].value))
		}
	}
	if err := v.UnmarshalExact(&c); err != nil {
		return Config{}, themis.Errorf(themis.Internal, "the table of keys and the Config struct differ: %w", err)
	}
	return c, nil
}

// typed is the value as the struct's field takes it: milliseconds become durations, objects nested maps.
func typed(k Key, v any) any {
	if ms, ok := v.(int64); ok && k.Type == Millis {
		return time.Duration(ms) * time.Millisecond
	}
	return plain(v)
}

// Warnings are what the operator should know although it isn't wrong.
func (c Config) Warnings() []Fault { return slices.Clone(c.warnings) }

// Value is one setting as `config show` prints it.
type Value struct {
	Key     string `json:"key"`
	Value   string `json:"value"` // lists as JSON; empty: not set
	From    string `json:"from"`  // "default", "file cluster.yaml:12", "env THEMIS_X", "flag --x", "cluster"
	Scope   Scope  `json:"scope"`
	Served  bool   `json:"served"`
	Meaning string `json:"meaning"`
}

// Values lists every setting in the order of the table.
func (c Config) Values() []Value {
	var out []Value
	for _, k := range known.keys {
		if k.top() {
			cell := c.cells[k.Path]
			out = append(out, Value{k.Path, show(cell.value), cell.from, k.Scope, k.Served(), k.Meaning})
		}
	}
	return out
}

// Applied are the cluster-wide values that were set and may be changed while there is a cluster, by path: what apply-config stores, and
// With reads.
func (c Config) Applied() map[string]string {
	out := map[string]string{}
	for _, k := range known.keys {
		if cell := c.cells[k.Path]; k.top() && k.Scope == ClusterWide && k.Apply != AtInit && cell.layer != layerDefault {
			out[k.Path] = show(cell.value)
		}
	}
	return out
}

// Founding lists the values that were set of those that are fixed when a cluster is made, in the order of the table.
func (c Config) Founding() []Value {
	return slices.DeleteFunc(c.Values(), func(v Value) bool {
		k, _ := known.find(v.Key)
		return k.Apply != AtInit || c.cells[v.Key].layer == layerDefault
	})
}

// CheckNode says what a node needs to start and c doesn't have, or nil.
func (c Config) CheckNode() error {
	r := reader{}
	need := func(path, value string) {
		if value == "" {
			k, _ := known.find(path)
			r.fault("", path, "is needed to start a node: --%s, %s or the file", k.Flag(), k.Env())
		}
	}
	need("node.id", string(c.Node.ID))
	need("node.data_dir", c.Node.DataDir)
	need("pki.cert", c.PKI.Cert)
	need("pki.key", c.PKI.Key)
	need("pki.ca", c.PKI.CA)
	return r.err()
}
