package wal

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/themisdb/themis/pkg/themis"
)

// The steps of TruncateBack, TruncateFront and Reset, for tests that stop between them.
const (
	stepMark     = "mark"
	stepLog      = "log"
	stepSegments = "segments"
	stepTail     = "tail"
)

// TruncateBack takes away every entry behind after, durably; scanners end with ErrCut. It ends the reign. The caller has made
// sure that nothing committed is among them: the log does not know. A blank log stays blank. after at or behind the last
// entry changes nothing; after below the base is INVALID_ARGUMENT. An error on the way poisons the log.
//
// A crash on the way leaves the log longer than asked, never with a gap: what it still has is checked again at Open.
func (l *Log) TruncateBack(after themis.Seq) error {
	release, err := l.holdStill()
	if err != nil {
		return err
	}
	defer release()
	v := l.view.Load()
	switch {
	case after >= v.last.Seq:
		return nil
	case after < v.base.Seq:
		return themis.Errorf(themis.InvalidArgument, "cut %s behind seq %d: the log begins behind seq %d", l.o.Shard, after, v.base.Seq).In(l.o.Shard)
	}
	i, off, end, err := l.locate(v, after)
	if err != nil {
		return err
	}
	err = l.cut(func(v *view) {
		v.segments = slices.Clone(v.segments[:i+1])
		v.segments[i].size = 0
		v.starts, v.tailSize, v.last = startsUpTo(v.starts, after), off, end
	}, func(old, now *view) error {
		if _, blank := l.Blank(); !blank {
			if err := l.mark.setDurably(after); err != nil {
				return err
			}
		}
		l.step(stepMark)
		if !slices.Equal(old.starts, now.starts) {
			if err := l.logFile(now.base, now.starts).write(l.dir); err != nil {
				return err
			}
		}
		l.step(stepLog)
		for _, s := range slices.Backward(old.segments[i+1:]) { // the last one first: what remains is always whole
			if err := removeDurably(l.dir, []string{segmentName(s.first)}); err != nil {
				return err
			}
			l.step(stepSegments)
		}
		return cutFile(segmentPath(l.dir, now.segments[i].first), off, l.sync)
	})
	if err != nil {
		return fmt.Errorf("cut %s behind seq %d: %w", l.o.Shard, after, err)
	}
	l.goOnBehind(end)
	return nil
}

