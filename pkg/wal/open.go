package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// Recovery is what Open found and did.
type Recovery struct {
	Fresh bool            // the directory was new
	Last  themis.Position // behind the last entry
	// MaxCommit is the highest commit seq in the last segments: everything up to it was committed. It is a lower bound.
	MaxCommit themis.Seq
	Mark      themis.Seq // what the replica had made durable before; 2^64 − 1 once that is no longer known

	CutBytes  int64 // of a torn tail; 0 when there was none
	CutFile   string
	CutOffset int64
	CutReason string
	Removed   []string // leftovers of interrupted work, and segments below the base

	// Blank: the log ends below what it once had. The replica may neither vote nor acknowledge until it is rebuilt.
	Blank       bool
	BlankReason string
}

// Open opens the log in dir, or makes one there. It reads the last segment whole, and of the others the first and last frame;
// it changes nothing before it knows that nothing is corrupt. Errors: *CorruptError (code CORRUPT) where stored bytes are
// damaged; INVALID_ARGUMENT for options out of bounds, and for the log of another cluster, shard or storage, naming both;
// REFUSED_UNSAFE while another has it open; UNIMPLEMENTED for a newer format.
func Open(dir string, o Options) (_ *Log, _ Recovery, err error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, Recovery{}, err
	}
	if err := makeDir(dir); err != nil {
		return nil, Recovery{}, fmt.Errorf("make log directory: %w", err)
	}
	lock, err := takeLock(dir, o.Shard)
	if err != nil {
		return nil, Recovery{}, err
	}
	l := &Log{dir: dir, o: o, lock: lock, sync: o.sync, syncDir: syncDir}
	defer func() {
		if err == nil {
			return
		}
		err = errors.Join(err, lock.Close())
		if l.mark != nil {
			err = errors.Join(err, l.mark.f.Close())
		}
	}()
	s, err := survey(dir, o.identity())
	if err != nil {
		return nil, Recovery{}, err
	}
	r, err := s.repair(l)
	if err != nil {
		return nil, Recovery{}, fmt.Errorf("open log of %s: %w", o.Shard, err)
	}
	l.view.Store(&view{base: s.log.Base, starts: s.starts, segments: s.segments, tailSize: s.tailSize, last: s.last})
	if err := l.openTail(); err != nil {
		return nil, Recovery{}, err
	}
	l.next, l.hlc, l.safe = s.last, s.hlc, s.maxCommit
	l.why.Store(&r.BlankReason)
	l.unknown.Store(r.Blank)
	return l, r, nil
}

// found is the state of a log directory, before anything in it is changed.
type found struct {
	dir        string
	fresh      bool
	log        logFile
	generation uint64 // of MARK
	mark       themis.Seq
	markErr    error

	segments  []segment // at least one, also when its file is missing
	missing   bool      // the only segment is not there: it is made anew
	remove    []string  // leftovers, and segments below the base
	starts    []themis.EpochStart
	last      themis.Position
	hlc       themis.HLC
	maxCommit themis.Seq
	tailSize  int64 // of the last segment, without what is behind its last whole entry
	room      int64 // zeros behind that
	tornBytes int64
	tornErr   error
}

// survey reads a log directory and judges it; it changes nothing.
func survey(dir string, want Identity) (*found, error) {
	s := &found{dir: dir}
	firsts, leftovers, err := listSegments(dir)
	if err != nil {
		return nil, fmt.Errorf("read log directory: %w", err)
	}
	s.remove = leftovers
	s.generation, s.mark, s.markErr = readMark(filepath.Join(dir, markName))
	switch s.log, err = readLogFile(dir); {
	case errors.Is(err, os.ErrNotExist):
		if err := s.beginsFresh(want, firsts); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, damaged(want.Shard, filepath.Join(dir, logName), 0, themis.Position{}, err)
	}
	if err := s.log.foreign(want, dir); err != nil {
		return nil, err
	}
	s.last, s.starts = s.log.Base, s.log.Epochs
	if s.log.Resetting || s.fresh {
		for _, first := range firsts {
			s.remove = append(s.remove, segmentName(first))
		}
		firsts = nil
	}
	for len(firsts) > 1 && firsts[1] <= s.log.Base.Seq+1 { // TruncateFront names the new base first, then removes
		s.remove = append(s.remove, segmentName(firsts[0]))
		firsts = firsts[1:]
	}
	if len(firsts) == 0 {
		s.segments, s.missing = []segment{{first: s.last.Seq + 1, lsn: s.last.LSN}}, true
		return s, nil
	}
	return s, s.readSegments(firsts)
}

