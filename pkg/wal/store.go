package wal

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync/atomic"
	"time"

	tidwall "github.com/tidwall/wal"

	"github.com/themisdb/themis/pkg/themis"
)

// store makes a batch durable and shows it to readers. Any error is final for the log. commit is held.
//
// The order matters: segments and their names, then the entries, then LOG where an epoch begins, then MARK. So LOG and MARK
// never name an entry that was not durable, and whoever finds them ahead of the segments knows that something was lost.
func (l *Log) store(b *batch) error {
	rolled, tailBytes, err := l.write(b)
	if err != nil {
		return fmt.Errorf("write seq %d to %d: %w", b.prev.Seq+1, b.end.Seq, err)
	}
	l.tailBytes = tailBytes
	if len(rolled) > 0 {
		if err := l.enterSegment(rolled[len(rolled)-1].first); err != nil {
			return err
		}
	}
	if err := l.sync(l.tail); err != nil {
		return fmt.Errorf("sync %s: %w", l.tail.Name(), err)
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
		if len(rolled) > 0 {
			v.segments = slices.Clone(v.segments)
			for _, r := range rolled {
				v.segments[len(v.segments)-1].size = r.before
				v.segments = append(v.segments, segment{first: r.first, lsn: r.lsn})
			}
		}
		v.tailSize, v.last = tailBytes, b.end
	})
	return nil
}

// roll is one change to a new segment inside a batch.
type roll struct {
	first  themis.Seq // of the new segment
	lsn    themis.LSN
	before int64 // size of the segment that ended
}

// write hands the frames to tidwall and foretells where it rolls: it does so before a batch when its segment is over the
// limit, and after each entry that reaches it. A panic of tidwall is an error like any other.
func (l *Log) write(b *batch) (rolled []roll, tailBytes int64, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("tidwall/wal: panic: %v", p)
		}
	}()
	limit := int64(l.o.SegmentBytes)
	seq, lsn := b.prev.Seq+1, b.prev.LSN
	tailBytes = l.tailBytes
	if tailBytes > limit {
		rolled = append(rolled, roll{first: seq, lsn: lsn, before: tailBytes})
		tailBytes = 0
	}
	l.scratch.Clear() // a failed WriteBatch would have kept its entries
	eachFrame(b.buf, func(frame []byte) {
		l.scratch.Write(uint64(seq), frame)
		seq, lsn, tailBytes = seq+1, lsn+themis.LSN(len(frame)), tailBytes+recordBytes(len(frame))
		if tailBytes >= limit {
			rolled = append(rolled, roll{first: seq, lsn: lsn, before: tailBytes})
			tailBytes = 0
		}
	})
	return rolled, tailBytes, l.tw.WriteBatch(&l.scratch)
}

// enterSegment follows tidwall to the segment that it has begun. Its name must be durable before anything in it is acknowledged.
func (l *Log) enterSegment(first themis.Seq) error {
	if err := l.syncDir(l.dir); err != nil {
		return fmt.Errorf("sync %s: %w", l.dir, err)
	}
	tail, err := os.OpenFile(segmentPath(l.dir, first), os.O_WRONLY, filePerm)
	if err != nil {
		return fmt.Errorf("follow the log to its next segment: %w", err)
	}
	err = l.tail.Close()
	l.tail = tail
	// tidwall keeps the segment it left in memory for readers; ours have their own.
	return errors.Join(err, l.tw.ClearCache())
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

// openTidwall opens the segments for writing. tidwall writes its defaults into the options it gets, so they are never shared.
// It syncs only when it rolls: the log syncs the last segment through its own handle.
func (l *Log) openTidwall() (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("tidwall/wal: panic: %v", p)
		}
	}()
	tw, err := tidwall.Open(l.dir, &tidwall.Options{
		NoSync: true, SegmentSize: int(l.o.SegmentBytes), LogFormat: tidwall.Binary, SegmentCacheSize: 1,
		NoCopy: true, AllowEmpty: true, DirPerms: dirPerm, FilePerms: filePerm,
	})
	if err != nil {
		return fmt.Errorf("open segments in %s: %w", l.dir, err)
	}
	l.tw = tw
	v := l.view.Load()
	if last, err := l.tw.LastIndex(); err != nil || last != uint64(v.last.Seq) {
		return fmt.Errorf("open segments in %s: tidwall/wal ends at %d, the checked log at %d: %w", l.dir, last, v.last.Seq, errors.Join(err, themis.ErrMalformed))
	}
	l.tailBytes = v.tailSize
	tail, err := os.OpenFile(segmentPath(l.dir, v.segments[len(v.segments)-1].first), os.O_WRONLY, filePerm)
	if err != nil {
		return fmt.Errorf("open last segment: %w", err)
	}
	l.tail = tail
	return nil
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
