// Package cluster is the cluster map as values: nodes, shards and their in-sync sets, collections, events, and the states
// they pass through. It holds the only functions that turn one shard record into the next (crown, add to and remove from the
// in-sync set, replace a copy), so that every caller, the real controller, the tests and the simulator change records in the
// same way. Records are JSON with a format version and are decoded strictly. Nothing here reads a clock or touches the world.
package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Format is the format version of every record.
const Format = 1

// Encode writes a record.
func Encode(record any) ([]byte, error) {
	b, err := json.Marshal(record)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", record, err)
	}
	return b, nil
}

// Decode reads a record strictly: trailing bytes are an error, and so are unknown fields and another format version, which a newer
// version wrote: UNIMPLEMENTED, with a detail that begins with UPGRADE_NEEDED. Of a heartbeat, which is a hint and comes every second from
// whatever version its node runs, what this version knows is taken.
func Decode[T Record](b []byte) (T, error) {
	var r, known T
	err := decode(b, &r, true)
	if err == nil && r.format() == Format {
		return r, nil
	}
	if loose := decode(b, &known, false); loose != nil {
		return r, fmt.Errorf("decode %T: %w", r, loose)
	}
	if _, hint := any(known).(Alive); hint && known.format() == Format {
		return known, nil
	}
	if known.format() != Format {
		err = fmt.Errorf("format %d, this version knows %d", known.format(), Format)
	}
	return r, themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: decode %T: %w", r, err).Do("start a newer version")
}

func decode(b []byte, into any, strict bool) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if strict {
		d.DisallowUnknownFields()
	}
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("bytes behind the record")
	}
	return nil
}

// Record is one of the types below that begin with their format version.
type Record interface{ format() int }

// Meta is the record of the cluster itself; it never changes after `cluster init`.
type Meta struct {
	Format       int              `json:"format"`
	ID           themis.ClusterID `json:"id"`
	Name         string           `json:"name"`
	Redundancy   string           `json:"redundancy"`    // NONE or MIRROR
	VirtualNodes int              `json:"virtual_nodes"` // of each shard on the ring that made the first placement; 0: not recorded
	SessionKey   []byte           `json:"session_key"`   // signs session tokens
	Created      time.Time        `json:"created"`
}

// Role is what a node is for.
type Role string

// The roles. A controller node carries control-plane state only.
const (
	RoleActive     Role = "active"
	RoleHotSpare   Role = "hot_spare"
	RoleController Role = "controller"
)

// Node is the record of one member.
type Node struct {
	Format     int              `json:"format"`
	ID         themis.NodeID    `json:"id"`
	Storage    themis.StorageID `json:"storage_id"`
	Keys       [][]byte         `json:"keys"` // public keys (PKIX DER) that verify ballots: for a while the one before, then the newest
	KeyChanged time.Time        `json:"key_changed,omitzero"`
	GRPC       string           `json:"grpc_addr"`
	HTTP       string           `json:"http_addr"`
	Metrics    string           `json:"metrics_addr"`
	Control    *ControlMember   `json:"control,omitempty"` // where the node is a member of the embedded etcd
	Region     string           `json:"region,omitempty"`
	Datacenter string           `json:"datacenter,omitempty"`
	Rack       string           `json:"rack,omitempty"`
	Role       Role             `json:"role"`
	Draining   bool             `json:"draining,omitempty"`
	Joined     time.Time        `json:"joined"`

	Revision themis.Revision `json:"-"` // of the record in the control plane; every change compares it
}

// ControlMember is a node's part in the embedded etcd.
type ControlMember struct {
	Peer   string `json:"peer_url"`
	Client string `json:"client_url"`
	ID     uint64 `json:"member_id,omitempty"`
}

// Addresses are where a node is reached.
type Addresses struct {
	GRPC    string `json:"grpc"`
	HTTP    string `json:"http"`
	Metrics string `json:"metrics"`
	Peer    string `json:"control_peer_url"` // of the embedded etcd, where the node is or becomes a member of it
	Client  string `json:"control_client_url"`
}

// Addresses are those of the record.
func (n Node) Addresses() Addresses {
	a := Addresses{GRPC: n.GRPC, HTTP: n.HTTP, Metrics: n.Metrics}
	if n.Control != nil {
		a.Peer, a.Client = n.Control.Peer, n.Control.Client
	}
	return a
}

