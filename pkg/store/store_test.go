package store

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/themisdb/themis/pkg/themis"
)

// journal makes entries that follow each other.
type journal struct {
	entries []themis.Entry
	at      themis.Position
	hlc     themis.HLC
}

func newJournal() *journal {
	return &journal{at: themis.Position{Epoch: 1}, hlc: 1 << 40}
}

func (j *journal) add(kind themis.Kind, tags themis.Tags, ops ...themis.Op) themis.Entry {
	e := themis.Entry{Version: themis.EntryVersion, Kind: kind, Seq: j.at.Seq + 1, LSN: j.at.LSN, Epoch: j.at.Epoch, HLC: j.hlc + 1, Tags: tags}
	if kind == themis.KindWrite {
		e.Payload = themis.AppendOps(nil, ops)
	}
	j.hlc += themis.HLC(max(1, len(ops)))
	j.at = themis.Position{Seq: e.Seq, Epoch: e.Epoch, LSN: e.LSN + themis.LSN(e.FrameBytes())}
	j.entries = append(j.entries, e)
	return e
}

func (j *journal) write(ops ...themis.Op) themis.Entry {
	return j.add(themis.KindWrite, themis.Tags{}, ops...)
}

// later lets the clock of the log go on.
func (j *journal) later(ms int) { j.hlc += themis.HLC(ms) << 16 }

func put(token themis.Token, key, value string) themis.Op {
	return themis.Op{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 7, Placement: token.Placement(), Key: key, Value: []byte(value)}
}

func del(token themis.Token, key string) themis.Op {
	return themis.Op{Code: themis.OpDelete, Type: themis.TypeDocument, Collection: 7, Placement: token.Placement(), Key: key}
}

