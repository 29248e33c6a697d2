package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/themisdb/themis/pkg/themis"
)

func collect(t testing.TB, s *Store, c themis.CollectionID, o ScanOptions) (docs []Document) {
	t.Helper()
	for d, err := range s.Scan(c, o) {
		if err != nil {
			t.Fatal(err)
		}
		docs = append(docs, d)
	}
	return docs
}

func TestScan(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store")
	j := newJournal()
	rng := rand.New(rand.NewPCG(1, 1))
	tokens := []themis.Token{0, 1, 255, 256, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff}
	var want []string
	for _, token := range tokens {
		for _, key := range []string{"a", "a\x00", "b"} {
			want = append(want, fmt.Sprintf("%x/%s", token.Placement(), key))
			j.write(put(token, key, key))
		}
		j.write(del(token, "gone"))
		o := put(token, "a", "of the next collection")
		o.Collection++
		j.write(o)
	}
	rng.Shuffle(len(j.entries), func(a, b int) {
		j.entries[a].Payload, j.entries[b].Payload = j.entries[b].Payload, j.entries[a].Payload
	})
	mustApply(t, s, j.entries...)
	p := themis.Token.Placement
	for name, c := range map[string]struct {
		o    ScanOptions
		want []string
	}{
		"all":                {ScanOptions{}, want},
		"from":               {ScanOptions{From: p(256)}, want[9:]},
		"between":            {ScanOptions{From: p(1), To: p(256)}, want[3:9]},
		"between absent":     {ScanOptions{From: p(2), To: p(0x10001)}, want[6:15]},
		"the last token":     {ScanOptions{From: p(0xffffffff)}, want[21:]},
		"limit":              {ScanOptions{From: p(1), Limit: 4}, want[3:7]},
		"empty":              {ScanOptions{From: p(7), To: p(7)}, nil},
		"backwards":          {ScanOptions{From: p(9), To: p(7)}, nil},
		"after":              {ScanOptions{After: &Cursor{p(1), "a"}}, want[4:]},
		"after absent":       {ScanOptions{After: &Cursor{p(1), "a\x00\x00"}}, want[5:]},
		"after before from":  {ScanOptions{From: p(255), After: &Cursor{p(1), "a"}}, want[6:]},
		"after with a limit": {ScanOptions{After: &Cursor{p(255), "b"}, To: p(0x10000), Limit: 2}, want[9:11]},
	} {
		if got := keysOf(collect(t, s, 7, c.o)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	var pages []string
	var after *Cursor
	for {
		page := collect(t, s, 7, ScanOptions{After: after, Limit: 5})
		pages = append(pages, keysOf(page)...)
		if len(page) < 5 {
			break
		}
		after = &Cursor{page[4].Placement, page[4].Key}
	}
	if !slices.Equal(pages, want) {
		t.Errorf("page by page: %q", pages)
	}
	if got := len(collect(t, s, 7, ScanOptions{Tombstones: true})); got != len(want)+len(tokens) {
		t.Errorf("%d with tombstones", got)
	}
}

func TestViewsAndScansStandStill(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store")
	j := newJournal()
	j.write(put(1, "a", "1"), put(2, "b", "1"))
	mustApply(t, s, j.entries...)
	v, err := s.View()
	if err != nil {
		t.Fatal(err)
	}
	before := mustDigest(t, s, DigestOptions{})
	at, hlc := s.Applied(), s.AppliedHLC()
	for d, err := range s.Scan(7, ScanOptions{}) {
		if err != nil || string(d.Value) != "1" {
			t.Fatalf("%+v %v", d, err)
		}
		mustApply(t, s, j.write(put(1, "a", "2"), put(2, "b", "2"), put(3, "c", "2")))
	}
	d, ok, err := v.Get(7, themis.Token(2).Placement(), "b")
	if err != nil || !ok || string(d.Value) != "1" || v.Position() != at || v.HLC() != hlc {
		t.Fatalf("%+v %v %v at %+v", d, ok, err, v.Position())
	}
	if got, err := v.Digest(DigestOptions{}); err != nil || got != before {
		t.Fatalf("%+v %v, want %+v", got, err, before)
	}
	n := 0
	for range v.Scan(7, ScanOptions{}) {
		n++
	}
	v.Close()
	if n != 2 || len(collect(t, s, 7, ScanOptions{})) != 3 {
		t.Fatalf("%d documents in the view", n)
	}
	if v, err = s.View(); err != nil || v.Position() != s.Applied() {
		t.Fatal(v.Position(), err)
	}
	v.Close()
}

func TestCloseWaitsForReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u users
		u.init()
		if err := u.enter(); err != nil {
			t.Fatal(err)
		}
		done := make(chan bool)
		go func() { done <- u.close() }()
		synctest.Wait()
		select {
		case <-done:
			t.Fatal("closed under a reader")
		default:
		}
		if u.enter() == nil {
			t.Fatal("let in while closing")
		}
		u.leave()
		if !<-done || u.close() {
			t.Fatal("close should succeed once")
		}
	})
}

