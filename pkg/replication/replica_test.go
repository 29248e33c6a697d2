package replication

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// trio is one shard on real disks in one process: streams are in memory, the control plane is one record.
type trio struct {
	t      *testing.T
	dir    string
	mu     sync.Mutex
	record cluster.Shard
	failed map[themis.NodeID]bool
	nodes  map[themis.NodeID]*trioNode
	net    *Memory
	room   sync.Map // NodeID: Room; default: enough
	lapsed sync.Map // NodeID: whose lease in the control plane has ended
	boots  int
	scrub  time.Duration         // how often the logs are looked at; 0: as usual
	rules  atomic.Pointer[Rules] // nil: the default ones
	keep   atomic.Int64          // bytes of log that are kept; 0: as usual
	queue  int                   // writes that may wait; 0: as usual
	trail  []string              // the events of all: node, action, outcome, reason
	before func(action string)   // an event is told; nil: nothing
}

type trioNode struct {
	r    *Replica
	boot themis.BootID
	stop context.CancelFunc
	done chan error
}

func newTrio(t *testing.T, p cluster.Policy, nodes ...themis.NodeID) *trio {
	c := &trio{t: t, dir: t.TempDir(), nodes: map[themis.NodeID]*trioNode{}, failed: map[themis.NodeID]bool{}, net: NewMemory()}
	c.record = cluster.Shard{Format: 1, ID: "shard-1", Have: p, Want: p, Revision: 1}
	for _, id := range nodes {
		m := cluster.Member{Node: id, Storage: themis.StorageID("disk-" + id)}
		c.record.Replicas = append(c.record.Replicas, cluster.Replica{Member: m, Class: cluster.Voter})
		c.record.ISR = append(c.record.ISR, m)
	}
	for _, id := range nodes {
		c.start(id)
	}
	t.Cleanup(func() {
		for id := range c.nodes {
			c.stop(id)
		}
		c.net.Wait()
	})
	return c
}

func (c *trio) start(id themis.NodeID) {
	c.t.Helper()
	c.boots++
	c.mu.Lock()
	fresh, epoch := c.record.Epoch == 0, c.record.Epoch
	own, _ := c.record.Replica(id)
	c.mu.Unlock()
	boot := themis.BootID(fmt.Sprint("boot-", c.boots))
	o := Options{
		Dir: filepath.Join(c.dir, string(id)), Cluster: "c", Shard: "shard-1", Boot: boot, Fresh: fresh, Counted: !fresh && own.Class == cluster.Voter, Epoch: epoch,
		Self: cluster.Member{Node: id, Storage: themis.StorageID("disk-" + id)}, Transport: c.net.From(id), Registry: c,
		Room: func() Room { room, _ := c.room.Load(id); r, _ := room.(Room); return r },
		Rules: func() Rules {
			if r := c.rules.Load(); r != nil {
				return *r
			}
			return DefaultRules()
		},
		Reigns: func(time.Time) bool { _, ended := c.lapsed.Load(id); return !ended }, Logger: slog.New(slog.DiscardHandler), Heartbeat: 50 * time.Millisecond, Scrub: c.scrub,
		QueueWrites: c.queue,
		KeepLog:     func() themis.Bytes { return cmp.Or(themis.Bytes(c.keep.Load()), 1<<30) },
		Event: func(action, outcome, _, reason string, _ themis.Epoch) {
			if c.before != nil {
				c.before(action)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			c.trail = append(c.trail, fmt.Sprintf("%s %s %s: %s", id, action, outcome, reason))
		},
	}
	if testing.Verbose() {
		o.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", id)
	}
	r, err := Open(o)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	n := &trioNode{r: r, boot: boot, stop: stop, done: make(chan error, 1)}
	c.net.Put(id, r)
	go func() { n.done <- r.Run(ctx) }()
	c.mu.Lock()
	c.nodes[id] = n
	c.mu.Unlock()
	c.publish()
}

func (c *trio) stop(id themis.NodeID) {
	c.t.Helper()
	c.mu.Lock()
	n := c.nodes[id]
	delete(c.nodes, id)
	c.mu.Unlock()
	c.net.Put(id, nil)
	n.stop()
	if err := <-n.done; err != nil {
		c.t.Errorf("%s: %v", id, err)
	}
}

func (c *trio) publish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		n.r.Learn(c.record, c.failed, nil)
	}
}

