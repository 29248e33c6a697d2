package control

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// follow is a watch that ends with the test, and is waited for.
func follow(t *testing.T, m *Map) *Watch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := m.Watch(ctx)
	t.Cleanup(func() {
		cancel()
		for range w.Views() {
			continue
		}
	})
	return w
}

// awaitView reads views until one satisfies ok; each must be newer than the one before.
func awaitView(t *testing.T, w *Watch, what string, ok func(cluster.View) bool) cluster.View {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	last := themis.Revision(0)
	for {
		select {
		case v := <-w.Views():
			if v.Revision < last {
				t.Fatalf("revision %d after %d", v.Revision, last)
			}
			last = v.Revision
			if ok(v) {
				return v
			}
		case <-limit.C:
			t.Fatalf("no view with %s", what)
		}
	}
}

func drain(n cluster.Node) cluster.Node { n.Draining = !n.Draining; return n }

func TestWatch(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, c := start(t, kv, 3)
		w := follow(t, m)
		old := awaitView(t, w, "three shards", func(v cluster.View) bool { return len(v.Shards) == 3 })

		s := v.Shards["shard-2"]
		if _, err := m.Crown(t.Context(), s, c, crown(t, s, s.ISR[0], "boot")); err != nil {
			t.Fatal(err)
		}
		crowned := awaitView(t, w, "the coronation", func(v cluster.View) bool { return v.Shards["shard-2"].Epoch == 1 })
		if crowned.Shards["shard-2"].Revision == 0 || len(crowned.Shards) != 3 || crowned.Controller.Term != 1 {
			t.Errorf("the view is not whole: %+v", crowned)
		}
		if old.Shards["shard-2"].Epoch != 0 {
			t.Error("a view has changed after it was delivered")
		}
		if _, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node-9", Storage: "d"}); err != nil {
			t.Fatal(err)
		}
		awaitView(t, w, "node-9", func(v cluster.View) bool { return len(v.Nodes) == 4 })
		if err := m.RemoveNode(t.Context(), "node-9"); err != nil {
			t.Fatal(err)
		}
		awaitView(t, w, "no node-9", func(v cluster.View) bool { return len(v.Nodes) == 3 })
		if latest, ok := w.Latest(); !ok || len(latest.Nodes) != 3 {
			t.Errorf("latest: %v", ok)
		}
	})
}

// TestWatchCoalesces: a reader who sleeps through 1,000 changes gets the last one, and the store never waited.
func TestWatchCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, v, _ := start(t, memoryStore(t).KV, 1)
		w := follow(t, m)
		n := v.Nodes["node-1"]
		var err error
		for range 1000 {
			if n, err = m.UpdateNode(t.Context(), drain(n)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		got := <-w.Views()
		if got.Nodes["node-1"].Revision != n.Revision {
			t.Errorf("revision %d, the last is %d", got.Nodes["node-1"].Revision, n.Revision)
		}
		select {
		case v := <-w.Views():
			t.Errorf("another view at %d", v.Revision)
		default:
		}
	})
}

// TestWatchCompacted: between reading and watching a record changes and the history is compacted. It reads anew, at once.
func TestWatchCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := NewMemory(nil)
		t.Cleanup(func() { _ = mem.Close() })
		m, v, _ := start(t, mem, 1)
		var once sync.Once
		between := &Faulty{KV: mem, Before: func(_ context.Context, c Call) error {
			if c == CallWatch {
				once.Do(func() {
					if _, err := m.UpdateNode(t.Context(), drain(v.Nodes["node-1"])); err != nil {
						t.Error(err)
					}
					mem.Compact(1 << 40)
				})
			}
			return nil
		}}
		w := follow(t, newMap(t, between))
		began := time.Now()
		awaitView(t, w, "the change", func(v cluster.View) bool { return v.Nodes["node-1"].Draining })
		if d := time.Since(began); d > 0 {
			t.Errorf("it took %s", d)
		}
	})
}

// forgetful is a store that loses changes: a watch goes on as if they had not been.
type forgetful struct{ KV }

func (f forgetful) Watch(ctx context.Context, prefix string, from themis.Revision) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for b, err := range f.KV.Watch(ctx, prefix, from) {
			if b.Changes = nil; !yield(b, err) {
				return
			}
		}
	}
}

// TestWatchRelists: an event that the store lost is found by reading anew.
func TestWatchRelists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		_, v, _ := start(t, mem, 1)
		w := follow(t, newMap(t, forgetful{mem}))
		synctest.Wait()
		n, err := newMap(t, mem).UpdateNode(t.Context(), drain(v.Nodes["node-1"]))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * time.Minute) // virtual
		if v, _ := w.Latest(); v.Nodes["node-1"].Revision == n.Revision {
			t.Fatal("nothing was lost")
		}
		time.Sleep(2 * time.Minute) // virtual
		if v, _ := w.Latest(); v.Nodes["node-1"].Revision != n.Revision {
			t.Error("not read anew within six minutes")
		}
	})
}