func TestDigestTellsApart(t *testing.T) {
	base := func() *journal {
		j := newJournal()
		j.add(themis.KindWrite, themis.Tags{RequestID: "r", BodyDigest: 1}, put(1, "a", "1"), put(9, "b", "1"), del(5, "c"))
		return j
	}
	digest := func(j *journal, o DigestOptions) Digest {
		s := mustOpen(t, vfs.NewMem(), "store")
		mustApply(t, s, j.entries...)
		return mustDigest(t, s, o)
	}
	same := digest(base(), DigestOptions{})
	if same.Documents != 2 || same.Tombstones != 1 || same.Requests != 1 {
		t.Fatalf("%+v", same)
	}
	other := func(change func(e *themis.Entry)) *journal {
		j := base()
		change(&j.entries[0])
		return j
	}
	for name, j := range map[string]*journal{
		"value": other(func(e *themis.Entry) {
			e.Payload = themis.AppendOps(nil, []themis.Op{put(1, "a", "2"), put(9, "b", "1"), del(5, "c")})
		}),
		"placement": other(func(e *themis.Entry) {
			e.Payload = themis.AppendOps(nil, []themis.Op{put(2, "a", "1"), put(9, "b", "1"), del(5, "c")})
		}),
		"tombstone": other(func(e *themis.Entry) {
			e.Payload = themis.AppendOps(nil, []themis.Op{put(1, "a", "1"), put(9, "b", "1"), del(6, "c")})
		}),
		"version": other(func(e *themis.Entry) { e.HLC++ }),
		"request": other(func(e *themis.Entry) { e.Tags.BodyDigest++ }),
		"origin":  other(func(e *themis.Entry) { e.Tags.Origin = &themis.Origin{} }),
	} {
		if digest(j, DigestOptions{}).Sum == same.Sum {
			t.Errorf("another %s has the same digest", name)
		}
	}
	rng := DigestOptions{From: themis.Token(1).Placement(), To: themis.Token(9).Placement()}
	moved := other(func(e *themis.Entry) {
		e.Payload = themis.AppendOps(nil, []themis.Op{put(1, "a", "1"), put(9, "b", "outside the range"), del(5, "c")})
		e.Tags.BodyDigest++
	})
	if a, b := digest(base(), rng), digest(moved, rng); a.Sum != b.Sum || a.Documents != 1 || a.Requests != 0 {
		t.Errorf("a range sees what is outside it: %+v %+v", a, b)
	}
	elsewhere := newJournal()
	elsewhere.add(themis.KindBarrier, themis.Tags{}) // other seqs, no tombstone, same documents and versions
	elsewhere.hlc--
	elsewhere.write(put(1, "a", "1"), put(9, "b", "1"))
	if digest(base(), DigestOptions{Portable: true}).Sum != digest(elsewhere, DigestOptions{Portable: true}).Sum {
		t.Error("a portable digest depends on the shard")
	}
}
