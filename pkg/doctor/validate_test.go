package doctor

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// validate checks one node's directory without waiting long between looks.
func validate(t *testing.T, dir string, segment uint64) WALReport {
	t.Helper()
	logs, err := FindLogs([]string{dir}, "")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Validate(t.Context(), logs, ValidateOptions{Segment: segment, Wait: time.Millisecond}, atNoon)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// records are where the records of a segment begin.
func records(t *testing.T, path string) (at []int) {
	t.Helper()
	b := readFile(t, path)
	for off := 0; off < len(b); {
		size, n := binary.Uvarint(b[off:])
		at = append(at, off)
		off += n + int(size)
	}
	return at
}

// reframe writes entry i of a segment anew, its checksum right.
func reframe(t *testing.T, path string, i int, edit func(e *themis.Entry)) {
	t.Helper()
	at := records(t, path)[i]
	change(t, path, func(b []byte) []byte {
		_, n := binary.Uvarint(b[at:])
		e, size, err := wal.DecodeFrame(b[at+n:])
		if err != nil {
			t.Fatal(err)
		}
		edit(&e)
		frame := wal.AppendFrame(nil, &e)
		if len(frame) != size {
			t.Fatalf("the frame has %d bytes now, it had %d", len(frame), size)
		}
		copy(b[at+n:], frame)
		return b
	})
}

// editLOG changes LOG and makes its checksum right.
func editLOG(t *testing.T, dir string, edit func(l map[string]any)) {
	t.Helper()
	change(t, filepath.Join(dir, "LOG"), func(b []byte) []byte {
		line, _, _ := strings.Cut(string(b), "\n")
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatal(err)
		}
		edit(fields)
		var l struct { // the order of the fields counts
			Format    json.RawMessage `json:"format"`
			Cluster   json.RawMessage `json:"cluster"`
			Shard     json.RawMessage `json:"shard"`
			Storage   json.RawMessage `json:"storage"`
			Base      themis.Position `json:"base"`
			Epochs    json.RawMessage `json:"epochs"`
			Resetting bool            `json:"resetting"`
		}
		again, err := json.Marshal(fields)
		if err == nil {
			err = json.Unmarshal(again, &l)
		}
		if err == nil {
			var starts []themis.EpochStart
			if err = json.Unmarshal(l.Epochs, &starts); err == nil {
				l.Epochs, err = json.Marshal(starts)
			}
		}
		if err == nil {
			again, err = json.Marshal(l)
		}
		if err != nil {
			t.Fatal(err)
		}
		again = append(again, '\n')
		return fmt.Appendf(again, "crc32c %08x\n", crc32.Checksum(again, crc32.MakeTable(crc32.Castagnoli)))
	})
}

// flip changes one bit.
func flip(t *testing.T, path string, at int) {
	t.Helper()
	change(t, path, func(b []byte) []byte { b[at] ^= 0x10; return b })
}