// now is the record of the control plane.
func (c *trio) now() cluster.Shard {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.record
}

func (c *trio) node(id themis.NodeID) *Replica {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[id]; n != nil {
		return n.r
	}
	return nil
}

// ChangeShard is the control plane.
func (c *trio) ChangeShard(_ context.Context, seen, next cluster.Shard) (cluster.Shard, error) {
	c.mu.Lock()
	next, err := changed(c.record, c.failed, seen, next)
	if err != nil {
		c.mu.Unlock()
		return cluster.Shard{}, err
	}
	c.record = next
	c.mu.Unlock()
	c.publish()
	return next, nil
}

// elect asks all who run for ballots until there is a winner, and crowns it.
func (c *trio) elect() themis.NodeID {
	c.t.Helper()
	var res election.Result
	c.eventually("a winner", func() bool {
		c.mu.Lock()
		rec := c.record
		c.mu.Unlock()
		var ballots []election.Ballot
		for _, rep := range rec.Replicas {
			if r := c.node(rep.Node); r != nil {
				if b, err := r.Vote(rec.Epoch + 1); err == nil {
					ballots = append(ballots, b)
				}
			}
		}
		res = election.Count(election.Request{Shard: rec, Epoch: rec.Epoch + 1, Ballots: ballots})
		if res.Winner == nil {
			return false
		}
		next, err := rec.Crown(res.Winner.Voter, res.Winner.Boot, res.Wait, false)
		if err == nil {
			_, err = c.ChangeShard(context.Background(), rec, next)
		}
		return err == nil
	})
	return res.Winner.Voter.Node
}