// beginsFresh decides whether a directory without LOG is a new one: LOG is the last file that making a log creates.
func (s *found) beginsFresh(want Identity, firsts []themis.Seq) error {
	lost := s.markErr == nil && s.mark > 0
	for _, first := range firsts {
		st, err := os.Stat(segmentPath(s.dir, first))
		if err != nil {
			return fmt.Errorf("read log directory: %w", err)
		}
		lost = lost || st.Size() > 0
	}
	if lost {
		return damaged(want.Shard, filepath.Join(s.dir, logName), 0, themis.Position{}, errors.New("the file is missing beside entries or their mark"))
	}
	s.fresh = true
	s.log = logFile{Format: logFormat, Identity: want}
	return nil
}

// readSegments checks the chain of segments: each begins where the one before it ends, and only the last may have a torn tail.
func (s *found) readSegments(firsts []themis.Seq) error {
	bad := func(first themis.Seq, off int64, err error) error {
		return damaged(s.log.Shard, segmentPath(s.dir, first), off, s.last, err)
	}
	if firsts[0] != s.last.Seq+1 {
		return bad(s.last.Seq+1, 0, fmt.Errorf("%w: the oldest segment is %s, the log begins at %d: a segment is missing",
			themis.ErrMalformed, segmentName(firsts[0]), s.last.Seq+1))
	}
	for i, first := range firsts[:len(firsts)-1] {
		path := segmentPath(s.dir, first)
		head, err := headOf(path)
		if err == nil {
			err = follows(s.last, &head)
		}
		if err != nil {
			return bad(first, 0, err)
		}
		e, end, size, err := lastOf(path, firsts[i+1]-1)
		if err != nil {
			off, err := s.endsWrong(path, firsts[i+1], err)
			return bad(first, off, err)
		}
		if epochAt(s.starts, first) != head.Epoch || epochAt(s.starts, e.Seq) != e.Epoch { // a crash between the segments and LOG
			if off, err := s.learnSegment(path); err != nil {
				return bad(first, off, err)
			}
		}
		s.segments = append(s.segments, segment{first: first, lsn: s.last.LSN, size: size})
		s.last = end
		s.note(&e)
	}
	tail := firsts[len(firsts)-1]
	s.segments = append(s.segments, segment{first: tail, lsn: s.last.LSN})
	return s.readTail(segmentPath(s.dir, tail))
}

// endsWrong finds the place in a segment that does not end where the next one begins, and moves s.last there.
func (s *found) endsWrong(path string, next themis.Seq, err error) (int64, error) {
	if !errors.Is(err, themis.ErrMalformed) {
		return 0, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	off, end, err := walk(data, s.last, nil)
	s.last = end
	if err == nil {
		err = fmt.Errorf("%w: the segment ends with entry %d, the next one begins at %d", themis.ErrMalformed, end.Seq, next)
	}
	return off, err
}

// learnSegment reads all of a segment for epoch starts that LOG does not name.
func (s *found) learnSegment(path string) (off int64, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	off, _, err = walk(data, s.last, func(_ int64, _ int, e *themis.Entry) error { return s.learnStart(e.Seq, e.Epoch) })
	return off, err
}

// learnStart adds the epoch start at seq if LOG does not know it; *OrderError if LOG knows otherwise.
func (s *found) learnStart(seq themis.Seq, epoch themis.Epoch) error {
	at := epochAt(s.starts, seq)
	if at == epoch {
		return nil
	}
	i := 0
	for i < len(s.starts) && s.starts[i].Seq < seq {
		i++
	}
	starts := slices.Insert(slices.Clone(s.starts), i, themis.EpochStart{Epoch: epoch, Seq: seq})
	if checkLineage(s.log.Base, starts) != nil {
		return &OrderError{Field: "epoch", Seq: seq, Got: uint64(epoch), Want: uint64(at)}
	}
	s.starts = starts
	return nil
}

// readTail reads the last segment and tells a torn tail, which is cut, from damage, which is not.
func (s *found) readTail(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read last segment: %w", err)
	}
	off, end, err := walk(data, s.last, func(_ int64, _ int, e *themis.Entry) error {
		s.note(e)
		return s.learnStart(e.Seq, e.Epoch)
	})
	s.last, s.tailSize = end, off
	if err == nil {
		return nil
	}
	rest := withoutRoom(data[off:])
	if s.room = int64(len(data)) - off - int64(len(rest)); len(rest) == 0 {
		return nil
	}
	if !torn(err) {
		return damaged(s.log.Shard, path, off, end, err)
	}
	if at, good := nextGoodFrame(data, off+1, end); good && s.synced(end.Seq+1) {
		return damaged(s.log.Shard, path, off, end, fmt.Errorf("%w; a whole entry follows at offset %d", err, at))
	}
	s.tornBytes, s.tornErr = int64(len(rest)), err
	return nil
}

