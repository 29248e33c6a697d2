package doctor

import (
	"errors"
	"fmt"
	"slices"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// look is one reading of a log's files.
type look struct {
	in        wal.Inspection
	err       error         // the files could not be read
	faults    []wal.Finding // those of package wal and the doctor's own
	confirmed []wal.Finding // that the look before saw too
}

func lookAt(l Log) (k look) {
	if l.Gone != "" {
		return look{err: errors.New(l.Gone)}
	}
	var content []wal.Finding
	k.in, k.err = wal.Inspect(l.Dir, l.Want, func(v wal.Visited) error {
		content = append(content, contentFaults(v)...)
		return nil
	})
	if k.err != nil {
		return k
	}
	k.faults = append(slices.Clone(k.in.Findings), content...)
	if k.has(wal.FaultLost) { // what is torn below what was durable had been acknowledged: it is no tail that nobody was told of
		k.faults = slices.DeleteFunc(k.faults, func(f wal.Finding) bool { return f.Fault == wal.FaultTornTail })
	}
	k.confirmed = k.faults
	return k
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

func (k *look) isLast(file string) bool {
	n := len(k.in.Segments)
	return n > 0 && k.in.Segments[n-1].File == file
}

func (k *look) has(fault wal.Fault) bool {
	return slices.ContainsFunc(k.faults, func(f wal.Finding) bool { return f.Fault == fault })
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
