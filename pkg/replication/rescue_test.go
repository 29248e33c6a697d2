package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

func rescuedEntry(key string) *themis.Entry {
	return &themis.Entry{Kind: themis.KindWrite, Seq: 7, Epoch: 3, Payload: themis.AppendOps(nil, []themis.Op{{Code: themis.OpPut, Collection: 1, Key: key, Value: []byte("{}")}})}
}

// Once finish has answered, what was rescued goes from the log: so by then it is on disk, whole and under its name.
func TestWhatIsRescuedIsSynced(t *testing.T) {
	dir := t.TempDir()
	var synced []string
	x := rescueFile{dir: dir, shard: "shard-1", sync: func(f *os.File) error {
		name, _ := filepath.Rel(dir, f.Name())
		info, err := f.Stat()
		if err == nil && !info.IsDir() {
			var b []byte
			if b, err = os.ReadFile(f.Name()); bytes.Count(b, []byte("\n")) != 2 {
				t.Errorf("synced before it was whole: %s", b)
			}
		}
		if names, _ := filepath.Glob(filepath.Join(f.Name(), "unconfirmed-*")); len(names) > 0 {
			name += " with the file's name"
		}
		synced = append(synced, name)
		return err
	}}
	defer x.abandon()
	err := errors.Join(x.add(rescuedEntry("one")), x.add(rescuedEntry("two")))
	if err != nil {
		t.Fatal(err)
	}
	name, n, err := x.finish(3, 7, 7)
	if err != nil || n != 2 {
		t.Fatalf("%s, %d writes: %v", name, n, err)
	}
	if want := []string{".", "rescued/unfinished.new", "rescued with the file's name"}; !slices.Equal(synced, want) {
		t.Errorf("synced %q, want %q", synced, want)
	}
}

// What the disk did not take is not rescued, whichever sync fails.
func TestWhatIsNotSyncedIsNotRescued(t *testing.T) {
	for fails := range 3 {
		syncs := 0
		x := rescueFile{dir: t.TempDir(), shard: "shard-1", sync: func(*os.File) error {
			if syncs++; syncs == fails+1 {
				return syscall.EIO
			}
			return nil
		}}
		err := x.add(rescuedEntry("one"))
		if err == nil {
			_, _, err = x.finish(3, 7, 7)
		}
		x.abandon()
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("sync %d of 3 failed: %v", fails+1, err)
		}
	}
}

func TestAsyncTailIsRescuedBeforeItIsCut(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 3}, "node-1", "node-2", "node-3")
	first := c.elect()
	c.mustWrite(first, put("shared", "1"))
	c.converged("node-1", "node-2", "node-3")
	c.net.Cut(first, true)
	lost := c.mustWrite(first, put("alone", "2"))
	c.stop(first)
	c.net.Cut(first, false)
	second := c.elect()
	c.mustWrite(second, put("later", "3"))
	c.start(first)
	c.converged("node-1", "node-2", "node-3")
	files, err := filepath.Glob(filepath.Join(c.dir, string(first), "rescued", "acknowledged-*.ndjson"))
	if err != nil || len(files) != 1 {
		t.Fatalf("rescued files: %v, %v", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`"seq":%d`, lost.Seq)
	if !bytes.Contains(b, []byte(`"key":"alone"`)) || !bytes.Contains(b, []byte(want)) {
		t.Fatalf("rescued file lacks the write: %s", b)
	}
	if n := c.node(first).Status().Rescued; n != 1 {
		t.Fatalf("status tells of %d rescued writes", n)
	}
	if _, err := c.read(second, "alone"); themis.CodeOf(err) != themis.NotFound {
		t.Fatalf("the cut write is still visible: %v", err)
	}
}

// A primary under ASYNC that nobody follows lets its log go beyond what the others have. It comes back, and is built anew: what it alone had
// acknowledged is saved from its store and its log.
func TestAsyncTailIsRescuedBeforeAnInstall(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 3}, "node-1", "node-2", "node-3")
	first := c.elect()
	c.mustWrite(first, put("shared", "1"))
	c.mustWrite(first, put("removed", "1"))
	c.converged("node-1", "node-2", "node-3")
	c.net.Cut(first, true)
	c.mustWrite(first, put("alone", "2"))
	gone := put("removed", "")
	gone.Changes[0].Code, gone.Changes[0].Value = themis.OpDelete, nil
	c.mustWrite(first, gone)
	c.letGo(first, 5) // alone and removed are no longer in its log
	c.stop(first)
	c.net.Cut(first, false)
	second := c.elect()
	c.mustWrite(second, put("later", "3"))
	c.start(first)
	c.converged("node-1", "node-2", "node-3")
	all := c.rescued(first, "acknowledged-epoch-1-*")
	for _, want := range []string{`"op":"put","collection_id":1,"key":"alone"`, `"op":"delete","collection_id":1,"key":"removed"`, `"key":"large-7"`} {
		if !bytes.Contains(all, []byte(want)) {
			t.Errorf("%s is not in %.300s", want, all)
		}
	}
	if bytes.Contains(all, []byte(`"key":"shared"`)) {
		t.Error("what all had was saved")
	}
	if n := c.node(first).Status().Rescued; n < 10 {
		t.Errorf("status tells of %d rescued writes", n)
	}
}

