// Package transporttest is what every maker of replication.Transport has to pass: gRPC, and its twin in memory.
package transporttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// The nodes of the suite. Primary speaks, Follower answers, nobody is at Nowhere.
const (
	Primary  themis.NodeID = "node-1"
	Follower themis.NodeID = "node-2"
	Nowhere  themis.NodeID = "node-3"
)

const shard themis.ShardID = "shard-1"

// Maker makes a transport from Primary that reaches r, the copy in dir, at Follower, until the test ends.
type Maker func(t *testing.T, r *replication.Replica, dir string) replication.Transport

// Run puts the transports of a maker to every test.
func Run(t *testing.T, mk Maker) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Maker)
	}{
		{"hello", hello},
		{"answers come in order", inOrder},
		{"a refusal ends the stream", refusal},
		{"ctx ends both sides", ctxEnds},
		{"a megabyte", megabyte},
		{"install", install},
		{"an install cut short", cutShort},
		{"nobody there", nobody},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, mk) })
	}
}

// pair is a transport and the copy that it reaches.
type pair struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // the test's: a stream that hangs fails it
	to   *replication.Replica
	dir  string
	over replication.Transport
	next themis.Entry // what frame makes
	stop func()
}

// newPair opens a copy: an empty one that is whole, or one that is blank.
func newPair(t *testing.T, mk Maker, whole bool) *pair {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	p := &pair{t: t, ctx: ctx, dir: filepath.Join(t.TempDir(), string(shard)), next: themis.Entry{Version: themis.EntryVersion, Kind: themis.KindBarrier, Seq: 1, Epoch: 2, HLC: 1}}
	r, err := replication.Open(replication.Options{
		Dir: p.dir, Cluster: "c", Shard: shard, Boot: "b", Fresh: whole, Self: memberOf(Follower), Reigns: func(time.Time) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(running) }()
	p.stop = func() {
		end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil // for the second time
	}
	t.Cleanup(func() { cancel(); p.stop() })
	p.to, p.over = r, mk(t, r, p.dir)
	return p
}

func memberOf(id themis.NodeID) cluster.Member {
	return cluster.Member{Node: id, Storage: "disk-of-" + themis.StorageID(id)}
}

func (p *pair) hello() replication.Hello {
	return replication.Hello{
		Cluster: "c", Shard: shard, Epoch: 2, Primary: memberOf(Primary), Follower: memberOf(Follower).Storage,
		Lineage: []themis.EpochStart{{Epoch: 2, Seq: 1}}, First: 1, Last: 1,
	}
}

// open is a stream that was accepted.
func (p *pair) open(ctx context.Context) replication.Outgoing {
	p.t.Helper()
	s, w, err := p.over.Open(ctx, memberOf(Follower), p.hello())
	if err != nil || !w.Accepted || w.Install || s == nil {
		p.t.Fatalf("open: %+v, %v", w, err)
	}
	return s
}

// entry is the next one of the primary's log; all but the first put a document of size bytes.
func (p *pair) entry(size int) themis.Entry {
	e := p.next
	if e.Seq > 1 {
		e.Kind = themis.KindWrite
		e.Payload = themis.AppendOps(nil, []themis.Op{{
			Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: []byte{0, 0, 0, 1}, Key: fmt.Sprint(e.Seq), Value: bytes.Repeat([]byte{'v'}, size),
		}})
	}
	p.next.Seq++
	p.next.HLC++
	p.next.LSN += themis.LSN(wal.FrameBytes(&e)) //nolint:gosec // never negative
	return e
}

func (p *pair) frame(size int) []byte {
	e := p.entry(size)
	return wal.AppendFrame(nil, &e)
}

// say sends a message and takes the answer.
func (p *pair) say(s replication.Outgoing, m replication.Ship) replication.Reply {
	p.t.Helper()
	if err := s.Send(m); err != nil {
		p.t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil || r.Refused != "" || r.Echo != m.Sent {
		p.t.Fatalf("answer to %s: %+v, %v", m.Sent, r, err)
	}
	return r
}

func hello(t *testing.T, mk Maker) {
	p := newPair(t, mk, true)
	h := p.hello()
	h.Follower = "another disk"
	s, w, err := p.over.Open(p.ctx, memberOf(Follower), h)
	if err != nil || s != nil || w.Accepted || w.Refused == "" {
		t.Fatalf("a hello for another disk: stream %v, %+v, %v", s, w, err)
	}
	p.open(p.ctx)
	if _, err := p.to.Vote(7); err != nil {
		t.Fatal(err)
	}
	s, w, err = p.over.Open(p.ctx, memberOf(Follower), p.hello())
	if err != nil || s != nil || w.Accepted || w.Promised != 7 {
		t.Fatalf("a hello of an epoch that is over: stream %v, %+v, %v", s, w, err)
	}
	blank := newPair(t, mk, false)
	s, w, err = blank.over.Open(blank.ctx, memberOf(Follower), blank.hello())
	if err != nil || s != nil || !w.Accepted || !w.Install {
		t.Fatalf("a hello to a blank copy: stream %v, %+v, %v", s, w, err)
	}
}

// inOrder sends frames and heartbeats without waiting for answers: each is answered, in order, with its own Sent.
func inOrder(t *testing.T, mk Maker) {
	p := newPair(t, mk, true)
	s := p.open(p.ctx)
	const messages = 100
	var g errgroup.Group
	g.Go(func() error {
		for i := range messages {
			m := replication.Ship{Sent: time.Duration(i + 1)}
			if i%2 == 0 {
				m.Frames = p.frame(100)
			}
			if err := s.Send(m); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range messages {
		r, err := s.Recv()
		if want := themis.Seq(i/2 + 1); err != nil || r.Refused != "" || r.Echo != time.Duration(i+1) || r.Durable != want { //nolint:gosec // small
			t.Fatalf("answer %d: %+v, %v; want seq %d durable", i+1, r, err, want)
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
}

func refusal(t *testing.T, mk Maker) {
	p := newPair(t, mk, true)
	s := p.open(p.ctx)
	p.say(s, replication.Ship{Frames: p.frame(0), Sent: 1})
	if _, err := p.to.Vote(9); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil || r.Refused == "" || r.Promised != 9 {
		t.Fatalf("after a later ballot: %+v, %v; want a refusal that names epoch 9", r, err)
	}
	if r, err := s.Recv(); err == nil {
		t.Fatalf("the stream goes on with %+v", r)
	}
	p = newPair(t, mk, true)
	s = p.open(p.ctx)
	p.frame(0) // lost on the way
	if err := s.Send(replication.Ship{Frames: p.frame(10), Sent: 1}); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Recv(); err != nil || r.Refused == "" {
		t.Fatalf("after a gap in the frames: %+v, %v; want a refusal", r, err)
	}
	if r, err := s.Recv(); err == nil {
		t.Fatalf("the stream goes on with %+v", r)
	}
}

func ctxEnds(t *testing.T, mk Maker) {
	p := newPair(t, mk, true)
	once := func() {
		ctx, cancel := context.WithCancel(p.ctx)
		defer cancel()
		s := p.open(ctx)
		p.say(s, replication.Ship{Sent: 1})
		cancel()
		if r, err := s.Recv(); err == nil {
			t.Fatalf("received %+v after the end of ctx", r)
		}
		if err := s.Send(replication.Ship{Sent: 2}); err == nil {
			t.Fatal("sent after the end of ctx")
		}
	}
	once() // what is made once, such as a connection, is there now
	before := goleak.IgnoreCurrent()
	for range 3 {
		once()
	}
	if err := goleak.Find(before); err != nil {
		t.Fatal(err)
	}
}

func megabyte(t *testing.T, mk Maker) {
	p := newPair(t, mk, true)
	s := p.open(p.ctx)
	p.say(s, replication.Ship{Frames: p.frame(0), Sent: 1})
	if r := p.say(s, replication.Ship{Frames: p.frame(1 << 20), Sent: 2}); r.Durable != 2 || uint64(r.LSN) != uint64(p.next.LSN) {
		t.Fatalf("after a megabyte: %+v, want seq 2 and lsn %d", r, p.next.LSN)
	}
}

// checkpoint is a store with n documents, as it is sent.
func (p *pair) checkpoint(n int) (dir string, snap store.Snapshot, is store.Digest) {
	p.t.Helper()
	home := p.t.TempDir()
	st, err := store.Open(filepath.Join(home, "store"), store.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	defer func() { p.must(st.Close()) }()
	for range n {
		_, err := st.Apply([]themis.Entry{p.entry(10 << 10)})
		p.must(err)
	}
	_, err = st.Flush()
	p.must(err)
	is, err = st.Digest(store.DigestOptions{})
	p.must(err)
	dir = filepath.Join(home, "checkpoint")
	snap, err = st.Checkpoint(dir)
	p.must(err)
	snap.ID = "S1"
	return dir, snap, is
}

func (p *pair) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// behind is the hello of a primary that sends its state.
func (p *pair) behind(snap store.Snapshot) replication.Hello {
	h := p.hello()
	h.Last = snap.Position.Seq
	return h
}

func install(t *testing.T, mk Maker) {
	p := newPair(t, mk, false)
	dir, snap, want := p.checkpoint(200)
	told := themis.Bytes(-1)
	progress := func(sent themis.Bytes) {
		if told < 0 && sent != 0 {
			t.Errorf("of nothing that was there before, %d bytes", sent)
		}
		if sent < told {
			t.Errorf("progress fell from %d to %d bytes", told, sent)
		}
		told = sent
	}
	p.must(p.over.Install(p.ctx, memberOf(Follower), p.behind(snap), snap, dir, progress))
	if told != snap.Bytes() {
		t.Errorf("progress ended at %d of %d bytes", told, snap.Bytes())
	}
	s, w, err := p.over.Open(p.ctx, memberOf(Follower), p.behind(snap))
	if err != nil || s == nil || w.Common != snap.Position.Seq {
		t.Fatalf("after the install: %+v, %v; want frames behind seq %d", w, err, snap.Position.Seq)
	}
	if r := p.say(s, replication.Ship{Frames: p.frame(10), Sent: 1}); r.Durable != snap.Position.Seq+1 {
		t.Fatalf("after the install: %+v", r)
	}
	p.stop()
	st, err := store.Open(filepath.Join(p.dir, "store"), store.Options{})
	p.must(err)
	defer func() { p.must(st.Close()) }()
	if got, err := st.Digest(store.DigestOptions{}); err != nil || got != want {
		t.Fatalf("installed %+v, %v; sent was %+v", got, err, want)
	}
}

// cutShort sends fewer bytes than were said: nothing of it is taken.
func cutShort(t *testing.T, mk Maker) {
	p := newPair(t, mk, false)
	dir, snap, _ := p.checkpoint(20)
	said := snap
	said.Files = append([]store.File(nil), snap.Files...)
	said.Files[0].Size++
	err := p.over.Install(p.ctx, memberOf(Follower), p.behind(snap), said, dir, func(themis.Bytes) {})
	if themis.CodeOf(err) != themis.Corrupt {
		t.Fatalf("an install that lacks a byte: %v, want CORRUPT", err)
	}
	if _, w, err := p.over.Open(p.ctx, memberOf(Follower), p.behind(snap)); err != nil || !w.Install {
		t.Fatalf("after an install that was refused: %+v, %v; it must still need one", w, err)
	}
	if left, err := filepath.Glob(filepath.Join(p.dir, "quarantine*")); err != nil || len(left) > 0 {
		t.Fatalf("an install that was refused put aside %v, %v", left, err)
	}
	p.must(p.over.Install(p.ctx, memberOf(Follower), p.behind(snap), snap, dir, func(themis.Bytes) {}))
}

func nobody(t *testing.T, mk Maker) {
	p := newPair(t, mk, true)
	ctx, cancel := context.WithTimeout(p.ctx, 5*time.Second)
	defer cancel()
	s, w, err := p.over.Open(ctx, memberOf(Nowhere), p.hello())
	if err == nil || errors.Is(err, context.DeadlineExceeded) || s != nil || w.Accepted {
		t.Fatalf("open to nobody: stream %v, %+v, %v; want an error at once", s, w, err)
	}
	err = p.over.Install(ctx, memberOf(Nowhere), p.hello(), store.Snapshot{}, t.TempDir(), func(themis.Bytes) {})
	if err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("install at nobody: %v; want an error at once", err)
	}
}
