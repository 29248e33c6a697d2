package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

func TestRequestsGoStraightToThePrimary(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	ctx := testContext(t)
	for i := range 40 {
		key, value := fmt.Sprint("k", i), fmt.Appendf(nil, ` {"i": %d}`, i)
		put, err := c.Put(ctx, "things", key, value)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Get(ctx, "things", key)
		if err != nil || string(got.Value) != string(value) || got.Version != put.Results[0].Version || got.Shard != put.Shard {
			t.Fatalf("get %s: %+v, %v; put answered %+v", key, got, err, put)
		}
	}
	for _, n := range w.nodes {
		if n.passedOn != 0 || n.writes == 0 {
			t.Errorf("%s led %d writes and passed on %d requests; want some, and none", n.id, n.writes, n.passedOn)
		}
	}
	if _, err := c.Delete(ctx, "things", "k1"); err != nil {
		t.Fatal(err)
	}
	_, err := c.Get(ctx, "things", "k1")
	wantCode(t, err, themis.NotFound)
	_, err = c.Delete(ctx, "things", "k1")
	wantCode(t, err, themis.NotFound)
}

func TestConditions(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	ctx := testContext(t)
	first, err := c.Put(ctx, "things", "a", []byte("1"), IfNoneMatch())
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Put(ctx, "things", "a", []byte("2"), IfNoneMatch())
	wantCode(t, err, themis.VersionMismatch)
	second, err := c.Put(ctx, "things", "a", []byte("2"), IfMatch(first.Results[0].Version))
	if err != nil || !second.Results[0].Existed {
		t.Fatalf("%+v, %v", second, err)
	}
	_, err = c.Delete(ctx, "things", "a", IfMatch(first.Results[0].Version))
	wantCode(t, err, themis.VersionMismatch)
}

func TestBadRequestsAreRefusedAtOnce(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	ctx := testContext(t)
	keys := []string{w.keysOf("shard-1", 1)[0], w.keysOf("shard-2", 1)[0]}
	for name, x := range map[string]struct {
		do   func() error
		want themis.Code
	}{
		"collection": {func() error { _, err := c.Put(ctx, "1x", "a", nil); return err }, themis.InvalidArgument},
		"system":     {func() error { _, err := c.Get(ctx, "_x", "a"); return err }, themis.PermissionDenied},
		"key":        {func() error { _, err := c.Get(ctx, "x", ""); return err }, themis.InvalidArgument},
		"json":       {func() error { _, err := c.Put(ctx, "x", "a", []byte("{")); return err }, themis.InvalidArgument},
		"size": {func() error {
			_, err := c.Put(ctx, "x", "a", make([]byte, themis.MaxDocumentBytes+1))
			return err
		}, themis.TooLarge},
		"none": {func() error { _, err := c.Write(ctx, "x", nil); return err }, themis.InvalidArgument},
		"two shards": {func() error {
			_, err := c.Write(ctx, "x", []Op{{Key: keys[0], Value: []byte("1")}, {Key: keys[1], Value: []byte("1")}})
			return err
		}, themis.InvalidArgument},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, x.do(), x.want) })
	}
}

