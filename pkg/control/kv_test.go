package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/themisdb/themis/pkg/themis"
)

// store is a KV under test and the way to make it forget.
type store struct {
	KV
	compact func(rev themis.Revision) error
}

func memoryStore(t *testing.T) store {
	kv := NewMemory(nil)
	t.Cleanup(func() {
		if err := kv.Close(); err != nil {
			t.Error(err)
		}
	})
	return store{kv, func(rev themis.Revision) error { kv.Compact(rev); return nil }}
}

func etcdStore(t *testing.T) store {
	kv := connect(t, single(t, nil))
	return store{kv, func(rev themis.Revision) error {
		_, err := kv.c.Compact(context.Background(), int64(rev), clientv3.WithCompactPhysical())
		return err
	}}
}

func TestKV(t *testing.T) {
	for name, open := range map[string]func(*testing.T) store{"memory": memoryStore, "etcd": etcdStore} {
		t.Run(name, func(t *testing.T) { kvSuite(t, open(t)) })
	}
}

// kvSuite is what a store must do. Each case works below a prefix of its own.
func kvSuite(t *testing.T, s store) {
	for name, test := range map[string]func(*testing.T, store, string){
		"compare":         testCompare,
		"one revision":    testOneRevision,
		"ranges":          testRanges,
		"limits":          testLimits,
		"delete":          testDelete,
		"watch old":       testWatchOld,
		"watch live":      testWatchLive,
		"watch progress":  testWatchProgress,
		"watch compacted": testWatchCompacted,
		"watch ends":      testWatchEnds,
		"lease":           testLease,
		"lease expires":   testLeaseExpires,
		"lease ended":     testLeaseEnded,
		"counter":         testCounter,
		"cancelled":       testCancelled,
	} {
		t.Run(name, func(t *testing.T) { test(t, s, "/"+name+"/") })
	}
	t.Run("closed", func(t *testing.T) { testClosed(t, s) })
}

func write(t *testing.T, kv KV, key, value string) themis.Revision {
	t.Helper()
	ok, rev, err := kv.Txn(t.Context(), Txn{Put: []Put{{Key: key, Value: []byte(value)}}})
	if err != nil || !ok {
		t.Fatalf("put %s: %v, %v", key, ok, err)
	}
	return rev
}

func value(t *testing.T, kv KV, key string) string {
	t.Helper()
	r, err := kv.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	if r.Revision == 0 {
		return "-"
	}
	return string(r.Value)
}

func testCompare(t *testing.T, s store, p string) {
	a := p + "a"
	first := write(t, s, a, "1")
	for _, c := range []struct {
		name string
		when Compare
		want bool
	}{
		{"there, wanted absent", Compare{a, 0}, false},
		{"another revision", Compare{a, first + 1}, false},
		{"absent, wanted there", Compare{p + "b", first}, false},
		{"the revision", Compare{a, first}, true},
		{"absent", Compare{p + "c", 0}, true},
	} {
		_, before, err := s.List(t.Context(), Prefix(p))
		if err != nil {
			t.Fatal(err)
		}
		ok, rev, err := s.Txn(t.Context(), Txn{If: []Compare{c.when}, Put: []Put{{Key: p + "done", Value: []byte(c.name)}}})
		if err != nil || ok != c.want {
			t.Errorf("%s: %v, %v", c.name, ok, err)
		}
		if c.want && rev != before+1 || !c.want && rev != before {
			t.Errorf("%s: revision %d after %d", c.name, rev, before)
		}
		if did := value(t, s, p+"done") == c.name; did != c.want {
			t.Errorf("%s: written %v", c.name, did)
		}
	}
}

func testOneRevision(t *testing.T, s store, p string) {
	write(t, s, p+"gone", "x")
	ok, rev, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: p + "a"}, {Key: p + "b", Value: []byte("2")}}, Delete: []string{p + "gone"}})
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	records, now, err := s.List(t.Context(), Prefix(p))
	if err != nil || len(records) != 2 || now != rev {
		t.Fatal(records, now, err)
	}
	for _, r := range records {
		if r.Revision != rev {
			t.Errorf("%s at %d, want %d", r.Key, r.Revision, rev)
		}
	}
}