// letGo writes under id until its log begins behind seq.
func (c *trio) letGo(id themis.NodeID, seq themis.Seq) {
	c.t.Helper()
	c.keep.Store(1)
	defer c.keep.Store(0)
	r, large := c.node(id), `"`+strings.Repeat("x", 1<<20)+`"`
	for i := 0; r.log.First() <= seq; i++ {
		c.mustWrite(id, put(fmt.Sprint("large-", i%8), large))
		if err := errors.Join(r.Flush(), r.trim()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// rescued is what is in the one file in rescued/, which has that name.
func (c *trio) rescued(id themis.NodeID, name string) []byte {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.dir, string(id), "rescued", "*"))
	if err != nil || len(files) != 1 {
		c.t.Fatalf("rescued files: %v, %v", files, err)
	}
	if is, err := filepath.Match(name, filepath.Base(files[0])); err != nil || !is {
		c.t.Errorf("%s is not named %s: %v", files[0], name, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

// What this copy alone has is told by its epochs from what all have, also where the logs of all have let go the entries before, and is saved
// before a checkpoint takes its place: nothing less, and nothing more.
func TestWhatOnlyItHasIsRescuedBeforeAnInstall(t *testing.T) {
	for _, p := range []cluster.Policy{{Mode: themis.Async, RF: 3}, {Mode: themis.Sync, K: 1, RF: 3}} {
		for _, short := range []bool{false, true} { // its own log has let go of what it had alone
			if short && p.Mode == themis.Sync {
				continue // nobody lets go of what is not committed
			}
			t.Run(fmt.Sprint(p.Mode, "/short=", short), func(t *testing.T) {
				t.Parallel()
				c := newTrio(t, p, "node-1", "node-2", "node-3")
				first, name := c.diverge(p.Mode, short)
				c.start(first)
				c.converged("node-1", "node-2", "node-3")
				c.saved(first, name+"-epoch-1-seq-4-*", []string{"alone"}, []string{"shared", "known"})
				if said := c.said(); !strings.Contains(said, string(first)+" log_cut done: the copy is built anew, and seq 4 to ") {
					t.Errorf("the trail: %s", said)
				}
			})
		}
	}
}

// diverge stops a primary that has what no other copy has, behind what the others still have in their logs; that it has let go itself, if short.
func (c *trio) diverge(mode themis.Mode, short bool) (first themis.NodeID, name string) {
	c.t.Helper()
	first = c.elect()
	c.mustWrite(first, put("shared", "1"))
	c.mustWrite(first, put("known", "1")) // with it, the entry of shared says to whom reads it later that it is committed
	c.converged("node-1", "node-2", "node-3")
	c.net.Cut(first, true)
	name = c.writeAlone(first, mode)
	if short {
		c.letGo(first, 5)
	}
	c.stop(first)
	c.net.Cut(first, false)
	fail := func(failed map[themis.NodeID]bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.failed = failed
	}
	if mode == themis.Sync {
		fail(map[themis.NodeID]bool{first: true})
	}
	c.mustWrite(c.elect(), put("later", "3"))
	last := c.elect()
	c.mustWrite(last, put("later", "4"))
	c.letGo(last, c.node(last).log.Lineage()[2].Seq)
	fail(nil)
	return first, name
}

// writeAlone writes what no other copy has, and says how a file of it begins.
func (c *trio) writeAlone(id themis.NodeID, mode themis.Mode) (name string) {
	c.t.Helper()
	if mode == themis.Async {
		c.mustWrite(id, put("alone", "2"))
		return "acknowledged"
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.node(id).Write(ctx, put("alone", "2")); themis.CodeOf(err) != themis.OutcomeUnknown {
		c.t.Fatalf("a write that nobody else has: %v", err)
	}
	return "unconfirmed"
}

// saved checks which keys are in the file of that name.
func (c *trio) saved(id themis.NodeID, name string, want, not []string) {
	c.t.Helper()
	all := c.rescued(id, name)
	for _, key := range want {
		if !bytes.Contains(all, []byte(`"key":"`+key+`"`)) {
			c.t.Errorf("%s is not in %.300s", key, all)
		}
	}
	for _, key := range not {
		if bytes.Contains(all, []byte(`"key":"`+key+`"`)) {
			c.t.Errorf("%s was saved: %.300s", key, all)
		}
	}
}

// said is the trail so far.
func (c *trio) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.trail, "\n")
}

// Where the primary no longer knows the epochs of this copy's log, all is saved that may be its own, and the file says that some may not be.
func TestWhatMayBeItsOwnIsRescuedBeforeAnInstall(t *testing.T) {
	for _, p := range []cluster.Policy{{Mode: themis.Async, RF: 3}, {Mode: themis.Sync, K: 1, RF: 3}} {
		t.Run(string(p.Mode), func(t *testing.T) {
			t.Parallel()
			c := newTrio(t, p, "node-1", "node-2", "node-3")
			first := c.elect()
			c.mustWrite(first, put("shared", "1"))
			c.converged("node-1", "node-2", "node-3")
			c.net.Cut(first, true)
			name, from, alone := c.writeAlone(first, p.Mode)+"-unsure-epoch-1-seq-", 1, themis.Epoch(9)
			want, not := []string{"shared", "alone"}, []string(nil)
			if p.Mode == themis.Sync { // what was committed is in every later log
				from, alone, want, not = 3, 0, want[1:], want[:1]
			}
			h := Hello{Epoch: 9, AckedAlone: alone, Lineage: []themis.EpochStart{{Epoch: 8, Seq: 500}, {Epoch: 9, Seq: 600}}, Last: 600}
			if err := c.node(first).rescueBeforeInstall(0, h); err != nil {
				t.Fatal(err)
			}
			c.saved(first, fmt.Sprintf("%s%d-*", name, from), want, not)
			if said := c.said(); !strings.Contains(said, "which of seq ") || !strings.Contains(said, "of which some may not be lost") {
				t.Errorf("the trail: %s", said)
			}
		})
	}
}

// An install broke off between the exchange of the store and that of the log: in the store may be the primary's documents by now, which the
// copy never had alone.
func TestOnlyTheLogIsRescuedOnceAnInstallHasBegun(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 1}, "node-1")
	c.mustWrite(c.elect(), put("stored", "1"))
	c.letGo("node-1", 2)
	r := c.node("node-1")
	r.promise.Lineage = []themis.EpochStart{{Epoch: 2, Seq: 50}}
	if err := r.rescueBeforeInstall(0, Hello{Epoch: 2, AckedAlone: 2, Lineage: r.promise.Lineage}); err != nil {
		t.Fatal(err)
	}
	if all := c.rescued("node-1", "acknowledged-unsure-*"); !bytes.Contains(all, []byte(`"key":"large-`)) || bytes.Contains(all, []byte(`"key":"stored"`)) {
		t.Errorf("saved: %.300s", all)
	}
}

// A copy whose own part can't all be read is built anew all the same; what can be read is saved, and the trail says that there was more.
func TestADamagedCopyIsBuiltAnew(t *testing.T) {
	for name, k := range map[string]struct {
		damage func(t *testing.T, dir string)
		said   string
		saved  bool // what its log still held
		aside  bool
	}{
		"a block of the store": {damage: flipStore, said: "quarantine done: store is damaged: ", saved: true, aside: true},
		"no store": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "store")); err != nil {
				t.Fatal(err)
			}
		}, "rescue not_done: which of seq 3 to 19 this copy had alone can't all be read: the store is at seq 0", true, false},
		"no log": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
				t.Fatal(err)
			}
		}, "quarantine done: the log ends at seq 0, the store had applied seq 19: what of that no other copy has is in the store only", false, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 3}, "node-1", "node-2", "node-3")
			first := c.elect()
			c.mustWrite(first, put("shared", "1"))
			c.converged("node-1", "node-2", "node-3")
			c.net.Cut(first, true)
			c.mustWrite(first, put("alone", "2"))
			c.letGo(first, 5)
			c.stop(first)
			c.net.Cut(first, false)
			c.mustWrite(c.elect(), put("later", "3"))
			dir := filepath.Join(c.dir, string(first))
			k.damage(t, dir)
			c.start(first)
			c.converged("node-1", "node-2", "node-3")
			if said := c.said(); !strings.Contains(said, string(first)+" "+k.said) {
				t.Errorf("the trail: %s", said)
			}
			if aside, err := filepath.Glob(filepath.Join(dir, "store.damaged-*")); err != nil || (len(aside) == 1) != k.aside {
				t.Errorf("set aside: %v, %v", aside, err)
			}
			if k.saved {
				if all := c.rescued(first, "acknowledged-epoch-1-*"); !bytes.Contains(all, []byte(`"key":"large-`)) {
					t.Errorf("saved: %.300s", all)
				}
			}
		})
	}
}