func mustOpen(t testing.TB, fs vfs.FS, dir string, with ...func(*Options)) *Store {
	t.Helper()
	cache := NewCache(2 << 20)
	t.Cleanup(cache.Close)
	o := Options{FS: fs, Cache: cache, MemTableBytes: 1 << 20}
	for _, w := range with {
		w(&o)
	}
	s, err := Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

func mustApply(t testing.TB, s *Store, entries ...themis.Entry) []Result {
	t.Helper()
	r, err := s.Apply(entries)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustDigest(t testing.TB, s *Store, o DigestOptions) Digest {
	t.Helper()
	d, err := s.Digest(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func requireCode(t testing.TB, err error, code themis.Code, text string) {
	t.Helper()
	if themis.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Fatalf("got %v (%s), want %s with %q", err, themis.CodeOf(err), code, text)
	}
}

func TestApplyAndGet(t *testing.T) {
	s := mustOpen(t, nil, t.TempDir())
	j := newJournal()
	j.add(themis.KindBarrier, themis.Tags{})
	origin := &themis.Origin{Node: "node-9", Seq: 3, HLC: 99}
	first := j.add(themis.KindWrite, themis.Tags{RequestID: "r1", BodyDigest: 5, Origin: origin}, put(1, "a", "one"), put(2, "b", "two"))
	second := j.write(put(1, "a", "longer"), del(2, "b"), del(3, "never"))
	res := mustApply(t, s, j.entries...)

	if got := s.Applied(); got != j.at {
		t.Fatalf("applied %+v, want %+v", got, j.at)
	}
	if got, want := s.AppliedHLC(), second.HLC+2; got != want {
		t.Fatalf("hlc %s, want %s", got, want)
	}
	if r := res[2].Ops; !r[0].Existed || !r[1].Existed || r[2].Existed || r[1].Version != second.HLC+1 {
		t.Fatalf("results %+v", r)
	}
	a, ok, err := s.Get(7, themis.Token(1).Placement(), "a")
	if err != nil || !ok || string(a.Value) != "longer" || a.Version != second.HLC || a.Created != first.HLC || a.Seq != second.Seq || a.RequestID != "" {
		t.Fatalf("a: %+v %v %v", a, ok, err)
	}
	b, ok, err := s.Get(7, themis.Token(2).Placement(), "b")
	if err != nil || ok || !b.Deleted || b.Version != second.HLC+1 || b.Value != nil {
		t.Fatalf("b: %+v %v %v", b, ok, err)
	}
	if d, ok, err := s.Get(7, themis.Token(9).Placement(), "a"); err != nil || ok || d.Deleted || d.Version != 0 {
		t.Fatalf("absent: %+v %v %v", d, ok, err)
	}
	r, ok, err := s.Request("r1")
	if err != nil || !ok || r.Digest != 5 || r.Seq != first.Seq || len(r.Ops) != 2 || r.Ops[1].Version != first.HLC+1 || r.Ops[1].Existed {
		t.Fatalf("request: %+v %v %v", r, ok, err)
	}
	if st := s.Stats(); st.Count != (Count{Documents: 1, Bytes: 6, Tombstones: 2}) || st.Requests != 1 || st.ByCollection[7] != st.Count {
		t.Fatalf("stats %+v", st)
	}
}

func TestOriginAndRequestStayWithTheDocument(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store")
	j := newJournal()
	for _, o := range []themis.Origin{{Node: "node-9", Seq: 3, HLC: 99}, {}} {
		j.add(themis.KindWrite, themis.Tags{RequestID: "r", Origin: &o}, put(1, "a", "one"), del(2, "b"))
		mustApply(t, s, j.entries[len(j.entries)-1])
		for token, key := range map[themis.Token]string{1: "a", 2: "b"} {
			d, _, err := s.Get(7, token.Placement(), key)
			if err != nil || d.Origin == nil || *d.Origin != o || d.RequestID != "r" {
				t.Fatalf("%s: %+v %v", key, d, err)
			}
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	j := newJournal()
	good := j.write(put(1, "a", "1"))
	next := j.write(put(1, "b", "2"))
	for name, c := range map[string]struct {
		change func(*themis.Entry)
		check  func(*testing.T, error)
	}{
		"gap":         {func(e *themis.Entry) { e.Seq++ }, wantOutOfOrder},
		"again":       {func(e *themis.Entry) { e.Seq-- }, wantOutOfOrder},
		"older epoch": {func(e *themis.Entry) { e.Epoch = 0 }, wantOutOfOrder},
		"kind": {func(e *themis.Entry) { e.Kind = themis.KindIngest }, func(t *testing.T, err error) {
			requireCode(t, err, themis.Unimplemented, "UPGRADE_NEEDED")
		}},
		"version": {func(e *themis.Entry) { e.Version = 2 }, func(t *testing.T, err error) {
			requireCode(t, err, themis.Unimplemented, "UPGRADE_NEEDED")
		}},
		"value type": {func(e *themis.Entry) { e.Payload = bytes.Clone(e.Payload); e.Payload[5] = byte(themis.TypeCRDT) }, func(t *testing.T, err error) {
			requireCode(t, err, themis.Unimplemented, "UPGRADE_NEEDED")
		}},
		"payload": {func(e *themis.Entry) { e.Payload = e.Payload[:9] }, func(t *testing.T, err error) { requireCode(t, err, themis.Corrupt, "seq 2") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, vfs.NewMem(), "store")
			bad := next
			c.change(&bad)
			res, err := s.Apply([]themis.Entry{good, bad})
			c.check(t, err)
			if len(res) != 1 || s.Applied().Seq != 1 {
				t.Fatalf("the entry before it: %d results, applied %d", len(res), s.Applied().Seq)
			}
			mustApply(t, s, next) // nothing of the bad one stayed
			if got := s.Stats().Documents; got != 2 {
				t.Fatalf("%d documents", got)
			}
		})
	}
}

func wantOutOfOrder(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrOutOfOrder) {
		t.Fatalf("got %v", err)
	}
}

func TestLargestDocument(t *testing.T) {
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs, "store")
	j := newJournal()
	big := strings.Repeat("0123456789abcdef", themis.MaxDocumentBytes/16)
	j.write(put(1, "small", "x"))
	j.write(put(1, "big", big), put(1, "beside", "y"))
	mustApply(t, s, j.entries...)
	for range 2 {
		d, ok, err := s.Get(7, themis.Token(1).Placement(), "big")
		if err != nil || !ok || string(d.Value) != big {
			t.Fatalf("%d bytes, %v, %v", len(d.Value), ok, err)
		}
		if got := s.Stats().Bytes; got != themis.MaxDocumentBytes+2 {
			t.Fatalf("%d bytes counted", got)
		}
		if seq, err := s.Flush(); err != nil || seq != 2 {
			t.Fatal(seq, err)
		}
		s = mustOpen(t, fs.CrashClone(vfs.CrashCloneCfg{}), "store")
	}
}

func TestStatsSurviveRestart(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, "store")
	j := newJournal()
	for i := range 50 {
		o := put(themis.Token(i), fmt.Sprint("k", i), strings.Repeat("v", i))
		o.Collection = themis.CollectionID(i % 3)
		j.write(o)
	}
	j.write(themis.Op{Code: themis.OpDelete, Collection: 1, Placement: themis.Token(1).Placement(), Key: "k1"})
	mustApply(t, s, j.entries...)
	before := s.Stats()
	if before.Documents != 49 || before.Tombstones != 1 || len(before.ByCollection) != 3 {
		t.Fatalf("%+v", before)
	}
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	got := mustOpen(t, fs, "store").Stats()
	got.DiskBytes, before.DiskBytes = 0, 0
	if fmt.Sprint(got) != fmt.Sprint(before) {
		t.Fatalf("%+v, want %+v", got, before)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Run("in use", func(t *testing.T) {
		dir := t.TempDir()
		mustOpen(t, nil, dir)
		_, err := Open(dir, Options{})
		requireCode(t, err, themis.RefusedUnsafe, "in use")
	})
	t.Run("later format of ours", func(t *testing.T) {
		fs := vfs.NewMem()
		s := mustOpen(t, fs, "store")
		v := []byte{2, 0, 0, 0}
		v = append(v, 0, 0, 0, 0)
		sum := checksum(nil, v[:4])
		v[4], v[5], v[6], v[7] = byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24)
		if err := s.db.Set(keyFormat, v, pebble.NoSync); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		_, err := Open("store", Options{FS: fs})
		requireCode(t, err, themis.Unimplemented, "UPGRADE_NEEDED")
	})
	t.Run("later format of Pebble", func(t *testing.T) {
		fs := vfs.NewMem()
		if err := mustOpen(t, fs, "store").Close(); err != nil {
			t.Fatal(err)
		}
		if err := writeFile(fs, "store/marker.format-version.000999.999", nil); err != nil {
			t.Fatal(err)
		}
		_, err := Open("store", Options{FS: fs})
		requireCode(t, err, themis.Unimplemented, "UPGRADE_NEEDED")
	})
	t.Run("settings", func(t *testing.T) {
		_, err := Open("store", Options{FS: vfs.NewMem(), MemTableBytes: 12})
		requireCode(t, err, themis.InvalidArgument, "memtable_bytes 12")
	})
}

func TestClosed(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, errApply := s.Apply(nil)
	_, _, errGet := s.Get(1, nil, "k")
	_, errView := s.View()
	for _, err := range []error{errApply, errGet, errView, s.Close()} {
		if !errors.Is(err, ErrClosed) {
			t.Fatalf("got %v", err)
		}
	}
}