// MovedTo is the record with other addresses; false: it has them already. The caller has proof that the node is there.
func (n Node) MovedTo(a Addresses) (Node, bool) {
	if n.Control == nil {
		a.Peer, a.Client = "", ""
	}
	if a == n.Addresses() {
		return n, false
	}
	n.GRPC, n.HTTP, n.Metrics = a.GRPC, a.HTTP, a.Metrics
	if n.Control != nil {
		control := *n.Control
		control.Peer, control.Client = a.Peer, a.Client
		n.Control = &control
	}
	return n, true
}

// Member is one disk of one node: what ISR membership, ballots and acks are bound to.
type Member struct {
	Node    themis.NodeID    `json:"node"`
	Storage themis.StorageID `json:"storage_id"`
}

// IsZero says that there is no such member.
func (m Member) IsZero() bool { return m == Member{} }

func (m Member) String() string { return string(m.Node) }

// Alive is a node's heartbeat, bound to its lease in the control plane.
type Alive struct {
	Format   int              `json:"format"`
	Node     themis.NodeID    `json:"node"`
	Storage  themis.StorageID `json:"storage_id"`
	Boot     themis.BootID    `json:"boot_id"`
	Version  string           `json:"version"`
	DiskUsed *float64         `json:"disk_used_ratio"` // null when it can't be read
	Key      string           `json:"key,omitempty"`   // fingerprint of the key it signs with; a hint, proven by a handshake
	At       *Addresses       `json:"at,omitempty"`    // where it says it is reached; a hint, proven there

	DiskFree    themis.Bytes                    `json:"disk_free,omitempty"`
	DiskReserve themis.Bytes                    `json:"disk_reserve,omitempty"` // with less the disk is full; 0: not known
	Copies      map[themis.ShardID]themis.Bytes `json:"copy_bytes,omitempty"`   // how much of the disk each copy takes

	DiskFull bool                      `json:"disk_full,omitempty"`     // it takes no client writes, and should get no copies
	Broken   map[themis.ShardID]string `json:"broken_copies,omitempty"` // copies that this process has stopped for good, and why
	Stopping *Stopping                 `json:"stopping,omitempty"`
}

// Stopping says that the node is on its way out: it gets no reign and no copy, in-sync sets do without it where they can, and
// what it leads goes to others.
type Stopping struct {
	// The epochs of its reigns that can be handed over now: no write is open, none is let in, and another copy has everything.
	Ready map[themis.ShardID]themis.Epoch `json:"ready,omitempty"`
}

// DiskAge is how old a node's disk is: a number that grows at every start, every few seconds, and soon after its copies took something
// in, first on the disk and then here. A disk that is younger than its record is an older state of itself: a backup that was put back,
// or a disk that forgot what it had synced.
type DiskAge struct {
	Format  int              `json:"format"`
	Node    themis.NodeID    `json:"node"`
	Storage themis.StorageID `json:"storage_id"`
	Age     uint64           `json:"age"`
}

// Follows says why the disk can't be what it was when the record was made, or nil.
func (a DiskAge) Follows(record DiskAge) error {
	if a.Storage != record.Storage || a.Age >= record.Age {
		return nil
	}
	return themis.Errorf(themis.RefusedUnsafe, "the disk of %s is at age %d, and it was at %d already: it is an older state of itself, such as a backup that was put back, and lacks what was acknowledged since",
		a.Node, a.Age, record.Age)
}

// Failed is the controller's verdict that a node is gone; the record exists while the verdict stands.
type Failed struct {
	Format int           `json:"format"`
	Node   themis.NodeID `json:"node"`
	Boot   themis.BootID `json:"boot_id"`
	Since  time.Time     `json:"since"`
	Why    string        `json:"why"`
	Term   themis.Term   `json:"term"` // of the controller that gave it
}

// Policy is how a shard acknowledges and how many copies it keeps.
type Policy struct {
	Mode themis.Mode `json:"mode"`
	K    int         `json:"min_sync_replicas"`  // followers, without the primary
	RF   int         `json:"replication_factor"` // copies, with the primary
}

func (p Policy) String() string {
	return fmt.Sprintf("%s, replication factor %d, min_sync_replicas %d", p.Mode, p.RF, p.K)
}