// TestWatchThatFallsSilent: what a watch does not deliver, though the store answers it, is read anew within seconds. One without news is
// left alone.
func TestWatchThatFallsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		_, v, _ := start(t, mem, 1)
		var watches atomic.Int64
		deaf := &Faulty{KV: mem, Before: func(ctx context.Context, c Call) error {
			if c == CallWatch {
				watches.Add(1)
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}}
		w := follow(t, newMap(t, deaf))
		time.Sleep(time.Minute) // virtual
		if age, err := w.State(); age > 1100*time.Millisecond || err != nil || watches.Load() != 1 {
			t.Errorf("no news: %s old, %v, begun %d times", age, err, watches.Load())
		}
		n, err := newMap(t, mem).UpdateNode(t.Context(), drain(v.Nodes["node-1"]))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second) // virtual
		if v, _ := w.Latest(); v.Nodes["node-1"].Revision != n.Revision || watches.Load() != 2 {
			t.Errorf("not read anew within five seconds, begun %d times", watches.Load())
		}
		if age, err := w.State(); age > 1100*time.Millisecond || err != nil {
			t.Errorf("read anew: %s old, %v", age, err)
		}
	})
}

// still is a road to a server that stands still as long as the lock is held: nothing passes, and no connection ends, as where the
// kernel of a stopped process goes on.
type still struct {
	sync.RWMutex
	addr string
}

func roadTo(t *testing.T, server string) *still {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &still{addr: l.Addr().String()}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		running.Wait()
	})
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				_ = near.Close()
				continue
			}
			running.Go(func() { s.carry(near, far) })
			running.Go(func() { s.carry(far, near) })
			context.AfterFunc(ctx, func() { _, _ = near.Close(), far.Close() })
		}
	})
	return s
}

func (s *still) carry(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }()
	for b := make([]byte, 64<<10); ; {
		n, err := from.Read(b)
		s.RLock() // passes only while the road is open
		_, wrong := to.Write(b[:n])
		s.RUnlock()
		if err != nil || wrong != nil {
			return
		}
	}
}

// TestWatchOnAMemberThatStandsStill: whichever of three endpoints stands still, one of which the watch is at, the map goes on within
// seconds, long before keepalives end the connection.
func TestWatchOnAMemberThatStandsStill(t *testing.T) {
	s := single(t, nil)
	server, err := url.Parse(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	var roads []*still
	var endpoints []string
	for range 3 {
		r := roadTo(t, server.Host)
		roads, endpoints = append(roads, r), append(endpoints, "http://"+r.addr)
	}
	kv, err := Connect(t.Context(), Dial{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := kv.Close(); err != nil {
			t.Error(err)
		}
	}()
	direct, v, _ := start(t, connect(t, s), 1)
	w := follow(t, newMap(t, kv))
	awaitView(t, w, "the shard", func(v cluster.View) bool { return len(v.Shards) == 1 })
	n := v.Nodes["node-1"]
	for i, r := range roads {
		func() {
			r.Lock()
			defer r.Unlock()
			began := time.Now()
			if n, err = direct.UpdateNode(t.Context(), drain(n)); err != nil {
				t.Fatal(err)
			}
			awaitView(t, w, "the change", func(v cluster.View) bool { return v.Nodes["node-1"].Revision == n.Revision })
			if took := time.Since(began); took > 8*time.Second {
				t.Errorf("endpoint %d stands still: the change came after %s", i, took)
			}
		}()
	}
}

// TestWatchStaleness: it says how old it is while cut off, and that it is current when it is.
func TestWatchStaleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		start(t, mem, 1)
		var cut atomic.Bool
		asked := make(chan struct{})
		shaky := &Faulty{KV: mem, Before: func(context.Context, Call) error {
			<-asked
			if cut.Load() {
				return errFault
			}
			return nil
		}}
		w := follow(t, newMap(t, shaky))
		if _, err := w.State(); err == nil {
			t.Error("nothing was read, and nothing is awaited")
		}
		close(asked)
		time.Sleep(30*time.Second + time.Millisecond) // virtual
		if age, err := w.State(); age > 1100*time.Millisecond || err != nil {
			t.Errorf("in calm weather: %s, %v", age, err)
		}
		write(t, mem, "/elsewhere/x", "1")
		time.Sleep(2 * time.Second) // virtual
		if age, err := w.State(); age > 1100*time.Millisecond || err != nil {
			t.Errorf("with changes elsewhere: %s, %v", age, err)
		}
		cut.Store(true)
		time.Sleep(time.Minute) // virtual
		if age, err := w.State(); age < 58*time.Second || !errors.Is(err, errFault) {
			t.Errorf("cut off for a minute: %s, %v", age, err)
		}
		cut.Store(false)
		time.Sleep(4 * time.Second) // virtual
		if age, err := w.State(); age > 1100*time.Millisecond || err != nil {
			t.Errorf("connected again: %s, %v", age, err)
		}
	})
}

