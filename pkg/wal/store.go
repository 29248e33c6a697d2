package wal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// store makes a batch durable and shows it to readers. Any error is final for the log. commit is held.
//
// The order matters: segments and their names, then the entries, then LOG where an epoch begins, then MARK. So LOG and MARK
// never name an entry that was not durable, and whoever finds them ahead of the segments knows that something was lost.
func (l *Log) store(b *batch) error {
	first := b.prev.Seq + 1
	rolls := l.tailBytes >= int64(l.o.SegmentBytes)
	left := l.tailBytes
	if rolls {
		if err := l.enterSegment(first); err != nil {
			return fmt.Errorf("begin segment %s: %w", segmentName(first), err)
		}
	}
	l.scratch = appendRecords(l.scratch[:0], b.buf)
	if _, err := l.tail.WriteAt(l.scratch, l.tailBytes); err != nil {
		return fmt.Errorf("write seq %d to %d: %w", first, b.end.Seq, err)
	}
	l.tailBytes += int64(len(l.scratch))
	if err := l.makeRoom(len(l.scratch)); err != nil {
		return fmt.Errorf("make room in %s: %w", l.tail.Name(), err)
	}
	if cap(l.scratch) > 2*int(l.o.BatchBytes) {
		l.scratch = nil
	}
	if guard.On(guard.LogSynced) && (b.ours || guard.On(guard.FollowerSync)) {
		if err := l.sync(l.tail); err != nil {
			return fmt.Errorf("sync %s: %w", l.tail.Name(), err)
		}
	}
	if len(b.starts) > 0 {
		if err := l.beginEpochs(b.starts); err != nil {
			return err
		}
	}
	if b.end.Seq >= l.mark.seq { // else it is blank and has not yet grown back to what it once had
		if err := l.mark.set(b.end.Seq); err != nil {
			return err
		}
		l.unknown.Store(false)
	}
	l.change(func(v *view) {
		if rolls {
			v.segments = slices.Clone(v.segments)
			v.segments[len(v.segments)-1].size = left
			v.segments = append(v.segments, segment{first: first, lsn: b.prev.LSN})
		}
		v.tailSize, v.last = l.tailBytes, b.end
	})
	return nil
}

// makeRoom writes zeros behind the tail where small batches have used up those that were there: a batch that lies within them changes
// no metadata, so that its fsync has only its own bytes to wait for. What it writes is synced with the batch. Batches that are large
// do without: for them twice the bytes cost more. A disk that has no room for zeros may still have some for entries.
func (l *Log) makeRoom(batch int) error {
	if l.tailBytes <= l.roomEnd {
		return nil
	}
	l.roomEnd = l.tailBytes
	end := min(l.tailBytes+roomBytes, int64(l.o.SegmentBytes))
	if batch > roomBatch || end <= l.tailBytes {
		return nil
	}
	_, err := l.tail.WriteAt(zeros[:end-l.tailBytes], l.tailBytes)
	if NoRoom(err) {
		l.roomEnd = end // not tried again until entries have come as far: others need what room is left
		return l.tail.Truncate(l.tailBytes)
	}
	l.roomEnd = end
	return err
}

// giveRoomBack cuts the zeros off, durably.
func (l *Log) giveRoomBack() error {
	if l.roomEnd <= l.tailBytes {
		return nil
	}
	if err := l.tail.Truncate(l.tailBytes); err != nil {
		return err
	}
	l.roomEnd = l.tailBytes
	return l.sync(l.tail)
}

const (
	roomBytes = 512 << 10 // zeros at once
	roomBatch = 128 << 10 // the largest batch for which zeros are written
)

var zeros [roomBytes]byte

// enterSegment goes on in a new file. Its name is durable before anything is written to it; the one before it is durable already,
// and ends with its last entry: room reaches no further than where a segment is full.
func (l *Log) enterSegment(first themis.Seq) error {
	tail, err := os.OpenFile(segmentPath(l.dir, first), os.O_CREATE|os.O_EXCL|os.O_WRONLY, filePerm)
	if err != nil {
		return err
	}
	err = l.tail.Close()
	l.tail, l.tailBytes, l.roomEnd = tail, 0, 0
	return errors.Join(err, l.syncDir(l.dir))
}

// openTail opens the last segment for writing, behind its last whole record.
func (l *Log) openTail() error {
	v := l.view.Load()
	tail, err := os.OpenFile(segmentPath(l.dir, v.segments[len(v.segments)-1].first), os.O_WRONLY, filePerm)
	if err != nil {
		return fmt.Errorf("open last segment: %w", err)
	}
	l.tail, l.tailBytes, l.roomEnd = tail, v.tailSize, v.tailSize
	return nil
}

// beginEpochs writes new epoch starts to LOG and shows them.
func (l *Log) beginEpochs(starts []themis.EpochStart) error {
	l.meta.Lock()
	defer l.meta.Unlock()
	v := l.view.Load()
	all := slices.Concat(v.starts, starts)
	if err := l.logFile(v.base, all).write(l.dir); err != nil {
		return err
	}
	l.change(func(v *view) { v.starts = all })
	return nil
}

func (l *Log) logFile(base themis.Position, starts []themis.EpochStart) logFile {
	return logFile{Format: logFormat, Identity: l.o.identity(), Base: base, Epochs: starts}
}

func (o Options) identity() Identity {
	return Identity{Cluster: o.Cluster, Shard: o.Shard, Storage: o.Storage}
}

// Stats counts what the log has done since it was opened.
type Stats struct {
	Syncs    uint64        // batches made durable
	SyncTime time.Duration // spent in their writes and fsyncs
	Entries  uint64
	Bytes    uint64       // of frames
	Waiting  themis.Bytes // framed, not yet durable
}

type counters struct{ syncs, nanos, entries, bytes atomic.Uint64 }

func (c *counters) add(took time.Duration, entries, bytes int) {
	c.syncs.Add(1)
	c.nanos.Add(uint64(took))      //nolint:gosec // a duration that was measured
	c.entries.Add(uint64(entries)) //nolint:gosec // a count
	c.bytes.Add(uint64(bytes))     //nolint:gosec // a length
}

// Stats is a copy of the counters.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	waiting := l.waiting
	l.mu.Unlock()
	return Stats{
		Syncs: l.stats.syncs.Load(), SyncTime: time.Duration(l.stats.nanos.Load()), //nolint:gosec // a sum of durations
		Entries: l.stats.entries.Load(), Bytes: l.stats.bytes.Load(), Waiting: waiting,
	}
}