// TestValidate puts every kind of damage into a real log, and finds it, and its place.
func TestValidate(t *testing.T) {
	whole := stoppedNode(t)
	second := func(dir string, i int) int { return records(t, segmentFile(dir, 7))[i] }
	for _, c := range []struct {
		name    string
		damage  func(t *testing.T, dir string)
		verdict LogVerdict
		code    health.Code
		segment string // in which the first finding is, by its first seq; empty: a small file
		seq     themis.Seq
		offset  func(dir string) int
		entries int
		exit    int
	}{
		{"nothing", func(*testing.T, string) {}, LogSound, "", "", 0, nil, 23, 0},
		{"torn tail", func(t *testing.T, dir string) {
			change(t, segmentFile(dir, 19), func(b []byte) []byte { return append(b, b[:300]...) })
		}, LogTornTail, "TORN_TAIL", "19", 24, func(dir string) int { return len(readFile(t, segmentFile(dir, 19))) - 300 }, 23, 0},
		{"acknowledged entry torn", func(t *testing.T, dir string) {
			change(t, segmentFile(dir, 19), func(b []byte) []byte { return b[:len(b)-5] })
		}, LogDamaged, "LOST_ENTRIES", "", 23, nil, 22, 1},
		{"flipped size prefix", func(t *testing.T, dir string) { flip(t, segmentFile(dir, 7), second(dir, 2)) }, LogDamaged, "FLIPPED", "7", 9, func(dir string) int { return second(dir, 2) }, 22, 1},
		{"flipped length", func(t *testing.T, dir string) { flip(t, segmentFile(dir, 7), second(dir, 2)+3) }, LogDamaged, "FLIPPED", "7", 9, func(dir string) int { return second(dir, 2) }, 22, 1},
		{"flipped checksum", func(t *testing.T, dir string) { flip(t, segmentFile(dir, 7), second(dir, 2)+8) }, LogDamaged, "FLIPPED", "7", 9, func(dir string) int { return second(dir, 2) }, 22, 1},
		{"flipped kind", func(t *testing.T, dir string) { flip(t, segmentFile(dir, 7), second(dir, 2)+12) }, LogDamaged, "FLIPPED", "7", 9, func(dir string) int { return second(dir, 2) }, 22, 1},
		{"flipped seq", func(t *testing.T, dir string) { flip(t, segmentFile(dir, 7), second(dir, 2)+15) }, LogDamaged, "FLIPPED", "7", 9, func(dir string) int { return second(dir, 2) }, 22, 1},
		{"flipped payload", func(t *testing.T, dir string) { flip(t, segmentFile(dir, 7), second(dir, 2)+5000) }, LogDamaged, "FLIPPED", "7", 9, func(dir string) int { return second(dir, 2) }, 22, 1},
		{"flipped last byte of a segment", func(t *testing.T, dir string) { flip(t, segmentFile(dir, 7), len(readFile(t, segmentFile(dir, 7)))-1) }, LogDamaged, "FLIPPED", "7", 12, func(dir string) int { return second(dir, 5) }, 22, 1},
		{"cut segment", func(t *testing.T, dir string) {
			change(t, segmentFile(dir, 7), func(b []byte) []byte { return b[:second(dir, 4)] })
		}, LogDamaged, "GAP", "13", 11, func(string) int { return 0 }, 21, 1},
		{"missing segment", func(t *testing.T, dir string) { os.Remove(segmentFile(dir, 7)) }, LogDamaged, "GAP", "13", 7, func(string) int { return 0 }, 17, 1},
		{"missing last segment", func(t *testing.T, dir string) { os.Remove(segmentFile(dir, 19)) }, LogDamaged, "LOST_ENTRIES", "", 19, nil, 18, 1},
		{"segment twice", func(t *testing.T, dir string) {
			writeFile(t, segmentFile(dir, 10), string(readFile(t, segmentFile(dir, 7))))
		}, LogDamaged, "DUPLICATE", "10", 13, func(string) int { return 0 }, 29, 1},
		{"skipped seq", func(t *testing.T, dir string) { reframe(t, segmentFile(dir, 7), 2, func(e *themis.Entry) { e.Seq++ }) }, LogDamaged, "GAP", "7", 9, func(dir string) int { return second(dir, 2) }, 23, 1},
		{"lsn", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 7), 2, func(e *themis.Entry) { e.LSN += 8 })
		}, LogDamaged, "LSN_MISMATCH", "7", 9, func(dir string) int { return second(dir, 2) }, 23, 1},
		{"falling epoch", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 19), 2, func(e *themis.Entry) { e.Epoch = 1 })
		}, LogDamaged, "EPOCH_FALLS", "19", 21, nil, 23, 1},
		{"epoch before LOG's", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 7), 5, func(e *themis.Entry) { e.Epoch = 2 })
		}, LogDamaged, "LINEAGE_MISMATCH", "7", 12, func(dir string) int { return second(dir, 5) }, 23, 1},
		{"epoch behind LOG's", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 13), 0, func(e *themis.Entry) { e.Epoch = 1 })
		}, LogDamaged, "LINEAGE_MISMATCH", "", 13, nil, 23, 1},
		{"a barrier flipped: where its epoch begins can't be told", func(t *testing.T, dir string) {
			flip(t, segmentFile(dir, 13), 5000)
		}, LogDamaged, "FLIPPED", "13", 13, func(string) int { return 0 }, 22, 1},
		{"LOG lacks an epoch that the next start adds", func(t *testing.T, dir string) {
			editLOG(t, logDir(dir), func(l map[string]any) { l["epochs"] = l["epochs"].([]any)[:1] })
		}, LogSound, "", "", 0, nil, 23, 0},
		{"committed before it was written", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 7), 2, func(e *themis.Entry) { e.Commit = 9 })
		}, LogDamaged, "COMMIT_AHEAD", "7", 9, func(dir string) int { return second(dir, 2) }, 23, 1},
		{"operations that are none", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 7), 2, func(e *themis.Entry) { e.Payload = slices.Clone(e.Payload); e.Payload[4] = 77 })
		}, LogDamaged, "CONTENT", "7", 9, func(dir string) int { return second(dir, 2) }, 23, 1},
		{"a kind of a newer version", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 7), 2, func(e *themis.Entry) { e.Kind = themis.KindBlob })
		}, LogInconclusive, "NEWER_FORMAT", "7", 9, func(dir string) int { return second(dir, 2) }, 23, 3},
		{"a newer version's frame", func(t *testing.T, dir string) {
			reframe(t, segmentFile(dir, 7), 2, func(e *themis.Entry) { e.Version = 3 })
		}, LogInconclusive, "NEWER_FORMAT", "7", 9, func(dir string) int { return second(dir, 2) }, 22, 3},
		{"LOG of another cluster", func(t *testing.T, dir string) {
			editLOG(t, logDir(dir), func(l map[string]any) { l["cluster"] = "c-9" })
		}, LogDamaged, "FOREIGN", "", 0, nil, 23, 1},
		{"LOG of another shard", func(t *testing.T, dir string) {
			editLOG(t, logDir(dir), func(l map[string]any) { l["shard"] = "shard-9" })
		}, LogDamaged, "FOREIGN", "", 0, nil, 23, 1},
		{"LOG of another disk", func(t *testing.T, dir string) {
			editLOG(t, logDir(dir), func(l map[string]any) { l["storage"] = "disk-z" })
		}, LogDamaged, "FOREIGN", "", 0, nil, 23, 1},
		{"no LOG", func(t *testing.T, dir string) { os.Remove(filepath.Join(logDir(dir), "LOG")) }, LogDamaged, "LOG_UNREADABLE", "", 0, nil, 23, 1},
		{"flipped LOG", func(t *testing.T, dir string) { flip(t, filepath.Join(logDir(dir), "LOG"), 30) }, LogDamaged, "LOG_UNREADABLE", "", 0, nil, 23, 1},
		{"no MARK", func(t *testing.T, dir string) { os.Remove(filepath.Join(logDir(dir), "MARK")) }, LogDamaged, "MARK_UNREADABLE", "", 0, nil, 23, 1},
		{"leftover", func(t *testing.T, dir string) { writeFile(t, segmentFile(dir, 7)+".END.TEMP", "") }, LogSound, "LEFTOVER", "", 0, nil, 23, 0},
		{"no log directory", func(t *testing.T, dir string) { os.RemoveAll(logDir(dir)) }, LogInconclusive, "", "", 0, nil, 0, 3},
		{"node.json damaged", func(t *testing.T, dir string) {
			writeFile(t, filepath.Join(dir, "node.json"), `{"node_id":"node-2","storage_id":7}`)
		}, LogInconclusive, "", "", 0, nil, 23, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := copyOf(t, whole)
			c.damage(t, dir)
			r := validate(t, dir, 0)
			if len(r.Logs) != 1 || r.Verdict != c.verdict || r.Logs[0].Verdict != c.verdict || r.Entries != c.entries || r.Exit() != c.exit {
				t.Fatalf("verdict %s, want %s; %d entries, want %d; exit %d, want %d\n%+v", r.Verdict, c.verdict, r.Entries, c.entries, r.Exit(), c.exit, r.Logs)
			}
			l := r.Logs[0]
			if half := c.name == "node.json damaged"; half == (l.Node != "") || half == l.IdentityChecked && c.entries > 0 && l.Cluster != "" {
				t.Fatalf("identity: %+v", l)
			}
			if (c.verdict == LogInconclusive) != (len(l.Inconclusive) > 0) {
				t.Fatalf("inconclusive: %+v", l.Inconclusive)
			}
			if c.code == "" {
				if len(l.Findings) != 0 {
					t.Fatalf("findings: %+v", l.Findings)
				}
				return
			}
			if len(l.Findings) == 0 || l.Findings[0].Code != c.code {
				t.Fatalf("findings %+v, want %s first", l.Findings, c.code)
			}
			if c.code == "LOST_ENTRIES" && len(l.Findings) > 1 { // what is torn there had been acknowledged: no harmless tail besides
				t.Fatalf("findings: %+v", l.Findings)
			}
			f := l.Findings[0]
			segment := ""
			if c.segment != "" {
				segment = fmt.Sprintf("%020s", c.segment)
			}
			if f.At == nil || f.At.File == "" || f.At.Segment != segment || c.seq > 0 && f.At.Seq != c.seq || c.offset != nil && f.At.Offset != int64(c.offset(dir)) {
				t.Fatalf("at %+v, want segment %q seq %d", f.At, segment, c.seq)
			}
			if strings.HasPrefix(c.name, "a barrier flipped") && len(l.Findings) != 1 {
				t.Fatalf("one damage, several findings: %+v", l.Findings)
			}
			if f.Subject != "shard-1/node-2" || f.Why == "" || f.Cause == "" || f.Fix == "" || strings.Contains(f.Why, "{detail}") {
				t.Fatalf("%+v", f)
			}
		})
	}
}