// flipStore changes a bit of the largest table of the store, which opening it doesn't read.
func flipStore(t *testing.T, dir string) {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(dir, "store", "*.sst"))
	if err != nil {
		t.Fatal(err)
	}
	var largest []byte
	name := ""
	for _, f := range tables {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > len(largest) {
			name, largest = f, b
		}
	}
	largest[20] ^= 4
	if err := os.WriteFile(name, largest, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What the log of a copy that nobody has open has let go is saved from its store; where the store lacks it, nothing is called saved.
func TestAClosedCopyIsRescuedFromItsStoreToo(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 1}, "node-1")
	c.mustWrite(c.elect(), put("alone", "1"))
	c.letGo("node-1", 3)
	o := c.node("node-1").o.Log
	own := wal.Identity{Cluster: o.Cluster, Shard: o.Shard, Storage: o.Storage}
	c.stop("node-1")
	dir := filepath.Join(c.dir, "node-1")
	if _, n, err := Rescue(dir, own, 1, 1); err != nil || n < 3 {
		t.Fatalf("%d writes, %v", n, err)
	}
	if all := c.rescued("node-1", "acknowledged-*"); !bytes.Contains(all, []byte(`"key":"alone"`)) || !bytes.Contains(all, []byte(`"key":"large-`)) {
		t.Errorf("saved: %.300s", all)
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "rescued")), os.RemoveAll(filepath.Join(dir, "store"))); err != nil {
		t.Fatal(err)
	}
	if name, n, err := Rescue(dir, own, 1, 1); themis.CodeOf(err) != themis.Corrupt || name != "" {
		t.Errorf("without its store: %s, %d writes, %v", name, n, err)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "rescued")); len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// What an install saves and checks takes as long as it takes; nobody who asks the copy meanwhile waits for that, and it gives no ballot.
