package control

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// The errors of a KV and of what stands on it. Test with errors.Is.
var (
	ErrUnknownOutcome = errors.New("no answer came: it may have been done")
	ErrCompacted      = errors.New("the history that was asked for has been compacted")
	ErrLeaseNotFound  = errors.New("the lease has ended")
	ErrNoSpace        = errors.New("the control plane's database has reached its quota")
	ErrTooLarge       = errors.New("the transaction is too large")
	ErrWatchLost      = errors.New("the watch broke")
	ErrClosed         = errors.New("the store was closed")
)

// The limits of one transaction, those of etcd.
const (
	MaxTxnOps   = 128     // compares, and likewise puts and deletes together
	MaxTxnBytes = 1 << 20 // of keys and values together; etcd itself refuses at 1.5 MiB
)

// LeaseID names a lease in the store; 0 is none.
type LeaseID int64

// Record is one key of the store. Revision is that of its last change, 0 when there is no such key.
type Record struct {
	Key      string
	Value    []byte
	Revision themis.Revision
}

// Range is a set of keys: From ≤ key < To.
type Range struct {
	From, To   string
	Limit      int  // 0: all of them
	Descending bool // the last Limit ones, last first
	KeysOnly   bool // leave the values out
	Stale      bool // what the member that is asked has, even where it has no quorum: what is there was true once
}

// Prefix is the range of all keys that begin with p, which must not be empty.
func Prefix(p string) Range { return Range{From: p, To: prefixEnd(p)} }

// Only is the range of that one key.
func Only(key string) Range { return Range{From: key, To: key + "\x00"} }

func prefixEnd(p string) string {
	b := []byte(p)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\xff" // only of a prefix of nothing but 0xff, which no key of ours has
}

// Contains says whether key is in the range, whatever the limit.
func (r Range) Contains(key string) bool { return r.From <= key && key < r.To }

// Compare is a condition: the record has this revision; 0 means that there is none.
type Compare struct {
	Key      string
	Revision themis.Revision
}

// Put writes one key. With a lease the key vanishes when the lease ends.
type Put struct {
	Key   string
	Value []byte
	Lease LeaseID
}

// Txn is done as a whole, or not at all when one compare fails. No key may be written twice.
type Txn struct {
	If     []Compare
	Put    []Put
	Delete []string
}

// Change is one write in the store's history.
type Change struct {
	Key      string
	Value    []byte
	Revision themis.Revision
	Deleted  bool
}

// Batch is what happened at one revision or at several neighbouring ones; changes of one revision are never split. Without
// changes it says that everything up to Revision has been delivered.
type Batch struct {
	Revision themis.Revision
	Changes  []Change
}

// KV is what the map needs of a store: linearizable, with one revision that grows by 1 with every transaction that changes
// something. Reads are tried again inside ctx; a transaction is tried once.
type KV interface {
	// Get reads one key; a record with revision 0 when it isn't there.
	Get(ctx context.Context, key string) (Record, error)
	// List reads ranges, one behind the other, all at one revision, which it returns.
	List(ctx context.Context, ranges ...Range) ([]Record, themis.Revision, error)
	// Txn does t if its compares hold. Any error but ErrUnknownOutcome means that nothing was done.
	Txn(ctx context.Context, t Txn) (ok bool, rev themis.Revision, err error)
	// Watch yields every change of keys with the prefix from that revision on, in order. It ends after its first error:
	// ErrCompacted, ErrWatchLost, ErrClosed or that of ctx.
	Watch(ctx context.Context, prefix string, from themis.Revision) iter.Seq2[Batch, error]
	// Grant makes a lease of at least ttl, in whole seconds; it returns the time that was granted.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error)
	// KeepAlive renews a lease once and returns its time from now, or ErrLeaseNotFound.
	KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error)
	// Revoke ends a lease and deletes its keys. A lease that is gone is no error.
	Revoke(ctx context.Context, id LeaseID) error
	Close() error
}

// check refuses what no store takes, alike in both twins.
func (t Txn) check() error {
	writes := len(t.Put) + len(t.Delete)
	if len(t.If) > MaxTxnOps || writes > MaxTxnOps {
		return themis.Errorf(themis.TooLarge, "%d compares and %d writes, at most %d of each: %w", len(t.If), writes, MaxTxnOps, ErrTooLarge)
	}
	size := 0
	seen := make(map[string]bool, writes)
	for _, p := range t.Put {
		size += len(p.Key) + len(p.Value)
		if p.Key == "" || seen[p.Key] {
			return themis.Errorf(themis.InvalidArgument, "transaction writes key %q twice, or it is empty", p.Key)
		}
		seen[p.Key] = true
	}
	for _, k := range t.Delete {
		if k == "" || seen[k] {
			return themis.Errorf(themis.InvalidArgument, "transaction writes key %q twice, or it is empty", k)
		}
		seen[k] = true
	}
	if size > MaxTxnBytes {
		return themis.Errorf(themis.TooLarge, "transaction of %d bytes, at most %d: %w", size, MaxTxnBytes, ErrTooLarge)
	}
	return nil
}

func noSpace() error {
	return themis.Errorf(themis.ReadOnly, "%w: it takes no more changes", ErrNoSpace).Do("themisdb-repl-doctor check")
}