// TestWatchNewerRecord: a record that this version can't read keeps the last good view, and says so.
func TestWatchNewerRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		m, _, _ := start(t, mem, 1)
		w := follow(t, m)
		synctest.Wait()
		rev := write(t, mem, m.keys.node("node-7"), `{"format":2,"id":"node-7"}`)
		time.Sleep(10 * time.Second) // virtual
		if v, ok := w.Latest(); !ok || len(v.Nodes) != 3 {
			t.Errorf("the last good view is gone: %v", ok)
		}
		if age, err := w.State(); themis.CodeOf(err) != themis.Unimplemented || age < 8*time.Second {
			t.Errorf("no word of it: %s, %v", age, err)
		}
		if _, err := m.View(t.Context()); err == nil {
			t.Error("a view with a hole")
		}
		if ok, _, err := mem.Txn(t.Context(), Txn{If: []Compare{{m.keys.node("node-7"), rev}}, Delete: []string{m.keys.node("node-7")}}); !ok || err != nil {
			t.Fatal(ok, err)
		}
		time.Sleep(10 * time.Second) // virtual
		if age, err := w.State(); err != nil || age > 2*time.Second {
			t.Errorf("mended: %s, %v", age, err)
		}
	})
}

// TestWatchNewerHeartbeat: one node already runs a version whose heartbeats say more. The map of the others goes on.
func TestWatchNewerHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		m, _, _ := start(t, mem, 1)
		w := follow(t, m)
		synctest.Wait()
		write(t, mem, m.keys.alive("node-1"), `{"format":1,"node":"node-1","storage_id":"disk-1","boot_id":"b","version":"9","disk_used_ratio":null,"disk_full":true,"one_more":{"a":1}}`)
		time.Sleep(10 * time.Second) // virtual
		if age, err := w.State(); err != nil || age > 2*time.Second {
			t.Errorf("the map stands still: %s, %v", age, err)
		}
		if v, _ := w.Latest(); !v.Alive["node-1"].DiskFull || v.Alive["node-1"].Version != "9" {
			t.Errorf("what this version knows of it: %+v", v.Alive["node-1"])
		}
	})
}

// TestWatchSkipsUnknownKinds: keys that other versions or other rooms write are no part of a view.
func TestWatchSkipsUnknownKinds(t *testing.T) {
	m, _, _ := start(t, memoryStore(t).KV, 1)
	for _, k := range []string{"moves/1", "slots/shard-1/x", "zzz"} {
		write(t, m.kv, m.keys.of(k), "?")
	}
	view(t, m)
}

func FuzzApply(f *testing.F) {
	k, err := keysOf("c1")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("nodes/node-1", []byte(`{"format":1,"id":"node-1"}`), false)
	f.Add("shards/shard-1", []byte(`{"format":1,"id":"shard-1","epoch":1}`), false)
	f.Add("collections/0000000001", []byte(`{"format":1,"id":1,"name":"a"}`), false)
	f.Add("collection-names/a", []byte(`1`), false)
	f.Add("routing", []byte(`{"format":1,"version":1,"parts":2}`), false)
	f.Add("routing/00000000000000000001/0000", []byte(`{`), true)
	f.Add("config/current", []byte(`{"format":1,"version":1}`), false)
	f.Add("controller", []byte(`{"format":1,"term":1}`), false)
	f.Add("alive/node-1", []byte(`{}`), false)
	f.Add("failed/node-1", []byte(`null`), false)
	f.Fuzz(func(t *testing.T, rest string, value []byte, deleted bool) {
		d := newDraft(k)
		meta := []byte(`{"format":1,"id":"c1","name":"x","redundancy":"NONE","created":"2026-01-01T00:00:00Z"}`)
		if err := d.apply(Change{Key: k.of(keyMeta), Value: meta, Revision: 1}); err != nil {
			t.Fatal(err)
		}
		before, err := d.publish("c1")
		if err != nil {
			t.Fatal(err)
		}
		sizes := fmt.Sprint(len(before.Nodes), len(before.Shards), len(before.Alive), len(before.Failed), len(before.Collections), len(before.CollectionsByName))
		if d.apply(Change{Key: k.of(rest), Value: value, Revision: 2, Deleted: deleted}) == nil {
			if v, err := d.publish("c1"); err == nil {
				_ = v.Check()
			}
		}
		if now := fmt.Sprint(len(before.Nodes), len(before.Shards), len(before.Alive), len(before.Failed), len(before.Collections), len(before.CollectionsByName)); now != sizes {
			t.Errorf("a published view has changed from %s to %s", sizes, now)
		}
	})
}