func testRanges(t *testing.T, s store, p string) {
	for _, k := range []string{"b/2", "a", "b/1", "b/3", "b0", "c/1"} {
		write(t, s, p+k, "v"+k)
	}
	limited, last, keysOnly := Prefix(p), Prefix(p+"b/"), Only(p+"a")
	limited.Limit = 2
	last.Limit, last.Descending = 2, true
	keysOnly.KeysOnly = true
	for _, c := range []struct {
		ranges []Range
		want   string
	}{
		{[]Range{Prefix(p + "b/")}, "b/1=vb/1 b/2=vb/2 b/3=vb/3"},
		{[]Range{limited}, "a=va b/1=vb/1"},
		{[]Range{last}, "b/3=vb/3 b/2=vb/2"},
		{[]Range{keysOnly}, "a="},
		{[]Range{Only(p + "b/1")}, "b/1=vb/1"},
		{[]Range{Only(p + "b/")}, ""},
		{[]Range{Prefix(p + "c"), Only(p + "a")}, "c/1=vc/1 a=va"},
		{[]Range{{From: p + "b/2", To: p + "b0"}}, "b/2=vb/2 b/3=vb/3"},
		{[]Range{{From: p + "b0", To: p + "a"}}, ""},
	} {
		records, _, err := s.List(t.Context(), c.ranges...)
		if err != nil {
			t.Error(err)
		}
		var got []string
		for _, r := range records {
			got = append(got, strings.TrimPrefix(r.Key, p)+"="+string(r.Value))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%v: %q, want %q", c.ranges, g, c.want)
		}
	}
}

func testLimits(t *testing.T, s store, p string) {
	compares := func(n int) (t Txn) {
		for i := range n {
			t.If = append(t.If, Compare{p + strconv.Itoa(i), 0})
		}
		t.Put = []Put{{Key: p + "compared"}}
		return t
	}
	writes := func(puts, deletes int) (t Txn) {
		for i := range puts {
			t.Put = append(t.Put, Put{Key: fmt.Sprint(p, "p", i)})
		}
		for i := range deletes {
			t.Delete = append(t.Delete, fmt.Sprint(p, "d", i))
		}
		return t
	}
	for _, c := range []struct {
		name string
		txn  Txn
		want themis.Code
	}{
		{"128 compares", compares(128), ""},
		{"129 compares", compares(129), themis.TooLarge},
		{"128 writes", writes(100, 28), ""},
		{"129 writes", writes(100, 29), themis.TooLarge},
		{"1 MiB", Txn{Put: []Put{{Key: p + "large", Value: make([]byte, MaxTxnBytes-len(p)-5)}}}, ""},
		{"more than 1 MiB", Txn{Put: []Put{{Key: p + "large", Value: make([]byte, MaxTxnBytes)}}}, themis.TooLarge},
		{"twice", Txn{Put: []Put{{Key: p + "x"}, {Key: p + "x"}}}, themis.InvalidArgument},
		{"put and delete", Txn{Put: []Put{{Key: p + "x"}}, Delete: []string{p + "x"}}, themis.InvalidArgument},
		{"no key", Txn{Put: []Put{{}}}, themis.InvalidArgument},
	} {
		ok, _, err := s.Txn(t.Context(), c.txn)
		if code := themis.CodeOf(err); code != c.want || ok != (err == nil) || errors.Is(err, ErrTooLarge) != (c.want == themis.TooLarge) {
			t.Errorf("%s: %v, %v", c.name, ok, err)
		}
	}
}

