package replication

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// A disk that comes back with less than it had acknowledged in this very reign is blank before it does anything else.
func TestACopyThatForgotIsBlank(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "a", "b")
	primary := c.elect()
	follower := map[themis.NodeID]themis.NodeID{"a": "b", "b": "a"}[primary]
	c.mustWrite(primary, put("k", "1"))
	c.stop(follower)
	dir := filepath.Join(c.dir, string(follower))
	if err := os.CopyFS(dir+".old", os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	c.start(follower)
	for i := range 5 {
		c.mustWrite(primary, put("k", fmt.Sprint(i)))
	}
	c.stop(follower)
	if err := errors.Join(os.RemoveAll(dir), os.Rename(dir+".old", dir)); err != nil {
		t.Fatal(err)
	}
	c.start(follower)
	c.eventually("it is filled anew", func() bool { return c.node(follower).log.Base().Seq > 5 && c.node(follower).Unfit() == "" })
	c.mustWrite(primary, put("k", "last"))
	c.converged(primary, follower)
}

// Less than it has now is no loss where the follower had more than its primary's own disk, or was told to cut it.
func TestAckedInAReign(t *testing.T) {
	r := NewReign(shardOf(themis.Sync, 3, "a", "b", "c"), 0, 1, at(0), DefaultRules())
	b := member("b")
	heard(r, "b", 9, 0, 1)
	if got := r.Acked(b); got != 9 {
		t.Errorf("acknowledged %d, want 9", got)
	}
	r.Reset(b, 7, at(2)) // cut back to what the primary had on disk
	if got := r.Acked(b); got != 7 {
		t.Errorf("after a cut: %d, want 7", got)
	}
	heard(r, "b", 8, 0, 3)
	r.Emptied(b, at(4))
	if got := r.Acked(b); got != 0 || r.seq(b) != 0 {
		t.Errorf("emptied: %d acknowledged, counted for %d, want nothing", got, r.seq(b))
	}
}

// damage flips a bit in the middle of the node's log, as it is being served.
func (c *trio) damage(id themis.NodeID) {
	c.t.Helper()
	segments, err := filepath.Glob(filepath.Join(c.dir, string(id), "wal", "0*"))
	if err != nil || len(segments) == 0 {
		c.t.Fatalf("segments: %v, %v", segments, err)
	}
	slices.Sort(segments)
	f, err := os.OpenFile(segments[0], os.O_RDWR, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 300)
	if err == nil {
		b[0] ^= 4
		_, err = f.WriteAt(b, 300)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		c.t.Fatal(err)
	}
}

// left waits until the node's copy has stopped by itself, and returns why.
func (c *trio) left(id themis.NodeID) error {
	c.t.Helper()
	c.mu.Lock()
	n := c.nodes[id]
	c.mu.Unlock()
	select {
	case err := <-n.done:
		c.mu.Lock()
		delete(c.nodes, id)
		c.mu.Unlock()
		return err
	case <-time.After(20 * time.Second):
		c.t.Fatalf("%s goes on with a damaged log", id)
		return nil
	}
}

// A log that is damaged while it is served: its copy stops, says where, and is blank in its next life, whether it follows or leads.
func TestDamageOfAServedLog(t *testing.T) {
	for _, role := range []string{"follower", "primary"} {
		t.Run(role, func(t *testing.T) {
			c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}, "a", "b", "c")
			for _, id := range []themis.NodeID{"a", "b", "c"} {
				c.stop(id)
			}
			c.scrub = 10 * time.Millisecond
			for _, id := range []themis.NodeID{"a", "b", "c"} {
				c.start(id)
			}
			primary := c.elect()
			for i := range 50 {
				c.mustWrite(primary, put("k", fmt.Sprint(i)))
			}
			victim := primary
			if role == "follower" {
				victim = c.record.ISR[slices.IndexFunc(c.record.ISR, func(m cluster.Member) bool { return m.Node != primary })].Node
			}
			c.damage(victim)
			err := c.left(victim)
			if at, ok := errors.AsType[*wal.CorruptError](err); !ok || at.File == "" || at.Offset == 0 || at.Offset > 300 {
				t.Errorf("it stopped, and does not say where its log is damaged: %v", err)
			}
			c.start(victim)
			if why := c.node(victim).Unfit(); why == "" {
				t.Error("it counts again with a damaged log")
			}
			if role == "primary" {
				primary = c.elect()
			}
			c.eventually("it is filled anew", func() bool { return c.node(victim).Unfit() == "" })
			c.mustWrite(primary, put("k", "last"))
			c.converged("a", "b", "c")
		})
	}
}

// Where nobody else could lead, a primary with a damaged log goes on from its store, fills the other from it, and leaves then.
func TestDamagedPrimaryFillsItsSuccessor(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 2}, "a", "b")
	for _, id := range []themis.NodeID{"a", "b"} {
		c.stop(id)
	}
	c.scrub = 10 * time.Millisecond
	for _, id := range []themis.NodeID{"a", "b"} {
		c.start(id)
	}
	primary := c.elect()
	follower := map[themis.NodeID]themis.NodeID{"a": "b", "b": "a"}[primary]
	for i := range 50 {
		c.mustWrite(primary, put("k", fmt.Sprint(i)))
	}
	c.stop(follower)
	if err := os.RemoveAll(filepath.Join(c.dir, string(follower))); err != nil {
		t.Fatal(err)
	}
	c.damage(primary)
	c.eventually("the primary has noticed", func() bool { return c.node(primary).Status().Damage != "" })
	if got, err := c.read(primary, "k"); err != nil || got == "" {
		t.Errorf("a read meanwhile: %q, %v", got, err)
	}
	c.start(follower)
	if err := c.left(primary); themis.CodeOf(err) != themis.Corrupt {
		t.Errorf("it stopped for %v", err)
	}
	c.eventually("the other is whole", func() bool { return c.node(follower).Unfit() == "" })
	c.start(primary)
	next := c.elect()
	if next != follower {
		t.Errorf("%s leads", next)
	}
	c.mustWrite(next, put("k", "last"))
	c.converged(primary, follower)
}
