package wal

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Append is one entry on its way to the disk.
type Append struct {
	log   *Log
	batch *batch
	entry themis.Entry
}

// Entry is the entry as it was framed: seq, lsn, epoch, hlc and commit are final at once. Its payload is the slice given to Begin.
func (a *Append) Entry() themis.Entry { return a.entry }

// batch is a run of frames that one write and one fsync make durable together.
type batch struct {
	buf    []byte
	prev   themis.Position // before its first entry
	end    themis.Position // behind its last
	starts []themis.EpochStart
	n      atomic.Int64 // entries
	led    atomic.Bool  // somebody has taken it upon himself to commit it
	ours   bool         // framed by Begin, not shipped to us
	err    error        // final once done is closed
	done   chan struct{}
}

func (b *batch) finish(err error) {
	b.err = err
	close(b.done)
}

func (b *batch) finished() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

// checkAppend says why an entry can't be framed, or nil.
func checkAppend(tags *themis.Tags, payload []byte, ops int) error {
	switch {
	case len(payload) > MaxPayloadBytes:
		return themis.Errorf(themis.TooLarge, "entry of %d bytes: at most %d", len(payload), MaxPayloadBytes)
	case ops < 1 || ops > maxOps:
		return themis.Errorf(themis.InvalidArgument, "entry of %d operations: want 1 to %d", ops, maxOps)
	case len(tags.RequestID) > themis.MaxRequestIDBytes:
		return themis.Errorf(themis.InvalidArgument, "request id of %d bytes: at most %d", len(tags.RequestID), themis.MaxRequestIDBytes)
	case len(tags.TxID) > maxTagBytes || len(tags.Clock) > maxTagBytes || tags.Origin != nil && len(tags.Origin.Node) > maxTagBytes-16:
		return themis.Errorf(themis.InvalidArgument, "a tag of more than %d bytes", maxTagBytes)
	case tags.Origin != nil && tags.Origin.Node == "":
		return themis.Errorf(themis.InvalidArgument, "origin: node is empty")
	}
	return nil
}

// Begin gives an entry its place in the log and packs it into the next batch; the payload is copied. ops is how many timestamps
// the entry needs: operation i has the entry's HLC + i. Entries become durable in order; the caller must Wait.
// Errors: OVERLOADED when too much waits, TOO_LARGE, INVALID_ARGUMENT, ErrNoReign, ErrPoisoned, ErrClosed. None has any effect.
func (l *Log) Begin(kind themis.Kind, tags themis.Tags, payload []byte, ops int) (*Append, error) {
	if err := checkAppend(&tags, payload, ops); err != nil {
		return nil, err
	}
	var room [128]byte
	packed := themis.AppendTags(room[:0], tags)
	n := prologueBytes + len(packed) + len(payload)
	a := &Append{log: l, entry: themis.Entry{Version: themis.EntryVersion, Kind: kind, Tags: tags, Payload: payload}}

	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return nil, err
	}
	if !l.reigns {
		return nil, fmt.Errorf("begin an entry of %s: %w", l.o.Shard, ErrNoReign)
	}
	if l.waiting > 0 && l.waiting+themis.Bytes(n) > l.o.QueueBytes {
		return nil, themis.Errorf(themis.Overloaded, "%s: %d bytes wait for the disk, at most %d", l.o.Shard, l.waiting, l.o.QueueBytes).In(l.o.Shard)
	}
	b := l.openBatch(n)
	e := &a.entry
	if b.n.Load() == 0 {
		e.Flags |= FlagBatch
	}
	e.Seq, e.LSN, e.Epoch = l.next.Seq+1, l.next.LSN, l.epoch
	e.HLC = l.hlc + 1
	if l.stamp != nil {
		e.HLC = max(e.HLC, l.stamp(l.hlc, ops))
	}
	l.hlc = e.HLC + themis.HLC(ops-1) //nolint:gosec // ops is at least 1
	e.Commit = min(l.safe, l.next.Seq)
	if e.Epoch > l.next.Epoch {
		b.starts = append(b.starts, themis.EpochStart{Epoch: e.Epoch, Seq: e.Seq})
	}
	b.buf = appendFrame(b.buf, e, packed)
	l.next = behind(e, n)
	b.end = l.next
	b.n.Add(1)
	l.waiting += themis.Bytes(n)
	a.batch = b
	return a, nil
}

