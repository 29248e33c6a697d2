package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"

	"github.com/themisdb/themis/pkg/themis"
)

// What callers ask for with errors.Is.
var (
	// ErrPoisoned: a write or fsync of this log failed. It serves nothing more until it is rebuilt.
	ErrPoisoned = errors.New("log poisoned by a failed write or fsync")
	// ErrClosed: the log was closed.
	ErrClosed = errors.New("log closed")
	// ErrNoReign: Begin without SetEpoch since the log was opened, or since it last followed.
	ErrNoReign = errors.New("no epoch set: this replica does not reign")
	// ErrCut: the log was cut or reset under a scanner; what it had read may be gone. Open another.
	ErrCut = errors.New("log was cut under the scanner")
)

// PoisonedError is the first failure of a log, kept for all who come later.
type PoisonedError struct {
	Shard themis.ShardID
	Err   error // the write or fsync that failed
}

func (e *PoisonedError) Error() string { return fmt.Sprintf("%s: %v: %v", e.Shard, ErrPoisoned, e.Err) }

// Unwrap gives ErrPoisoned and the cause.
func (e *PoisonedError) Unwrap() []error { return []error{ErrPoisoned, e.Err} }

// NoRoom says whether err is a disk that was full when something was to be written to it. What was durable before is not in
// doubt, so the log may be opened again once there is room. A sync that says the same is no such error: nobody knows what it
// has dropped.
func NoRoom(err error) bool {
	p, ok := errors.AsType[*fs.PathError](err)
	return ok && slices.Contains([]string{"write", "open"}, p.Op) && (errors.Is(p.Err, syscall.ENOSPC) || errors.Is(p.Err, syscall.EDQUOT))
}

// CorruptError says where stored bytes are not what was written. It comes wrapped in a *themis.Error with code CORRUPT.
type CorruptError struct {
	Shard  themis.ShardID
	Seq    themis.Seq // of the entry that should stand there
	LSN    themis.LSN // where its frame should begin
	File   string
	Offset int64 // in File
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: log damaged at seq %d (lsn %s), %s offset %d: %v", e.Shard, e.Seq, e.LSN, e.File, e.Offset, e.Err)
}

// Unwrap is the cause.
func (e *CorruptError) Unwrap() error { return e.Err }

// OrderError says that an entry does not stand where it should: a gap, a duplicate, a falling epoch.
type OrderError struct {
	Field     string // seq, lsn, epoch or commit
	Seq       themis.Seq
	Got, Want uint64 // for epoch: at least Want; for commit: at most Want
}

func (e *OrderError) Error() string {
	switch e.Field {
	case "seq":
		return fmt.Sprintf("seq %d where %d belongs", e.Got, e.Want)
	case "lsn":
		return fmt.Sprintf("seq %d: lsn %s where %s belongs", e.Seq, themis.LSN(e.Got), themis.LSN(e.Want))
	case "epoch":
		return fmt.Sprintf("seq %d: epoch falls from %d to %d", e.Seq, e.Want, e.Got)
	}
	return fmt.Sprintf("seq %d: %s %d, at most %d", e.Seq, e.Field, e.Got, e.Want)
}

// TrimmedError says that entries are no longer in the log: a reader that needs them needs a snapshot.
type TrimmedError struct {
	Shard  themis.ShardID
	Wanted themis.Seq
	First  themis.Seq // the oldest entry still there
}

func (e *TrimmedError) Error() string {
	return fmt.Sprintf("%s: seq %d is no longer in the log, which begins at %d", e.Shard, e.Wanted, e.First)
}

// damaged is what users get for a frame that can't be read: CORRUPT with a *CorruptError inside, or UNIMPLEMENTED where the
// frame is whole and a newer version wrote it.
func damaged(shard themis.ShardID, file string, offset int64, prev themis.Position, err error) error {
	if errors.Is(err, ErrUpgrade) {
		return themis.Errorf(themis.Unimplemented, "%s: seq %d, %s offset %d: UPGRADE_NEEDED: %w", shard, prev.Seq+1, file, offset, err).
			In(shard).Do("run the version of themisd that wrote it, or a later one")
	}
	c := &CorruptError{Shard: shard, Seq: prev.Seq + 1, LSN: prev.LSN, File: file, Offset: offset, Err: err}
	return &themis.Error{
		Code: themis.Corrupt, Detail: c.Error(), Shard: shard, Err: c,
		Fix: fmt.Sprintf("themisdb-repl-doctor validate-wal --shard %s", shard),
	}
}
