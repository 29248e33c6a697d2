package health

import (
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Status is the cluster in one word.
type Status string

// The statuses.
const (
	Healthy  Status = "HEALTHY"
	Degraded Status = "DEGRADED"
	Critical Status = "CRITICAL"
)

// ShardState is a shard in one word.
type ShardState string

// The states of a shard.
const (
	ShardOK          ShardState = "OK"
	ShardDegraded    ShardState = "DEGRADED"    // serves, or may serve, with less than it should have
	ShardUnavailable ShardState = "UNAVAILABLE" // surely serves no reads
)

// Report is the state of the cluster: the JSON of `cluster health -o json` and GET /cluster/health. It only grows.
type Report struct {
	Status         Status          `json:"status"`
	Cluster        string          `json:"cluster"`
	Time           time.Time       `json:"time"`
	Revision       themis.Revision `json:"revision"`
	ConfigVersion  uint64          `json:"config_version"`
	RoutingVersion *uint64         `json:"routing_version"` // null: no routing table
	Control        ControlReport   `json:"control"`
	Nodes          []NodeReport    `json:"nodes"`    // by id
	Shards         []ShardReport   `json:"shards"`   // by number
	Findings       []Finding       `json:"findings"` // the worst first
}

// ControlReport is the control plane.
type ControlReport struct {
	Mode       string          `json:"mode"`
	Leader     themis.NodeID   `json:"leader"`     // empty: none, or not known
	Controller themis.NodeID   `json:"controller"` // who decides
	Quorum     *bool           `json:"quorum"`     // null: not known
	Members    []ControlMember `json:"members"`    // by node
}

// NodeReport is one node.
type NodeReport struct {
	ID            themis.NodeID    `json:"id"`
	Role          cluster.Role     `json:"role"`
	State         cluster.State    `json:"state"` // UP, SUSPECT, FAILED, DRAINING
	StorageID     themis.StorageID `json:"storage_id"`
	Version       string           `json:"version"`
	LastHeartbeat *int64           `json:"last_heartbeat_ms"` // age of its newest word; null: never heard
	DiskUsed      *float64         `json:"disk_used_ratio"`   // null: not known
	DiskFree      *themis.Bytes    `json:"disk_free_bytes"`   // null: not known
	Disk          string           `json:"disk"`              // names its file system on its machine: nodes of one share the room; empty: not known
	UptimeMs      *int64           `json:"uptime_ms"`
	GRPC          string           `json:"grpc_addr"`
	HTTP          string           `json:"http_addr"`
	Region        string           `json:"region"`
	Datacenter    string           `json:"datacenter"`
	Rack          string           `json:"rack"`
	Primaries     int              `json:"primaries"` // shards it leads
	Copies        int              `json:"copies"`    // shards it has a copy of
}

// ShardReport is one shard.
type ShardReport struct {
	ID         themis.ShardID  `json:"id"`
	State      ShardState      `json:"state"`
	Epoch      themis.Epoch    `json:"epoch"`
	Mode       themis.Mode     `json:"mode"` // in force; Want says what was asked for
	RF         int             `json:"replication_factor"`
	K          int             `json:"min_sync_replicas"`
	Want       *cluster.Policy `json:"want"`     // null: it is what is in force
	Readable   *bool           `json:"readable"` // null: its primary can't be asked
	Writable   *bool           `json:"writable"`
	CrashCost  CrashCost       `json:"crash_cost"`
	Primary    themis.NodeID   `json:"primary"` // empty: none
	ISR        []themis.NodeID `json:"isr"`     // by id
	Commit     *themis.Seq     `json:"commit"`
	Bytes      *themis.Bytes   `json:"bytes"`
	Documents  *int64          `json:"documents"`
	TokenShare *float64        `json:"token_share"`
	Queued     *int64          `json:"queued_writes"` // that wait for another copy
	Replicas   []ReplicaReport `json:"replicas"`      // the primary first, then by node
}

// CrashCost is what the loss of the primary at this moment would take of what it has acknowledged. 0 is a promise, null is not
// known.
type CrashCost struct {
	Entries *int64 `json:"entries"`
	Ms      *int64 `json:"ms"`
}

// ReplicaReport is one copy of a shard.
type ReplicaReport struct {
	Node          themis.NodeID    `json:"node"`
	Role          Copy             `json:"role"`
	StorageID     themis.StorageID `json:"storage_id"`
	State         cluster.State    `json:"state"`
	Since         *time.Time       `json:"since"`  // of a bad state, where it is known
	AgeMs         *int64           `json:"age_ms"` // of the figures below, or of the last word where they are null; null: never heard
	Joining       bool             `json:"joining"`
	Replaces      themis.NodeID    `json:"replaces,omitempty"`
	InSyncSet     bool             `json:"in_sync_set"`
	FailoverReady *bool            `json:"failover_ready"` // could be elected now without loss; null: not known
	Rebuild       *Rebuild         `json:"rebuild"`
	Seq           *themis.Seq      `json:"seq"`
	Applied       *themis.Seq      `json:"applied"`
	LSN           *themis.LSN      `json:"lsn"`
	LagEntries    *int64           `json:"lag_entries"`
	LagBytes      *int64           `json:"lag_bytes"`
	LagMs         *int64           `json:"lag_ms"`
	Why           string           `json:"why,omitempty"` // of a bad state
}

// Rebuild is how far a copy in the making is.
type Rebuild struct {
	Percent *float64      `json:"percent"` // 0 to 100
	Bytes   themis.Bytes  `json:"bytes"`   // copied
	Total   *themis.Bytes `json:"bytes_total"`
	ETAMs   *int64        `json:"eta_ms"`
}

// Severity is how soon somebody should look.
type Severity string

// The severities. info is advice and a consequence of choices; it never degrades the status.
const (
	Info       Severity = "info"
	Warning    Severity = "warning"
	CriticalSv Severity = "critical"
)

// Finding is one thing an operator should know.
type Finding struct {
	Code     Code           `json:"code"`
	Severity Severity       `json:"severity"`
	Subject  string         `json:"subject"` // cluster, control, node-1, shard-1, shard-1/node-2
	Title    string         `json:"title"`
	Since    *time.Time     `json:"since"` // null: not known
	Why      string         `json:"why"`
	Evidence map[string]any `json:"evidence"`
	Fix      string         `json:"fix"`
}

// Node finds a node's part.
func (r Report) Node(id themis.NodeID) (NodeReport, bool) {
	i := slices.IndexFunc(r.Nodes, func(n NodeReport) bool { return n.ID == id })
	if i < 0 {
		return NodeReport{}, false
	}
	return r.Nodes[i], true
}

// Shard finds a shard's part.
func (r Report) Shard(id themis.ShardID) (ShardReport, bool) {
	i := slices.IndexFunc(r.Shards, func(s ShardReport) bool { return s.ID == id })
	if i < 0 {
		return ShardReport{}, false
	}
	return r.Shards[i], true
}

// Replica finds the copy on a node.
func (s ShardReport) Replica(node themis.NodeID) (ReplicaReport, bool) {
	i := slices.IndexFunc(s.Replicas, func(r ReplicaReport) bool { return r.Node == node })
	if i < 0 {
		return ReplicaReport{}, false
	}
	return s.Replicas[i], true
}

// Find lists the findings with that code.
func (r Report) Find(code Code) []Finding {
	var out []Finding
	for _, f := range r.Findings {
		if f.Code == code {
			out = append(out, f)
		}
	}
	return out
}

// FailOn is from which status on a check counts as failed.
type FailOn string

// The bars of --fail-on.
const (
	FailOnDegraded FailOn = "degraded"
	FailOnCritical FailOn = "critical"
)

// ParseFailOn reads the flag; empty is degraded.
func ParseFailOn(s string) (FailOn, error) {
	switch f := FailOn(s); f {
	case "":
		return FailOnDegraded, nil
	case FailOnDegraded, FailOnCritical:
		return f, nil
	}
	return "", themis.Errorf(themis.InvalidArgument, "fail-on %q: want degraded or critical", s)
}

// unsure says that something that couldn't be asked may be worse than the status tells.
func (r Report) unsure() bool {
	return r.Status != Critical && (r.Control.Quorum == nil || slices.ContainsFunc(r.Shards, func(s ShardReport) bool { return s.Readable == nil }))
}

// Exit is the exit code of a health check: 0 fine, 1 the status is at the bar or past it, 3 it is below the bar but a shard or
// the control plane could not be asked, so that it may not be.
func (r Report) Exit(bar FailOn) int {
	switch {
	case r.Status == Critical, r.Status == Degraded && bar != FailOnCritical:
		return themis.ExitFailed
	case r.unsure():
		return themis.ExitInconclusive
	}
	return themis.ExitOK
}

// Nagios is the exit code in the style of monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
func (r Report) Nagios() int {
	switch {
	case r.Status == Critical:
		return 2
	case r.unsure():
		return 3
	case r.Status == Degraded:
		return 1
	}
	return 0
}
