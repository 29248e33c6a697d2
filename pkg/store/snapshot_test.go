package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/themisdb/themis/pkg/themis"
)

func mustCheckpoint(t testing.TB, s *Store, dir string) Snapshot {
	t.Helper()
	snap, err := s.Checkpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

func TestCheckpointAndInstall(t *testing.T) {
	base := t.TempDir()
	s := mustOpen(t, nil, base+"/store")
	j := newJournal()
	j.entries = randomLog(rand.New(rand.NewPCG(1, 1)), 200)
	mustApply(t, s, j.entries[:150]...)
	want := mustDigest(t, s, DigestOptions{})
	snap := mustCheckpoint(t, s, base+"/checkpoint")
	mustApply(t, s, j.entries[150:]...) // the checkpoint doesn't move
	if snap.Position != want.Position || snap.HLC == 0 || snap.Bytes() == 0 {
		t.Fatalf("%+v, want position %+v", snap, want.Position)
	}
	hashed, err := Hash(base+"/checkpoint", snap, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Checkpoint(base + "/checkpoint"); themis.CodeOf(err) != themis.InvalidArgument {
		t.Fatalf("over an existing directory: %v", err)
	}
	requireCode(t, Install(base+"/store", base+"/checkpoint", hashed, Options{}), themis.RefusedUnsafe, "in use")

	for name, target := range map[string]string{"fresh": base + "/other/store", "over another": base + "/store"} {
		t.Run(name, func(t *testing.T) {
			if name == "over another" {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := Install(target, base+"/checkpoint", hashed, Options{}); err != nil {
				t.Fatal(err)
			}
			got := mustOpen(t, nil, target)
			if d := mustDigest(t, got, DigestOptions{}); d != want {
				t.Fatalf("%+v, want %+v", d, want)
			}
			mustApply(t, got, j.entries[150:]...)
			if names, _ := vfs.Default.List(base); slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "store.") }) {
				t.Fatalf("left behind: %v", names)
			}
		})
	}
	again, err := Hash(base+"/checkpoint", snap, Options{}) // stores that run from linked tables don't change them
	if err != nil || fmt.Sprint(again) != fmt.Sprint(hashed) {
		t.Fatalf("the checkpoint changed: %v", err)
	}
}

func TestInstallRefuses(t *testing.T) {
	fs := vfs.NewMem()
	s := mustOpen(t, fs, "source")
	j := newJournal()
	j.write(put(1, "a", strings.Repeat("x", 5000)))
	mustApply(t, s, j.entries...)
	plain := mustCheckpoint(t, s, "checkpoint")
	snap, err := Hash("checkpoint", plain, Options{FS: fs})
	if err != nil {
		t.Fatal(err)
	}
	sst := slices.IndexFunc(snap.Files, func(f File) bool { return strings.HasSuffix(f.Name, ".sst") })
	for name, c := range map[string]struct {
		change func(fs *vfs.MemFS, s *Snapshot)
		code   themis.Code
		text   string
	}{
		"missing":      {func(fs *vfs.MemFS, s *Snapshot) { _ = fs.Remove("checkpoint/" + s.Files[sst].Name) }, themis.Corrupt, "missing"},
		"in excess":    {func(fs *vfs.MemFS, _ *Snapshot) { _ = writeFile(fs, "checkpoint/000999.sst", nil) }, themis.Corrupt, "not listed"},
		"changed":      {func(fs *vfs.MemFS, s *Snapshot) { flip(t, fs, "checkpoint/"+s.Files[sst].Name, 100) }, themis.Corrupt, "SHA-256"},
		"size":         {func(_ *vfs.MemFS, s *Snapshot) { s.Files[sst].SHA256 = ""; s.Files[sst].Size++ }, themis.Corrupt, "bytes"},
		"path":         {func(_ *vfs.MemFS, s *Snapshot) { s.Files[sst].Name = "../x.sst" }, themis.Corrupt, ""},
		"other point":  {func(_ *vfs.MemFS, s *Snapshot) { s.Position.Seq++ }, themis.Corrupt, "seq 1"},
		"later format": {func(_ *vfs.MemFS, s *Snapshot) { s.Format++ }, themis.Unimplemented, "UPGRADE_NEEDED"},
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			copied, err := vfs.Clone(s.fs, fs, "checkpoint", "checkpoint")
			if err != nil || !copied {
				t.Fatal(copied, err)
			}
			old := mustOpen(t, fs, "store")
			k := newJournal()
			k.write(put(3, "old", "kept"))
			mustApply(t, old, k.entries...)
			if _, err := old.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			bad := snap
			bad.Files = slices.Clone(snap.Files)
			c.change(fs, &bad)
			requireCode(t, Install("store", "checkpoint", bad, Options{FS: fs}), c.code, c.text)
			if _, ok, err := mustOpen(t, fs, "store").Get(7, themis.Token(3).Placement(), "old"); !ok || err != nil {
				t.Fatalf("the old store: %v %v", ok, err)
			}
			if exists(fs, "store"+suffixNew) {
				t.Fatal("a half-built store stays behind")
			}
		})
	}
}

// flip changes one bit of a file.
func flip(t testing.TB, fs vfs.FS, name string, at int) {
	t.Helper()
	f, err := fs.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	b = bytes.Clone(b)
	b[at] ^= 1
	if err := writeFile(fs, name, b); err != nil {
		t.Fatal(err)
	}
}

