package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// LogVerdict is a log in one word.
type LogVerdict string

// The verdicts, the worst first. TORN_TAIL is sound: what was torn was never acknowledged, and the next start cuts it.
const (
	LogDamaged      LogVerdict = "DAMAGED"
	LogInconclusive LogVerdict = "INCONCLUSIVE"
	LogTornTail     LogVerdict = "TORN_TAIL"
	LogSound        LogVerdict = "SOUND"
)

var verdicts = []LogVerdict{LogDamaged, LogInconclusive, LogTornTail, LogSound}

// LogReport is what was found in one log.
type LogReport struct {
	Dir             string              `json:"dir"`
	Node            themis.NodeID       `json:"node"`
	Shard           themis.ShardID      `json:"shard"`
	Verdict         LogVerdict          `json:"verdict"`
	Entries         int                 `json:"entries"` // whole ones, each with its checksum right
	Bytes           themis.Bytes        `json:"bytes"`   // that were read
	First           themis.Seq          `json:"first_seq"`
	Last            themis.Seq          `json:"last_seq"`
	End             themis.LSN          `json:"end_lsn"` // behind the last entry
	Epochs          []themis.EpochStart `json:"epochs"`  // as the entries have them
	Mark            *themis.Seq         `json:"mark"`    // what the replica may have acknowledged; null: not known
	MaxCommit       themis.Seq          `json:"max_commit_seq"`
	Cluster         themis.ClusterID    `json:"cluster_id"` // as LOG has it
	Storage         themis.StorageID    `json:"storage_id"`
	IdentityChecked bool                `json:"identity_checked"` // LOG was compared with the node.json above it
	Segment         string              `json:"segment"`          // the only one that was asked for; empty: all
	Segments        []SegmentReport     `json:"segments"`
	Growing         bool                `json:"growing"` // entries were added meanwhile: its node runs
	Findings        []Finding           `json:"findings"`
	FindingsTotal   int                 `json:"findings_total"` // the list holds at most 100
	Inconclusive    []Unlooked          `json:"inconclusive"`
}

// SegmentReport is one file of a log.
type SegmentReport struct {
	Number  int          `json:"number"` // 1, 2, 3 … in order of the files
	File    string       `json:"file"`
	First   themis.Seq   `json:"first_seq"`
	Last    themis.Seq   `json:"last_seq"` // of its whole entries; below first_seq: none
	Entries int          `json:"entries"`
	Bytes   themis.Bytes `json:"bytes"`
}

// WALReport is what validate-wal answers.
type WALReport struct {
	Time    time.Time   `json:"time"`
	Verdict LogVerdict  `json:"verdict"` // the worst of the logs
	Entries int         `json:"entries"`
	Logs    []LogReport `json:"logs"`
}

// Exit is 1 where a log is damaged, 3 where one could not be checked, else 0.
func (r WALReport) Exit() int {
	switch r.Verdict {
	case LogDamaged:
		return themis.ExitFailed
	case LogInconclusive:
		return themis.ExitInconclusive
	}
	return themis.ExitOK
}

const (
	maxFindings = 100
	maxLooks    = 5
	defaultWait = 200 * time.Millisecond // between two looks at a log that may be written to
)

// ValidateOptions say what to look at.
type ValidateOptions struct {
	Segment uint64        // only the segment whose first seq this is, else the one with this number in order; 0: all
	Wait    time.Duration // between two looks; default 200 ms
}

// Validate checks logs, one after the other. INVALID_ARGUMENT when none has the segment that was asked for; other errors mean
// that ctx ended. What can't be read is not an error but INCONCLUSIVE.
func Validate(ctx context.Context, logs []Log, o ValidateOptions, now func() time.Time) (WALReport, error) {
	out := WALReport{Time: now().UTC(), Verdict: LogSound, Logs: []LogReport{}}
	var have []string
	for _, l := range logs {
		v := &validator{log: l, o: o, look: lookAt}
		r, ok, err := v.run(ctx)
		if err != nil {
			return out, err
		}
		if !ok {
			have = append(have, v.ranges())
			continue
		}
		out.Logs = append(out.Logs, r)
		out.Entries += r.Entries
		out.Verdict = worse(out.Verdict, r.Verdict)
	}
	if len(out.Logs) == 0 {
		if o.Segment == 0 {
			return out, themis.Errorf(themis.InvalidArgument, "no log to check")
		}
		return out, themis.Errorf(themis.InvalidArgument, "segment %d: no segment begins at that seq, and no log has that many: %s", o.Segment, strings.Join(have, "; ")).
			Do("themisdb-repl-doctor validate-wal")
	}
	return out, nil
}

func worse(a, b LogVerdict) LogVerdict {
	if slices.Index(verdicts, b) < slices.Index(verdicts, a) {
		return b
	}
	return a
}

type validator struct {
	log  Log
	o    ValidateOptions
	look func(Log) look
	seen look // the newest
}

// run looks until what it saw is certain. ok is false where the log has no such segment.
func (v *validator) run(ctx context.Context) (r LogReport, ok bool, err error) {
	v.seen = v.look(v.log)
	first, settled := v.seen, len(v.seen.faults) == 0 && v.seen.err == nil
	for n := 1; n < maxLooks && !settled; n++ {
		if err := pause(ctx, cmp.Or(v.o.Wait, defaultWait)); err != nil {
			return r, false, err
		}
		next := v.look(v.log)
		next.confirmed = repeated(v.seen.faults, next.faults)
		settled = next.err == nil && len(next.confirmed) == len(next.faults)
		settled = settled || next.err != nil && v.seen.err != nil
		v.seen = next
	}
	only := ""
	if v.o.Segment > 0 && v.seen.err == nil {
		i := pick(v.seen.in.Segments, v.o.Segment)
		if i < 0 {
			return r, false, nil
		}
		only = v.seen.in.Segments[i].File
	}
	r = judge(v.log, v.seen, only)
	r.Growing = first.err == nil && v.seen.err == nil && first.in.Last.Seq != v.seen.in.Last.Seq
	return r, true, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return themis.Errorf(themis.Deadline, "not finished: %w", ctx.Err())
	}
}

