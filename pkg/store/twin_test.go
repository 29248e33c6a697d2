package store

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/themisdb/themis/pkg/themis"
)

// tiny is a window that random logs run full.
var tiny = window{age: 10 * time.Second, requests: 12, bytes: 900}

func tinyWindow(o *Options) { o.window = tiny }

var (
	placements = [][]byte{
		{}, {0}, {0, 0}, {0, 1}, {0, 0xff}, {1}, {1, 0}, {0xff}, {0xff, 0xff, 0xff, 0xff},
		themis.Token(0).Placement(), themis.Token(1).Placement(), themis.Token(0xffffffff).Placement(), []byte("ordered"), []byte("ordered\x00more"),
	}
	documentKeys = []string{"a", "a\x00", "a\x00b", "ab", "\x00", "\x00\x01", "\x01", "ü", "zz"}
)

// randomLog makes entries over few keys, so that they are written, deleted and written again, with request ids that repeat,
// times that jump, barriers and epochs.
func randomLog(rng *rand.Rand, n int) []themis.Entry {
	j := newJournal()
	pick := func(max int) int { return rng.IntN(max) }
	for range n {
		j.later(pick(3) * pick(3) * 500)
		switch pick(12) {
		case 0:
			j.at.Epoch++
			j.add(themis.KindBarrier, themis.Tags{})
			continue
		case 1:
			j.later(15_000)
		}
		var tags themis.Tags
		if pick(2) == 0 {
			tags = themis.Tags{RequestID: fmt.Sprint("request-", pick(40)), BodyDigest: uint64(1 + pick(9))}
		}
		if pick(8) == 0 {
			tags.Origin = &themis.Origin{Node: "far", Seq: themis.Seq(1 + pick(9)), HLC: themis.HLC(pick(99))}
		}
		var ops []themis.Op
		for range 1 + pick(4)*pick(2) {
			o := themis.Op{
				Code: themis.OpPut, Type: themis.TypeDocument, Collection: themis.CollectionID(pick(3)) * 0x7fffffff,
				Placement: placements[pick(len(placements))], Key: documentKeys[pick(len(documentKeys))],
			}
			if o.Value = bytes.Repeat([]byte{byte(pick(256))}, pick(40)); pick(3) == 0 {
				o.Code, o.Value = themis.OpDelete, nil
			}
			ops = append(ops, o)
		}
		j.add(themis.KindWrite, tags, ops...)
	}
	return j.entries
}

type place struct {
	c         themis.CollectionID
	placement string
	key       string
}

// twin is a store as anyone would write it who has all the memory and time in the world.
type twin struct {
	docs     map[place]Document
	requests map[string]RequestRecord
	order    []string // ids by the seq of their record
	hlc      themis.HLC
}

func newTwin() *twin { return &twin{docs: map[place]Document{}, requests: map[string]RequestRecord{}} }

func (w *twin) apply(t interface{ Fatal(...any) }, e themis.Entry) {
	if w.hlc = max(w.hlc, e.HLC); e.Kind == themis.KindWrite {
		ops, err := themis.DecodeOps(e.Payload)
		if err != nil {
			t.Fatal(err)
		}
		w.hlc = max(w.hlc, e.HLC+themis.HLC(len(ops)-1))
		var results []OpResult
		for i, o := range ops {
			at := place{o.Collection, string(o.Placement), o.Key}
			old, had := w.docs[at]
			d := Document{
				Collection: o.Collection, Placement: o.Placement, Key: o.Key, Type: themis.TypeDocument, Version: e.HLC + themis.HLC(i),
				Seq: e.Seq, RequestID: e.Tags.RequestID, Origin: e.Tags.Origin, Deleted: o.Code == themis.OpDelete,
			}
			existed := had && !old.Deleted
			if !d.Deleted {
				d.Value, d.Created = o.Value, d.Version
				if existed {
					d.Created = old.Created
				}
			}
			w.docs[at] = d
			results = append(results, OpResult{o.Collection, o.Placement, d.Version, existed})
		}
		if id := e.Tags.RequestID; id != "" {
			w.order = slices.DeleteFunc(w.order, func(o string) bool { return o == id })
			w.order = append(w.order, id)
			w.requests[id] = RequestRecord{e.Tags.BodyDigest, e.Seq, e.HLC, results}
		}
	}
	for len(w.order) > 0 && (len(w.order) > int(tiny.requests) || w.size() > int(tiny.bytes) ||
		w.hlc.Time().Sub(w.requests[w.order[0]].HLC.Time()) >= tiny.age) {
		delete(w.requests, w.order[0])
		w.order = w.order[1:]
	}
}

