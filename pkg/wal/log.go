package wal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Log is the log of one shard on one disk. See the package comment for who may call what.
type Log struct {
	dir  string
	o    Options
	lock *os.File // LOCK

	// commit is held by whoever changes segments: the leader of a batch, AppendFrames, TruncateBack, Reset, Close.
	// Order of the locks: commit, meta, then mu or views.
	commit    sync.Mutex
	tail      *os.File             // the last segment
	tailBytes int64                // of it that were written
	roomEnd   int64                // zeros follow up to here, or were not to be had
	scratch   []byte               // the records of one batch, used again
	sync      func(*os.File) error // fdatasync, but in tests
	syncDir   func(string) error   // syncDir, but in tests
	lastSync  time.Duration

	meta   sync.Mutex   // held while LOG is replaced
	onStep func(string) // nil but in tests: called between the steps of a cut
	mark   *markFile    // set under commit; MarkDurable only syncs it

	mu      sync.Mutex
	queue   []*batch // framed, not yet durable, in order; only the last is still open
	free    [][]byte // buffers to use again, when no Tap holds on to them
	hint    int      // size of the last batch
	waiting themis.Bytes
	expect  int // writers seen around the last commit
	next    themis.Position
	reigns  bool // SetEpoch was called since the last time this replica followed
	still   bool // the log is being cut: no reign may begin
	epoch   themis.Epoch
	hlc     themis.HLC
	safe    themis.Seq // the commit seq that frames carry
	stamp   func(last themis.HLC, ops int) themis.HLC
	closed  bool
	poison  error

	views sync.Mutex // held while view is exchanged
	view  atomic.Pointer[view]

	unknown atomic.Bool // blank
	why     atomic.Pointer[string]
	stats   counters
}

// view is what readers see: one value, never changed, exchanged whole.
type view struct {
	cuts     uint64 // how often entries behind the end were taken away; scanners compare it
	closed   bool
	base     themis.Position
	starts   []themis.EpochStart
	segments []segment // at least one; the last is being written
	tailSize int64     // durable bytes of the last segment
	last     themis.Position
}

// sizeOf is the number of durable bytes in segment i.
func (v *view) sizeOf(i int) int64 {
	if i == len(v.segments)-1 {
		return v.tailSize
	}
	return v.segments[i].size
}

// find is the index of the segment that holds seq, or will.
func (v *view) find(seq themis.Seq) int {
	i, found := slices.BinarySearchFunc(v.segments, seq, func(s segment, seq themis.Seq) int {
		switch {
		case s.first < seq:
			return -1
		case s.first > seq:
			return 1
		}
		return 0
	})
	if found {
		return i
	}
	return i - 1
}

// change exchanges the view for what edit makes of a copy.
func (l *Log) change(edit func(v *view)) {
	l.views.Lock()
	defer l.views.Unlock()
	v := *l.view.Load()
	edit(&v)
	l.view.Store(&v)
}

// Last is the position behind the last durable entry.
func (l *Log) Last() themis.Position { return l.view.Load().last }

// Durable is the seq of the last durable entry; it never falls but by TruncateBack and Reset.
func (l *Log) Durable() themis.Seq { return l.view.Load().last.Seq }

// Base is the position that the log begins behind.
func (l *Log) Base() themis.Position { return l.view.Load().base }

// First is the seq of the oldest entry that is or will be in the log.
func (l *Log) First() themis.Seq { return l.view.Load().base.Seq + 1 }

// Lineage lists where epochs begin, oldest first: those that cover what the log holds, and the newest of those before.
func (l *Log) Lineage() []themis.EpochStart { return slices.Clone(l.view.Load().starts) }

// EpochAt is the epoch under which the durable entry at seq was written; 0 where the log holds none and never did.
func (l *Log) EpochAt(seq themis.Seq) themis.Epoch {
	v := l.view.Load()
	if seq > v.last.Seq {
		return 0
	}
	return epochAt(v.starts, seq)
}

// Segments is the number of segment files.
func (l *Log) Segments() int { return len(l.view.Load().segments) }

// Size is the number of bytes in all segment files.
func (l *Log) Size() themis.Bytes {
	v := l.view.Load()
	size := int64(0)
	for i := range v.segments {
		size += v.sizeOf(i)
	}
	return themis.Bytes(size)
}

// Blank says why this replica may neither vote nor acknowledge, or that it may: once it had more than is here.
func (l *Log) Blank() (reason string, blank bool) {
	if !l.unknown.Load() {
		return "", false
	}
	return *l.why.Load(), true
}

