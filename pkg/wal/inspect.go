package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/themisdb/themis/pkg/themis"
)

// Fault is a kind of finding of Inspect.
type Fault string

// The faults. Only a torn tail is normal after a crash; Open cuts it.
const (
	FaultTornTail   Fault = "TORN_TAIL"        // the last segment ends in a frame that was never finished
	FaultFlipped    Fault = "FLIPPED"          // bytes inside the log are not what was written
	FaultGap        Fault = "GAP"              // entries are missing: a seq or a segment
	FaultDuplicate  Fault = "DUPLICATE"        // a seq stands there twice
	FaultLSN        Fault = "LSN_MISMATCH"     // an entry is whole, but not at its place in bytes
	FaultEpochFalls Fault = "EPOCH_FALLS"      // an entry is of an older epoch than the one before it
	FaultLineage    Fault = "LINEAGE_MISMATCH" // LOG and the entries disagree on where an epoch begins
	FaultForeign    Fault = "FOREIGN"          // LOG names another cluster, shard or storage
	FaultFormat     Fault = "NEWER_FORMAT"     // whole, but written by a newer version
	FaultLogFile    Fault = "LOG_UNREADABLE"   // LOG is missing or damaged
	FaultMark       Fault = "MARK_UNREADABLE"  // MARK is missing or damaged
	FaultLost       Fault = "LOST_ENTRIES"     // the log ends below what it once had durable: the replica is blank
	FaultLeftover   Fault = "LEFTOVER"         // a file of interrupted work, or a segment that is not part of the log any more; Open removes it
)

// Finding is one thing that Inspect found wrong.
type Finding struct {
	Fault  Fault      `json:"fault"`
	Seq    themis.Seq `json:"seq"` // of the entry that belongs there
	LSN    themis.LSN `json:"lsn"`
	File   string     `json:"file"`
	Offset int64      `json:"offset"` // in File
	Detail string     `json:"detail"`
}

// SegmentInfo is one segment file.
type SegmentInfo struct {
	File    string       `json:"file"`
	First   themis.Seq   `json:"first"` // by its name
	Last    themis.Seq   `json:"last"`  // of the whole entries in it
	End     themis.LSN   `json:"end"`   // behind the last whole entry
	Entries int          `json:"entries"`
	Bytes   themis.Bytes `json:"bytes"`
}

// Visited is one whole entry, where it stands.
type Visited struct {
	File   string       `json:"file"`
	Offset int64        `json:"offset"`
	Bytes  int          `json:"bytes"` // of its record
	Entry  themis.Entry `json:"entry"` // the payload is valid during the visit only
}

// Inspection is what Inspect found.
type Inspection struct {
	Identity
	Base      themis.Position     `json:"base"`
	Lineage   []themis.EpochStart `json:"lineage"`   // as LOG has it
	Epochs    []themis.EpochStart `json:"epochs"`    // as the entries have it: where each epoch among them begins
	Resetting bool                `json:"resetting"` // the log was being replaced by what begins behind Base; the next Open finishes that
	Mark      themis.Seq          `json:"mark"`
	Last      themis.Position     `json:"last"` // behind the last whole entry
	MaxCommit themis.Seq          `json:"max_commit"`
	Entries   int                 `json:"entries"`
	Bytes     themis.Bytes        `json:"bytes"`
	Segments  []SegmentInfo       `json:"segments"`
	Findings  []Finding           `json:"findings"`
}

// Sound says that nothing is wrong, or nothing that the next Open does not put right without loss.
func (i Inspection) Sound() bool {
	for _, f := range i.Findings {
		if f.Fault != FaultTornTail && f.Fault != FaultLeftover {
			return false
		}
	}
	return true
}

