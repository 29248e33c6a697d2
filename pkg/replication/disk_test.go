package replication

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/themis"
)

// A member whose disk is full leaves where enough others have room; where it is needed, writes are refused and it stays.
func TestMembersOnFullDisks(t *testing.T) {
	for _, c := range []struct {
		name   string
		mode   themis.Mode
		isr    []themis.NodeID
		full   []themis.NodeID
		refuse themis.Code
		leaves themis.NodeID
	}{
		{"three, one full", themis.Sync, []themis.NodeID{"a", "b", "c"}, []themis.NodeID{"c"}, "", "c"},
		{"three, two full", themis.Sync, []themis.NodeID{"a", "b", "c"}, []themis.NodeID{"b", "c"}, themis.ReadOnly, "b"},
		{"at the floor", themis.Sync, []themis.NodeID{"a", "b"}, []themis.NodeID{"b"}, themis.ReadOnly, ""},
		{"at the floor, another is full", themis.Sync, []themis.NodeID{"a", "b"}, []themis.NodeID{"c"}, "", ""},
		{"below the floor", themis.Sync, []themis.NodeID{"a"}, []themis.NodeID{"b", "c"}, themis.NotEnoughReplicas, ""},
		{"semi-sync, one full", themis.SemiSync, []themis.NodeID{"a"}, []themis.NodeID{"c"}, "", ""},
		{"semi-sync, all full", themis.SemiSync, []themis.NodeID{"a"}, []themis.NodeID{"b", "c"}, themis.ReadOnly, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := NewReign(shardOf(c.mode, 3, c.isr...), 0, 1, at(0), DefaultRules())
			full := map[themis.NodeID]bool{}
			for _, n := range c.full {
				full[n] = true
			}
			r.Disks(full)
			r.Durable(1, at(1))
			heard(r, "b", 1, 0, 1)
			heard(r, "c", 1, 0, 1)
			if err := r.Writable(at(2)); themis.CodeOf(err) != c.refuse {
				t.Errorf("writes: %v, want %q", err, c.refuse)
			}
			var left themis.NodeID
			p := r.Next(at(2))
			if p != nil && !p.Add {
				left = p.Member.Node
			}
			if left != c.leaves {
				t.Errorf("%q leaves, want %q", left, c.leaves)
			}
			if p != nil && p.Add && full[p.Member.Node] {
				t.Errorf("%s comes in with a full disk", p.Member.Node)
			}
		})
	}
}

// A primary without room refuses at once; a follower without any takes no frames, renews the read lease all the same, and takes
// what it missed when there is room again.
func TestRoomOfPrimaryAndFollower(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "a", "b")
	primary := c.elect()
	follower := map[themis.NodeID]themis.NodeID{"a": "b", "b": "a"}[primary]
	set := func(id themis.NodeID, room Room) { c.room.Store(id, room) }
	c.mustWrite(primary, put("k", "1"))
	set(primary, Little)
	began := time.Now()
	if _, err := c.write(primary, put("k", "2")); themis.CodeOf(err) != themis.ReadOnly || time.Since(began) > time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	set(primary, Enough)
	set(follower, None)
	last := c.node(follower).log.Last()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := c.node(primary).Write(ctx, put("k", "3")); themis.CodeOf(err) != themis.OutcomeUnknown {
		t.Errorf("a write that waits for a follower without room: %v", err)
	}
	if now := c.node(follower).log.Last(); now != last {
		t.Errorf("a follower without room took frames: %v, then %v", last, now)
	}
	for until := time.Now().Add(election.ReadLease + time.Second); time.Now().Before(until); {
		if got, err := c.read(primary, "k"); err != nil || got != "1" {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	set(follower, Enough)
	c.eventually("the write is confirmed", func() bool { got, err := c.read(primary, "k"); return err == nil && got == "3" })
}

// What a newer version wrote is not damaged: a copy whose promise is opened after a rollback keeps all that it has, and is not opened.
func TestPromiseOfANewerVersion(t *testing.T) {
	dir := t.TempDir()
	newer := struct {
		promiseFile
		Later string `json:"later"`
		Sum   string `json:"crc32c"`
	}{promiseFile: promiseFile{Format: 1, Cluster: "c", Shard: "shard-1", Storage: member("a").Storage, Promised: 7}, Later: "x"}
	b, err := themis.Seal(&newer, &newer.Sum)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, promiseName)
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(Options{Dir: dir, Cluster: "c", Shard: "shard-1", Epoch: 1, Self: member("a")})
	if themis.CodeOf(err) != themis.Unimplemented || !strings.Contains(err.Error(), "UPGRADE_NEEDED") {
		t.Errorf("opened: %v", err)
	}
	if now, err := os.ReadFile(name); err != nil || string(now) != string(b) {
		t.Errorf("now %s: %v", now, err)
	}
}

// A flipped bit in what a copy had promised: it is blank, promises what the control plane knows, and is built anew.
func TestDamagedPromiseIsNotRead(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}, "a", "b", "c")
	primary := c.elect()
	c.mustWrite(primary, put("k", "1"))
	victim := map[themis.NodeID]themis.NodeID{"a": "b", "b": "c", "c": "a"}[primary]
	c.stop(victim)
	dir := filepath.Join(c.dir, string(victim))
	name := filepath.Join(dir, promiseName)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// One bit makes of epoch 1 an epoch 0, and of everything that was refused something that is taken.
	bad := strings.Replace(string(b), `"promised_epoch": 1`, `"promised_epoch": 0`, 1)
	if bad == string(b) {
		t.Fatalf("no epoch 1 in %s", b)
	}
	if err := os.WriteFile(name, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Open(Options{Dir: dir, Cluster: "c", Shard: "shard-1", Epoch: 1, Self: member(victim)})
	if err != nil {
		t.Fatal(err)
	}
	s := r.standing()
	if !strings.Contains(s.Blank, promiseName) || s.Promised != 1 {
		t.Errorf("opened as %+v", s)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	c.start(victim)
	c.eventually("it is whole again", func() bool { return c.node(victim).Unfit() == "" })
}

// A copy that begins empty under a record of an epoch refuses all before it: its disk may have promised it before it was emptied.
func TestEmptyCopyPromisesWhatTheRecordSays(t *testing.T) {
	r, err := Open(Options{Dir: t.TempDir(), Cluster: "c", Shard: "shard-1", Epoch: 7, Self: member("a")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	}()
	h := Hello{Cluster: "c", Shard: "shard-1", Epoch: 6, Primary: member("b"), Follower: member("a").Storage}
	if w, _, err := r.Accept(t.Context(), h); err != nil || w.Accepted || w.Promised != 7 {
		t.Errorf("epoch 6: %+v, %v", w, err)
	}
}

// A log that is damaged is moved aside only once the replica is blank on disk: without its log, and with a store that was never
// flushed, it would else look like a new one that may vote.
func TestBlankBeforeItsLogGoes(t *testing.T) {
	dir := t.TempDir()
	open := func() (*Replica, error) {
		return Open(Options{Dir: dir, Cluster: "c", Shard: "shard-1", Fresh: true, Self: member("a")})
	}
	r, err := open()
	if err == nil {
		err = r.close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "wal", "LOG"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range int64(60) { // the move fails, as if the process had ended there
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("wal.damaged-%d", time.Now().Unix()+i), "in-the-way"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := open(); err == nil {
		t.Fatalf("opened: %+v", r.standing())
	}
	if p, there, err := readPromise(dir); err != nil || !there || !strings.Contains(p.Blank, "wal is damaged") {
		t.Errorf("on disk: %+v, %v, %v", p, there, err)
	}
}
