package wal

import (
	"fmt"
	"path/filepath"
	"slices"

	"github.com/themisdb/themis/pkg/themis"
)

// startAt is where the entries, not LOG, begin an epoch.
type startAt struct {
	themis.EpochStart
	file   string
	offset int64
	lsn    themis.LSN
}

// noteEpoch remembers where epochs begin.
func (in *inspector) noteEpoch(file string, offset int64, e *themis.Entry) {
	if n := len(in.starts); n == 0 || in.starts[n-1].Epoch != e.Epoch {
		start := themis.EpochStart{Epoch: e.Epoch, Seq: e.Seq}
		in.starts = append(in.starts, startAt{start, file, offset, e.LSN})
		in.found.Epochs = append(in.found.Epochs, start)
	}
}

// ordered says that nothing found so far puts the order of the entries in doubt.
func (in *inspector) ordered() bool {
	return !slices.ContainsFunc(in.found.Findings, func(f Finding) bool {
		switch f.Fault {
		case FaultTornTail, FaultLeftover, FaultMark, FaultLost, FaultForeign:
			return false
		}
		return true
	})
}

// lineage compares where LOG says that epochs begin with where the entries do. LOG may lack an epoch that begins inside the log: it
// is written after the entries, and the next Open adds it.
func (in *inspector) lineage() {
	if !in.ordered() {
		return
	}
	add := func(s startAt, format string, args ...any) {
		in.found.Findings = append(in.found.Findings, Finding{
			Fault: FaultLineage, Seq: s.Seq, LSN: s.lsn, File: s.file, Offset: s.offset, Detail: fmt.Sprintf(format, args...),
		})
	}
	agree := true
	for _, s := range in.starts {
		for _, l := range in.found.Lineage {
			if l.Seq <= s.Seq && l.Epoch > s.Epoch || l.Seq > s.Seq && l.Epoch <= s.Epoch || l.Seq == s.Seq && l.Epoch != s.Epoch {
				add(s, "seq %d is of epoch %d; LOG says that epoch %d begins at seq %d", s.Seq, s.Epoch, l.Epoch, l.Seq)
				agree = false
				break
			}
		}
	}
	for _, l := range in.found.Lineage {
		if is := epochAt(in.found.Epochs, l.Seq); agree && l.Seq > in.found.Base.Seq && l.Seq <= in.found.Last.Seq && is != l.Epoch {
			add(startAt{EpochStart: l, file: filepath.Join(in.dir, logName)}, "LOG says that epoch %d begins at seq %d, that entry is of epoch %d", l.Epoch, l.Seq, is)
		}
	}
}