func (w *twin) size() (n int) {
	for id, r := range w.requests {
		n += len(appendRequest(nil, requestKey(nil, id), r))
	}
	return n
}

// sorted are the documents of a collection in order of placement, then of key.
func (w *twin) sorted(c themis.CollectionID) (docs []Document) {
	for _, d := range w.docs {
		if d.Collection == c {
			docs = append(docs, d)
		}
	}
	slices.SortFunc(docs, func(a, b Document) int {
		return cmp.Or(bytes.Compare(a.Placement, b.Placement), cmp.Compare(a.Key, b.Key))
	})
	return docs
}

func (w *twin) count() (c Count) {
	for _, d := range w.docs {
		if d.Deleted {
			c.Tombstones++
			continue
		}
		c.Documents++
		c.Bytes += themis.Bytes(len(d.Value))
	}
	return c
}

func show(d Document) string {
	o := themis.Origin{}
	if d.Origin != nil {
		o = *d.Origin
	}
	d.Origin = nil
	return fmt.Sprintf("%d %x %q %x %+v %v %d %d %d %q %v %d", d.Collection, d.Placement, d.Key, d.Value, o, d.Deleted, d.Version, d.Created, d.Seq, d.RequestID, d.Value == nil, d.Type)
}

// compare checks everything that the store shows against the twin.
func (w *twin) compare(t *rapid.T, s *Store) {
	if got, want := s.Stats().Count, w.count(); got != want {
		t.Fatalf("counts %+v, want %+v", got, want)
	}
	for _, c := range []themis.CollectionID{0, 0x7fffffff, 0xfffffffe} {
		want := w.sorted(c)
		n := 0
		for d, err := range s.Scan(c, ScanOptions{Tombstones: true}) {
			if err != nil {
				t.Fatal(err)
			}
			if n == len(want) || show(d) != show(want[n]) {
				t.Fatalf("document %d of %d: %s, want %v", n, c, show(d), want[min(n, len(want)-1)])
			}
			got, ok, err := s.Get(c, d.Placement, d.Key)
			if err != nil || ok == d.Deleted || show(got) != show(d) {
				t.Fatalf("get %s: %s %v %v", show(d), show(got), ok, err)
			}
			n++
		}
		if n != len(want) {
			t.Fatalf("%d documents in %d, want %d", n, c, len(want))
		}
	}
	if got := s.Stats().Requests; int(got) != len(w.requests) {
		t.Fatalf("%d requests, want %d", got, len(w.requests))
	}
	for i := range 40 {
		id := fmt.Sprint("request-", i)
		got, ok, err := s.Request(id)
		want, wantOK := w.requests[id]
		if err != nil || ok != wantOK || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("request %s: %+v %v %v, want %+v %v", id, got, ok, err, want, wantOK)
		}
	}
}

func TestAgainstTwin(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
		log := randomLog(rng, rapid.IntRange(1, 80).Draw(rt, "entries"))
		fs := vfs.NewMem()
		s := mustOpen(t, fs, "store", tinyWindow, func(o *Options) { o.batch = 1 + rng.IntN(2000) })
		defer func() { _ = s.Close() }()
		w := newTwin()
		for len(log) > 0 {
			n := min(1+rng.IntN(40), len(log))
			mustApply(t, s, log[:n]...)
			for _, e := range log[:n] {
				w.apply(rt, e)
			}
			log = log[n:]
			if rng.IntN(3) == 0 {
				if _, err := s.Flush(); err != nil {
					rt.Fatal(err)
				}
			}
			if len(log) == 0 || rng.IntN(4) == 0 {
				w.compare(rt, s)
			}
		}
	})
}