func testDelete(t *testing.T, s store, p string) {
	rev := write(t, s, p+"a", "1")
	ok, now, err := s.Txn(t.Context(), Txn{Delete: []string{p + "never"}})
	if err != nil || !ok || now != rev {
		t.Errorf("deleting nothing: %v, revision %d, %v; want %d", ok, now, err, rev)
	}
	if _, now, err = s.Txn(t.Context(), Txn{Delete: []string{p + "a"}}); err != nil || now != rev+1 {
		t.Errorf("delete: revision %d, %v", now, err)
	}
	if v := value(t, s, p+"a"); v != "-" {
		t.Errorf("still there: %q", v)
	}
	if again := write(t, s, p+"a", "2"); again != rev+2 {
		t.Errorf("put again: revision %d", again)
	}
}

// watching pulls the batches of a watch one by one.
func watching(t *testing.T, kv KV, prefix string, from themis.Revision) func() (Batch, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	next, stop := iter.Pull2(kv.Watch(ctx, prefix, from))
	t.Cleanup(func() { cancel(); stop() })
	return func() (Batch, error) {
		b, err, ok := next()
		if !ok {
			t.Error("the watch ended without an error")
		}
		return b, err
	}
}

// draw gathers changes until there are n, as "key=value key-".
func draw(t *testing.T, next func() (Batch, error), p string, n int) string {
	t.Helper()
	var got []string
	last := themis.Revision(0)
	for len(got) < n {
		b, err := next()
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		if b.Revision < last {
			t.Errorf("revision %d after %d", b.Revision, last)
		}
		last = b.Revision
		for _, c := range b.Changes {
			s := strings.TrimPrefix(c.Key, p) + "=" + string(c.Value)
			if c.Deleted {
				s = strings.TrimPrefix(c.Key, p) + "-"
			}
			if c.Revision > b.Revision {
				t.Errorf("%s at %d in a batch up to %d", s, c.Revision, b.Revision)
			}
			got = append(got, s)
		}
	}
	return strings.Join(got, " ")
}

func testWatchOld(t *testing.T, s store, p string) {
	write(t, s, p+"a", "0")
	from := write(t, s, p+"a", "1") // and not the one before
	write(t, s, strings.TrimSuffix(p, "/")+"-not", "x")
	if _, _, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: p + "b", Value: []byte("1")}, {Key: p + "c", Value: []byte("1")}}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Txn(t.Context(), Txn{Delete: []string{p + "b", p + "never"}}); err != nil {
		t.Fatal(err)
	}
	if got, want := draw(t, watching(t, s, p, from), p, 4), "a=1 b=1 c=1 b-"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func testWatchLive(t *testing.T, s store, p string) {
	from := write(t, s, p+"a", "0") + 1
	next := watching(t, s, p, from)
	const n = 100
	var writing sync.WaitGroup
	defer writing.Wait()
	var want []string
	for i := range n {
		want = append(want, fmt.Sprintf("k=%d", i))
	}
	writing.Go(func() {
		for i := range n {
			ok, _, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: p + "k", Value: []byte(strconv.Itoa(i))}, {Key: "/elsewhere/" + strconv.Itoa(i)}}})
			if err != nil || !ok {
				t.Error(ok, err)
				return
			}
		}
	})
	if got := draw(t, next, p, n); got != strings.Join(want, " ") {
		t.Errorf("got %q", got)
	}
}

func testWatchProgress(t *testing.T, s store, p string) {
	from := write(t, s, p+"a", "0") + 1
	next := watching(t, s, p, from)
	far := write(t, s, "/elsewhere/x", "1")
	for {
		b, err := next()
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Changes) > 0 {
			t.Fatalf("a change of something else: %v", b)
		}
		if b.Revision >= far {
			return
		}
	}
}

func testWatchCompacted(t *testing.T, s store, p string) {
	first := write(t, s, p+"a", "1")
	last := write(t, s, p+"a", "2")
	if err := s.compact(last); err != nil {
		t.Fatal(err)
	}
	if _, err := watching(t, s, p, first)(); !errors.Is(err, ErrCompacted) {
		t.Errorf("from %d: %v", first, err)
	}
	write(t, s, p+"a", "3")
	if got := draw(t, watching(t, s, p, last+1), p, 1); got != "a=3" {
		t.Errorf("from %d: %q", last+1, got)
	}
}