// ClearBlank takes the log as it is for whole. Only for a caller who knows that every entry that counts is here, since a
// primary of the current epoch said so, or that an operator has accepted the loss.
func (l *Log) ClearBlank() error {
	l.commit.Lock()
	defer l.commit.Unlock()
	if err := l.broken(); err != nil {
		return err
	}
	if err := l.mark.setDurably(l.Durable()); err != nil {
		return l.fail(nil, err)
	}
	l.unknown.Store(false)
	return nil
}

// SetEpoch begins or continues a reign: entries are framed with e from now on. e is at least the epoch of the last entry.
// A blank log can't reign: REFUSED_UNSAFE.
func (l *Log) SetEpoch(e themis.Epoch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if reason, blank := l.Blank(); blank {
		return themis.Errorf(themis.RefusedUnsafe, "%s can't reign in epoch %d: the replica is blank: %s", l.o.Shard, e, reason).In(l.o.Shard)
	}
	if l.still {
		return themis.Errorf(themis.RefusedUnsafe, "%s can't reign in epoch %d while its log is being cut", l.o.Shard, e).In(l.o.Shard)
	}
	if floor := max(l.next.Epoch, 1); e < floor || l.reigns && e < l.epoch {
		return themis.Errorf(themis.InvalidArgument, "epoch %d: the log of %s is at epoch %d and epochs don't fall",
			e, l.o.Shard, max(floor, l.epoch)).In(l.o.Shard)
	}
	l.epoch, l.reigns = e, true
	return nil
}

// SetCommit puts the commit seq into frames from now on. It never falls; a lower s changes nothing.
func (l *Log) SetCommit(s themis.Seq) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.safe = max(l.safe, s)
}

// SetClock sets what stamps entries. It gets the last timestamp of the log and the number of timestamps that the entry needs,
// and returns the first of them; it is called under the packing lock, so that HLC grows with seq, and must be quick.
// A stamp that does not grow is replaced by last + 1. Without a clock every stamp is last + 1.
func (l *Log) SetClock(stamp func(last themis.HLC, ops int) themis.HLC) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stamp = stamp
}

// MarkDurable makes MARK survive the loss of power. Its owner calls it about once a second. A failure poisons the log.
func (l *Log) MarkDurable() error {
	if err := l.broken(); err != nil {
		return err
	}
	err := l.sync(l.mark.f)
	switch {
	case err == nil:
		return nil
	case l.isClosed():
		return ErrClosed
	}
	return l.fail(nil, fmt.Errorf("sync %s: %w", l.mark.f.Name(), err))
}

// Close makes everything that waits durable, syncs MARK and gives up the lock. A poisoned log returns its poison.
// Closing again does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()

	l.commit.Lock()
	defer l.commit.Unlock()
	l.drain()
	l.meta.Lock()
	defer l.meta.Unlock()
	l.change(func(v *view) { v.closed = true })
	if err := l.broken(); err == nil {
		if err := l.mark.f.Sync(); err != nil {
			_ = l.fail(nil, fmt.Errorf("sync %s: %w", l.mark.f.Name(), err))
		} else if err := l.giveRoomBack(); err != nil {
			_ = l.fail(nil, fmt.Errorf("cut %s behind its last entry: %w", l.tail.Name(), err))
		}
	}
	err := errors.Join(l.tail.Close(), l.mark.f.Close(), l.lock.Close()) // a poisoned log closes as well as it can: its first error is the one that counts
	if p := l.broken(); p != nil {
		return p
	}
	return err
}

func (l *Log) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// usable says why nothing new may begin; mu is held.
func (l *Log) usable() error {
	if l.poison != nil {
		return l.poison
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// broken is the poison, or nil.
func (l *Log) broken() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.poison
}

// fail poisons the log with its first error. b is the batch that was being written, or nil: its entries may be on disk, so
// their outcome is unknown; those behind it were never written nor shipped. It returns the poison.
func (l *Log) fail(b *batch, err error) error {
	l.mu.Lock()
	if l.poison == nil {
		l.poison = &PoisonedError{Shard: l.o.Shard, Err: err}
	}
	poison := l.poison
	waiting := l.queue
	l.queue, l.waiting = nil, 0
	l.mu.Unlock()
	if b != nil {
		b.finish(themis.Errorf(themis.OutcomeUnknown, "append to %s, seq %d to %d: %w", l.o.Shard, b.prev.Seq+1, b.end.Seq, poison).In(l.o.Shard))
	}
	for _, w := range waiting {
		w.finish(themis.Errorf(themis.ReadOnly, "append to %s, seq %d to %d: not written: %w", l.o.Shard, w.prev.Seq+1, w.end.Seq, poison).In(l.o.Shard))
	}
	return poison
}