func TestValidateTellsWhatItRead(t *testing.T) {
	dir := stoppedNode(t)
	l := validate(t, dir, 0).Logs[0]
	if l.First != 1 || l.Last != 23 || l.Mark == nil || *l.Mark != 23 || l.Cluster != "c-1" || l.Storage != "disk-a" || !l.IdentityChecked || l.Growing || len(l.Segments) != 4 {
		t.Fatalf("%+v", l)
	}
	if want := []themis.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 2, Seq: 13}}; !slices.Equal(l.Epochs, want) {
		t.Fatalf("epochs %v", l.Epochs)
	}
	again := openLog(t, logDir(dir), logOptions())
	if l.End != again.Last().LSN {
		t.Fatalf("ends at %s, the log says %s", l.End, again.Last().LSN)
	}
	if bare := validate(t, logDir(dir), 0).Logs[0]; bare.Node != "node-2" || !bare.IdentityChecked {
		t.Fatalf("named by its own directory: %+v", bare)
	}
	moved := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.CopyFS(moved, os.DirFS(logDir(dir))); err != nil {
		t.Fatal(err)
	}
	if bare := validate(t, moved, 0).Logs[0]; bare.IdentityChecked || bare.Verdict != LogSound || bare.Shard != "shard-1" {
		t.Fatalf("a copy elsewhere: %+v", bare)
	}
}