func TestAnInstallHoldsNobodyUp(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 3}, "node-1", "node-2", "node-3")
	first, _ := c.diverge(themis.Async, false)
	saving, goOn := make(chan struct{}), make(chan struct{})
	c.before = func(action string) {
		if action == "log_cut" {
			close(saving)
			<-goOn
		}
	}
	c.start(first)
	<-saving
	r, asked := c.node(first), make(chan error)
	go func() {
		c.publish()
		r.Stopping(nil)
		_, _, _ = r.Status(), r.Mark(), r.Fitness()
		_, err := r.Vote(99)
		asked <- err
	}()
	select {
	case err := <-asked:
		if themis.CodeOf(err) != themis.RefusedUnsafe || !strings.Contains(err.Error(), "another state is being installed") {
			t.Errorf("asked for its ballot: %v", err)
		}
		close(goOn)
	case <-time.After(10 * time.Second):
		t.Error("waited for the install")
		close(goOn)
		<-asked
	}
	c.converged("node-1", "node-2", "node-3")
}

// A checkpoint may end before what its primary has in its log and is about to commit: who has that, too, has lost nothing by it.
func TestWhatThePrimaryHasIsNotRescued(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}, "node-1", "node-2", "node-3")
	primary := c.elect()
	c.mustWrite(primary, put("k", "1"))
	c.converged("node-1", "node-2", "node-3")
	nodes := slices.DeleteFunc([]themis.NodeID{"node-1", "node-2", "node-3"}, func(id themis.NodeID) bool { return id == primary })
	blank, away := nodes[0], nodes[1]
	c.net.Cut(away, true)
	last := c.node(blank).log.Last().Seq
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	_, _ = c.node(primary).Write(ctx, put("k", "2")) // waits for who is away
	cancel()
	c.eventually("the copy has what is not committed", func() bool { return c.node(blank).log.Last().Seq > last })
	c.node(blank).fail(themis.Errorf(themis.Corrupt, "a test"))
	c.stop(blank)
	c.start(blank)
	c.eventually("the copy is filled", func() bool { return strings.Contains(c.said(), "install done: "+string(blank)) })
	c.net.Cut(away, false)
	c.converged("node-1", "node-2", "node-3")
	if files, err := filepath.Glob(filepath.Join(c.dir, string(blank), "rescued", "*")); err != nil || len(files) > 0 {
		t.Errorf("saved, though the primary has it: %v, %v\n%s", files, err, c.said())
	}
}