// TestInstallCrash stops the disk before each of its operations in turn; what is left must open as the old or the new store.
func TestInstallCrash(t *testing.T) {
	source := vfs.NewMem()
	s := mustOpen(t, source, "source")
	mustApply(t, s, randomLog(rand.New(rand.NewPCG(9, 9)), 60)...)
	newDigest := mustDigest(t, s, DigestOptions{})
	snap := mustCheckpoint(t, s, "checkpoint")
	for _, fresh := range []bool{false, true} {
		seen := map[themis.Seq]int{}
		for round := range uint64(6) {
			rng := rand.New(rand.NewPCG(4, round))
			for stop, finished := int32(0), false; !finished; stop++ {
				fs := crashDisk(t, source)
				oldDigest := Digest{}
				if !fresh {
					oldDigest = oldStore(t, fs, "shard/store")
				}
				left := untilPowerGoes(fs, stop, rng, func(fs vfs.FS) {
					if err := Install("shard/store", "checkpoint", snap, Options{FS: fs}); err != nil {
						t.Fatal(err)
					}
				})
				if finished = left == nil; finished { // what Install has done stays done
					oldDigest, left = newDigest, fs.CrashClone(vfs.CrashCloneCfg{})
				}
				again := untilPowerGoes(left, rng.Int32N(8), rng, func(fs vfs.FS) { // and once more while Open clears up
					if err := recoverInstall(fs, "shard/store"); err != nil {
						t.Fatal(err)
					}
				})
				if again != nil {
					left = again
				}
				d := openedAfterCrash(t, left, stop)
				seen[d.Position.Seq]++
				if d != newDigest && (d.Position != oldDigest.Position || oldDigest.Documents > 0 && d != oldDigest) {
					t.Fatalf("stopped before operation %d: neither old nor new: %+v", stop, d)
				}
			}
		}
		if len(seen) != 2 {
			t.Fatalf("old and new should both occur: %v", seen)
		}
	}
}

// crashDisk holds a checkpoint whose files nobody has synced.
func crashDisk(t *testing.T, source vfs.FS) *vfs.MemFS {
	t.Helper()
	fs := vfs.NewCrashableMem()
	if _, err := vfs.Clone(source, fs, "checkpoint", "checkpoint"); err != nil {
		t.Fatal(err)
	}
	if err := fs.MkdirAll("shard", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syncDir(fs, ""); err != nil {
		t.Fatal(err)
	}
	return fs
}

// openedAfterCrash opens the store, reads all of it and checks that nothing temporary is left.
func openedAfterCrash(t *testing.T, fs vfs.FS, stop int32) Digest {
	t.Helper()
	cache := NewCache(1 << 20)
	defer cache.Close()
	s, err := Open("shard/store", Options{FS: fs, Cache: cache, MemTableBytes: minMemTableBytes})
	if err != nil {
		t.Fatalf("stopped before operation %d: %v", stop, err)
	}
	d := mustDigest(t, s, DigestOptions{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"shard/store" + suffixNew, "shard/store" + suffixOld, "shard/store/" + markWhole} {
		if exists(fs, name) {
			t.Fatalf("stopped before operation %d: %s stays behind", stop, name)
		}
	}
	return d
}

func TestRecoverInstall(t *testing.T) {
	for name, c := range map[string]struct {
		there []string // "dir", "new", "whole" (new and marked), "old"
		want  string   // whose directory is at dir then
	}{
		"nothing":                      {nil, ""},
		"half, nothing before":         {[]string{"new"}, ""},
		"half, the old one in place":   {[]string{"dir", "new"}, "dir"},
		"whole, the old one in place":  {[]string{"dir", "whole"}, "dir"},
		"between the renames":          {[]string{"whole", "old"}, "whole"},
		"whole, nothing before":        {[]string{"whole"}, "whole"},
		"half, the old one moved away": {[]string{"new", "old"}, "old"},
		"only the old one moved away":  {[]string{"old"}, "old"},
		"after the renames":            {[]string{"dir", "old"}, "dir"},
	} {
		fs := vfs.NewMem()
		for _, what := range c.there {
			dir := map[string]string{"dir": "p/s", "new": "p/s" + suffixNew, "whole": "p/s" + suffixNew, "old": "p/s" + suffixOld}[what]
			if err := errors.Join(fs.MkdirAll(dir, 0o755), writeFile(fs, dir+"/is-"+what, nil)); err != nil {
				t.Fatal(err)
			}
			if what == "whole" {
				if err := writeFile(fs, dir+"/"+markWhole, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := errors.Join(fs.MkdirAll("p", 0o755), recoverInstall(fs, "p/s")); err != nil {
			t.Fatal(err)
		}
		names, _ := fs.List("p")
		inside, _ := fs.List("p/s")
		if c.want == "" && len(names) > 0 || c.want != "" && (fmt.Sprint(names) != "[s]" || fmt.Sprint(inside) != "[is-"+c.want+"]") {
			t.Errorf("%s: %v, in place %v, want that of %q", name, names, inside, c.want)
		}
	}
}

func oldStore(t *testing.T, fs vfs.FS, dir string) Digest {
	t.Helper()
	s := mustOpen(t, fs, dir)
	j := newJournal()
	j.write(put(1, "old", "document"))
	j.write(del(2, "older"))
	mustApply(t, s, j.entries...)
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	d := mustDigest(t, s, DigestOptions{})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return d
}

// untilPowerGoes runs do on a disk that loses power before the given operation, and returns what it then holds; nil when do
// came to its end first.
func untilPowerGoes(fs *vfs.MemFS, stop int32, rng *rand.Rand, do func(vfs.FS)) (left *vfs.MemFS) {
	var mu sync.Mutex
	n := int32(0)
	do(errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if n == stop {
			left = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		}
		n++
		return nil
	})))
	return left
}