func testWatchEnds(t *testing.T, s store, p string) {
	from := write(t, s, p+"a", "1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for b, err := range s.Watch(ctx, p, from) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("ended with %v", err)
			}
			return
		}
		if len(b.Changes) > 0 {
			cancel()
		}
	}
	t.Error("ended without an error")
}

func testLease(t *testing.T, s store, p string) {
	id, ttl, err := s.Grant(t.Context(), 5*time.Second)
	if err != nil || ttl != 5*time.Second {
		t.Fatal(id, ttl, err)
	}
	put := func(key string, id LeaseID) {
		if ok, _, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: p + key, Lease: id}}}); err != nil || !ok {
			t.Fatal(ok, err)
		}
	}
	put("a", id)
	put("b", id)
	put("unbound", id)
	put("unbound", 0)
	if left, err := s.KeepAlive(t.Context(), id); err != nil || left != 5*time.Second {
		t.Errorf("keep alive: %v, %v", left, err)
	}
	from := write(t, s, p+"mark", "")
	if err := s.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	b := Batch{}
	for next := watching(t, s, p, from+1); len(b.Changes) == 0; {
		if b, err = next(); err != nil {
			t.Fatal(err)
		}
	}
	if len(b.Changes) != 2 || b.Changes[0].Revision != b.Changes[1].Revision {
		t.Errorf("the end of a lease is not one revision: %v", b.Changes)
	}
	if v := value(t, s, p+"unbound"); v != "" {
		t.Errorf("a key that is no longer bound went with the lease: %q", v)
	}
	if err := s.Revoke(t.Context(), id); err != nil {
		t.Errorf("revoke again: %v", err)
	}
}

func testLeaseExpires(t *testing.T, s store, p string) {
	id, ttl, err := s.Grant(t.Context(), 300*time.Millisecond)
	if err != nil || ttl != time.Second {
		t.Fatal(id, ttl, err)
	}
	sent := time.Now()
	if _, _, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: p + "a", Lease: id}}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the key goes with its lease", func() bool { return value(t, s, p+"a") == "-" })
	if held := time.Since(sent); held < 800*time.Millisecond {
		t.Errorf("the lease of 1 s ended after %s", held)
	}
}

func testLeaseEnded(t *testing.T, s store, p string) {
	id, _, err := s.Grant(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := s.KeepAlive(t.Context(), id); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("keep alive: %v", err)
	}
	if ok, _, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: p + "b"}, {Key: p + "a", Lease: id}}}); ok || !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("put: %v, %v", ok, err)
	}
	if v := value(t, s, p+"b"); v != "-" {
		t.Errorf("half of it was done: %q", v)
	}
}

func testCounter(t *testing.T, s store, p string) {
	const workers, each = 8, 10
	var adding sync.WaitGroup
	var done, maybe atomic.Int64
	for range workers {
		adding.Go(func() {
			for range each {
				r, err := s.Get(t.Context(), p+"n")
				if err != nil {
					t.Error(err)
					return
				}
				n, _ := strconv.Atoi(string(r.Value))
				ok, _, err := s.Txn(t.Context(), Txn{If: []Compare{{p + "n", r.Revision}}, Put: []Put{{Key: p + "n", Value: []byte(strconv.Itoa(n + 1))}}})
				switch {
				case errors.Is(err, ErrUnknownOutcome):
					maybe.Add(1)
				case err != nil:
					t.Error(err)
				case ok:
					done.Add(1)
				}
			}
		})
	}
	adding.Wait()
	n, err := strconv.ParseInt(value(t, s, p+"n"), 10, 64)
	if err != nil || n < done.Load() || n > done.Load()+maybe.Load() || n < each {
		t.Errorf("counted %d, %v; %d were done, %d may have been", n, err, done.Load(), maybe.Load())
	}
}

