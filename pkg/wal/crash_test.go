package wal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// smallLog is a closed log of a few small entries in two epochs, and where its records end.
func smallLog(t *testing.T) (dir string, ends []int64) {
	t.Helper()
	dir = t.TempDir()
	l, _ := mustOpen(t, dir, opts())
	reign(t, l, 1)
	for i := range 6 {
		if i == 3 {
			reign(t, l, 2)
			l.SetCommit(2)
		}
		put(t, l, 1, 20+i)
		ends = append(ends, l.view.Load().tailSize)
	}
	mustClose(t, l)
	return dir, ends
}

// checkPrefix opens a log that lost its end and checks that what is there is a prefix of smallLog, that can be continued.
func checkPrefix(t *testing.T, l *Log) {
	t.Helper()
	s, err := l.Scan(1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for want := themis.Seq(1); want <= l.Last().Seq; want++ {
		e, err := s.Next()
		if err != nil || e.Seq != want || !bytes.Equal(e.Payload, payloadOf(want, 19+int(want))) {
			t.Fatalf("entry %d where %d belongs: %v", e.Seq, want, err)
		}
	}
}

func TestCrashAtEveryByte(t *testing.T) {
	dir, ends := smallLog(t)
	size := ends[len(ends)-1]
	crashed := copyDir(t, dir)
	for _, room := range []int{0, 3000} { // zeros behind the tail, as in a log that was not closed
		for _, mark := range []themis.Seq{0, 2, 4} {
			for cut := int64(0); cut <= size; cut++ {
				crashAt(t, dir, crashed, ends, cut, mark, room)
			}
		}
	}
}

// crashAt cuts a copy of smallLog, puts zeros behind it, and opens it.
func crashAt(t *testing.T, dir, crashed string, ends []int64, cut int64, mark themis.Seq, room int) {
	t.Helper()
	data, _ := os.ReadFile(segmentPath(dir, 1))
	whole, end := themis.Seq(0), int64(0)
	for _, e := range ends {
		if e <= cut || room > 0 && onlyZeros(data[cut:e]) {
			whole, end = whole+1, e
		}
	}
	log, _ := os.ReadFile(filepath.Join(dir, logName))
	if whole < 4 { // epoch 2 began at 4, and LOG says so only after 4 is durable
		log = logFile{Format: logFormat, Identity: opts().identity(), Epochs: []themis.EpochStart{{Epoch: 1, Seq: 1}}}.encode()
		if whole == 0 {
			log = logFile{Format: logFormat, Identity: opts().identity()}.encode()
		}
	}
	os.WriteFile(segmentPath(crashed, 1), append(data[:cut:cut], make([]byte, room)...), 0o600)
	os.WriteFile(filepath.Join(crashed, logName), log, 0o600)
	os.WriteFile(filepath.Join(crashed, markName), appendMarkSlot(nil, 1, mark), 0o600)
	l, r, err := Open(crashed, opts())
	if err != nil {
		t.Fatalf("cut at %d: %v", cut, err)
	}
	if r.Last.Seq != whole || r.Blank != (whole < mark) || (r.CutBytes > 0) != (end < cut) || r.CutBytes > max(cut-end, 0) {
		t.Fatalf("cut at %d, mark %d, room %d: %d whole entries, recovery %+v", cut, mark, room, whole, r)
	}
	if st, err := os.Stat(segmentPath(crashed, 1)); err != nil || st.Size() != end {
		t.Fatalf("cut at %d, room %d: the segment has %d bytes, want %d, %v", cut, room, st.Size(), end, err)
	}
	checkPrefix(t, l)
	mustClose(t, l)
}

// A log that was not closed has zeros behind its last entry, and only there: also while it goes on in a new segment.
func TestRoomBehindTheTail(t *testing.T) {
	dir := t.TempDir()
	o := smallSegments()
	l, _ := mustOpen(t, dir, o)
	reign(t, l, 1)
	reopens := func(when string) {
		t.Helper()
		copied := copyDir(t, dir)
		if in, err := Inspect(copied, o.identity(), nil); err != nil || len(in.Findings) > 0 {
			t.Fatalf("%s: %+v, %v", when, in.Findings, err)
		}
		again, r, err := Open(copied, o)
		if err != nil || r.CutBytes != 0 || r.Blank || r.Last != l.Last() {
			t.Fatalf("%s: %+v, %v; the log ends at %+v", when, r, err, l.Last())
		}
		readAll(t, again, 1, 30_000)
		mustClose(t, again)
	}
	rolls := 0
	l.syncDir = func(d string) error { // the new segment is there, nothing is in it
		rolls++
		reopens("between two segments")
		return syncDir(d)
	}
	room := false
	for i := range 80 {
		put(t, l, 1, 30_000)
		v := l.view.Load()
		st, err := os.Stat(segmentPath(dir, v.segments[len(v.segments)-1].first))
		if err != nil {
			t.Fatal(err)
		}
		room = room || st.Size() > v.tailSize
		if i%8 == 0 {
			reopens("after an entry")
		}
	}
	if !room || rolls < 2 {
		t.Fatalf("room %v, %d new segments", room, rolls)
	}
	if err := l.TruncateBack(l.Last().Seq - 1); err != nil {
		t.Fatal(err)
	}
	reopens("after a cut")
	mustClose(t, l)
	for i, s := range l.view.Load().segments {
		if st, err := os.Stat(segmentPath(dir, s.first)); err != nil || st.Size() != l.view.Load().sizeOf(i) {
			t.Fatalf("closed, segment %d: %v bytes, %v", s.first, st, err)
		}
	}
}

func TestFlipEveryByte(t *testing.T) {
	dir, _ := smallLog(t)
	flipped := copyDir(t, dir)
	files := []string{segmentName(1), logName, markName}
	opened, refused := 0, 0
	for _, name := range files {
		good, _ := os.ReadFile(filepath.Join(dir, name))
		for at := range good {
			for _, bit := range []byte{1, 0x80} {
				for _, restore := range files {
					b, _ := os.ReadFile(filepath.Join(dir, restore))
					os.WriteFile(filepath.Join(flipped, restore), b, 0o600)
				}
				bad := bytes.Clone(good)
				bad[at] ^= bit
				os.WriteFile(filepath.Join(flipped, name), bad, 0o600)
				l, r, err := Open(flipped, opts())
				if err != nil {
					if code := themis.CodeOf(err); code != themis.Corrupt && code != themis.Unimplemented {
						t.Fatalf("%s byte %d: untyped error %v", name, at, err)
					}
					refused++
					continue
				}
				opened++
				// The last entry can't be told from a torn tail, but the mark makes the replica blank. A flipped newer slot of
				// MARK leaves the older one, as after a loss of power.
				if name == segmentName(1) && (r.Last.Seq != 5 || !r.Blank) || name == markName && r.Last.Seq != 6 || name == logName {
					t.Fatalf("%s byte %d: opened with %+v", name, at, r)
				}
				checkPrefix(t, l)
				mustClose(t, l)
			}
		}
	}
	if opened == 0 || refused == 0 {
		t.Fatalf("%d opened, %d refused", opened, refused)
	}
}

func TestForeignLogIsRefused(t *testing.T) {
	dir, _ := smallLog(t)
	for _, c := range []struct {
		name   string
		change func(o *Options)
		says   []string
	}{
		{"cluster", func(o *Options) { o.Cluster = "c-2" }, []string{"cluster", `"c-1"`, `"c-2"`}},
		{"shard", func(o *Options) { o.Shard = "shard-7" }, []string{"shard", `"shard-1"`, `"shard-7"`}},
		{"storage", func(o *Options) { o.Storage = "disk-b" }, []string{"storage", `"disk-a"`, `"disk-b"`}},
	} {
		o := opts()
		c.change(&o)
		_, _, err := Open(dir, o)
		if themis.CodeOf(err) != themis.InvalidArgument {
			t.Fatalf("%s: %v", c.name, err)
		}
		for _, word := range c.says {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q does not name %s", c.name, err, word)
			}
		}
	}
	mustOpen(t, dir, opts())
}

