package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/themisdb/themis/pkg/themis"
)

var noSync = pebble.NoSync

// tables are the names of a store's tables.
func tables(t testing.TB, fs vfs.FS, dir string) []string {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(n string) bool { return path.Ext(n) != ".sst" })
}

// TestDamagedTable flips bits all over a table: whatever is read is right or CORRUPT, never absent and never wrong.
func TestDamagedTable(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, "store")
	j := newJournal()
	const n = 120
	value := func(i int) string { return strings.Repeat(fmt.Sprint("value ", i, " "), 20) }
	for i := range n {
		j.write(put(themis.Token(i), fmt.Sprint("k", i), value(i)))
	}
	mustApply(t, s, j.entries...)
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	sst := slices.MaxFunc(tables(t, fs, "store"), func(a, b string) int {
		sa, _ := fs.Stat("store/" + a)
		sb, _ := fs.Stat("store/" + b)
		return int(sa.Size() - sb.Size())
	})
	info, err := fs.Stat("store/" + sst)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	damaged := 0
	for range 40 {
		bad := vfs.NewMem()
		if _, err := vfs.Clone(fs, bad, "store", "store"); err != nil {
			t.Fatal(err)
		}
		flip(t, bad, "store/"+sst, rng.IntN(int(info.Size())))
		damaged += readAll(t, bad, n, value)
	}
	if damaged == 0 {
		t.Fatal("no damage was seen: the test proves nothing")
	}
}

// readAll reads documents 0…n-1 and returns how many were CORRUPT.
func readAll(t *testing.T, fs vfs.FS, n int, value func(int) string) (damaged int) {
	t.Helper()
	cache := NewCache(1 << 20)
	defer cache.Close()
	s, err := Open("store", Options{FS: fs, Cache: cache, MemTableBytes: minMemTableBytes})
	if err != nil {
		requireCode(t, err, themis.Corrupt, "store")
		return 1
	}
	defer func() { _ = s.Close() }()
	for i := range n {
		d, ok, err := s.Get(7, themis.Token(i).Placement(), fmt.Sprint("k", i))
		switch {
		case err != nil:
			requireCode(t, err, themis.Corrupt, "store")
			damaged++
		case !ok || string(d.Value) != value(i):
			t.Fatalf("document %d: %v %q", i, ok, d.Value)
		}
	}
	seen := 0
	for _, err := range s.Scan(7, ScanOptions{}) {
		if err != nil {
			requireCode(t, err, themis.Corrupt, "store")
			damaged++
			seen = n
			break
		}
		seen++
	}
	if seen != n {
		t.Fatalf("the scan ended after %d of %d without an error", seen, n)
	}
	if damaged > 0 {
		_, err := s.Apply([]themis.Entry{{Version: 1, Kind: themis.KindBarrier, Seq: s.Applied().Seq + 1, Epoch: 1}})
		requireCode(t, err, themis.Corrupt, "store")
		requireCode(t, s.Fault(), themis.Corrupt, "store")
	}
	return damaged
}

func TestMissingTable(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, "store")
	j := newJournal()
	mustApply(t, s, j.write(put(1, "a", "1")))
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, sst := range tables(t, fs, "store") {
		if err := fs.Remove("store/" + sst); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := Open("store", Options{FS: fs}); err == nil {
		_, ok, err := s.Get(7, themis.Token(1).Placement(), "a")
		_ = s.Close()
		t.Fatalf("opened without its tables; get: %v %v", ok, err)
	}
}

// TestDamageBeneathPebble: values that Pebble takes for good, but that aren't what was written.
func TestDamageBeneathPebble(t *testing.T) {
	key := documentKey(nil, 7, themis.Token(1).Placement(), "a")
	for name, change := range map[string]func(v []byte) []byte{
		"header":   func(v []byte) []byte { v[5] ^= 1; return v },
		"document": func(v []byte) []byte { v[len(v)-1] ^= 1; return v },
		"short":    func(v []byte) []byte { return v[:9] },
		"foreign":  func([]byte) []byte { return appendRecord(nil, []byte("other key"), record{version: 1}, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, vfs.NewMem(), "store")
			j := newJournal()
			mustApply(t, s, j.write(put(1, "a", "document")))
			v, closer, err := s.db.Get(key)
			if err != nil {
				t.Fatal(err)
			}
			bad := change(slices.Clone(v))
			if err := errors.Join(closer.Close(), s.db.Set(key, bad, noSync)); err != nil {
				t.Fatal(err)
			}
			_, _, err = s.Get(7, themis.Token(1).Placement(), "a")
			requireCode(t, err, themis.Corrupt, "read a document")
			_, err = s.Digest(DigestOptions{})
			requireCode(t, err, themis.Corrupt, "read a document")
			_, err = s.Apply([]themis.Entry{j.write(put(1, "a", "over it"))})
			requireCode(t, err, themis.Corrupt, "read a document")
			if s.Applied().Seq != 1 {
				t.Fatalf("applied %d", s.Applied().Seq)
			}
		})
	}
}

// TestDiskFails lets every fsync of one kind of file fail from some moment on: the store stops with the reason, keeps what it
// promised, still closes, and what is on disk then opens and takes the log from there.
func TestDiskFails(t *testing.T) {
	for name, match := range map[string]string{"tables": ".sst", "manifest": "MANIFEST"} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			var on atomic.Bool
			fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
				syncs := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo || op.Kind == errorfs.OpFileClose
				if on.Load() && syncs && strings.Contains(op.Path, match) {
					return errorfs.ErrInjected
				}
				return nil
			}))
			s := mustOpen(t, fs, "store")
			j := newJournal()
			mustApply(t, s, j.write(put(1, "a", "1")))
			if seq, err := s.Flush(); seq != 1 || err != nil {
				t.Fatal(seq, err)
			}
			mustApply(t, s, j.write(put(1, "a", "2"))) // before the disk fails: what Pebble does in the background may notice at once
			on.Store(true)
			_, err := s.Flush() // returns, though Pebble goes on trying
			requireCode(t, err, themis.ReadOnly, "store")
			requireCode(t, s.Fault(), themis.ReadOnly, "store")
			_, err = s.Apply([]themis.Entry{j.write(put(1, "b", "3"))})
			requireCode(t, err, themis.ReadOnly, "store")
			left := mem.CrashClone(vfs.CrashCloneCfg{})
			if seq, err := s.DurableApplied(); seq != 1 || err != nil {
				t.Fatalf("durable %d after the fault: %v", seq, err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			again := mustOpen(t, left, "store")
			mustApply(t, again, j.entries[again.Applied().Seq:]...)
			if d, _, err := again.Get(7, themis.Token(1).Placement(), "a"); err != nil || string(d.Value) != "2" {
				t.Fatalf("%+v %v", d, err)
			}
		})
	}
}

func TestBrokenRulesOfPebbleEndTheProcess(t *testing.T) {
	s := mustOpen(t, vfs.NewMem(), "store")
	defer func() {
		if recover() == nil {
			t.Fatal("went on")
		}
	}()
	pebbleLog{s}.Fatalf("lower bound violation: %s", "x")
}
