package node

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

// counting is a listener that counts what comes.
type counting struct {
	net.Listener
	n *atomic.Int64
}

func (l counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.n}, err
}

type countingConn struct {
	net.Conn
	n *atomic.Int64
}

func (c countingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// installing is a primary's transport and a blank copy behind real gRPC.
type installing struct {
	t     *testing.T
	from  *store.Store
	dir   string
	at    themis.Position
	hlc   themis.HLC
	to    *replication.Replica
	over  replication.Transport
	hello replication.Hello
	came  atomic.Int64 // bytes at the follower
	made  int
	pool  *rpc.Pool
	addr  string
}

var installTo = cluster.Member{Node: "node-2", Storage: "disk-2"}

func newInstalling(t *testing.T) *installing {
	t.Helper()
	i := &installing{t: t, dir: t.TempDir(), at: themis.Position{Epoch: 1}, hlc: 1 << 40}
	f := newFleetWith(t, nil, "node-1", "node-2")
	var err error
	follower := filepath.Join(i.dir, "follower")
	i.to, err = replication.Open(replication.Options{Dir: follower, Cluster: "c-1", Shard: "shard-1", Self: installTo, Boot: "b-2", Reigns: nil})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- i.to.Run(ctx) }()
	i.addr, i.pool = lis.Addr().String(), f.serveCopy(t, counting{lis, &i.came}, i.to, follower)
	i.over = NewTransport(i.pool, func(themis.NodeID) (string, error) { return i.addr, nil })
	i.hello = replication.Hello{Cluster: "c-1", Shard: "shard-1", Epoch: 1, Primary: cluster.Member{Node: "node-1", Storage: "disk-1"}, Follower: installTo.Storage, Lineage: []themis.EpochStart{{Epoch: 1, Seq: 1}}, First: 1}
	if i.from, err = store.Open(filepath.Join(i.dir, "primary"), store.Options{MemTableBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		<-done
		if err := i.from.Close(); err != nil {
			t.Error(err)
		}
	})
	return i
}

// write makes one more table, of a megabyte that can't be compressed.
func (i *installing) write(key string) {
	i.t.Helper()
	rng := rand.New(rand.NewPCG(uint64(i.at.Seq), 7))
	for n := range 16 {
		value := make([]byte, 64<<10)
		for j := range value {
			value[j] = byte('a' + rng.IntN(26))
		}
		e := themis.Entry{
			Version: themis.EntryVersion, Kind: themis.KindWrite, Seq: i.at.Seq + 1, LSN: i.at.LSN, Epoch: 1, HLC: i.hlc + 1,
			Payload: themis.AppendOps(nil, []themis.Op{{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 7, Placement: themis.Token(n).Placement(), Key: key, Value: value}}),
		}
		i.hlc++
		i.at = themis.Position{Seq: e.Seq, Epoch: 1, LSN: e.LSN + themis.LSN(e.FrameBytes())}
		if _, err := i.from.Apply([]themis.Entry{e}); err != nil {
			i.t.Fatal(err)
		}
	}
	if _, err := i.from.Flush(); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installing) checkpoint() (store.Snapshot, string) {
	i.t.Helper()
	i.made++
	dir := filepath.Join(i.dir, fmt.Sprint("checkpoint-", i.made))
	snap, err := i.from.Checkpoint(dir)
	if err != nil {
		i.t.Fatal(err)
	}
	snap.ID = fmt.Sprint("snapshot", i.made)
	return snap, dir
}

// send installs, but breaks off once so much, but for two chunks, is on the follower's disk; it returns how many bytes came there.
func (i *installing) send(snap store.Snapshot, dir string, breakAt themis.Bytes) (int64, error) {
	i.t.Helper()
	ctx, cancel := context.WithCancel(i.t.Context())
	defer cancel()
	h := i.hello
	h.Last = snap.Position.Seq
	before := i.came.Load()
	err := i.over.Install(ctx, installTo, h, snap, dir, func(sent themis.Bytes) {
		if sent < breakAt {
			return
		}
		for range 2000 { // ten seconds
			came, _ := filepath.Glob(filepath.Join(i.dir, "follower", installPrefix+"*"))
			if len(came) == 1 {
				if n, err := sizeOf(came[0]); err == nil && n >= breakAt-2*installChunk {
					break
				}
			}
			<-time.After(5 * time.Millisecond)
		}
		cancel()
	})
	return i.came.Load() - before, err
}

