package doctor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// look is one reading of a log's files.
type look struct {
	in        wal.Inspection
	err       error // the files could not be read
	resetting bool  // a replacement of the whole log was interrupted; the next start finishes it
	starts    []epochStart
	ends      map[string]themis.LSN // by segment file: behind its last whole entry
	faults    []wal.Finding         // those of package wal and the doctor's own
	confirmed []wal.Finding         // that the look before saw too
}

// epochStart is where the entries, not LOG, begin an epoch.
type epochStart struct {
	themis.EpochStart
	file   string
	offset int64
	lsn    themis.LSN
}

func lookAt(l Log) look {
	k := look{ends: map[string]themis.LSN{}, resetting: resetting(l.Dir)}
	var content []wal.Finding
	k.in, k.err = wal.Inspect(l.Dir, l.Want, func(v wal.Visited) error {
		content = append(content, contentFaults(v)...)
		k.note(v)
		return nil
	})
	if k.err != nil {
		return k
	}
	stale := k.stale()
	k.faults = slices.DeleteFunc(append(slices.Clone(k.in.Findings), content...), func(f wal.Finding) bool {
		return stale[f.File] || k.resetting && f.Fault == wal.FaultLost
	})
	for _, s := range k.in.Segments {
		if stale[s.File] {
			k.faults = append(k.faults, wal.Finding{Fault: wal.FaultLeftover, Seq: s.First, File: s.File, Detail: "its entries are below where the log begins: their removal was interrupted"})
		}
	}
	if !k.damaged() {
		k.faults = append(k.faults, lineageFaults(filepath.Join(l.Dir, logName), k.in, k.starts)...)
	}
	k.confirmed = k.faults
	return k
}

// note remembers where epochs begin and where segments end.
func (k *look) note(v wal.Visited) {
	e := v.Entry
	if n := len(k.starts); n == 0 || k.starts[n-1].Epoch != e.Epoch {
		k.starts = append(k.starts, epochStart{themis.EpochStart{Epoch: e.Epoch, Seq: e.Seq}, v.File, v.Offset, e.LSN})
	}
	k.ends[v.File] = e.LSN + themis.LSN(e.FrameBytes()) //nolint:gosec // a frame's size
}

// contentFaults are what a checksum can't see: an entry that is whole, and still can't be.
func contentFaults(v wal.Visited) (out []wal.Finding) {
	e := v.Entry
	add := func(fault wal.Fault, format string, args ...any) {
		out = append(out, wal.Finding{Fault: fault, Seq: e.Seq, LSN: e.LSN, File: v.File, Offset: v.Offset, Detail: fmt.Sprintf(format, args...)})
	}
	if e.Commit >= e.Seq {
		add(wal.Fault(LogCommit), "seq %d says that seq %d is committed", e.Seq, e.Commit)
	}
	if !e.Kind.Served() {
		add(wal.FaultFormat, "seq %d is of kind %s", e.Seq, e.Kind)
	}
	if e.Kind == themis.KindWrite {
		if _, err := themis.DecodeOps(e.Payload); err != nil {
			add(wal.Fault(LogContent), "seq %d: %v", e.Seq, err)
		}
	}
	return out
}

// stale are the segments that the next start removes unread: all of them while the log is being replaced, else those that lie
// below its base as a whole.
func (k *look) stale() map[string]bool {
	out := map[string]bool{}
	for i, s := range k.in.Segments {
		below := i+1 < len(k.in.Segments) && k.in.Segments[i+1].First <= k.in.Base.Seq+1
		if below || k.resetting {
			out[s.File] = true
		}
	}
	return out
}

func (k *look) isLast(file string) bool {
	n := len(k.in.Segments)
	return n > 0 && k.in.Segments[n-1].File == file
}

func (k *look) has(fault wal.Fault) bool {
	return slices.ContainsFunc(k.faults, func(f wal.Finding) bool { return f.Fault == fault })
}

// damaged says that the order of the entries can't be judged any more.
func (k *look) damaged() bool {
	return slices.ContainsFunc(k.faults, func(f wal.Finding) bool {
		switch f.Fault {
		case wal.FaultTornTail, wal.FaultLeftover, wal.FaultMark, wal.FaultLost, wal.FaultForeign:
			return false
		}
		return true
	})
}

// lineageFaults compares where LOG says that epochs begin with where the entries do. LOG may lack an epoch that begins inside the
// log: it is written after the entries, and the next start adds it.
func lineageFaults(logPath string, in wal.Inspection, starts []epochStart) (out []wal.Finding) {
	add := func(s epochStart, file string, offset int64, format string, args ...any) {
		out = append(out, wal.Finding{Fault: wal.Fault(LogLineage), Seq: s.Seq, LSN: s.lsn, File: file, Offset: offset, Detail: fmt.Sprintf(format, args...)})
	}
	epochOf := func(seq themis.Seq) (at themis.Epoch) {
		for _, s := range starts {
			if s.Seq <= seq {
				at = s.Epoch
			}
		}
		return at
	}
	for _, s := range starts {
		for _, l := range in.Lineage {
			if l.Seq <= s.Seq && l.Epoch > s.Epoch || l.Seq > s.Seq && l.Epoch <= s.Epoch || l.Seq == s.Seq && l.Epoch != s.Epoch {
				add(s, s.file, s.offset, "seq %d is of epoch %d; LOG says that epoch %d begins at seq %d", s.Seq, s.Epoch, l.Epoch, l.Seq)
				break
			}
		}
	}
	if len(out) > 0 {
		return out
	}
	for _, l := range in.Lineage {
		if l.Seq > in.Base.Seq && l.Seq <= in.Last.Seq && epochOf(l.Seq) != l.Epoch {
			add(epochStart{EpochStart: l}, logPath, 0, "LOG says that epoch %d begins at seq %d, that entry is of epoch %d", l.Epoch, l.Seq, epochOf(l.Seq))
		}
	}
	return out
}

// repeated are the findings of now that were there before at the same place. On a running node's log anything else is the log
// growing under the reader.
func repeated(before, now []wal.Finding) []wal.Finding {
	type key struct {
		fault  wal.Fault
		file   string
		offset int64
		seq    themis.Seq
	}
	of := func(f wal.Finding) key { return key{f.Fault, f.File, f.Offset, f.Seq} }
	seen := map[key]bool{}
	for _, f := range before {
		seen[of(f)] = true
	}
	return slices.DeleteFunc(slices.Clone(now), func(f wal.Finding) bool { return !seen[of(f)] })
}

// resetting reads from LOG whether the whole log is being replaced. Inspect has judged the file; here only that field counts.
func resetting(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, logName))
	if err != nil {
		return false
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	var l struct {
		Resetting bool `json:"resetting"`
	}
	return json.Unmarshal(line, &l) == nil && l.Resetting
}