func (c *trio) eventually(what string, ok func() bool) {
	c.t.Helper()
	deadline := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-deadline:
			c.t.Fatalf("%s did not come about; record %+v", what, c.record)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func put(key, value string) Write {
	return Write{Changes: []Change{{Op: themis.Op{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: themis.Token(len(key)).Placement(), Key: key, Value: []byte(value)}}}}
}

func (c *trio) write(id themis.NodeID, w Write) (Written, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.node(id).Write(ctx, w)
}

func (c *trio) mustWrite(id themis.NodeID, w Write) Written {
	c.t.Helper()
	var out Written
	c.eventually("a write", func() bool {
		var err error
		out, err = c.write(id, w)
		if err != nil && themis.CodeOf(err) != themis.NoPrimary {
			c.t.Fatal(err)
		}
		return err == nil
	})
	return out
}

func (c *trio) read(id themis.NodeID, key string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	v, err := c.node(id).Read(ctx, themis.Strong, 0)
	if err != nil {
		return "", err
	}
	d, ok, err := v.Get(1, themis.Token(len(key)).Placement(), key)
	if err == nil && !ok {
		err = themis.Errorf(themis.NotFound, "no %s", key)
	}
	return string(d.Value), err
}

func (c *trio) digest(id themis.NodeID) store.Digest {
	c.t.Helper()
	d, err := c.node(id).openStore().Digest(store.DigestOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *trio) converged(ids ...themis.NodeID) {
	c.t.Helper()
	c.eventually("equal copies in the in-sync set", func() bool {
		c.mu.Lock()
		isr := len(c.record.ISR)
		c.mu.Unlock()
		first := c.node(ids[0])
		for _, id := range ids[1:] {
			if a := c.node(id).openStore().Applied(); a != first.openStore().Applied() || a.Seq < first.log.Durable() {
				return false
			}
		}
		return isr == len(ids)
	})
	for _, id := range ids[1:] {
		if c.digest(id) != c.digest(ids[0]) {
			c.t.Fatalf("%s and %s hold different content", id, ids[0])
		}
	}
}

var trioModes = []cluster.Policy{{Mode: themis.Sync, K: 1, RF: 3}, {Mode: themis.SemiSync, K: 1, RF: 3}, {Mode: themis.Async, RF: 3}}

func TestReplicasAgreeAndFailOver(t *testing.T) {
	for _, p := range trioModes {
		t.Run(string(p.Mode), func(t *testing.T) {
			t.Parallel()
			c := newTrio(t, p, "node-1", "node-2", "node-3")
			first := c.elect()
			for i := range 200 {
				c.mustWrite(first, put(fmt.Sprint("key-", i%50), fmt.Sprint(i)))
			}
			c.converged("node-1", "node-2", "node-3")
			c.stop(first)
			second := c.elect()
			if second == first {
				t.Fatalf("%s was crowned though it is down", first)
			}
			c.mustWrite(second, put("after", "failover"))
			for i := range 50 {
				v, err := c.read(second, fmt.Sprint("key-", i))
				if err != nil || v != fmt.Sprint(150+i) {
					t.Fatalf("key-%d after failover: %q, %v", i, v, err)
				}
			}
			c.start(first)
			c.converged("node-1", "node-2", "node-3")
		})
	}
}

func TestWritesWaitForCopiesUnderSync(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	first := c.elect()
	c.mustWrite(first, put("a", "1"))
	other := themis.NodeID("node-1")
	if first == other {
		other = "node-2"
	}
	c.stop(other)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	_, err := c.node(first).Write(ctx, put("b", "1"))
	cancel()
	if themis.CodeOf(err) != themis.OutcomeUnknown {
		t.Fatalf("a write with a silent member: %v", err)
	}
	c.mu.Lock()
	c.failed = map[themis.NodeID]bool{other: true}
	c.mu.Unlock()
	c.publish()
	c.eventually("an in-sync set of one", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.record.ISR) == 1 })
	c.eventually("a refusal that says what is missing", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := c.node(first).Write(ctx, put("c", "1"))
		return themis.CodeOf(err) == themis.NotEnoughReplicas
	})
	if v, err := c.read(first, "a"); err != nil || v != "1" {
		t.Fatalf("reads must go on: %q, %v", v, err)
	}
	c.mu.Lock()
	c.failed = nil
	c.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		_, err := c.write(first, put("d", "1"))
		done <- err
	}()
	c.start(other)
	if err := <-done; err != nil {
		t.Fatalf("a write that waited for the copy: %v", err)
	}
	c.converged("node-1", "node-2")
}

// Other rules hold for a reign that is under way: a follower that is silent leaves once it may.
func TestOtherRulesHoldAtOnce(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}, "a", "b", "c")
	patient, quick := DefaultRules(), DefaultRules()
	patient.AckTimeout, quick.AckTimeout = time.Hour, 20*time.Millisecond
	c.rules.Store(&patient)
	primary := c.elect()
	c.mustWrite(primary, put("k", "1"))
	c.eventually("all in sync", func() bool { return len(c.now().ISR) == 3 })
	for _, id := range []themis.NodeID{"a", "b", "c"} {
		if id != primary {
			c.stop(id)
			break
		}
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.write(primary, put("k", "2"))
		done <- err
	}()
	r := c.node(primary)
	c.eventually("the write is in the log", func() bool { return r.log.Last().Seq > themis.Seq(r.commit.Load()) })
	c.rules.Store(&quick)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestConditionsAndRequestIDs(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	p := c.elect()
	w := put("k", "1")
	w.RequestID = "r1"
	one := c.mustWrite(p, w)
	two := c.mustWrite(p, w)
	if one.Seq != two.Seq || one.HLC != two.HLC {
		t.Fatalf("the same request twice: %+v and %+v", one, two)
	}
	w.Changes[0].Value = []byte("2")
	if _, err := c.write(p, w); themis.CodeOf(err) != themis.RequestIDReused {
		t.Fatalf("another body under the same id: %v", err)
	}
	cond := put("k", "3")
	cond.Changes[0].IfVersion = one.HLC + 1
	if _, err := c.write(p, cond); themis.CodeOf(err) != themis.VersionMismatch {
		t.Fatalf("a wrong version: %v", err)
	}
	cond.Changes[0].IfVersion = one.HLC
	c.mustWrite(p, cond)
	absent := put("k", "4")
	absent.Changes[0].IfAbsent = true
	if _, err := c.write(p, absent); themis.CodeOf(err) != themis.VersionMismatch {
		t.Fatalf("if absent: %v", err)
	}
	gone := put("nothing", "")
	gone.Changes[0].Code, gone.Changes[0].Value, gone.Changes[0].MustExist = themis.OpDelete, nil, true
	if _, err := c.write(p, gone); themis.CodeOf(err) != themis.NotFound {
		t.Fatalf("delete of nothing: %v", err)
	}
	c.stop(p)
	var other themis.NodeID
	for id := range c.nodes {
		other = id
	}
	if got := c.elect(); got != other {
		t.Fatal(got)
	}
	w.Changes[0].Value = []byte("1")
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := c.node(other).Write(ctx, w); themis.CodeOf(err) != themis.NotEnoughReplicas && themis.CodeOf(err) != themis.NoPrimary {
		t.Fatalf("a repeat while there is one copy must not be answered as done: %v", err)
	}
	c.start(p)
	again := c.mustWrite(other, w)
	if again.Seq != one.Seq || again.HLC != one.HLC {
		t.Fatalf("the same request after a failover: %+v, first %+v", again, one)
	}
}