func testCancelled(t *testing.T, s store, p string) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ok, _, err := s.Txn(ctx, Txn{Put: []Put{{Key: p + "a"}}}); ok || !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("txn: %v, %v", ok, err)
	}
	if _, _, err := s.List(ctx, Prefix(p)); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if v := value(t, s, p+"a"); v != "-" {
		t.Errorf("written: %q", v)
	}
}

func testClosed(t *testing.T, s store) {
	next := watching(t, s, "/closed/", write(t, s, "/closed/a", "1"))
	if _, err := next(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		_, err = next()
	}
	if !errors.Is(err, ErrClosed) {
		t.Errorf("watch: %v", err)
	}
	if _, err := s.Get(t.Context(), "/closed/a"); !errors.Is(err, ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: "/closed/a"}}}); !errors.Is(err, ErrClosed) {
		t.Errorf("txn: %v", err)
	}
}

// TestMemoryVirtualClock ends a lease by the caller's clock.
func TestMemoryVirtualClock(t *testing.T) {
	now := time.Unix(1000, 0)
	kv := NewMemory(func() time.Time { return now })
	id, _, err := kv.Grant(t.Context(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := kv.Txn(t.Context(), Txn{Put: []Put{{Key: "a", Lease: id}}}); err != nil {
		t.Fatal(err)
	}
	now = now.Add(4 * time.Second)
	if _, err := kv.KeepAlive(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	now = now.Add(5*time.Second - 1)
	kv.Expire()
	if v := value(t, kv, "a"); v != "" {
		t.Errorf("ended too early: %q", v)
	}
	now = now.Add(1)
	kv.Expire()
	if v := value(t, kv, "a"); v != "-" {
		t.Errorf("outlived its time: %q", v)
	}
}

// TestMemorySynctest runs the suite's slowest case on virtual time.
func TestMemorySynctest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memoryStore(t)
		id, ttl, err := s.Grant(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Txn(t.Context(), Txn{Put: []Put{{Key: "a", Lease: id}}}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if got := draw(t, watching2(t, s, "a", 2), "", 2); got != "a= a-" {
			t.Errorf("%q", got)
		}
		if d := time.Since(began); d != ttl {
			t.Errorf("ended after %s, want %s", d, ttl)
		}
	})
}

// watching2 is watching without its own deadline, for virtual time.
func watching2(t *testing.T, kv KV, prefix string, from themis.Revision) func() (Batch, error) {
	next, stop := iter.Pull2(kv.Watch(t.Context(), prefix, from))
	t.Cleanup(stop)
	return func() (Batch, error) {
		b, err, _ := next()
		return b, err
	}
}

// TestMemoryForgets compacts by itself before its history grows without end.
func TestMemoryForgets(t *testing.T) {
	kv := NewMemory(nil)
	for range historyMax + 1 {
		write(t, kv, "a", "")
	}
	if n := len(kv.history); n > historyMax {
		t.Errorf("%d changes kept", n)
	}
	if _, err := watching(t, kv, "a", 2)(); !errors.Is(err, ErrCompacted) {
		t.Errorf("watch from the beginning: %v", err)
	}
	if got := len(kv.history); got < historyMax/4 {
		t.Errorf("only %d changes kept", got)
	}
}

func TestPrefix(t *testing.T) {
	for _, c := range []struct{ p, in, out string }{
		{"a/", "a/\xff\xff", "a0"},
		{"a\xff", "a\xff\xff", "b"},
		{"\xff", "", ""},
	} {
		r := Prefix(c.p)
		if c.in != "" && !r.Contains(c.in) || c.out != "" && r.Contains(c.out) || bytes.Compare([]byte(r.From), []byte(r.To)) > 0 {
			t.Errorf("%q: %v", c.p, r)
		}
	}
	if !slices.IsSorted([]string{Only("a").From, Only("a").To, "a!"}) {
		t.Error("Only reaches further than its key")
	}
}