func TestValidateOneSegment(t *testing.T) {
	dir := stoppedNode(t)
	for segment, first := range map[uint64]themis.Seq{7: 7, 2: 7, 13: 13, 3: 13, 1: 1} {
		l := validate(t, dir, segment).Logs[0]
		if l.Segment != fmt.Sprintf("%020d", first) || l.Entries != 6 || l.First != first || l.Last != first+5 || len(l.Segments) != 1 {
			t.Errorf("segment %d: %+v", segment, l)
		}
	}
	logs, _ := FindLogs([]string{dir}, "")
	_, err := Validate(t.Context(), logs, ValidateOptions{Segment: 9}, atNoon)
	if themis.CodeOf(err) != themis.InvalidArgument || !strings.Contains(err.Error(), "seq 9 of shard-1/node-2 is in segment 7 (number 2)") {
		t.Errorf("a seq inside a segment: %v", err)
	}
	if _, err := Validate(t.Context(), logs, ValidateOptions{Segment: 12345}, atNoon); themis.CodeOf(err) != themis.InvalidArgument || !strings.Contains(err.Error(), "has 4, from 1 to 19") {
		t.Errorf("no such segment: %v", err)
	}
	flip(t, segmentFile(dir, 7), 5000)
	if r := validate(t, dir, 13); r.Verdict != LogSound {
		t.Errorf("damage elsewhere: %+v", r.Logs[0].Findings)
	}
	if r := validate(t, dir, 7); r.Verdict != LogDamaged {
		t.Errorf("damage there: %+v", r.Logs[0].Findings)
	}
	change(t, segmentFile(dir, 19), func(b []byte) []byte { return b[:len(b)-5] })
	if r := validate(t, dir, 19); r.Verdict != LogDamaged {
		t.Errorf("an acknowledged end that is gone is no torn tail: %+v", r.Logs[0].Findings)
	}
	editLOG(t, logDir(dir), func(l map[string]any) { l["cluster"] = "c-9" })
	if r := validate(t, dir, 13); r.Verdict != LogDamaged {
		t.Errorf("a segment of a foreign log: %+v", r.Logs[0].Findings)
	}
}