func TestConcurrentCompareAndSetHasOneWinner(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	p := c.elect()
	at := c.mustWrite(p, put("k", "0")).HLC
	for range 20 {
		type won struct {
			w   Written
			err error
		}
		results, version := make(chan won, 8), at
		for i := range 8 {
			go func() {
				w := put("k", fmt.Sprint(i))
				w.Changes[0].IfVersion = version
				out, err := c.write(p, w)
				results <- won{out, err}
			}()
		}
		wins := 0
		for range 8 {
			switch r := <-results; {
			case r.err == nil:
				wins++
				at = r.w.HLC
			case themis.CodeOf(r.err) != themis.VersionMismatch:
				t.Fatal(r.err)
			}
		}
		if wins != 1 {
			t.Fatalf("%d of 8 compare-and-set on one version succeeded", wins)
		}
	}
}

// Who gave a ballot takes nothing more from an earlier reign, so that reign acknowledges nothing that the next would lack.
func TestABallotIsAPromise(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	p := c.elect()
	w := c.mustWrite(p, put("k", "1"))
	voter := themis.NodeID("node-1")
	if p == voter {
		voter = "node-2"
	}
	c.mu.Lock()
	next := c.record.Epoch + 1
	c.mu.Unlock()
	c.eventually("a ballot", func() bool { _, err := c.node(voter).Vote(next); return err == nil })
	had := c.node(voter).Status().Last.Seq
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if done, err := c.node(p).Write(ctx, put("k", "2")); err == nil {
		t.Errorf("seq %d was acknowledged behind the ballot for epoch %d", done.Seq, next)
	}
	if now := c.node(voter).Status().Last.Seq; now != had {
		t.Errorf("the voter's log went from seq %d to %d; seq %d was the last one before", had, now, w.Seq)
	}
}

// A SESSION read at a follower that is behind waits until it has what the client has seen, and one without a session does not.
func TestSessionReadsWait(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 2}, "node-1", "node-2")
	p := c.elect()
	c.mustWrite(p, put("k", "1"))
	c.converged("node-1", "node-2")
	follower := themis.NodeID("node-1")
	if p == follower {
		follower = "node-2"
	}
	c.net.Cut(follower, true)
	seen := c.mustWrite(p, put("k", "2"))
	at := func(level themis.Consistency, within time.Duration) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		v, err := c.node(follower).Read(ctx, level, seen.Seq)
		if err != nil {
			return "", err
		}
		d, _, err := v.Get(1, themis.Token(1).Placement(), "k")
		return string(d.Value), err
	}
	if got, err := at(themis.Eventual, time.Second); got != "1" || err != nil {
		t.Fatalf("without a session: %s, %v", got, err)
	}
	if got, err := at(themis.Session, 200*time.Millisecond); err == nil {
		t.Fatalf("behind what the client has seen it answered %s", got)
	}
	c.net.Cut(follower, false)
	if got, err := at(themis.Session, 10*time.Second); got != "2" || err != nil {
		t.Fatalf("with it: %s, %v", got, err)
	}
}