// openBatch is the batch that takes the next frame of n bytes; mu is held.
func (l *Log) openBatch(n int) *batch {
	if last := len(l.queue) - 1; last >= 0 && len(l.queue[last].buf)+n <= int(l.o.BatchBytes) {
		return l.queue[last]
	}
	b := &batch{prev: l.next, ours: true, done: make(chan struct{})}
	if k := len(l.free) - 1; k >= 0 {
		b.buf, l.free = l.free[k][:0], l.free[:k]
	} else {
		b.buf = make([]byte, 0, max(n, l.hint+l.hint/8))
	}
	l.queue = append(l.queue, b)
	return b
}

// Wait returns nil when the entry is on this disk. Otherwise the log is poisoned: the error has code OUTCOME_UNKNOWN if the
// entry may have been written or shipped, READ_ONLY if it surely was not.
func (a *Append) Wait() error {
	if led, err := a.Commit(); led {
		return err
	}
	<-a.batch.done
	return a.batch.err
}

// Commit makes the entry's batch durable, with every batch before it, if no other writer of the batch has set about it. led
// says whether it was this call; only then err is Wait's. The others need not wait for the disk when something later tells
// them, such as the entry's being applied; Failed tells them where it went wrong.
func (a *Append) Commit() (led bool, err error) {
	if !a.batch.led.CompareAndSwap(false, true) {
		return false, nil
	}
	a.log.lead(a.batch)
	<-a.batch.done
	return true, a.batch.err
}

// Failed is Wait's error once the entry's batch has failed; nil while it is under way and when it is durable.
func (a *Append) Failed() error {
	if !a.batch.finished() {
		return nil
	}
	return a.batch.err
}

// lead commits everything up to and including b, unless somebody else has.
func (l *Log) lead(b *batch) {
	l.commit.Lock()
	defer l.commit.Unlock()
	for !b.finished() {
		if l.o.Gather != nil {
			l.o.Gather()
		}
		l.linger(b)
		if !l.commitNext() {
			return // only a failure empties the queue without us: it has finished b
		}
	}
}

// linger gives writers that were seen around the last commit the time to join b, but no longer than that commit took, and not
// when none has come for a while: who is far away comes with the next batch. It yields the processor: a timer can't be set this fine.
func (l *Log) linger(b *batch) {
	bound := min(l.o.Linger, l.lastSync)
	if bound <= 0 {
		return
	}
	l.mu.Lock()
	expect, open := l.expect, len(l.queue) == 1 && l.queue[0] == b
	l.mu.Unlock()
	if !open {
		return
	}
	begin := time.Now()
	for last, seen := begin, b.n.Load(); int(seen) < expect && !b.finished(); {
		runtime.Gosched() // those who are on their way run now: only after that is it known whether one has come
		now := time.Now()
		if n := b.n.Load(); n > seen {
			seen, last = n, now
		}
		if now.Sub(begin) >= bound || now.Sub(last) >= lingerAlone {
			return
		}
	}
}

// drain commits all that waits; commit is held.
func (l *Log) drain() {
	for l.commitNext() {
	}
}

// commitNext takes the oldest batch and makes it durable, or fails it. It says whether there was one; commit is held.
func (l *Log) commitNext() bool {
	l.mu.Lock()
	if len(l.queue) == 0 {
		l.mu.Unlock()
		return false
	}
	b := l.queue[0]
	l.queue = slices.Delete(l.queue, 0, 1)
	l.mu.Unlock()
	l.commitBatch(b)
	return true
}