// TestValidateInterruptedWork: what the next start finishes is no damage.
func TestValidateInterruptedWork(t *testing.T) {
	dir := stoppedNode(t)
	before := copyOf(t, dir)
	l := openLog(t, logDir(dir), logOptions())
	if err := l.TruncateFront(18); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r := validate(t, dir, 0); r.Verdict != LogSound || r.Entries != 5 || len(r.Logs[0].Findings) != 0 {
		t.Fatalf("front removed: %+v", r)
	}
	writeFile(t, segmentFile(dir, 7), string(readFile(t, segmentFile(before, 7))))
	writeFile(t, segmentFile(dir, 13), string(readFile(t, segmentFile(before, 13))))
	r := validate(t, dir, 0)
	if r.Verdict != LogSound || r.Entries != 5 || len(r.Logs[0].Findings) != 2 || r.Logs[0].Findings[0].Code != "LEFTOVER" || r.Logs[0].First != 19 {
		t.Fatalf("removal stopped half way: %+v", r)
	}
	openLog(t, logDir(dir), logOptions()) // it says the same

	reset := copyOf(t, before)
	editLOG(t, logDir(reset), func(l map[string]any) {
		l["resetting"] = true
		l["base"] = map[string]any{"seq": 90, "epoch": 2, "lsn": "0/00005000"}
	})
	slot := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, 1<<40), 90) // MARK is moved before the segments go
	slot = binary.LittleEndian.AppendUint32(slot, crc32.Checksum(slot, crc32.MakeTable(crc32.Castagnoli)))
	change(t, filepath.Join(logDir(reset), "MARK"), func(b []byte) []byte { return append(slot, b[len(slot):]...) })
	r = validate(t, reset, 0)
	if r.Verdict != LogSound || r.Entries != 0 || len(r.Logs[0].Findings) != 4 {
		t.Fatalf("replacement stopped half way: %+v", r)
	}
	if l := openLog(t, logDir(reset), logOptions()); l.Base().Seq != 90 {
		t.Fatalf("%+v", l.Base())
	}
}