// Writes that wait for too few copies stand in a queue that has an end: what does not fit is refused, and surely not done.
func TestTheQueueOfWritesHasAnEnd(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	c.queue = 2
	p := c.elect()
	c.mustWrite(p, put("k", "1"))
	c.stop(p)
	c.start(p) // with the short queue
	p = c.elect()
	c.mustWrite(p, put("k", "2"))
	for _, id := range []themis.NodeID{"node-1", "node-2"} {
		if id != p {
			c.net.Cut(id, true)
		}
	}
	c.eventually("writes wait for a follower", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := c.node(p).Write(ctx, put("early", "x"))
		return themis.CodeOf(err) == themis.NotEnoughReplicas
	})
	refused := make(chan error, 40)
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	before := c.node(p).Status().Last.Seq
	for i := range cap(refused) {
		all.Go(func() {
			_, err := c.node(p).Write(ctx, put(fmt.Sprint("waits-", i), "x"))
			refused <- err
		})
	}
	all.Wait()
	overloaded := 0
	for range cap(refused) {
		if err := <-refused; themis.CodeOf(err) == themis.Overloaded {
			overloaded++
		} else if err == nil {
			t.Error("acknowledged by one copy")
		}
	}
	if overloaded != cap(refused)-2 || c.node(p).Status().Last.Seq != before {
		t.Errorf("%d of %d were refused for the queue's length, and the log went from seq %d to %d", overloaded, cap(refused), before, c.node(p).Status().Last.Seq)
	}
}

func TestEmptiedCopyIsRebuilt(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}, "node-1", "node-2", "node-3")
	first := c.elect()
	for i := range 100 {
		c.mustWrite(first, put(fmt.Sprint("key-", i), "x"))
	}
	victim := themis.NodeID("node-1")
	if first == victim {
		victim = "node-2"
	}
	c.stop(victim)
	if err := os.RemoveAll(filepath.Join(c.dir, string(victim))); err != nil {
		t.Fatal(err)
	}
	c.start(victim)
	c.mu.Lock()
	next := c.record.Epoch + 1
	c.mu.Unlock()
	if _, err := c.node(victim).Vote(next); err == nil {
		t.Fatal("a blank copy gave its ballot")
	}
	c.mustWrite(first, put("more", "y"))
	c.converged("node-1", "node-2", "node-3")
	c.mu.Lock()
	defer c.mu.Unlock()
	if said := strings.Join(c.trail, "\n"); !strings.Contains(said, string(victim)+" quarantine done: the map has a copy on this disk, and none is here") || !strings.Contains(said, " install done: "+string(victim)+" got ") {
		t.Errorf("the trail: %s", said)
	}
}

func TestTheSameRequestAtTheSameTimeIsDoneOnce(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "node-1", "node-2")
	p := c.elect()
	c.mustWrite(p, put("warm", "1"))
	for round := range 10 {
		type answer struct {
			w   Written
			err error
		}
		answers := make(chan answer, 8)
		for range 8 {
			go func() {
				w := put("k", fmt.Sprint(round))
				w.RequestID = fmt.Sprint("round-", round)
				out, err := c.write(p, w)
				answers <- answer{out, err}
			}()
		}
		first := <-answers
		if first.err != nil {
			t.Fatal(first.err)
		}
		for range 7 {
			if a := <-answers; a.err != nil || a.w.Seq != first.w.Seq || a.w.HLC != first.w.HLC || len(a.w.Ops) != 1 {
				t.Fatalf("%+v, %v; the first was told %+v", a.w, a.err, first.w)
			}
		}
	}
}