func (l *Log) commitBatch(b *batch) {
	if b.ours && l.o.Tap != nil {
		l.o.Tap(b.asBatch())
	}
	start := time.Now()
	if err := l.store(b); err != nil {
		_ = l.fail(b, err) // everyone who waits gets it
		return
	}
	took := time.Since(start)
	n, size := int(b.n.Load()), len(b.buf)
	l.lastSync = took
	l.stats.add(took, n, size)

	l.mu.Lock()
	poison := l.poison
	l.expect = 0
	if b.ours {
		l.expect = n
		l.waiting -= themis.Bytes(size)
		if len(l.queue) > 0 {
			l.expect += int(l.queue[0].n.Load())
		}
		l.hint = size
		if l.o.Tap == nil && len(l.free) < 2 && cap(b.buf) <= 2*int(l.o.BatchBytes) {
			l.free = append(l.free, b.buf)
		}
	}
	l.mu.Unlock()
	if poison != nil { // MARK could not be synced meanwhile
		_ = l.fail(b, poison)
		return
	}
	b.finish(nil)
	if l.o.OnSync != nil {
		l.o.OnSync(took, n, size)
	}
}

func (b *batch) asBatch() Batch {
	return Batch{
		Frames: b.buf[:len(b.buf):len(b.buf)], First: b.prev.Seq + 1, Last: b.end.Seq,
		Entries: int(b.n.Load()), Prev: b.prev, End: b.end,
	}
}

// AppendFrames writes what a primary shipped: whole frames, one behind the other, that begin where this log ends. Everything
// is checked before anything is written: checksums, seq, lsn, epochs, commit. It returns the new last durable position.
// Errors: those of DecodeFrame, *OrderError, INVALID_ARGUMENT for more than MaxShipBytes; these have no effect. Otherwise
// the log is poisoned, or was. frames is not kept.
func (l *Log) AppendFrames(frames []byte) (themis.Position, error) {
	l.commit.Lock()
	defer l.commit.Unlock()
	l.mu.Lock()
	err := l.usable()
	l.reigns = false
	l.mu.Unlock()
	if err != nil {
		return l.Last(), err
	}
	l.drain()
	b, hlc, safe, err := l.readBatch(frames)
	if err != nil {
		return l.Last(), fmt.Errorf("append shipped frames to %s: %w", l.o.Shard, err)
	}
	if b.n.Load() == 0 {
		return l.Last(), nil
	}
	l.mu.Lock()
	switch {
	case l.poison != nil:
		err = l.poison
	case l.reigns || len(l.queue) > 0:
		err = themis.Errorf(themis.RefusedUnsafe, "append shipped frames to %s: a reign began here meanwhile", l.o.Shard).In(l.o.Shard)
	default:
		l.next, l.hlc, l.safe = b.end, max(l.hlc, hlc), max(l.safe, safe)
	}
	l.mu.Unlock()
	if err != nil {
		return l.Last(), err
	}
	l.commitBatch(b)
	return l.Last(), b.err
}

// MaxShipBytes bounds one AppendFrames.
const MaxShipBytes = 2 * MaxFrameBytes

// readBatch checks shipped frames against the end of the log.
func (l *Log) readBatch(frames []byte) (b *batch, hlc themis.HLC, safe themis.Seq, err error) {
	prev := l.Last()
	b = &batch{buf: frames, prev: prev, end: prev, done: make(chan struct{})}
	if len(frames) > MaxShipBytes {
		return b, 0, 0, themis.Errorf(themis.InvalidArgument, "%d bytes of frames at once: at most %d", len(frames), MaxShipBytes)
	}
	for at := 0; at < len(frames); {
		e, n, err := DecodeFrame(frames[at:])
		if err == nil {
			err = follows(b.end, &e)
		}
		if err == nil && e.Commit >= e.Seq {
			err = &OrderError{Field: "commit", Seq: e.Seq, Got: uint64(e.Commit), Want: uint64(e.Seq - 1)}
		}
		if err != nil {
			return b, 0, 0, fmt.Errorf("frame at byte %d: %w", at, err)
		}
		if e.Epoch > b.end.Epoch {
			b.starts = append(b.starts, themis.EpochStart{Epoch: e.Epoch, Seq: e.Seq})
		}
		hlc, safe = max(hlc, lastHLC(&e)), max(safe, e.Commit)
		b.end = behind(&e, n)
		b.n.Add(1)
		at += n
	}
	return b, hlc, safe, nil
}

// eachFrame visits the frames of a run that was checked before.
func eachFrame(frames []byte, visit func(frame []byte)) {
	for len(frames) > 0 {
		n := headBytes + int(binary.LittleEndian.Uint32(frames))
		visit(frames[:n])
		frames = frames[n:]
	}
}
