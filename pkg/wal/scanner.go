package wal

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/themisdb/themis/pkg/themis"
)

const scanBytes = 512 << 10 // read at once; a larger frame gets a larger buffer

// Scanner reads durable entries in order, through file handles of its own: it takes no lock of the writer and shares nothing
// with other scanners. It checks every checksum and the order of the entries. One goroutine at a time; Close it.
type Scanner struct {
	l    *Log
	cuts uint64
	prev themis.Position // behind the last entry that was returned
	lost error           // why it can't go on

	f     *os.File
	first themis.Seq // of the segment that f is
	off   int64      // in f, of buf[0]
	limit int64      // durable bytes of f, when last looked
	room  []byte     // what buf is a part of
	buf   []byte     // read, not yet returned
}

// Scan begins to read at entry from, which is at most one behind the durable end. *TrimmedError when it is no longer there.
func (l *Log) Scan(from themis.Seq) (*Scanner, error) {
	v := l.view.Load()
	switch {
	case v.closed:
		return nil, ErrClosed
	case from <= v.base.Seq:
		return nil, fmt.Errorf("scan: %w", &TrimmedError{Shard: l.o.Shard, Wanted: from, First: v.base.Seq + 1})
	case from > v.last.Seq+1:
		return nil, themis.Errorf(themis.InvalidArgument, "scan %s from seq %d: the log ends at %d", l.o.Shard, from, v.last.Seq).In(l.o.Shard)
	}
	seg := v.segments[v.find(from)]
	s := &Scanner{l: l, cuts: v.cuts}
	s.prev = themis.Position{Seq: seg.first - 1, Epoch: epochAt(v.starts, seg.first-1), LSN: seg.lsn}
	for s.prev.Seq+1 < from {
		if _, _, err := s.record(); err != nil {
			return nil, errors.Join(fmt.Errorf("scan from seq %d: %w", from, err), s.Close())
		}
	}
	return s, nil
}

// Pos is the position behind the last entry that was returned.
func (s *Scanner) Pos() themis.Position { return s.prev }

// Close gives up the file handle.
func (s *Scanner) Close() error {
	s.lost = ErrClosed
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}

// Next returns the next entry; its payload is valid until the next call. io.EOF at the durable end: later calls go on when
// there is more. *CorruptError, *TrimmedError, ErrCut and ErrClosed end the scan.
func (s *Scanner) Next() (themis.Entry, error) {
	frame, prev, err := s.record()
	if err != nil {
		return themis.Entry{}, err
	}
	e, _, err := DecodeFrame(frame)
	if err != nil {
		s.prev = prev
		return e, s.end(err)
	}
	return e, nil
}

// NextFrames copies as many of the next frames as fit into limit bytes, but at least one, into buf, which it may exchange for
// a larger one. The batch is the caller's to keep, as buf was. Errors like Next; a batch without error has at least one entry.
func (s *Scanner) NextFrames(buf []byte, limit int) (Batch, error) {
	b := Batch{Frames: buf[:0], First: s.prev.Seq + 1, Prev: s.prev}
	for {
		prefix, size, err := s.ready()
		if b.Entries > 0 && (err != nil || len(b.Frames)+size > limit) {
			break // an error comes again at the next call
		}
		var frame []byte
		if err == nil {
			frame, err = s.take(prefix, size)
		}
		if err != nil && b.Entries > 0 {
			break
		}
		if err != nil {
			return Batch{}, err
		}
		b.Frames = append(b.Frames, frame...)
		b.Entries++
	}
	b.Last, b.End = s.prev.Seq, s.prev
	return b, nil
}

// record reads one record and returns its frame, which is checked, and the position before it.
func (s *Scanner) record() (frame []byte, prev themis.Position, err error) {
	prev = s.prev
	prefix, size, err := s.ready()
	if err == nil {
		frame, err = s.take(prefix, size)
	}
	return frame, prev, err
}

// ready brings the whole next record into buf, from the next segment if need be.
func (s *Scanner) ready() (prefix, size int, err error) {
	if s.lost != nil {
		return 0, 0, s.lost
	}
	if len(s.buf) == 0 && s.off >= s.limit {
		if err := s.advance(); err != nil {
			return 0, 0, err
		}
	}
	if prefix, size, err = s.peek(); err != nil {
		return 0, 0, s.end(err)
	}
	return prefix, size, nil
}