// Check says why the policy can't be, or nil.
func (p Policy) Check() error {
	switch {
	case p.Mode != themis.Sync && p.Mode != themis.SemiSync && p.Mode != themis.Async:
		return themis.Errorf(themis.InvalidArgument, "mode %q: want sync, semi_sync or async", p.Mode)
	case p.RF < 1:
		return themis.Errorf(themis.InvalidArgument, "replication_factor %d: want at least 1", p.RF)
	case p.K < 0:
		return themis.Errorf(themis.InvalidArgument, "min_sync_replicas %d: want at least 0", p.K)
	case p.K == 0 && p.Mode == themis.Sync && p.RF > 1:
		return themis.Errorf(themis.InvalidArgument, "min_sync_replicas 0 under sync: one unclean stop could lose everything; want at least 1")
	case p.K == 0 && p.Mode == themis.SemiSync:
		return themis.Errorf(themis.InvalidArgument, "min_sync_replicas 0 under semi_sync: that is async; say so, or want at least 1")
	case p.Mode != themis.Async && p.K+1 > p.RF:
		return themis.Errorf(themis.InvalidArgument, "min_sync_replicas %d needs %d copies, replication_factor is %d", p.K, p.K+1, p.RF)
	}
	return nil
}

// Class says how a replica counts.
type Class string

// The classes. A joining copy is async until it replaces another or fills a free place.
const (
	Voter Class = "voter"
	Async Class = "async"
	Spare Class = "spare"
)

// Replica is one node's copy of a shard.
type Replica struct {
	Member
	Class      Class         `json:"class"`
	Replaces   *Member       `json:"replaces,omitempty"` // a joining copy: the voter whose place it takes once it is whole
	Upstream   themis.NodeID `json:"upstream,omitempty"`
	Region     string        `json:"region,omitempty"`
	Datacenter string        `json:"datacenter,omitempty"`
	Rack       string        `json:"rack,omitempty"`
}

// Shard is the record that decides who leads and who must have a write.
type Shard struct {
	Format   int            `json:"format"`
	ID       themis.ShardID `json:"id"`
	Epoch    themis.Epoch   `json:"epoch"` // of the newest reign; 0 before the first
	Primary  Member         `json:"primary"`
	Boot     themis.BootID  `json:"primary_boot_id"` // the process that was crowned; another one must be crowned anew
	Replicas []Replica      `json:"replicas"`
	ISR      []Member       `json:"isr"`
	WaitMs   int64          `json:"lease_wait_ms"` // the new primary acknowledges and reads nothing before this has passed
	Want     Policy         `json:"want"`
	Have     Policy         `json:"have"`
	// AsyncUntil is the newest reign that acknowledged under ASYNC before the mode was changed.
	AsyncUntil themis.Epoch `json:"async_until_epoch,omitempty"`

	Revision themis.Revision `json:"-"` // of the record in the control plane; every change compares it
}

// Collection is the record of one collection.
type Collection struct {
	Format        int                 `json:"format"`
	ID            themis.CollectionID `json:"id"`
	Name          string              `json:"name"`
	ShardKey      string              `json:"shard_key,omitempty"` // empty: the document key
	Class         string              `json:"class,omitempty"`
	Residency     string              `json:"residency,omitempty"`
	SchemaVersion uint64              `json:"schema_version"`
	Created       time.Time           `json:"created"`
}

// CheckShardKey says what is wrong with placing the document of that key by shardKey, or nil; an empty shardKey is none. c is the record of the
// collection of that name, or zero where there is none: then no rule holds.
func (c Collection) CheckShardKey(name, shardKey, key string) error {
	switch {
	case c.ShardKey == "" && shardKey != "" && shardKey != key:
		return themis.Errorf(themis.InvalidArgument, "shard_key %q: collection %s places its documents by their keys", shardKey, name).
			Do("leave it out; what is there: themis-cli doc scan %s --limit 10", name)
	case c.ShardKey != "" && shardKey == "":
		return themis.Errorf(themis.InvalidArgument, "shard_key: missing; collection %s places its documents by %s", name, c.ShardKey).
			Do("themis-cli doc put --help")
	}
	return nil
}

// Controller is who decides. Every decision's transaction compares the term.
type Controller struct {
	Format int           `json:"format"`
	Term   themis.Term   `json:"term"`
	Node   themis.NodeID `json:"node"`
	Boot   themis.BootID `json:"boot_id"`

	Revision themis.Revision `json:"-"`
}

// Settings is the cluster-wide configuration that was applied last: raw keys and values, checked by package config.
type Settings struct {
	Format  int               `json:"format"`
	Version uint64            `json:"version"`
	Values  map[string]string `json:"values"`
	Who     string            `json:"who"`
	When    time.Time         `json:"when"`
}

// JoinToken is the record of a one-time token; the secret itself is stored nowhere.
type JoinToken struct {
	Format  int       `json:"format"`
	Hash    string    `json:"hash"`
	Expires time.Time `json:"expires"`
	UsedBy  string    `json:"used_by,omitempty"`
}

