// Package themis holds the words of the house: the identifiers, positions, clocks, log entries,
// operations and error codes that every other room speaks in. It decides nothing and touches nothing:
// no clock, no disk, no network. Its functions are pure and safe for concurrent use.
package themis

import (
	"fmt"
	"strconv"
	"strings"
)

type (
	// ClusterID is the random identity of a cluster, made once by `cluster init`. Its name may repeat, its id doesn't.
	ClusterID string
	// NodeID names one themisd process: "node-1".
	NodeID string
	// StorageID is the random identity of one data directory. Membership belongs to it, not to the node's name (design, promise 8).
	StorageID string
	// BootID is the random identity of one run of a process: a primary that restarted is another boot.
	BootID string
	// ShardID names a shard in its canonical form, "shard-1".
	ShardID string
)

// ParseShardID accepts the forms that people and certificates use (shard-1, shard_001, shard-001, 001, 1)
// and returns the canonical one (C-04). shard-0 is an error.
func ParseShardID(s string) (ShardID, error) {
	digits := s
	if rest, named := strings.CutPrefix(strings.ToLower(s), "shard"); named {
		digits = strings.TrimLeft(rest, "-_")
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || n == 0 {
		return "", Errorf(InvalidArgument, "shard %q: want shard-N with N at least 1", s)
	}
	return ShardID("shard-" + strconv.FormatUint(n, 10)), nil
}

// Redundancies are the modes of keeping copies that there are; NONE and MIRROR are served.
var Redundancies = []string{"NONE", "MIRROR", "STRIPE", "STRIPE_MIRROR", "PARITY", "GEO_MIRROR"}

// Token is a document's place on the ring: murmur3_32 of its shard key, 0…4294967295.
type Token uint32

// Seq is an entry's place in its shard's log: 1, 2, 3 …; contiguous. 0 is before the first.
type Seq uint64

// LSN is a byte position in a shard's log: the sum of the frame bytes before it. It survives truncation and rebuild.
type LSN uint64

// Bytes is a size.
type Bytes int64

// String shows the position as operators know it: 0/5A2F3C40.
func (l LSN) String() string { return fmt.Sprintf("%X/%08X", uint64(l)>>32, uint32(l)) } //nolint:gosec // the low half is wanted

// Since is the distance in bytes from old to l.
func (l LSN) Since(old LSN) Bytes { return Bytes(l - old) } //nolint:gosec // positions stay far below 2^63

// ParseLSN reads the form that String writes.
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, errH := strconv.ParseUint(hi, 16, 32)
	l, errL := strconv.ParseUint(lo, 16, 32)
	if !ok || errH != nil || errL != nil {
		return 0, Errorf(InvalidArgument, "lsn %q: want HEX/HEX, such as 0/5A2F3C40", s)
	}
	return LSN(h<<32 | l), nil
}

// MarshalText makes an LSN a string in JSON.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (l *LSN) UnmarshalText(b []byte) (err error) {
	*l, err = ParseLSN(string(b))
	return err
}

// Epoch is the number of the reign of a shard's primary. It grows by one at each election and fences everything older.
type Epoch uint64

// Term is the number of the reign of the controller.
type Term uint64

// Revision is the control plane's version of one record, or of the whole map.
type Revision int64

// Position is a place in a shard's log together with the epoch of the entry there.
type Position struct {
	Seq   Seq   `json:"seq"`
	Epoch Epoch `json:"epoch"`
	LSN   LSN   `json:"lsn"` // the position behind the entry: where the next one begins
}

// Before orders positions as elections do: by the epoch of the last entry, then by its seq.
func (p Position) Before(q Position) bool {
	return p.Epoch < q.Epoch || p.Epoch == q.Epoch && p.Seq < q.Seq
}

// EpochStart says where an epoch begins in a log. A log's list of them, oldest first, is its lineage.
type EpochStart struct {
	Epoch Epoch `json:"epoch"`
	Seq   Seq   `json:"seq"`
}

// Mode is when a write is acknowledged (C-22).
type Mode string

// The modes. Hybrid is a cluster-wide choice by shard; a shard itself has one of the first three.
const (
	Sync     Mode = "sync"      // every in-sync member has it on disk, and there are at least 1 + k of them
	SemiSync Mode = "semi_sync" // the primary and any k followers have it on disk
	Async    Mode = "async"     // the primary has it on disk
	Hybrid   Mode = "hybrid"
)

// ParseMode reads both vocabularies: SYNC, SEMI_SYNC, ASYNC, hybrid and synchronous, asynchronous.
func ParseMode(s string) (Mode, error) {
	switch strings.ReplaceAll(strings.ToLower(s), "-", "_") {
	case "sync", "synchronous":
		return Sync, nil
	case "semi_sync", "semisync", "semi_synchronous":
		return SemiSync, nil
	case "async", "asynchronous":
		return Async, nil
	case "hybrid":
		return Hybrid, nil
	}
	return "", Errorf(InvalidArgument, "replication mode %q: want sync, semi_sync, async or hybrid", s)
}

// WriteConcern is what one request asks for on top of its shard's mode.
type WriteConcern string

// The write concerns, weakest first. The default is the shard's mode.
const (
	ConcernDefault     WriteConcern = ""
	ConcernImmediate   WriteConcern = "immediate"
	ConcernLocalQuorum WriteConcern = "local_quorum"
	ConcernQuorum      WriteConcern = "quorum"
	ConcernAll         WriteConcern = "all"
)

// ParseWriteConcern reads a concern as requests and configs spell it.
func ParseWriteConcern(s string) (WriteConcern, error) {
	switch c := WriteConcern(strings.ToLower(s)); c {
	case ConcernDefault, ConcernImmediate, ConcernLocalQuorum, ConcernQuorum, ConcernAll:
		return c, nil
	}
	return "", Errorf(InvalidArgument, "write_concern %q: want immediate, quorum, all or local_quorum", s)
}

// Consistency is what a read asks for.
type Consistency string

// The consistency levels, strongest first. STRONG is the default.
const (
	Strong           Consistency = "strong"
	BoundedStaleness Consistency = "bounded_staleness"
	Session          Consistency = "session"
	Eventual         Consistency = "eventual"
)

// ParseConsistency reads a level as requests and configs spell it; empty is Strong.
func ParseConsistency(s string) (Consistency, error) {
	switch c := Consistency(strings.ToLower(s)); c {
	case "":
		return Strong, nil
	case Strong, BoundedStaleness, Session, Eventual:
		return c, nil
	}
	return "", Errorf(InvalidArgument, "consistency %q: want strong, bounded_staleness, session or eventual", s)
}