func (i *installing) held(snap store.Snapshot, dir string) map[string]themis.Bytes {
	i.t.Helper()
	c, err := i.pool.Replication(i.t.Context(), i.addr, installTo.Node)
	if err != nil {
		i.t.Fatal(err)
	}
	has, err := held(i.t.Context(), c, i.hello, snap, dir)
	if err != nil {
		i.t.Fatal(err)
	}
	return has
}

func (i *installing) standsAt(want themis.Position) {
	i.t.Helper()
	if st := i.to.Status(); st.Last != want || st.Applied != want.Seq || st.Store.Documents == 0 {
		i.t.Errorf("the follower is at %+v, applied %d, %d documents, want %+v", st.Last, st.Applied, st.Store.Documents, want)
	}
	left, err := filepath.Glob(filepath.Join(i.dir, "follower", installPrefix+"*"))
	if err != nil || len(left) > 0 {
		i.t.Errorf("left behind: %v, %v", left, err)
	}
}

const never = themis.Bytes(1 << 62)

// An install that breaks off goes on where it was, in the middle of a file; a file that is not what it was comes anew.
func TestInstallGoesOn(t *testing.T) {
	t.Parallel()
	i := newInstalling(t)
	for n := range 20 {
		i.write(fmt.Sprint("k", n))
	}
	snap, dir := i.checkpoint()
	total := snap.Bytes()
	if total < 16<<20 {
		t.Fatalf("%d bytes", total)
	}
	spared := func() (n themis.Bytes) {
		for _, bytes := range i.held(snap, dir) {
			n += bytes
		}
		return n
	}
	first, err := i.send(snap, dir, total*4/10)
	if err == nil || spared() < total/5 {
		t.Fatalf("%v; of %d bytes %d came, and %d are kept", err, total, first, spared())
	}
	there := spared()
	second, err := i.send(snap, dir, total*7/10)
	if most := int64(total*7/10 - there + 4*installChunk); err == nil || second > most || spared() < there+installChunk {
		t.Fatalf("%v; %d of %d bytes were there, %d more came, at most %d, and now %d are there", err, there, total, second, most, spared())
	}
	largest := slices.MaxFunc(snap.Files, func(a, b store.File) int { return cmp.Compare(i.held(snap, dir)[a.Name], i.held(snap, dir)[b.Name]) })
	lost := i.held(snap, dir)[largest.Name]
	there = spared()
	files, err := filepath.Glob(filepath.Join(i.dir, "follower", installPrefix+snap.ID, "*", largest.Name))
	if coming := filepath.Join(i.dir, "follower", installPrefix+snap.ID, comingPrefix+largest.Name); err != nil || len(files) == 0 {
		files = []string{coming}
	}
	b, err := os.ReadFile(files[0])
	if err == nil {
		b[1000] ^= 1
		err = os.WriteFile(files[0], b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if now := spared(); now != there-lost {
		t.Fatalf("%d bytes count, with a file that has changed %d still do, %d of it did", there, now, lost)
	}
	third, err := i.send(snap, dir, never)
	if most := int64(total - there + lost + total/20); err != nil || third > most || third < int64(lost) {
		t.Errorf("%v; %d bytes came in the end, want at most %d of %d: %d were there, %d of them changed", err, third, most, total, there, lost)
	}
	i.standsAt(snap.Position)
}

// Files of a checkpoint whose install broke off are no part of another one, though they have the same names.
func TestInstallsAreNotMixed(t *testing.T) {
	t.Parallel()
	i := newInstalling(t)
	for n := range 4 {
		i.write(fmt.Sprint("k", n))
	}
	old, oldDir := i.checkpoint()
	if _, err := i.send(old, oldDir, old.Bytes()); err == nil {
		t.Fatal("it did not break off")
	}
	if len(i.held(old, oldDir)) == 0 {
		t.Fatal("nothing came whole")
	}
	i.write("k0")
	i.write("more")
	snap, dir := i.checkpoint()
	if has := i.held(snap, dir); len(has) != 0 {
		t.Errorf("files of %s count for %s: %v", old.ID, snap.ID, has)
	}
	if has := i.held(old, oldDir); len(has) != 0 {
		t.Errorf("files of %s are still there after %s began: %v", old.ID, snap.ID, has)
	}
	if _, err := i.send(snap, dir, never); err != nil {
		t.Fatal(err)
	}
	i.standsAt(snap.Position)
}