func TestOneWriteOfOneShardIsOneEntry(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	ctx := testContext(t)
	keys := w.keysOf("shard-2", 3)
	got, err := c.Write(ctx, "things", []Op{{Key: keys[0], Value: []byte("1")}, {Key: keys[1], Value: []byte("2")}})
	if err != nil || len(got.Results) != 2 || got.Shard != "shard-2" {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = c.Write(ctx, "things", []Op{{Key: keys[0], Value: []byte("3")}, {Key: keys[2], Delete: true}})
	wantCode(t, err, themis.NotFound)
	if d, err := c.Get(ctx, "things", keys[0]); err != nil || string(d.Value) != "1" {
		t.Fatalf("a part of a refused write was done: %s, %v", d.Value, err)
	}
}

// A write whose answer is lost is sent again under its id: one effect, the first result.
func TestLostAnswerIsAskedForAgain(t *testing.T) {
	w := newWorld(t)
	c, x := w.client()
	ctx := testContext(t)
	key := w.keysOf("shard-1", 1)[0]
	p := w.primary("shard-1")
	var lost atomic.Bool
	p.set(func() {
		p.after = func() {
			if lost.CompareAndSwap(false, true) {
				x.cut(p.addr)
			}
		}
	})
	got, err := c.Put(ctx, "things", key, []byte(`{}`), IfNoneMatch())
	if err != nil || !lost.Load() {
		t.Fatalf("%+v, %v; an answer was lost: %v", got, err, lost.Load())
	}
	if n := w.effect(key); n != 1 {
		t.Fatalf("the write took effect %d times", n)
	}
}

// Once an attempt had no answer, no refusal of a repetition says what became of it.
func TestUnknownStaysUnknown(t *testing.T) {
	w := newWorld(t)
	c, x := w.client(func(o *Options) { o.Timeout = 400 * time.Millisecond })
	key := w.keysOf("shard-1", 1)[0]
	p := w.primary("shard-1")
	p.set(func() {
		p.after = func() { // done, and then everything is out of reach
			for _, n := range w.nodes {
				x.bar(n.addr)
			}
		}
	})
	_, err := c.Put(t.Context(), "things", key, []byte(`{}`))
	wantCode(t, err, themis.OutcomeUnknown)
	if n := w.effect(key); n != 1 {
		t.Fatalf("the write took effect %d times", n)
	}
}

func TestSurelyNotDoneIsSaidSo(t *testing.T) {
	w := newWorld(t)
	c, x := w.client(func(o *Options) { o.Timeout = 300 * time.Millisecond })
	if _, err := c.Map(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		x.bar(n.addr)
	}
	_, err := c.Put(t.Context(), "things", "a", []byte(`{}`))
	wantCode(t, err, themis.Unreachable)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = c.Put(ctx, "things", "a", []byte(`{}`))
	if code := themis.CodeOf(err); code != themis.Unreachable && code != themis.Deadline {
		t.Fatalf("%v is %s", err, code)
	}
}

func TestElectionIsWaitedOut(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	ctx := testContext(t)
	key := w.keysOf("shard-3", 1)[0]
	if _, err := c.Put(ctx, "things", key, []byte("1")); err != nil {
		t.Fatal(err)
	}
	old := w.primary("shard-3")
	old.kill()
	w.dethrone("shard-3")
	time.AfterFunc(100*time.Millisecond, func() { w.crown("shard-3", 0) })
	if _, err := c.Put(ctx, "things", key, []byte("2")); err != nil {
		t.Fatal(err)
	}
	if d, err := c.Get(ctx, "things", key); err != nil || string(d.Value) != "2" {
		t.Fatalf("%s, %v", d.Value, err)
	}
}

func TestNoPrimaryInTimeIsSaid(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client(func(o *Options) { o.Timeout = 300 * time.Millisecond })
	if _, err := c.Map(testContext(t)); err != nil {
		t.Fatal(err)
	}
	w.dethrone("shard-3")
	for range 10 {
		_, err := c.Put(t.Context(), "things", w.keysOf("shard-3", 1)[0], []byte("1"))
		if themis.CodeOf(err) == themis.NoPrimary {
			return
		}
		wantCode(t, err, themis.OutcomeUnknown) // the time ended while an attempt was under way
	}
	t.Fatal("ten times the time ended while an attempt was under way")
}

// A primary that hangs holds a request up only until the map names another one.
func TestHungPrimaryIsLeft(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	ctx := testContext(t)
	key := w.keysOf("shard-1", 1)[0]
	if _, err := c.Put(ctx, "things", key, []byte("1")); err != nil {
		t.Fatal(err)
	}
	p := w.primary("shard-1")
	p.halt()
	began := time.Now()
	time.AfterFunc(100*time.Millisecond, func() { w.crown("shard-1", 1) })
	if _, err := c.Put(ctx, "things", key, []byte("2")); err != nil {
		t.Fatal(err)
	}
	d, err := c.Get(ctx, "things", key)
	if err != nil || string(d.Value) != "2" {
		t.Fatalf("%s, %v", d.Value, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("it took %s", took)
	}
}

// A primary that is cut off from the control plane, and was replaced, answers clients still, and has no newer map: the others are asked,
// though it is the one that this client asks for the map.
func TestNodeThatIsCutOffIsLeft(t *testing.T) {
	w := newWorld(t)
	key := w.keysOf("shard-1", 1)[0]
	for cut := range w.nodes {
		c, _ := w.client()
		ctx := testContext(t)
		p := w.primary("shard-1")
		if _, err := c.Put(ctx, "things", key, []byte("1")); err != nil {
			t.Fatal(err)
		}
		c.alive.Store(&place{p.addr, p.id})
		old := w.truth()
		p.set(func() { p.old = old })
		w.crown("shard-1", (cut+1)%len(w.nodes))
		writer := c.NewWriter(WriterOptions{})
		defer writer.Close()
		var x tally
		if err := writer.Send(ctx, "things", key, []byte("2"), x.note); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(ctx, 8*time.Second)
		defer cancel()
		if d, err := c.Get(short, "things", key); err != nil {
			t.Errorf("with %s cut off: %s, %v", p.id, d.Value, err)
		}
		if err := writer.Flush(short); err != nil {
			t.Error(err)
		}
		if done, errs := x.counts(); done != 1 {
			t.Errorf("with %s cut off: %d written, %v", p.id, done, errs)
		}
		p.set(func() { p.old = nil })
	}
}

func TestStaleRouteIsCorrected(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client(func(o *Options) { o.Refresh = time.Hour })
	ctx := testContext(t)
	key := w.keysOf("shard-1", 1)[0]
	if _, err := c.Put(ctx, "things", key, []byte("1")); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	r := w.table.Find(token("", key))
	r.Shard = "shard-2"
	next, err := w.table.With(r)
	if err != nil {
		t.Fatal(err)
	}
	w.table = next
	w.revision++
	w.mu.Unlock()
	got, err := c.Put(ctx, "things", key, []byte("2"))
	if err != nil || got.Shard != "shard-2" {
		t.Fatalf("%+v, %v", got, err)
	}
}

// A primary that only this client can't reach is reached through another node.
func TestDetour(t *testing.T) {
	w := newWorld(t)
	c, x := w.client()
	ctx := testContext(t)
	if _, err := c.Map(ctx); err != nil {
		t.Fatal(err)
	}
	p := w.primary("shard-1")
	x.bar(p.addr)
	if _, err := c.Put(ctx, "things", w.keysOf("shard-1", 1)[0], []byte("1")); err != nil {
		t.Fatal(err)
	}
	if n := w.nodes[1].passedOn + w.nodes[2].passedOn; n != 1 {
		t.Fatalf("%d requests were passed on", n)
	}
}

func TestNewFindsALivingNode(t *testing.T) {
	w := newWorld(t)
	w.nodes[0].halt()
	w.nodes[1].kill()
	c, _ := w.client()
	if p := c.alive.Load(); p == nil || p.addr != w.nodes[2].addr {
		t.Fatalf("%v answers", p)
	}
	r, err := c.Report(testContext(t))
	if err != nil || r.Cluster != "demo" {
		t.Fatalf("%+v, %v", r, err)
	}
}

func TestNewSaysWhyNobodyAnswers(t *testing.T) {
	w := newWorld(t)
	for _, n := range w.nodes {
		n.kill()
	}
	own := issue(t, w.ca, pki.Request{Client: "tester", Capabilities: []string{pki.Read}})
	_, err := New(testContext(t), Options{Source: own, Endpoints: []string{w.nodes[0].addr, w.nodes[1].addr}})
	wantCode(t, err, themis.Unreachable)
	for _, n := range w.nodes[:2] {
		if !strings.Contains(err.Error(), n.addr) {
			t.Errorf("%v does not name %s", err, n.addr)
		}
	}
	_, err = New(testContext(t), Options{Source: own})
	wantCode(t, err, themis.InvalidArgument)

	w.nodes[0].start()
	foreign := issue(t, newCA(t), pki.Request{Client: "tester", Capabilities: []string{pki.Read}})
	_, err = New(testContext(t), Options{Source: foreign, Endpoints: []string{w.nodes[0].addr, w.nodes[1].addr}})
	wantCode(t, err, themis.Unauthenticated)
}

func TestNodeWithoutClusterIsNotTheLastWord(t *testing.T) {
	w := newWorld(t)
	w.nodes[0].set(func() { w.nodes[0].unjoined = true })
	c, _ := w.client()
	if m, err := c.Map(testContext(t)); err != nil || m.Cluster != "demo" {
		t.Fatalf("%+v, %v", m, err)
	}
}

func TestChangeIsNotSentTwice(t *testing.T) {
	w := newWorld(t)
	c, x := w.client()
	w.nodes[0].set(func() { w.nodes[0].after = func() { x.cut(w.nodes[0].addr) } })
	err := c.Act(testContext(t), "cluster.init", InitRequest{}, false, nil)
	wantCode(t, err, themis.OutcomeUnknown)
	if n := w.nodes[0].acts + w.nodes[1].acts + w.nodes[2].acts; n != 1 {
		t.Fatalf("the verb was run %d times", n)
	}
	w.nodes[0].kill()
	if err := c.Act(testContext(t), "cluster.init", InitRequest{}, false, nil); err != nil {
		t.Fatalf("a node that is down keeps others from being asked: %v", err)
	}
}

func TestApplyConfigAndEvents(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	ctx := testContext(t)
	got, err := c.ApplyConfig(ctx, "a.yaml", []byte("x: 1"), true)
	if err != nil || got.Applied || got.Version != 7 || string(got.Changes) != `[{"key":"a"}]` {
		t.Fatalf("%+v, %v", got, err)
	}
	w.mu.Lock()
	w.events = []cluster.Event{{ID: "1", HLC: 10, Action: "a"}, {ID: "2", HLC: 20, Action: "b"}}
	w.mu.Unlock()
	list, err := c.Events(ctx, 15, 0, 0)
	if err != nil || len(list) != 1 || list[0].Action != "b" {
		t.Fatalf("%+v, %v", list, err)
	}
}

func TestWatchGoesOnAtAnotherNode(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	w.mu.Lock()
	now := themis.HLCAt(time.Now())
	w.events = []cluster.Event{{ID: "1", HLC: now, Action: "a"}}
	w.mu.Unlock()
	ctx := testContext(t)
	var seen []string
	lost, after, killed := 0, 0, false
	for f, err := range c.Watch(ctx, now-1) {
		if err != nil {
			lost++
			continue
		}
		if f.Report.Cluster != "demo" {
			t.Fatalf("%+v", f)
		}
		for _, e := range f.Events {
			seen = append(seen, e.Action)
		}
		switch {
		case !killed && len(seen) == 1:
			killed = true
			w.nodes[slices.IndexFunc(w.nodes, func(n *fakeNode) bool { return n.addr == c.alive.Load().addr })].kill()
			w.mu.Lock()
			w.events = append(w.events, cluster.Event{ID: "2", HLC: now, Action: "b"}) // no later than the first
			w.mu.Unlock()
		case lost > 0:
			after++
		}
		if len(seen) == 2 && after > 2 {
			break
		}
	}
	if strings.Join(seen, "") != "ab" || lost == 0 {
		t.Fatalf("events %v, %d errors; want a and b once each, and to be told of the loss", seen, lost)
	}
}

// What happens while a watch is lost is told when it is made anew, also where no event was told before.
func TestWatchTellsWhatHappenedWhileItWasLost(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	w.events = []cluster.Event{{ID: "0", HLC: themis.HLCAt(time.Now()), Action: "before"}}
	var seen []string
	killed, after := false, 0
	for f, err := range c.Watch(testContext(t), 0) {
		if err != nil {
			continue
		}
		for _, e := range f.Events {
			seen = append(seen, e.Action)
		}
		if !killed {
			killed = true
			w.nodes[slices.IndexFunc(w.nodes, func(n *fakeNode) bool { return n.addr == c.alive.Load().addr })].kill()
			w.mu.Lock()
			w.events = append(w.events, cluster.Event{ID: "1", HLC: f.HLC + 1, Action: "meanwhile"})
			w.mu.Unlock()
			continue
		}
		if after++; after == 20 {
			break
		}
	}
	if !slices.Equal(seen, []string{"meanwhile"}) {
		t.Errorf("told %v", seen)
	}
}

func TestClosedClient(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatalf("a second time: %v", err)
	}
	_, err := c.Put(testContext(t), "things", "a", []byte("1"))
	wantCode(t, err, themis.Unreachable)
	_, err = c.Report(testContext(t))
	wantCode(t, err, themis.Unreachable)
}

// TestFoundingIsWaitedOut: right after a cluster was founded its nodes may not know its map yet; requests wait for that inside their time.
func TestFoundingIsWaitedOut(t *testing.T) {
	for name, ask := range map[string]func(context.Context, *Client) error{
		"put": func(ctx context.Context, c *Client) error {
			_, err := c.Put(ctx, "things", "a", []byte(`1`))
			return err
		},
		"get": func(ctx context.Context, c *Client) error { _, err := c.Get(ctx, "things", "here"); return err },
		"scan": func(ctx context.Context, c *Client) error {
			for _, err := range c.Scan(ctx, "things", ScanOptions{}) {
				if err != nil {
					return err
				}
			}
			return nil
		},
		"writer": func(ctx context.Context, c *Client) error {
			w := c.NewWriter(WriterOptions{})
			defer w.Close()
			_, err := w.Put(ctx, "things", "b", []byte(`1`))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first, _ := w.client()
			if _, err := first.Put(testContext(t), "things", "here", []byte(`1`)); err != nil {
				t.Fatal(err)
			}
			joined := func(yes bool) {
				for _, n := range w.nodes {
					n.mu.Lock()
					n.unjoined = !yes
					n.mu.Unlock()
				}
			}
			joined(false)
			c, _ := w.client()
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			defer cancel()
			wantCode(t, ask(ctx, c), themis.NoPrimary)
			if ctx.Err() == nil {
				t.Error("it gave up before its time was over")
			}

			done := make(chan error, 1)
			go func() { done <- ask(testContext(t), c) }()
			joined(true)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// A primary that this client could not reach itself is told as a node of the cluster would tell it: with the cluster's name.
func TestUnreachedPrimaryNamesItsCluster(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	m, err := c.Map(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	find := func(*Map) (themis.ShardID, error) { return "shard-1", nil }
	cause := themis.Errorf(themis.Unreachable, "node-1 refused the connection")
	p := ProblemOf(led(cause, m, true, find))
	if p.Code != themis.NoPrimary || p.Cluster != "demo" || p.Shard != "shard-1" || p.Detail != "the primary of shard-1 can't be reached: node-1 refused the connection" {
		t.Errorf("%+v", p)
	}
	if err := led(cause, m, true, find); !errors.Is(err, cause) {
		t.Errorf("the cause is lost: %v", err)
	}
}