// Inspect reads the log of a stopped node and changes nothing, not even the lock. It visits every whole entry in order of the
// files, also behind damage, and tells the kinds of damage apart. Segments that Open would remove unread, because the log is being
// reset or begins behind them, are LEFTOVER and not visited. want names whose log it should be; empty fields stand for
// any. visit may be nil; its error ends the inspection and is returned. Other errors mean that the files could not be read.
func Inspect(dir string, want Identity, visit func(Visited) error) (Inspection, error) {
	in := &inspector{dir: dir, visit: visit}
	firsts, leftovers, err := listSegments(dir)
	if err != nil {
		return in.found, fmt.Errorf("inspect log: %w", err)
	}
	if err := in.smallFiles(want); err != nil {
		return in.found, fmt.Errorf("inspect log: %w", err)
	}
	for _, name := range leftovers {
		in.add(FaultLeftover, filepath.Join(dir, name), 0, "left by interrupted work")
	}
	in.prev = in.found.Base
	firsts = in.leaveOut(firsts)
	for i, first := range firsts {
		if err := in.segment(first, i == len(firsts)-1); err != nil {
			return in.found, fmt.Errorf("inspect log: %w", err)
		}
	}
	in.found.Last = in.prev
	if !in.found.Resetting { // else all that matters is what Open makes of Base
		in.lost()
	}
	in.lineage()
	return in.found, nil
}

// leaveOut names the segments that Open removes unread, as survey decides it, and returns the others.
func (in *inspector) leaveOut(firsts []themis.Seq) []themis.Seq {
	leave := func(why string) {
		in.add(FaultLeftover, segmentPath(in.dir, firsts[0]), 0, "%s", why)
		firsts = firsts[1:]
	}
	for in.found.Resetting && len(firsts) > 0 {
		leave("of the log before a reset: its removal was interrupted")
	}
	for !in.noLog && len(firsts) > 1 && firsts[1] <= in.found.Base.Seq+1 {
		leave("its entries are below where the log begins: their removal was interrupted")
	}
	return firsts
}

type inspector struct {
	dir    string
	visit  func(Visited) error
	found  Inspection
	starts []startAt
	prev   themis.Position
	noLog  bool // LOG can't say where the log begins
	noMark bool
}

func (in *inspector) add(fault Fault, file string, off int64, format string, args ...any) {
	in.found.Findings = append(in.found.Findings, Finding{
		Fault: fault, Seq: in.prev.Seq + 1, LSN: in.prev.LSN, File: file, Offset: off, Detail: fmt.Sprintf(format, args...),
	})
}

func (in *inspector) smallFiles(want Identity) error {
	path := filepath.Join(in.dir, logName)
	log, err := readLogFile(in.dir)
	switch {
	case err == nil:
		in.found.Identity, in.found.Base, in.found.Lineage, in.found.Resetting = log.Identity, log.Base, log.Epochs, log.Resetting
		if err := log.foreign(want, in.dir); err != nil {
			in.add(FaultForeign, path, 0, "%v", err)
		}
	case errors.Is(err, ErrUpgrade):
		in.noLog = true
		in.add(FaultFormat, path, 0, "%v", err)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, themis.ErrMalformed):
		in.noLog = true
		in.add(FaultLogFile, path, 0, "%v", err)
	default:
		return err
	}
	path = filepath.Join(in.dir, markName)
	_, in.found.Mark, err = readMark(path)
	switch {
	case in.found.Resetting && err != nil: // Open writes it anew
		in.noMark = true
	case errors.Is(err, os.ErrNotExist), errors.Is(err, themis.ErrMalformed):
		in.noMark = true
		in.add(FaultMark, path, 0, "%v", err)
	default:
		return err
	}
	return nil
}

// segment reads one file; last says that a torn tail is possible.
func (in *inspector) segment(first themis.Seq, last bool) error {
	path := segmentPath(in.dir, first)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if in.noLog && len(in.found.Segments) == 0 { // the first frame itself must say where the log begins
		in.prev = themis.Position{Seq: first - 1}
		if e, err := headOf(path); err == nil && e.Seq == first {
			in.prev.LSN = e.LSN
		}
	}
	switch {
	case first > in.prev.Seq+1:
		in.add(FaultGap, path, 0, "the segment begins at seq %d, seq %d is the next: a segment is missing or was cut short", first, in.prev.Seq+1)
	case first <= in.prev.Seq:
		in.add(FaultDuplicate, path, 0, "the segment begins at seq %d, the one before it ends at %d", first, in.prev.Seq)
	}
	if first != in.prev.Seq+1 {
		in.prev.Seq = first - 1
		if e, err := headOf(path); err == nil && e.Seq == first {
			in.prev.LSN = e.LSN
		}
	}
	info := SegmentInfo{File: path, First: first, Last: first - 1, Bytes: themis.Bytes(len(data))}
	err = in.records(path, data, last, &info)
	in.found.Segments = append(in.found.Segments, info)
	in.found.Bytes += info.Bytes
	return err
}

