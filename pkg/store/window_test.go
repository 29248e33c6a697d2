package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/themisdb/themis/pkg/themis"
)

func request(j *journal, id string) themis.Entry {
	return j.add(themis.KindWrite, themis.Tags{RequestID: id, BodyDigest: 1}, put(1, id, "x"))
}

func hasRequest(t testing.TB, s *Store, id string) bool {
	t.Helper()
	_, ok, err := s.Request(id)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestRequestsAreKeptForTenMinutes(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store")
	j := newJournal()
	mustApply(t, s, request(j, "r"))
	at := j.hlc
	j.hlc = themis.HLCAt(at.Time().Add(10*time.Minute)) - 2
	mustApply(t, s, j.write(put(2, "k", "v")))
	if !hasRequest(t, s, "r") {
		t.Fatal("forgotten within ten minutes")
	}
	j.hlc++
	mustApply(t, s, j.add(themis.KindBarrier, themis.Tags{}))
	if hasRequest(t, s, "r") || s.Stats().Requests != 0 {
		t.Fatal("still known after ten minutes")
	}
}

func TestRequestsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		w    window
		kept int
	}{
		"by number": {window{age: time.Hour, requests: 3, bytes: 1 << 20}, 3},
		"by bytes":  {window{age: time.Hour, requests: 99, bytes: 100}, 2}, // a record of one operation has 44 bytes
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, vfs.NewMem(), "store", func(o *Options) { o.window = c.w })
			j := newJournal()
			for i := range 2 * readAhead {
				mustApply(t, s, request(j, fmt.Sprint("r", i)))
			}
			for i := range 2 * readAhead {
				if got, want := hasRequest(t, s, fmt.Sprint("r", i)), i >= 2*readAhead-c.kept; got != want {
					t.Fatalf("request %d: known %v, want %v", i, got, want)
				}
			}
		})
	}
}

// TestRepeatedRequests: a repeated id is young again wherever its first record was: in Pebble, read ahead, or in the batch.
func TestRepeatedRequests(t *testing.T) {
	w := func(o *Options) { o.window = window{age: time.Hour, requests: 4, bytes: 1 << 20} }
	for name, together := range map[string]bool{"one call": true, "many calls": false} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, vfs.NewMem(), "store", w)
			j := newJournal()
			ids := []string{"a", "b", "c", "a", "d", "e", "b", "a", "f"} // then b is gone and back, c gone, a never
			var results []Result
			for _, id := range ids {
				request(j, id)
				if !together {
					results = append(results, mustApply(t, s, j.entries[len(j.entries)-1])...)
				}
			}
			if together {
				results = mustApply(t, s, j.entries...)
			}
			repeated := ""
			for i, r := range results {
				if r.Repeated {
					repeated += ids[i]
				}
			}
			if repeated != "aa" {
				t.Fatalf("repeated: %q", repeated)
			}
			known := ""
			for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
				if hasRequest(t, s, id) {
					known += id
				}
			}
			if known != "abef" || s.Stats().Requests != 4 {
				t.Fatalf("known: %q, %d counted", known, s.Stats().Requests)
			}
			if r, _, _ := s.Request("a"); r.Seq != 8 {
				t.Fatalf("a is of entry %d, want its last", r.Seq)
			}
		})
	}
}

func TestCollectTombstones(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, "store")
	other := mustOpen(t, vfs.NewMem(), "other")
	j := newJournal()
	j.write(put(1, "a", "1"), put(2, "b", "1"), put(3, "c", "1"))
	j.write(del(1, "a"), del(2, "b"))
	j.write(put(2, "b", "again"))
	j.write(del(3, "c"), del(4, "never"))
	j.write(del(1, "a")) // deleted once more: younger
	mustApply(t, s, j.entries...)
	mustApply(t, other, j.entries...)
	if _, err := s.CollectTombstones(6); themis.CodeOf(err) != themis.InvalidArgument {
		t.Fatalf("beyond what is applied: %v", err)
	}
	if n, err := s.CollectTombstones(3); n != 0 || err != nil {
		t.Fatalf("%d collected: %v", n, err)
	}
	if n, err := s.CollectTombstones(4); n != 2 || err != nil {
		t.Fatalf("%d collected: %v", n, err)
	}
	st := s.Stats()
	if st.Count != (Count{Documents: 1, Bytes: 5, Tombstones: 1}) || st.Floor != 4 {
		t.Fatalf("%+v", st)
	}
	if d, _, err := s.Get(7, themis.Token(3).Placement(), "c"); err != nil || d.Deleted {
		t.Fatalf("c: %+v %v", d, err)
	}
	if d, _, err := s.Get(7, themis.Token(1).Placement(), "a"); err != nil || !d.Deleted {
		t.Fatalf("a: %+v %v", d, err)
	}
	if mustDigest(t, s, DigestOptions{}) == mustDigest(t, other, DigestOptions{}) {
		t.Fatal("collected tombstones should show")
	}
	if a, b := mustDigest(t, s, DigestOptions{Floor: st.Floor}), mustDigest(t, other, DigestOptions{Floor: st.Floor}); a != b {
		t.Fatalf("above the floor they should be equal: %+v %+v", a, b)
	}
	j.entries = nil
	j.write(put(3, "c", "new"), put(1, "a", "new")) // absent and deleted look the same to what follows
	mustApply(t, s, j.entries...)
	mustApply(t, other, j.entries...)
	if a, b := mustDigest(t, s, DigestOptions{Floor: st.Floor}), mustDigest(t, other, DigestOptions{Floor: st.Floor}); a != b {
		t.Fatalf("after further writes: %+v %+v", a, b)
	}
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := mustOpen(t, fs, "store").Stats(); got.Floor != 4 || got.Tombstones != 0 {
		t.Fatalf("after a restart: %+v", got)
	}
}

func TestCollectManyTombstones(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store", func(o *Options) { o.batch = 5000 })
	j := newJournal()
	const n = 1000 // more than one batch
	for i := 0; i < n; i += 100 {
		var ops []themis.Op
		for k := range 100 {
			ops = append(ops, del(themis.Token(i+k), fmt.Sprint("document-", i+k)))
		}
		j.write(ops...)
	}
	mustApply(t, s, j.entries...)
	got, err := s.CollectTombstones(s.Applied().Seq)
	if err != nil || got != n {
		t.Fatalf("%d collected: %v", got, err)
	}
	if st := s.Stats(); len(st.ByCollection) != 0 || st.Count != (Count{}) {
		t.Fatalf("%+v", st)
	}
	if d := mustDigest(t, s, DigestOptions{}); d.Tombstones != 0 {
		t.Fatalf("%+v", d)
	}
}

// TestCollectNeverRemovesADocument: an index that is wrong is damage, not an order.
func TestCollectNeverRemovesADocument(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store")
	j := newJournal()
	mustApply(t, s, j.write(put(1, "a", "1")))
	if err := s.db.Set(tombstoneKey(nil, 1, documentKey(nil, 7, themis.Token(1).Placement(), "a")), nil, nil); err == nil {
		t.Fatal("a synced write without a log should fail")
	}
	if err := s.db.Set(tombstoneKey(nil, 1, documentKey(nil, 7, themis.Token(1).Placement(), "a")), nil, noSync); err != nil {
		t.Fatal(err)
	}
	_, err := s.CollectTombstones(1)
	requireCode(t, err, themis.Corrupt, "tombstone")
	if _, ok, err := s.Get(7, themis.Token(1).Placement(), "a"); !ok || err != nil {
		t.Fatal(ok, err)
	}
}