// pick finds the segment whose first seq is n, else the n-th.
func pick(segments []wal.SegmentInfo, n uint64) int {
	if i := slices.IndexFunc(segments, func(s wal.SegmentInfo) bool { return uint64(s.First) == n }); i >= 0 {
		return i
	}
	if n >= 1 && n <= uint64(len(segments)) {
		return int(n) - 1 //nolint:gosec // at most the number of segments
	}
	return -1
}

// ranges says which segments there are, for people who asked for another.
func (v *validator) ranges() string {
	name := cmp.Or(v.log.subject(), v.log.Dir)
	segments := v.seen.in.Segments
	if len(segments) == 0 {
		return name + " has no segments"
	}
	for i, s := range segments {
		if n := themis.Seq(v.o.Segment); s.First <= n && n <= s.Last {
			return fmt.Sprintf("seq %d of %s is in segment %d (number %d)", n, name, s.First, i+1)
		}
	}
	return fmt.Sprintf("%s has %d, from %d to %d", name, len(segments), segments[0].First, segments[len(segments)-1].First)
}

func (l Log) subject() string {
	switch {
	case l.Shard != "" && l.Node != "":
		return string(l.Shard) + "/" + string(l.Node)
	case l.Shard != "":
		return string(l.Shard)
	case l.Gone != "":
		return string(l.Node)
	}
	return filepath.Base(l.Dir)
}

// judge makes the report of one look. only is the segment's file that was asked for; empty: all.
func judge(l Log, k look, only string) LogReport {
	r := LogReport{
		Dir: l.Dir, Node: l.Node, Shard: cmp.Or(l.Shard, k.in.Shard), Cluster: k.in.Cluster, Storage: k.in.Storage, MaxCommit: k.in.MaxCommit,
		IdentityChecked: l.Want.Cluster != "" && l.Want.Storage != "" && k.in.Cluster != "",
		Epochs:          []themis.EpochStart{}, Segments: []SegmentReport{}, Findings: []Finding{}, Inconclusive: []Unlooked{},
	}
	if k.err != nil {
		r.Verdict = LogInconclusive
		r.Inconclusive = append(r.Inconclusive, cannotRead(l, k.err))
		return r
	}
	if m := k.in.Mark; m != ^themis.Seq(0) && !k.has(wal.FaultMark) {
		r.Mark = &m
	}
	r.takeSegments(k, only)
	for _, f := range k.confirmed {
		if only == "" || f.Fault == wal.FaultForeign || f.File == only || !isSegment(filepath.Base(f.File)) && k.isLast(only) {
			r.add(l, f)
		}
	}
	r.FindingsTotal = len(r.Findings)
	sortFindings(r.Findings)
	if l.WantErr != "" {
		r.Inconclusive = append(r.Inconclusive, Unlooked{"identity", l.subject(), "whose log it should be is not known: " + l.WantErr, "themis-cli node list"})
	}
	r.Verdict = r.conclude()
	r.Findings = r.Findings[:min(len(r.Findings), maxFindings)]
	return r
}

func (r *LogReport) takeSegments(k look, only string) {
	for i, s := range k.in.Segments {
		if only != "" && s.File != only {
			continue
		}
		r.Segments = append(r.Segments, SegmentReport{i + 1, s.File, s.First, s.Last, s.Entries, s.Bytes})
		r.Entries += s.Entries
		r.Bytes += s.Bytes
		if s.Entries > 0 {
			r.First = cmp.Or(r.First, s.First)
			r.Last, r.End = s.Last, s.End
		}
		if only != "" {
			r.Segment = filepath.Base(only)
		}
	}
	for _, s := range k.in.Epochs {
		if s.Seq >= r.First && s.Seq <= r.Last {
			r.Epochs = append(r.Epochs, s)
		}
	}
}

func (r *LogReport) add(l Log, f wal.Finding) {
	v := values{"detail": f.Detail, "file": f.File, "seq": uint64(f.Seq), "lsn": f.LSN.String(), "offset": f.Offset}
	out := find(health.Code(f.Fault), "", l.subject(), v)
	out.At = &LogPlace{File: f.File, Seq: f.Seq, LSN: f.LSN, Offset: f.Offset}
	if base := filepath.Base(f.File); isSegment(base) {
		out.At.Segment = base
		v["segment"] = base
	}
	if f.Fault == wal.FaultFormat {
		r.Inconclusive = append(r.Inconclusive, Unlooked{"format", l.subject(), "written by a newer version than this one can read: " + f.Detail, out.Fix})
	}
	r.Findings = append(r.Findings, out)
}

func (r *LogReport) conclude() LogVerdict {
	damaged := func(f Finding) bool { return f.Severity != health.Info && f.Code != health.Code(wal.FaultFormat) }
	switch {
	case slices.ContainsFunc(r.Findings, damaged):
		return LogDamaged
	case len(r.Inconclusive) > 0:
		return LogInconclusive
	case slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Code == health.Code(wal.FaultTornTail) }):
		return LogTornTail
	}
	return LogSound
}

func cannotRead(l Log, err error) Unlooked {
	u := Unlooked{Check: "read", Subject: l.subject(), Why: err.Error(), Fix: "ls -l " + l.Dir}
	if errors.Is(err, fs.ErrPermission) {
		u.Fix = "run it as the user that owns " + l.Dir
	}
	return u
}