// synced says whether MARK tells that the entry was on the disk, or can't tell that it was not.
func (s *found) synced(seq themis.Seq) bool {
	return s.markErr != nil || s.mark >= seq || !guard.On(guard.TornOrDamaged)
}

func (s *found) note(e *themis.Entry) {
	s.hlc, s.maxCommit = max(s.hlc, lastHLC(e)), max(s.maxCommit, e.Commit)
}

// blank says why the log holds less than it once had, and up to which seq it had something; or that it doesn't.
func (s *found) blank() (reason string, upTo themis.Seq) {
	if s.fresh || s.log.Resetting {
		return "", 0
	}
	more := func(seq themis.Seq, format string, args ...any) {
		if seq > s.last.Seq && seq > upTo {
			reason, upTo = fmt.Sprintf("the log ends at seq %d, "+format, append([]any{s.last.Seq}, args...)...), seq
		}
	}
	if n := len(s.starts); n > 0 {
		more(s.starts[n-1].Seq, "epoch %d began at seq %d", s.starts[n-1].Epoch, s.starts[n-1].Seq)
	}
	more(s.maxCommit, "entries up to seq %d were committed", s.maxCommit)
	if s.markErr != nil || s.mark == markUnknown {
		return fmt.Sprintf("what it had acknowledged is not known: %s was lost", markName), markUnknown
	}
	more(s.mark, "it was durable up to seq %d", s.mark)
	return reason, upTo
}

// repair makes of what was found a log that can be written. Each step can be cut short and done again at the next Open; what
// tells of a loss is made durable before the loss can no longer be seen. What was read in the last segment, and its name, may be in
// memory only, where the process before ended between a write and its sync: both are synced before anything is built on them.
func (s *found) repair(l *Log) (r Recovery, err error) {
	reason, upTo := s.blank()
	r = Recovery{
		Fresh: s.fresh, Last: s.last, MaxCommit: s.maxCommit, Mark: s.mark, Removed: s.remove,
		Blank: reason != "", BlankReason: reason,
	}
	if l.mark, err = openMark(filepath.Join(s.dir, markName), s.generation, s.mark); err != nil {
		return r, err
	}
	tail := s.segments[len(s.segments)-1]
	switch {
	case s.fresh:
		err = l.mark.setDurably(0)
	case s.log.Resetting:
		err = l.mark.setDurably(s.log.Base.Seq)
	case upTo > s.mark || s.markErr != nil:
		err = l.mark.setDurably(upTo)
	}
	if err != nil {
		return r, err
	}
	if err := removeDurably(s.dir, s.remove); err != nil {
		return r, err
	}
	if s.missing {
		if err := errors.Join(createEmpty(segmentPath(s.dir, tail.first)), syncDir(s.dir)); err != nil {
			return r, err
		}
	}
	if s.tornBytes > 0 {
		r.CutBytes, r.CutFile, r.CutOffset, r.CutReason = s.tornBytes, segmentPath(s.dir, tail.first), s.tailSize, s.tornErr.Error()
	}
	if s.tornBytes+s.room > 0 || guard.On(guard.OpenSynced) {
		if err := errors.Join(cutFile(segmentPath(s.dir, tail.first), s.tailSize, l.sync), l.syncDir(s.dir)); err != nil {
			return r, err
		}
	}
	want := s.log
	s.starts = startsUpTo(s.starts, s.last.Seq)
	want.Epochs, want.Resetting = s.starts, false
	if s.fresh || s.log.Resetting || !slices.Equal(s.log.Epochs, want.Epochs) {
		s.log = want
		return r, s.log.write(s.dir)
	}
	return r, nil
}