func TestOptionsOutOfBounds(t *testing.T) {
	for name, change := range map[string]func(o *Options){
		"cluster":       func(o *Options) { o.Cluster = "" },
		"shard":         func(o *Options) { o.Shard = "" },
		"storage":       func(o *Options) { o.Storage = "" },
		"segment_bytes": func(o *Options) { o.SegmentBytes = 1<<20 - 1 },
		"batch_bytes":   func(o *Options) { o.BatchBytes = 17 << 20 },
		"queue_bytes":   func(o *Options) { o.QueueBytes = 1000 },
		"linger":        func(o *Options) { o.Linger = 1e9 },
	} {
		o := opts()
		change(&o)
		_, _, err := Open(filepath.Join(t.TempDir(), "log"), o)
		if themis.CodeOf(err) != themis.InvalidArgument || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o := opts()
	o.SegmentBytes = 64 << 20
	if err := o.Validate(); err != nil {
		t.Error(err)
	}
}

func TestMarkLost(t *testing.T) {
	dir, _ := smallLog(t)
	for name, lose := range map[string]func(path string) error{
		"removed": os.Remove,
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"garbage": func(path string) error { return os.WriteFile(path, []byte("garbage, garbage, garbage"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := copyDir(t, dir)
			if err := lose(filepath.Join(dir, markName)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				l, r := mustOpen(t, dir, opts())
				if reason, blank := l.Blank(); !r.Blank || !blank || !strings.Contains(reason, "not known") || r.Last.Seq != 6 {
					t.Fatalf("recovery %+v", r)
				}
				mustClose(t, l)
			}
			l, _ := mustOpen(t, dir, opts())
			if err := l.ClearBlank(); err != nil {
				t.Fatal(err)
			}
			reign(t, l, 2)
			put(t, l, 1, 26)
			mustClose(t, l)
			if _, r := mustOpen(t, dir, opts()); r.Blank || r.Mark != 7 {
				t.Fatalf("recovery %+v", r)
			}
		})
	}
}

func TestLogFileLost(t *testing.T) {
	dir, _ := smallLog(t)
	os.Remove(filepath.Join(dir, logName))
	_, _, err := Open(dir, opts())
	if c := wantCorrupt(t, err, 1); filepath.Base(c.File) != logName {
		t.Fatalf("%+v", c)
	}
	// The mark alone tells that there were entries.
	os.Remove(segmentPath(dir, 1))
	if _, _, err := Open(dir, opts()); !errors.As(err, new(*CorruptError)) {
		t.Fatalf("a log without LOG and segments, but with a mark: %v", err)
	}
	// A new log whose making was cut short before LOG was there.
	os.Remove(filepath.Join(dir, markName))
	createEmpty(segmentPath(dir, 1))
	if _, r := mustOpen(t, dir, opts()); !r.Fresh || r.Blank {
		t.Fatalf("recovery %+v", r)
	}
}

// What the log is known to have held makes it blank, whichever of the witnesses is left.
func TestBlankByEachWitness(t *testing.T) {
	base := logFile{Format: logFormat, Identity: opts().identity(), Epochs: []themis.EpochStart{{Epoch: 1, Seq: 1}}}
	later := base
	later.Epochs = append(later.Epochs[:1:1], themis.EpochStart{Epoch: 2, Seq: 9})
	for _, c := range []struct {
		name   string
		log    logFile
		mark   themis.Seq
		commit themis.Seq
		upTo   themis.Seq // the mark afterwards
	}{
		{"mark", base, 7, 0, 7},
		{"epoch start", later, 5, 0, 9},
		{"commit", base, 5, 8, 8},
		{"the highest of all", later, 7, 8, 9},
		{"none", base, 5, 4, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			var segment []byte
			end := themis.Position{}
			for seq := themis.Seq(1); seq <= 5; seq++ {
				e := themis.Entry{Kind: themis.KindWrite, Seq: seq, LSN: end.LSN, Epoch: 1, Commit: c.commit}
				frame := AppendFrame(nil, &e)
				segment = append(append(segment, byte(len(frame))), frame...)
				end = behind(&e, len(frame))
			}
			os.WriteFile(segmentPath(dir, 1), segment, 0o600)
			os.WriteFile(filepath.Join(dir, logName), c.log.encode(), 0o600)
			os.WriteFile(filepath.Join(dir, markName), appendMarkSlot(nil, 1, c.mark), 0o600)
			for range 2 { // what told of the loss is gone the second time, but for the mark
				l, r := mustOpen(t, dir, opts())
				if r.Blank != (c.upTo > 5) || r.Last != end || l.mark.seq != c.upTo {
					t.Fatalf("mark %d, recovery %+v", l.mark.seq, r)
				}
				mustClose(t, l)
			}
			l, _ := mustOpen(t, dir, opts())
			var frames []byte
			for seq := themis.Seq(6); seq <= c.upTo; seq++ { // resynced from a peer, it is no longer blank
				if _, blank := l.Blank(); !blank {
					t.Fatalf("no longer blank before seq %d is back", seq)
				}
				e := themis.Entry{Kind: themis.KindWrite, Seq: seq, LSN: end.LSN, Epoch: 1}
				frames = AppendFrame(frames[:0], &e)
				var err error
				if end, err = l.AppendFrames(frames); err != nil {
					t.Fatal(err)
				}
			}
			if reason, blank := l.Blank(); blank {
				t.Fatalf("still blank: %s", reason)
			}
			reign(t, l, 3)
		})
	}
}

// A crash between the segments and LOG loses no epoch start, wherever the epoch began.
func TestEpochStartsAreFoundAgain(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, dir, smallSegments())
	epochs := map[themis.Seq]themis.Epoch{1: 1, 5: 2, 11: 3, 12: 4, 15: 5, 26: 6}
	for seq := themis.Seq(1); seq <= 27; seq++ {
		if e, ok := epochs[seq]; ok {
			reign(t, l, e)
		}
		put(t, l, 1, bigEntry)
	}
	lineage := l.Lineage()
	mustClose(t, l)
	if len(lineage) != 6 {
		t.Fatalf("lineage %v", lineage)
	}
	for known := range lineage {
		log := logFile{Format: logFormat, Identity: opts().identity(), Epochs: lineage[:known]}
		if known == 0 {
			log.Epochs = []themis.EpochStart{}
		}
		os.WriteFile(filepath.Join(dir, logName), log.encode(), 0o600)
		l, r := mustOpen(t, dir, smallSegments())
		if got := l.Lineage(); r.Blank || len(got) != 6 || got[2] != lineage[2] || got[5] != lineage[5] {
			t.Fatalf("LOG knew %v: lineage %v, want %v", log.Epochs, got, lineage)
		}
		mustClose(t, l)
		if on, err := readLogFile(dir); err != nil || len(on.Epochs) != 6 {
			t.Fatalf("LOG has %v: %v", on.Epochs, err)
		}
	}
	log := logFile{Format: logFormat, Identity: opts().identity(), Epochs: []themis.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 9, Seq: 3}}}
	os.WriteFile(filepath.Join(dir, logName), log.encode(), 0o600)
	if _, _, err := Open(dir, smallSegments()); !errors.As(err, new(*CorruptError)) {
		t.Fatalf("LOG contradicts the entries: %v", err)
	}
}
