// Package health makes the one report that every face shows: the CLI's table and JSON, the terminal dashboard, the web page,
// the doctor and the alerts only draw it.
//
//	cluster.View ────────────┐
//	what each node knows ────┼─► Build ─► Report: status, nodes, shards with their replicas, findings
//	what control members say ┘
//
// The rules:
//
//   - Nothing is guessed. A number that isn't known is null, never 0, and age_ms says how old the last word of it is. A state
//     that isn't known is UNKNOWN, and whether a shard serves is null while its primary can't be asked.
//   - Every finding has a code from the one table (Table), its why in words with numbers, the evidence those words were made
//     from, and a fix that is a command to type.
//   - The same input gives the same report, byte by byte; lists are sorted.
//
// status is CRITICAL when a shard has no primary that serves reads or the control plane has no quorum, DEGRADED when anything
// that belongs to full redundancy and service is missing, else HEALTHY. Findings that don't degrade (a disk that fills, a
// certificate near its end, advice) stand in the list and leave the status alone.
//
// Sizes are bytes, durations milliseconds, ratios 0 to 1. Nothing here reads a clock or touches the world.
package health

import (
	"fmt"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// NodeState is what one node knows by itself. The admin service answers it as JSON; readers ignore fields they don't know.
type NodeState struct {
	Node        themis.NodeID     `json:"node"`
	Storage     themis.StorageID  `json:"storage_id"`
	Boot        themis.BootID     `json:"boot_id"`
	Version     string            `json:"version"`
	Role        cluster.Role      `json:"role"`
	Pid         int               `json:"pid"`
	UptimeMs    int64             `json:"uptime_ms"`
	Stopping    bool              `json:"stopping,omitempty"` // it was told to stop
	DiskUsed    *float64          `json:"disk_used_ratio"`    // null when it can't be read
	DiskFree    *themis.Bytes     `json:"disk_free_bytes"`
	Disk        string            `json:"disk"`                // names its file system on its machine; empty: not known
	DiskFull    *DiskFull         `json:"disk_full,omitempty"` // nil: it is not
	DiskSlow    *DiskSlow         `json:"disk_slow,omitempty"` // nil: it is not, or nothing is written
	DiskAge     *DiskAgeStands    `json:"disk_age,omitempty"`  // nil: it is counted on
	CertExpires *time.Time        `json:"cert_expires"`
	PlainHTTP   string            `json:"plain_http"`        // off, status, full
	Replicas    []LocalReplica    `json:"replicas"`          // by shard
	Unused      []UnusedCopy      `json:"unused,omitempty"`  // copies on its disk that the map doesn't name, by shard
	Control     *LocalControl     `json:"control"`           // null: not a control member
	Warnings    []string          `json:"warnings"`          // of the configuration, in words
	Holding     map[string]string `json:"holding,omitempty"` // on the controller: by subject, why it holds back

	// Heard is, on the controller and on one that was, how many milliseconds ago each other node answered it last.
	Heard map[themis.NodeID]int64 `json:"heard_ms,omitempty"`

	Controller *ControllerHeard `json:"controller_heard"` // null: its heartbeat never came here
}

// UnusedCopy is the directory of a copy that was replaced. It is removed once nothing speaks against it.
type UnusedCopy struct {
	Shard themis.ShardID `json:"shard"`
	Bytes themis.Bytes   `json:"bytes"`
	Since time.Time      `json:"since"` // when it was first known to be unused
	Kept  string         `json:"kept"`  // why it is still there
}

// ControllerHeard is when the controller's heartbeat came last.
type ControllerHeard struct {
	Term  themis.Term `json:"term"`
	AgeMs int64       `json:"age_ms"`
}

// DiskFull is a disk without the room that is kept free on it.
type DiskFull struct {
	Dir     string       `json:"dir"`
	Free    themis.Bytes `json:"free_bytes"`
	Reserve themis.Bytes `json:"reserve_bytes"`
	Since   time.Time    `json:"since"`
}

func (d DiskFull) String() string {
	return fmt.Sprintf("%d bytes are free at %s, %d are kept: client writes are refused", d.Free, d.Dir, d.Reserve)
}

// DiskSlow is a disk that takes long to make a write durable.
type DiskSlow struct {
	Dir    string `json:"dir"`
	SyncMs int64  `json:"sync_ms"` // the median of the newest syncs of logs
	Syncs  int    `json:"syncs"`   // how many those are
}

// DiskAgeStands is a disk whose age has not been counted on for a while, on it and in the control plane.
type DiskAgeStands struct {
	Dir   string    `json:"dir"`
	Since time.Time `json:"since"` // when it last was
	Why   string    `json:"why"`
}

// Copy is what a copy of a shard is for at this moment.
type Copy string

// The roles of a copy.
const (
	Primary Copy = "PRIMARY"
	Replica Copy = "REPLICA"
	Spare   Copy = "SPARE"
)

// LocalReplica is one copy as its own node sees it.
type LocalReplica struct {
	Shard     themis.ShardID   `json:"shard"`
	Storage   themis.StorageID `json:"storage_id"`
	Role      Copy             `json:"role"`
	State     cluster.State    `json:"state"`      // empty: the primary knows better
	Epoch     themis.Epoch     `json:"epoch"`      // the highest this copy has promised or seen
	Seq       themis.Seq       `json:"seq"`        // the last on its disk
	LastEpoch themis.Epoch     `json:"last_epoch"` // of that entry
	Applied   themis.Seq       `json:"applied"`
	Commit    themis.Seq       `json:"commit"`
	LSN       themis.LSN       `json:"lsn"` // behind the last entry on its disk
	Bytes     *themis.Bytes    `json:"bytes"`
	Documents *int64           `json:"documents"`

	Blank  string `json:"blank_reason,omitempty"`  // why it neither votes nor acknowledges until it is resynced
	Broken string `json:"broken_reason,omitempty"` // why it stopped for good: a failed fsync, a damaged entry

	Damage string `json:"log_damage,omitempty"` // what was found wrong in its log, while it is served all the same

	Resigned themis.Epoch `json:"resigned_epoch,omitempty"` // the reign that the record gives it, where that is over or can't begin; 0: none

	Followers  []Follower `json:"followers"`             // as primary: every other copy, by node
	NotServing string     `json:"not_serving,omitempty"` // as primary: why it answers no reads yet (barrier, lease wait); empty: it does
	ReadOnly   string     `json:"read_only,omitempty"`   // as primary: why it takes no writes although enough copies are there (disk full)
	Stalled    *Stall     `json:"stalled"`               // as primary: no write is begun until another copy is there; null: they are
	Waiting    int        `json:"waiting_writes"`        // as primary: writes that wait for another copy, begun ones too

	Lineage []themis.EpochStart `json:"lineage,omitempty"` // as primary: where each epoch in its log began

	Rescued     int64    `json:"rescued_entries"` // acknowledged in a reign that ended, cut, and kept aside
	WALBytes    int64    `json:"wal_bytes"`
	WALSegments int      `json:"wal_segments"`
	CutTail     *CutTail `json:"cut_tail"` // what the last start cut off the log's end; null: nothing
}

// Follower is one copy as its primary sees it.
type Follower struct {
	cluster.Member
	State      cluster.State `json:"state"`
	Connected  bool          `json:"connected"`
	Seq        *themis.Seq   `json:"seq"` // durable there, as it last acknowledged; null: not heard in this reign
	Applied    *themis.Seq   `json:"applied"`
	LSN        *themis.LSN   `json:"lsn"`
	LagEntries *int64        `json:"lag_entries"`
	LagBytes   *int64        `json:"lag_bytes"`
	LagMs      *int64        `json:"lag_ms"`     // how long it has lacked its oldest missing entry; 0: it lacks none
	AckAgeMs   *int64        `json:"ack_age_ms"` // since its last ack or heartbeat
	Install    *Install      `json:"install"`    // a snapshot on its way there; null: none
	Error      string        `json:"error,omitempty"`
}

// Install is a copy being made.
type Install struct {
	Done  themis.Bytes  `json:"bytes_done"`
	Total *themis.Bytes `json:"bytes_total"` // null: not known yet
	ETAMs *int64        `json:"eta_ms"`
	Since time.Time     `json:"since"`
}

// Stall is writes that wait because too few copies are in sync.
type Stall struct {
	Since  time.Time `json:"since"`
	Queued int       `json:"queued"`
	Waits  string    `json:"waits_for"` // in words
}

// CutTail is what was cut off the end of a log when it was opened.
type CutTail struct {
	At      time.Time    `json:"at"`
	From    themis.Seq   `json:"from_seq"` // the first that is gone
	Entries int64        `json:"entries"`  // whole entries that were cut; 0: only torn bytes
	Bytes   themis.Bytes `json:"bytes"`
	Why     string       `json:"why"`
}

// LocalControl is a control member as its own node sees it.
type LocalControl struct {
	Leader    bool          `json:"leader"`
	LeaderID  themis.NodeID `json:"leader_node"` // empty: none known
	Learner   bool          `json:"learner"`
	HasQuorum bool          `json:"has_quorum"`
	Revision  int64         `json:"revision"`
	DBBytes   int64         `json:"db_bytes"`
}

// Replica is the node's word on its copy on that very disk; nil: it has none open.
func (s *NodeState) Replica(m cluster.Member, shard themis.ShardID) *LocalReplica {
	for i := range s.Replicas {
		if l := &s.Replicas[i]; l.Shard == shard && (l.Storage == m.Storage || l.Storage == "" && s.Storage == m.Storage) {
			return l
		}
	}
	return nil
}

// Observed is the newest word of one node.
type Observed struct {
	State   *NodeState // nil: it never answered
	At      time.Time  // when State was true; zero: never
	Err     string     // why the newest question got no answer; empty: it did, or none was asked
	Since   time.Time  // with Err: the first question in a row that got none
	Refused bool       // with Err: nobody listens at its address, so that no process of it runs
}

// ControlState is what is known of the control plane.
type ControlState struct {
	Mode    string // embedded, external
	Leader  themis.NodeID
	Members []ControlMember
	Quorum  *bool             // nil: could not be asked
	Since   time.Time         // with Quorum false: since when, as far as it was seen
	NotDone map[string]string // by subject (shard-1): why the controller holds back
}

// ControlMember is one member of the control plane.
type ControlMember struct {
	Node  themis.NodeID `json:"node"`
	State string        `json:"state"` // voter, learner, down
}

// The states of a control member.
const (
	Voter   = "voter"
	Learner = "learner"
	Down    = "down"
)