func (r Meta) format() int       { return r.Format }
func (r Node) format() int       { return r.Format }
func (r Alive) format() int      { return r.Format }
func (r Failed) format() int     { return r.Format }
func (r Shard) format() int      { return r.Format }
func (r Collection) format() int { return r.Format }
func (r Controller) format() int { return r.Format }
func (r Settings) format() int   { return r.Format }
func (r JoinToken) format() int  { return r.Format }
func (r DiskAge) format() int    { return r.Format }
func (r Event) format() int      { return r.Format }

// Actor is who did something.
type Actor struct {
	Kind string `json:"kind"` // operator, controller, primary, node
	ID   string `json:"id"`
	Cert string `json:"cert,omitempty"` // serial of the certificate, for operators
}

// Phase is one timed part of an action.
type Phase struct {
	Name string  `json:"name"`
	Ms   float64 `json:"ms"`
}

// Event is one line of the audit trail: what was done, refused, or deliberately not done, and by which rule.
type Event struct {
	Format         int             `json:"format"`
	ID             string          `json:"id"`
	HLC            themis.HLC      `json:"hlc"`
	Time           time.Time       `json:"time"`
	Actor          Actor           `json:"actor"`
	Action         string          `json:"action"`
	Subject        string          `json:"subject"`
	Outcome        string          `json:"outcome"` // done, refused, failed, not_done
	Rule           string          `json:"rule,omitempty"`
	Reason         string          `json:"reason,omitempty"`
	Before         json.RawMessage `json:"before,omitempty"`
	After          json.RawMessage `json:"after,omitempty"`
	Epoch          themis.Epoch    `json:"epoch,omitempty"`
	ConfigVersion  uint64          `json:"config_version,omitempty"`
	RoutingVersion uint64          `json:"routing_version,omitempty"`
	RequestID      string          `json:"request_id,omitempty"`
	DurationMs     float64         `json:"duration_ms,omitempty"`
	Phases         []Phase         `json:"phases,omitempty"`
}

// Replica finds the copy on that node.
func (s Shard) Replica(node themis.NodeID) (Replica, bool) {
	i := slices.IndexFunc(s.Replicas, func(r Replica) bool { return r.Node == node })
	if i < 0 {
		return Replica{}, false
	}
	return s.Replicas[i], true
}

// Voters are the members over which ballots and copies are counted.
func (s Shard) Voters() []Member {
	var out []Member
	for _, r := range s.Replicas {
		if r.Class == Voter {
			out = append(out, r.Member)
		}
	}
	return out
}

// Successors are the members that can be elected after the primary without a loss: under SYNC those of the in-sync set.
func (s Shard) Successors() []Member {
	return slices.DeleteFunc(s.Voters(), func(m Member) bool {
		return m == s.Primary || s.Have.Mode == themis.Sync && !s.InSync(m)
	})
}

// AckedAlone is the newest reign in which a write may have been acknowledged with one copy, as ASYNC does; 0: none.
func (s Shard) AckedAlone() themis.Epoch {
	if s.Have.Mode == themis.Async {
		return s.Epoch
	}
	return s.AsyncUntil
}

// InSync says whether that very disk is a member of the in-sync set.
func (s Shard) InSync(m Member) bool { return slices.Contains(s.ISR, m) }

// Check lists what is wrong with the record by itself, without the rest of the map; empty when it is sound.
func (s Shard) Check() []error {
	var faults []error
	add := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	seen := map[themis.NodeID]bool{}
	joining := 0
	for _, r := range s.Replicas {
		if seen[r.Node] {
			add("two copies on %s", r.Node)
		}
		seen[r.Node] = true
		if r.Replaces != nil {
			joining++
		}
	}
	if joining > 1 {
		add("%d replacements at once", joining)
	}
	voters := s.Voters()
	if !s.Primary.IsZero() {
		if s.Epoch == 0 {
			add("primary %s in epoch 0", s.Primary)
		}
		if !slices.Contains(voters, s.Primary) {
			add("primary %s with storage %s is not a voter", s.Primary, s.Primary.Storage)
		}
		if !s.InSync(s.Primary) {
			add("primary %s is not in its own in-sync set", s.Primary)
		}
	}
	for i, m := range s.ISR {
		if !slices.Contains(voters, m) {
			add("in-sync member %s with storage %s is not a voter", m, m.Storage)
		}
		if slices.Contains(s.ISR[:i], m) {
			add("in-sync member %s twice", m)
		}
	}
	if err := s.Want.Check(); err != nil {
		add("want: %w", err)
	}
	if err := s.Have.Check(); err != nil {
		add("have: %w", err)
	}
	return faults
}