// locate finds where the entries behind after begin: the segment, the offset in it, the position there.
func (l *Log) locate(v *view, after themis.Seq) (i int, off int64, end themis.Position, err error) {
	if after == v.base.Seq {
		return 0, 0, v.base, nil
	}
	i = v.find(after)
	path, first := segmentPath(l.dir, v.segments[i].first), v.segments[i].first
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, end, fmt.Errorf("cut %s: %w", l.o.Shard, err)
	}
	prev := themis.Position{Seq: first - 1, LSN: v.segments[i].lsn, Epoch: epochAt(v.starts, first-1)}
	off, end, err = walk(data[:min(int64(len(data)), v.sizeOf(i))], prev, func(_ int64, _ int, e *themis.Entry) error {
		if e.Seq > after {
			return errStop
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return 0, 0, end, damaged(l.o.Shard, path, off, end, err)
	}
	return i, off, end, nil
}

var errStop = errors.New("stop")

// TruncateFront removes the oldest segments whose entries are all at or below upTo, one file at a time, without stopping the
// writer. At least one entry and the segment that is being written always stay. Scanners that still needed the entries end
// with *TrimmedError. Slots, archive and snapshots are the caller's to ask before.
func (l *Log) TruncateFront(upTo themis.Seq) error {
	l.meta.Lock()
	defer l.meta.Unlock()
	l.mu.Lock()
	err := l.usable()
	l.mu.Unlock()
	if err != nil {
		return err
	}
	v := l.view.Load()
	n := 0
	for n+1 < len(v.segments) && v.segments[n+1].first-1 <= upTo && v.segments[n+1].first <= v.last.Seq {
		n++
	}
	if n == 0 {
		return nil
	}
	first := v.segments[n]
	base := themis.Position{Seq: first.first - 1, Epoch: epochAt(v.starts, first.first-1), LSN: first.lsn}
	starts := startsFrom(v.starts, base.Seq)
	if err := l.logFile(base, starts).write(l.dir); err != nil {
		return l.fail(nil, err)
	}
	l.change(func(v *view) {
		v.base, v.starts, v.segments = base, starts, slices.Clone(v.segments[n:])
	})
	l.step(stepLog)
	for _, s := range v.segments[:n] {
		if err := removeDurably(l.dir, []string{segmentName(s.first)}); err != nil {
			return l.fail(nil, err)
		}
		l.step(stepSegments)
	}
	return nil
}

// Reset empties the log; it goes on behind base, whose entries the caller has from a snapshot. lineage are the epoch starts up
// to base, as the snapshot's log had them. It ends the reign and blankness; scanners end with ErrCut. A crash on the way
// leaves the old log, or the new one. After an error the log is poisoned, but INVALID_ARGUMENT has no effect.
func (l *Log) Reset(base themis.Position, lineage []themis.EpochStart) error {
	starts := startsUpTo(lineage, base.Seq)
	if len(starts) != len(lineage) {
		return themis.Errorf(themis.InvalidArgument, "reset %s to seq %d: epochs begin behind it", l.o.Shard, base.Seq).In(l.o.Shard)
	}
	if err := checkLineage(base, starts); err != nil {
		return themis.Errorf(themis.InvalidArgument, "reset %s to seq %d: %w", l.o.Shard, base.Seq, err).In(l.o.Shard)
	}
	release, err := l.holdStill()
	if err != nil {
		return err
	}
	defer release()
	err = l.cut(func(v *view) {
		v.base, v.starts, v.last = base, starts, base
		v.segments, v.tailSize = []segment{{first: base.Seq + 1, lsn: base.LSN}}, 0
	}, func(old, now *view) error {
		pending := l.logFile(base, starts)
		pending.Resetting = true
		if err := pending.write(l.dir); err != nil {
			return err
		}
		l.step(stepLog)
		if err := l.mark.setDurably(base.Seq); err != nil {
			return err
		}
		l.step(stepMark)
		for _, s := range old.segments {
			if err := removeDurably(l.dir, []string{segmentName(s.first)}); err != nil {
				return err
			}
			l.step(stepSegments)
		}
		if err := errors.Join(createEmpty(segmentPath(l.dir, base.Seq+1)), syncDir(l.dir)); err != nil {
			return err
		}
		l.step(stepTail)
		return l.logFile(base, starts).write(l.dir)
	})
	if err != nil {
		return fmt.Errorf("reset %s to seq %d: %w", l.o.Shard, base.Seq, err)
	}
	l.unknown.Store(false)
	l.goOnBehind(base)
	return nil
}

// holdStill ends the reign, makes everything that waits durable, and keeps all others from changing the log until release.
func (l *Log) holdStill() (release func(), err error) {
	l.commit.Lock()
	l.mu.Lock()
	err = l.usable()
	l.reigns, l.still = false, true
	l.mu.Unlock()
	if err == nil {
		l.drain()
		err = l.broken()
	}
	l.meta.Lock()
	release = func() {
		l.mu.Lock()
		l.still = false
		l.mu.Unlock()
		l.meta.Unlock()
		l.commit.Unlock()
	}
	if err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// goOnBehind sets where the next entry belongs. Timestamps don't fall back: one is never used twice.
func (l *Log) goOnBehind(end themis.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.safe = end, min(l.safe, end.Seq)
}

// cut shows readers the shorter log first, so that none takes a half-cut file for damage, then changes the files while
// none of them is open. The log is held still.
func (l *Log) cut(show func(v *view), files func(old, now *view) error) error {
	old := l.view.Load()
	l.change(func(v *view) {
		show(v)
		v.cuts++
	})
	now := l.view.Load()
	err := l.tail.Close()
	if err == nil {
		err = files(old, now)
	}
	if err == nil {
		err = l.openTail()
	}
	if err != nil {
		return l.fail(nil, err)
	}
	return nil
}

// step is where a test may stop.
func (l *Log) step(name string) {
	if l.onStep != nil {
		l.onStep(name)
	}
}
