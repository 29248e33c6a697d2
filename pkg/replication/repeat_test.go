package replication

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// A primary that is crowned with much still to apply answers a repeated request from what was done, and keeps conditions
// against all that was acknowledged.
func TestANewReignKnowsWhatWasDone(t *testing.T) {
	const writers, each = 64, 150
	name := func(i, n int) string { return fmt.Sprintf("k-%d-%d", i, n) }
	for what, ask := range map[string]func(w *Write){
		"repeated":           func(w *Write) { w.RequestID = name(7, each-1) },
		"if none is there":   func(w *Write) { w.Changes[0].IfAbsent = true },
		"at another version": func(w *Write) { w.Changes[0].IfVersion = 1 },
	} {
		t.Run(what, func(t *testing.T) {
			c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 1}, "node-1")
			c.elect()
			var all sync.WaitGroup
			last := make([]Written, writers)
			for i := range writers {
				all.Go(func() {
					for n := range each {
						w := put(name(i, n), "{}")
						w.RequestID = name(i, n)
						last[i] = c.mustWrite("node-1", w)
					}
				})
			}
			all.Wait()
			c.stop("node-1")
			c.start("node-1")
			c.crownAgain("node-1")
			w := put(name(7, each-1), "{}")
			ask(&w)
			var got Written
			err := error(themis.Errorf(themis.NoPrimary, "not asked yet"))
			for deadline := time.Now().Add(20 * time.Second); themis.CodeOf(err) == themis.NoPrimary && time.Now().Before(deadline); {
				got, err = c.write("node-1", w)
			}
			switch {
			case w.RequestID != "" && (err != nil || got.Seq != last[7].Seq):
				t.Fatalf("done at seq %d, and again at seq %d: %v", last[7].Seq, got.Seq, err)
			case w.RequestID == "" && themis.CodeOf(err) != themis.VersionMismatch:
				t.Fatalf("the condition was not kept: %v", err)
			}
		})
	}
}

// crownAgain crowns a node that restarted, without asking anybody: it has the only copy.
func (c *trio) crownAgain(id themis.NodeID) {
	c.t.Helper()
	c.mu.Lock()
	boot, record := c.nodes[id].boot, c.record
	c.mu.Unlock()
	next, err := record.Crown(record.Primary, boot, 0, false)
	if err == nil {
		_, err = c.ChangeShard(context.Background(), record, next)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// A request that was confirmed on fewer copies than it asked for stays so when it is repeated, until they have it.
func TestARepeatedRequestWaitsForItsCopies(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Sync, K: 1, RF: 3}, "a", "b", "c")
	primary := c.elect()
	c.mustWrite(primary, put("warm", "1"))
	out := themis.NodeID("c")
	if primary == out {
		out = "b"
	}
	c.stop(out)
	c.mu.Lock()
	c.failed = map[themis.NodeID]bool{out: true}
	c.mu.Unlock()
	c.publish()
	c.eventually("it is out of the in-sync set", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.record.ISR) == 2
	})
	w := put("k", "1")
	w.RequestID, w.Concern = "id-1", themis.ConcernAll
	for try := range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		got, err := c.node(primary).Write(ctx, w)
		cancel()
		if themis.CodeOf(err) != themis.OutcomeUnknown || try > 0 && !strings.Contains(err.Error(), "only 2 of the 3 copies") {
			t.Errorf("try %d: %+v, %v", try, got, err)
		}
	}
	c.mu.Lock()
	c.failed = nil
	c.mu.Unlock()
	c.start(out)
	c.publish()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if got, err := c.node(primary).Write(ctx, w); err != nil || got.Concern != themis.ConcernAll {
		t.Errorf("with all copies: %+v, %v", got, err)
	}
}

// The same request is made twice at once, and the time of the first one ends before it has its place: the second one goes on.
func TestATwinHasItsOwnTime(t *testing.T) {
	c := newTrio(t, cluster.Policy{Mode: themis.Async, RF: 1}, "a")
	r := c.node(c.elect())
	c.mustWrite("a", put("warm", "1"))
	rg := r.leading.Load()
	w := put("k", "1")
	w.RequestID = "id-1"
	payload := themis.AppendOps(nil, []themis.Op{w.Changes[0].Op})
	first := &pending{id: w.RequestID, digest: digestOf(payload), done: make(chan struct{})}
	rg.mu.Lock()
	rg.requests[w.RequestID] = first
	rg.mu.Unlock()
	got := make(chan error, 1)
	go func() {
		_, err := r.Write(t.Context(), w)
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("not a twin: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	rg.abandon(w.RequestID, first, nil, themis.Errorf(themis.Deadline, "time was over"))
	if err := <-got; err != nil {
		t.Error(err)
	}
}