// records goes through the records of one segment; behind damage it goes on at the next whole frame.
func (in *inspector) records(path string, data []byte, last bool, info *SegmentInfo) error {
	if len(data) == 0 && !last {
		in.add(FaultFlipped, path, 0, "empty, and not the last segment")
	}
	for off := int64(0); off < int64(len(data)); {
		if last && onlyZeros(data[off:]) {
			info.Bytes = themis.Bytes(off)
			return nil
		}
		e, end, n, err := readRecord(data[off:], in.prev)
		var order *OrderError
		if err != nil && !errors.As(err, &order) {
			next, more := in.skip(path, data, off, last, err)
			if !more {
				if last {
					info.Bytes = themis.Bytes(off) + themis.Bytes(len(withoutRoom(data[off:])))
				}
				return nil
			}
			off = next
			continue
		}
		if order != nil {
			in.add(order.fault(), path, off, "%v", err)
		}
		if in.visit != nil {
			if err := in.visit(Visited{File: path, Offset: off, Bytes: n, Entry: e}); err != nil {
				return err
			}
		}
		in.found.MaxCommit = max(in.found.MaxCommit, e.Commit)
		in.found.Entries++
		info.Entries++
		info.Last, info.End = e.Seq, end.LSN
		in.noteEpoch(path, off, &e)
		in.prev = end
		off += int64(n)
	}
	return nil
}

// skip judges what can't be read at off, and finds where the next whole record begins.
func (in *inspector) skip(path string, data []byte, off int64, last bool, err error) (next int64, more bool) {
	at, good := nextGoodFrame(data, off+1, in.prev)
	good = good && (!last || in.noMark || in.found.Mark > in.prev.Seq) // as survey decides it
	switch {
	case errors.Is(err, ErrUpgrade):
		in.add(FaultFormat, path, off, "%v", err)
	case good:
		in.add(FaultFlipped, path, off, "%v; the next whole entry is at offset %d", err, at)
	case last:
		in.add(FaultTornTail, path, off, "%v: %d bytes behind the last whole entry", err, len(withoutRoom(data[off:])))
		return 0, false
	default:
		in.add(FaultFlipped, path, off, "%v: to the end of the segment", err)
	}
	if !good {
		return 0, false
	}
	e := frameHeader(data[at:])
	in.prev = themis.Position{Seq: e.Seq - 1, LSN: e.LSN, Epoch: in.prev.Epoch}
	size, _ := frameSize(data[at:]) // it was whole a moment ago
	begin := at - (recordBytes(size) - int64(size))
	if _, got, err := recordSize(data[max(0, begin):]); err == nil && got == size && begin > off {
		return begin, true
	}
	in.prev = behind(&e, size) // its size prefix is damaged: tidwall would not find it, and no reader returns it
	return at + int64(size), true
}

// lost compares the end of the log with what MARK, LOG and the entries say that it once held.
func (in *inspector) lost() {
	end := in.prev.Seq
	path := filepath.Join(in.dir, markName)
	switch n := len(in.found.Lineage); {
	case !in.noMark && in.found.Mark == markUnknown:
		in.add(FaultLost, path, 0, "what the replica had acknowledged is not known: %s was lost before", markName)
	case !in.noMark && in.found.Mark > end:
		in.add(FaultLost, path, 0, "the log ends at seq %d, it was durable up to seq %d", end, in.found.Mark)
	case in.found.MaxCommit > end:
		in.add(FaultLost, path, 0, "the log ends at seq %d, entries up to seq %d were committed", end, in.found.MaxCommit)
	case n > 0 && in.found.Lineage[n-1].Seq > end:
		in.add(FaultLost, filepath.Join(in.dir, logName), 0, "the log ends at seq %d, epoch %d began at seq %d",
			end, in.found.Lineage[n-1].Epoch, in.found.Lineage[n-1].Seq)
	}
}

// fault names what an entry out of order means.
func (e *OrderError) fault() Fault {
	switch {
	case e.Field == "seq" && e.Got > e.Want:
		return FaultGap
	case e.Field == "seq":
		return FaultDuplicate
	case e.Field == "epoch":
		return FaultEpochFalls
	}
	return FaultLSN
}