// TestSameLogSameContent: how entries are grouped into calls, and where restarts fall, leaves no trace.
func TestSameLogSameContent(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 2))
		log := randomLog(rng, 400)
		one := mustOpen(t, vfs.NewMem(), "store", tinyWindow)
		mustApply(t, one, log...)
		want := mustDigest(t, one, DigestOptions{})
		if want.Requests == 0 || want.Documents == 0 || want.Tombstones == 0 {
			t.Fatalf("too little to compare: %+v", want)
		}

		fs := vfs.NewCrashableMem()
		s := mustOpen(t, fs, "store", tinyWindow)
		for s.Applied().Seq < themis.Seq(len(log)) {
			from := int(s.Applied().Seq)
			to := min(from+1+rng.IntN(40), len(log))
			mustApply(t, s, log[from:to]...)
			switch rng.IntN(4) {
			case 0:
				if _, err := s.Flush(); err != nil {
					t.Fatal(err)
				}
			case 1:
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = mustOpen(t, fs, "store", tinyWindow)
			}
		}
		if got := mustDigest(t, s, DigestOptions{}); got != want {
			t.Fatalf("seed %d: %+v, want %+v", seed, got, want)
		}
		if got, want := fmt.Sprint(s.Stats().ByCollection), fmt.Sprint(one.Stats().ByCollection); got != want {
			t.Fatalf("seed %d: counts %s, want %s", seed, got, want)
		}
	}
}

// TestCrash: whatever is left of a store after the power goes, it is whole, not ahead, not behind what was promised, and the
// log brings it to the same content.
func TestCrash(t *testing.T) {
	for seed := range uint64(15) {
		rng := rand.New(rand.NewPCG(seed, 3))
		log := randomLog(rng, 300)
		one := mustOpen(t, vfs.NewMem(), "store", tinyWindow)
		mustApply(t, one, log...)
		want := mustDigest(t, one, DigestOptions{})

		fs := vfs.NewCrashableMem()
		s := mustOpen(t, fs, "store", tinyWindow, func(o *Options) { o.MemTableBytes = minMemTableBytes })
		durable := themis.Seq(0)
		for crashes := 0; s.Applied().Seq < themis.Seq(len(log)); {
			from := int(s.Applied().Seq)
			mustApply(t, s, log[from:min(from+1+rng.IntN(20), len(log))]...)
			var err error
			if rng.IntN(3) == 0 {
				durable, err = s.Flush()
			} else if rng.IntN(3) == 0 {
				durable, err = s.DurableApplied()
			}
			if err != nil {
				t.Fatal(err)
			}
			if crashes < 6 && rng.IntN(4) == 0 {
				crashes++
				before := s.Applied().Seq
				left := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				fs = left
				s = mustOpen(t, fs, "store", tinyWindow, func(o *Options) { o.MemTableBytes = minMemTableBytes })
				if now := s.Applied().Seq; now > before || now < durable {
					t.Fatalf("seed %d: at %d after the crash, %d before it, %d durable", seed, now, before, durable)
				}
			}
		}
		if got := mustDigest(t, s, DigestOptions{}); got != want {
			t.Fatalf("seed %d: %+v, want %+v", seed, got, want)
		}
	}
}

func TestCrashUnderLoad(t *testing.T) {
	// Large values, so that memtables fill and are written while entries come in: the crash falls between, not on, flushes.
	rng := rand.New(rand.NewPCG(5, 5))
	j := newJournal()
	for i := range 400 {
		j.write(put(themis.Token(rng.Uint32()), fmt.Sprint("k", rng.IntN(300)), string(bytes.Repeat([]byte{byte(i)}, 8<<10))), del(1, fmt.Sprint("k", i)))
	}
	small := func(o *Options) { o.MemTableBytes = minMemTableBytes }
	one := mustOpen(t, vfs.NewMem(), "store", small)
	mustApply(t, one, j.entries...)
	want := mustDigest(t, one, DigestOptions{})
	fs := vfs.NewCrashableMem()
	s := mustOpen(t, fs, "store", small)
	advanced := false
	for i := 0; i < len(j.entries); i += 10 {
		mustApply(t, s, j.entries[i:i+10]...)
		durable, err := s.DurableApplied()
		if err != nil {
			t.Fatal(err)
		}
		left := mustOpen(t, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}), "store", small)
		at := left.Applied().Seq
		if at < durable || at > s.Applied().Seq {
			t.Fatalf("at %d after the crash, %d durable, %d applied", at, durable, s.Applied().Seq)
		}
		advanced = advanced || at > 0
		if i%100 == 0 {
			mustApply(t, left, j.entries[at:]...)
			if got := mustDigest(t, left, DigestOptions{}); got != want {
				t.Fatalf("after the crash at %d: %+v, want %+v", at, got, want)
			}
		}
		if err := left.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !advanced {
		t.Fatal("no crash found anything on disk: the test proves nothing")
	}
}