// TestValidateWhileItGrows checks a log again and again while it is written to, rolled and trimmed.
func TestValidateWhileItGrows(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, logDir(dir), logOptions())
	reign(t, l, 1)
	write(t, l, 1, 1000)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		for n := 0; ctx.Err() == nil; n++ {
			op := themis.Op{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: themis.Token(7).Placement(), Key: "k", Value: make([]byte, 90<<10)}
			a, err := l.Begin(themis.KindWrite, themis.Tags{}, themis.AppendOps(nil, []themis.Op{op}), 1)
			if err == nil {
				err = a.Wait()
			}
			if err == nil && n%40 == 39 {
				err = l.TruncateFront(l.Last().Seq - 10)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	grew := 0
	for range 60 {
		r := validate(t, dir, 0)
		if r.Verdict == LogDamaged {
			t.Errorf("%+v", r.Logs[0].Findings)
			break
		}
		if r.Logs[0].Growing {
			grew++
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("looked twice or more %d times of 60", grew)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r := validate(t, dir, 0); r.Verdict != LogSound {
		t.Fatalf("%+v", r)
	}
}

// TestRepeated: what only one look saw is no finding.
func TestRepeated(t *testing.T) {
	a := wal.Finding{Fault: wal.FaultTornTail, File: "f", Offset: 10, Seq: 3}
	b, c := a, a
	b.Offset, c.Fault = 20, wal.FaultFlipped
	if got := repeated([]wal.Finding{a, c}, []wal.Finding{b, c}); len(got) != 1 || got[0] != c {
		t.Errorf("%+v", got)
	}
}

func TestValidateEndsWithItsContext(t *testing.T) {
	dir := stoppedNode(t)
	flip(t, segmentFile(dir, 7), 5000)
	logs, _ := FindLogs([]string{dir}, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Validate(ctx, logs, ValidateOptions{Wait: time.Hour}, atNoon); themis.CodeOf(err) != themis.Deadline {
		t.Fatal(err)
	}
}

func TestValidateListsAtMostAHundredFindings(t *testing.T) {
	dir := t.TempDir()
	l := openLog(t, logDir(dir), logOptions())
	reign(t, l, 1)
	write(t, l, 150, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		reframe(t, segmentFile(dir, 1), i, func(e *themis.Entry) { e.Commit = e.Seq })
	}
	r := validate(t, dir, 0).Logs[0]
	if len(r.Findings) != 100 || r.FindingsTotal != 150 || r.Verdict != LogDamaged {
		t.Fatalf("%d of %d, %s", len(r.Findings), r.FindingsTotal, r.Verdict)
	}
}

func TestFindLogs(t *testing.T) {
	dir := stoppedNode(t)
	writeFile(t, filepath.Join(dir, "shards", "shard-10", "wal", "LOG"), "")
	writeFile(t, filepath.Join(dir, "shards", "shard-2", "wal", "LOG"), "")
	writeFile(t, filepath.Join(dir, "shards", "lost+found", "LOG"), "")
	empty := t.TempDir()
	play := t.TempDir()
	spare := filepath.Join(play, "node-1")
	writeFile(t, filepath.Join(spare, "node.json"), `{"node_id":"node-1"}`)
	writeFile(t, filepath.Join(play, "playground.json"), fmt.Sprintf(`{"cluster":"demo","nodes":[{"id":"node-1","data_dir":%q},{"id":"node-2","data_dir":%q}]}`, spare, dir))
	for _, c := range []struct {
		dir   string
		shard themis.ShardID
		want  string
	}{
		{dir, "", "shard-1 shard-2 shard-10"},
		{dir, "shard-2", "shard-2"},
		{filepath.Join(dir, "shards", "shard-10"), "", "shard-10"},
		{filepath.Join(dir, "shards", "shard-10", "wal"), "", "shard-10"},
		{play, "", "shard-1 shard-2 shard-10"},
		{play, "shard-2", "shard-2"},
		{dir, "shard-7", "no log of shard-7 below " + dir + "; there are: shard-1, shard-2, shard-10"},
		{empty, "", "is no data directory"},
		{filepath.Join(empty, "nowhere"), "", "no such file"},
	} {
		logs, err := FindLogs([]string{c.dir}, c.shard)
		var got []string
		for _, l := range logs {
			got = append(got, string(l.Shard))
			if l.Node != "node-2" || l.Want.Cluster != "c-1" || l.Want.Storage != "disk-a" || l.Want.Shard != l.Shard {
				t.Errorf("%s: %+v", c.dir, l)
			}
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
			if themis.CodeOf(err) != themis.InvalidArgument {
				t.Errorf("%s: %v", c.dir, err)
			}
		}
		if text != c.want && (err == nil || !strings.Contains(text, c.want)) {
			t.Errorf("%s %s: %q, want %q", c.dir, c.shard, text, c.want)
		}
	}
}

// TestOneLogByTwoWays: directories that lead to the same log, one of them over a link, are one log, and one copy whose losses count.
func TestOneLogByTwoWays(t *testing.T) {
	dir, link := stoppedNode(t), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(dir, "shards", "shard-1", "wal"), link); err != nil {
		t.Fatal(err)
	}
	dirs := []string{link, filepath.Join(dir, "shards", "shard-1"), dir, dir + "/"}
	logs, err := FindLogs(dirs, "")
	if err != nil || len(logs) != 1 || logs[0].Shard != "shard-1" || logs[0].Node != "node-2" {
		t.Errorf("%+v, %v", logs, err)
	}
	if r, err := Losses(dirs, "", noon); err != nil || r.Copies != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestNodeWithoutItsDirectory: the logs of a playground are not sound where one node's can't be found.
func TestNodeWithoutItsDirectory(t *testing.T) {
	dir, empty, play := stoppedNode(t), t.TempDir(), t.TempDir()
	for name, gone := range map[string]string{"no directory": filepath.Join(play, "node-1"), "an empty one": empty} {
		t.Run(name, func(t *testing.T) {
			writeFile(t, filepath.Join(play, "playground.json"), fmt.Sprintf(`{"cluster":"demo","nodes":[{"id":"node-1","data_dir":%q},{"id":"node-2","data_dir":%q}]}`, gone, dir))
			logs, err := FindLogs([]string{play}, "")
			if err != nil {
				t.Fatal(err)
			}
			r, err := Validate(t.Context(), logs, ValidateOptions{Wait: time.Millisecond}, time.Now)
			if err != nil || r.Verdict != LogInconclusive || r.Exit() != themis.ExitInconclusive {
				t.Fatalf("%+v, %v", r, err)
			}
			if l := r.Logs[0]; l.Node != "node-1" || len(l.Inconclusive) != 1 || l.Inconclusive[0].Subject != "node-1" || !strings.Contains(l.Inconclusive[0].Why, "gone, is not mounted, or was never used") {
				t.Errorf("%+v", l)
			}
			lost, err := Losses([]string{play}, "", time.Now())
			if err != nil || lost.Exit() != themis.ExitInconclusive || lost.Copies == 0 || len(lost.Problems) != 1 || lost.Problems[0].Subject != "node-1" {
				t.Errorf("%+v, %v", lost, err)
			}
		})
	}
}