// take checks the record that ready found and steps over it.
func (s *Scanner) take(prefix, size int) ([]byte, error) {
	frame := s.buf[prefix : prefix+size]
	if err := s.check(frame); err != nil {
		return nil, s.end(err)
	}
	e := frameHeader(frame)
	s.prev = behind(&e, size)
	s.buf = s.buf[prefix+size:]
	s.off += int64(prefix + size)
	return frame, nil
}

// check looks at a frame that must fill its record, and follow what was read.
func (s *Scanner) check(frame []byte) error {
	n, err := checkFrame(frame)
	if err != nil {
		return err
	}
	if n != len(frame) {
		return fmt.Errorf("%w: a frame of %d bytes in a record of %d", ErrFrameSize, n, len(frame))
	}
	e := frameHeader(frame)
	return follows(s.prev, &e)
}

// peek brings the whole next record into buf.
func (s *Scanner) peek() (prefix, size int, err error) {
	prefix, size, err = recordSize(s.buf)
	if errors.Is(err, ErrFrameShort) {
		if err := s.fill(min(maxPrefixBytes, s.limit-s.off)); err != nil {
			return 0, 0, err
		}
		prefix, size, err = recordSize(s.buf)
	}
	if err != nil {
		return 0, 0, err
	}
	return prefix, size, s.fill(int64(prefix + size))
}

// fill makes buf at least n bytes long. It never asks for more than the file is known to hold.
func (s *Scanner) fill(n int64) error {
	if int64(len(s.buf)) >= n {
		return nil
	}
	if n > s.limit-s.off {
		return fmt.Errorf("%w: a record of %d bytes, %d to the end", ErrFrameShort, n, s.limit-s.off)
	}
	want := min(max(n, scanBytes), s.limit-s.off)
	if int64(cap(s.room)) < want {
		s.room = make([]byte, want)
	}
	kept := copy(s.room[:want], s.buf)
	s.buf = s.room[:want]
	if _, err := s.f.ReadAt(s.buf[kept:], s.off+int64(kept)); err != nil {
		s.buf = s.buf[:kept]
		return fmt.Errorf("read %s: %w", s.f.Name(), err)
	}
	return nil
}

// advance finds out how far the log reaches now, and goes to the next segment when this one is read. io.EOF at the end.
func (s *Scanner) advance() error {
	v := s.l.view.Load()
	switch {
	case v.closed:
		s.lost = ErrClosed
		return s.lost
	case v.cuts != s.cuts:
		s.lost = fmt.Errorf("scan %s at seq %d: %w", s.l.o.Shard, s.prev.Seq+1, ErrCut)
		return s.lost
	case s.prev.Seq >= v.last.Seq:
		return io.EOF
	}
	i := v.find(s.prev.Seq + 1)
	if i < 0 {
		return s.trimmed(v)
	}
	if first := v.segments[i].first; first != s.first {
		f, err := os.Open(segmentPath(s.l.dir, first))
		if errors.Is(err, os.ErrNotExist) {
			if now := s.l.view.Load(); now.cuts != s.cuts || now.base.Seq > s.prev.Seq {
				return s.trimmed(now)
			}
			s.first, s.off = first, 0
			return s.end(err)
		}
		if err != nil {
			return fmt.Errorf("open segment: %w", err)
		}
		if s.f != nil {
			_ = s.f.Close() // only read
		}
		s.f, s.first, s.off = f, first, 0
	}
	s.limit = v.sizeOf(i)
	return nil
}

func (s *Scanner) trimmed(v *view) error {
	s.lost = fmt.Errorf("scan: %w", &TrimmedError{Shard: s.l.o.Shard, Wanted: s.prev.Seq + 1, First: v.base.Seq + 1})
	if v.cuts != s.cuts {
		s.lost = fmt.Errorf("scan %s at seq %d: %w", s.l.o.Shard, s.prev.Seq+1, ErrCut)
	}
	return s.lost
}

// end stops the scan for good. What looks like damage while the log is being cut or closed is none.
func (s *Scanner) end(err error) error {
	switch v := s.l.view.Load(); {
	case v.closed:
		s.lost = ErrClosed
	case v.cuts != s.cuts:
		s.lost = fmt.Errorf("scan %s at seq %d: %w", s.l.o.Shard, s.prev.Seq+1, ErrCut)
	default:
		s.lost = damaged(s.l.o.Shard, segmentPath(s.l.dir, s.first), s.off, s.prev, err)
	}
	return s.lost
}
