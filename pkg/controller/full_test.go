package controller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// disks gives the nodes of a life disks of their own, on which the copies take room and grow while their shards take writes. What
// heartbeats say of them is up to ten seconds old, but that one is full they say at once.
type disks struct {
	l        *life
	capacity map[themis.NodeID]themis.Bytes
	reserve  themis.Bytes
	size     map[themis.ShardID]themis.Bytes
	grows    themis.Bytes // each shard that takes writes, in each tick
	told     time.Time
	lag      time.Duration // what a copy took is freed so long after it left
	left     []gone
	had      map[themis.NodeID][]themis.ShardID
}

// gone is a copy that left a disk.
type gone struct {
	node  themis.NodeID
	shard themis.ShardID
	at    time.Time
}

func (d *disks) free(id themis.NodeID) themis.Bytes {
	free := d.capacity[id]
	for shard, size := range d.size {
		if _, has := d.l.w.View.Shards[shard].Replica(id); has {
			free -= size
		}
	}
	for _, g := range d.left {
		if g.node == id && d.l.now.Before(g.at.Add(d.lag)) {
			free -= d.size[g.shard]
		}
	}
	return free
}

// leave notes what has left a disk since, and that its being full counts anew.
func (d *disks) leave(id themis.NodeID) {
	has := d.l.w.View.ShardsOn(id)
	for _, shard := range d.had[id] {
		if !slices.Contains(has, shard) {
			d.left = append(d.left, gone{id, shard, d.l.now})
			delete(d.l.w.FullSince, id)
		}
	}
	if d.had == nil {
		d.had = map[themis.NodeID][]themis.ShardID{}
	}
	d.had[id] = has
}

func (d *disks) full(id themis.NodeID) bool { return d.free(id) < d.reserve }

// writable says whether a client's write would be taken.
func (d *disks) writable(s cluster.Shard) bool {
	room := 0
	for _, m := range s.ISR {
		if !d.full(m.Node) {
			room++
		}
	}
	return !s.Primary.IsZero() && !d.full(s.Primary.Node) && room >= 1+s.Have.K
}

func (d *disks) run(long time.Duration) {
	for end := d.l.now.Add(long); d.l.now.Before(end); {
		for _, id := range d.l.w.View.ShardIDs() {
			if d.writable(d.l.w.View.Shards[id]) {
				d.size[id] += d.grows
			}
		}
		d.tell()
		joined := len(d.l.log)
		d.l.run(d.l.tick)
		for _, a := range d.l.log[joined:] {
			j, ok := a.(Join)
			if id := j.Replica.Node; ok && d.free(id) < 2*d.reserve {
				d.l.t.Errorf("%s: with it %s has %d bytes free, and its reserve is %d", a, id, d.free(id), d.reserve)
			}
		}
	}
}

func (d *disks) tell() {
	often := d.l.now.Sub(d.told) >= 10*time.Second
	if often {
		d.told = d.l.now
	}
	for id := range d.capacity {
		d.leave(id)
		a := d.l.w.View.Alive[id]
		was := a.DiskFull
		if a.DiskFull = d.full(id); !a.DiskFull {
			delete(d.l.w.FullSince, id)
		} else if d.l.w.FullSince[id].IsZero() {
			d.l.w.FullSince[id] = d.l.now
		}
		if often || was != a.DiskFull {
			a.DiskFree, a.DiskReserve, a.Copies = d.free(id), d.reserve, map[themis.ShardID]themis.Bytes{}
			for _, shard := range d.l.w.View.ShardsOn(id) {
				a.Copies[shard] = d.size[shard]
			}
		}
		d.l.w.View.Alive[id] = a
	}
}

// TestFullDisksAreNotFilledInTurn: a full disk's copies go where there is room for as long as there is any, so that writes go on, and
// never where they would take the room that is left; in the end nothing moves any more, and the reason is said.
func TestFullDisksAreNotFilledInTurn(t *testing.T) {
	l := newLife(t, four+"node node-5\nnode node-6\nshard shard-4 epoch=0 voters=node-1,node-2\n")
	d := &disks{
		l: l, reserve: 100e6, grows: 20e3, told: noon.Add(-time.Hour), // a megabyte a second
		capacity: map[themis.NodeID]themis.Bytes{"node-1": 700e6, "node-2": 1000e6, "node-3": 2000e6, "node-5": 1500e6, "node-6": 400e6},
		size:     map[themis.ShardID]themis.Bytes{"shard-1": 200e6, "shard-2": 150e6, "shard-3": 100e6, "shard-4": 200e6},
	}
	d.run(15 * time.Minute)
	if count[Join](l) < 2 {
		t.Errorf("%d copies were made anew: %v", count[Join](l), l.log)
	}
	for id, s := range l.w.View.Shards {
		if d.writable(s) {
			t.Errorf("%s still takes writes: the test says nothing of its end", id)
		}
	}
	quiet := len(l.log)
	d.run(2 * time.Minute)
	if len(l.log) != quiet {
		t.Errorf("with no room anywhere: %v", l.log[quiet:])
	}
	said := false
	for _, a := range Step(l.w, l.now, l.c) {
		n, ok := a.(NotDone)
		said = said || ok && n.Rule == "no-room"
	}
	if !said {
		t.Error("nobody says that no node has room")
	}
}

// Of many copies on a full disk only as many leave as make room, though what they took is freed only a while after they left.
func TestNoMoreCopiesLeaveAFullDiskThanMakeRoom(t *testing.T) {
	world := "node node-1\nnode node-2\nnode node-3\nnode node-4\n"
	size := map[themis.ShardID]themis.Bytes{}
	for i := range 5 {
		id := themis.ShardID(fmt.Sprint("shard-", i+1))
		world += fmt.Sprintf("shard %s epoch=0 voters=node-1,node-2\n", id)
		size[id] = 100e6
	}
	l := newLife(t, world)
	d := &disks{
		l: l, reserve: 50e6, told: noon.Add(-time.Hour), lag: 8 * time.Second, size: size,
		capacity: map[themis.NodeID]themis.Bytes{"node-1": 540e6, "node-2": 5000e6, "node-3": 5000e6, "node-4": 5000e6},
	}
	d.run(5 * time.Minute)
	if n := count[Join](l); n != 1 || d.full("node-1") {
		t.Errorf("%d copies left, and %d bytes are free on node-1: %v", n, d.free("node-1"), l.log)
	}
}
