package client

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// tally counts outcomes.
type tally struct {
	mu   sync.Mutex
	done int
	errs []error
}

func (x *tally) note(_ Written, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		x.errs = append(x.errs, err)
		return
	}
	x.done++
}

func (x *tally) counts() (int, []error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.done, x.errs
}

func send(t *testing.T, w *Writer, n int, done func(Written, error)) {
	t.Helper()
	for i := range n {
		if err := w.Send(testContext(t), "things", fmt.Sprint("k", i), fmt.Appendf(nil, "%d", i), done); err != nil {
			t.Fatal(err)
		}
	}
}

func checkOnce(t *testing.T, w *world, n int) {
	t.Helper()
	for i := range n {
		if got := w.effect(fmt.Sprint("k", i)); got != 1 {
			t.Errorf("k%d was written %d times", i, got)
		}
	}
}

func TestWriterWritesEverythingOnce(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	p := c.NewWriter(WriterOptions{InFlight: 16})
	defer p.Close()
	var x tally
	send(t, p, 500, x.note)
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if done, errs := x.counts(); done != 500 || len(errs) > 0 {
		t.Fatalf("%d done, %v", done, errs)
	}
	checkOnce(t, w, 500)
	for _, n := range w.nodes {
		if n.passedOn != 0 {
			t.Errorf("%s passed on %d writes", n.id, n.passedOn)
		}
	}
	got, err := p.Put(testContext(t), "things", "one", []byte(`1`), RequestID("abc"))
	if err != nil || got.RequestID != "abc" || got.Results[0].Version == "" {
		t.Fatalf("%+v, %v", got, err)
	}
	_, err = p.Put(testContext(t), "things", "one", []byte(`{`))
	wantCode(t, err, themis.InvalidArgument)
	_, err = p.Put(testContext(t), "things", "one", []byte(`2`), IfNoneMatch())
	wantCode(t, err, themis.VersionMismatch)
}

// Writes of one document are done in the order in which they were given.
func TestWriterKeepsTheOrderOfADocument(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	p := c.NewWriter(WriterOptions{})
	defer p.Close()
	var x tally
	for i := range 300 {
		if err := p.Send(testContext(t), "things", fmt.Sprint("k", i%3), fmt.Appendf(nil, "%d", i), x.note); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for k := range 3 {
		if d, err := c.Get(testContext(t), "things", fmt.Sprint("k", k)); err != nil || string(d.Value) != fmt.Sprint(297+k) {
			t.Errorf("k%d is %s, %v", k, d.Value, err)
		}
	}
}

func TestWriterSendsAgainWhatGotNoAnswer(t *testing.T) {
	w := newWorld(t)
	c, x := w.client()
	p := c.NewWriter(WriterOptions{InFlight: 64})
	defer p.Close()
	var n atomic.Int64
	for _, node := range w.nodes {
		node.set(func() {
			node.after = func() {
				if n.Add(1)%50 == 0 {
					x.cut(node.addr)
				}
			}
		})
	}
	var out tally
	send(t, p, 400, out.note)
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if done, errs := out.counts(); done != 400 || len(errs) > 0 {
		t.Fatalf("%d done, %v", done, errs)
	}
	checkOnce(t, w, 400)
}

func TestWriterLeavesAHungPrimary(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	p := c.NewWriter(WriterOptions{InFlight: 64})
	defer p.Close()
	if _, err := p.Put(testContext(t), "things", "first", []byte("1")); err != nil {
		t.Fatal(err)
	}
	w.nodes[0].halt()
	time.AfterFunc(100*time.Millisecond, func() {
		for id, s := range w.truth().shards {
			if s.Primary.Node == "node-1" {
				w.crown(id, 1)
			}
		}
	})
	var out tally
	send(t, p, 200, out.note)
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if done, errs := out.counts(); done != 200 || len(errs) > 0 {
		t.Fatalf("%d done, %v", done, errs)
	}
	w.nodes[0].release()
	checkOnce(t, w, 200)
}

// TestFlushIsBehindTheLastOutcome: whoever has flushed has been told all.
func TestFlushIsBehindTheLastOutcome(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	p := c.NewWriter(WriterOptions{})
	defer p.Close()
	var told atomic.Bool
	err := p.Send(testContext(t), "things", "a", []byte("1"), func(Written, error) {
		time.Sleep(50 * time.Millisecond)
		told.Store(true)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Flush(testContext(t)); err != nil || !told.Load() {
		t.Fatalf("flushed: %v, told: %v", err, told.Load())
	}
}

func TestWriterGoesOnAfterAKill(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	p := c.NewWriter(WriterOptions{InFlight: 32})
	defer p.Close()
	var out tally
	send(t, p, 100, out.note)
	w.nodes[1].kill()
	time.AfterFunc(50*time.Millisecond, func() {
		for id, s := range w.truth().shards {
			if s.Primary.Node == "node-2" {
				w.crown(id, 2)
			}
		}
	})
	for i := range 100 {
		if err := p.Send(testContext(t), "things", fmt.Sprint("k", 100+i), []byte("1"), out.note); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if done, errs := out.counts(); done != 200 || len(errs) > 0 {
		t.Fatalf("%d done, %v", done, errs)
	}
	checkOnce(t, w, 200)
}

// Whoever fills the pipeline waits, inside his time, and what is under way is bounded.
func TestWriterIsBounded(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client(func(o *Options) { o.Timeout = 10 * time.Second })
	p := c.NewWriter(WriterOptions{InFlight: 4})
	defer p.Close()
	if _, err := c.Map(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		n.halt()
	}
	var out tally
	send(t, p, 4, out.note)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	wantCode(t, p.Send(ctx, "things", "fifth", []byte("1"), out.note), themis.Deadline)
	wantCode(t, p.Flush(ctx), themis.Deadline)
	for _, n := range w.nodes {
		n.release()
	}
	if err := p.Flush(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if w.effect("fifth") != 0 {
		t.Fatal("a write that was refused has been done")
	}
	large := c.NewWriter(WriterOptions{Bytes: 8})
	defer large.Close()
	if _, err := large.Put(testContext(t), "things", "large", []byte(`"longer than all that may be under way"`)); err != nil {
		t.Fatal(err)
	}
}

func TestWriterTellsWhatIsNotKnown(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	p := c.NewWriter(WriterOptions{Timeout: 200 * time.Millisecond})
	if _, err := p.Put(testContext(t), "things", "first", []byte("1")); err != nil {
		t.Fatal(err)
	}
	key := w.keysOf("shard-1", 2)
	n := w.primary("shard-1")
	n.set(func() {
		n.after = func() { // done, and then the node hangs
			n.halt()
			_ = n.gate(context.Background()) //nolint:errcheck // it ends with release
		}
	})
	_, err := p.Put(testContext(t), "things", key[0], []byte("1"))
	wantCode(t, err, themis.OutcomeUnknown)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = p.Put(ctx, "things", key[1], []byte("1"))
	wantCode(t, err, themis.OutcomeUnknown)
	n.release()
	p.Close()
	_, err = p.Put(testContext(t), "things", "late", []byte("1"))
	wantCode(t, err, themis.Unreachable)
}

func TestWriterCloseTellsEveryOutcome(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	p := c.NewWriter(WriterOptions{})
	if _, err := c.Map(testContext(t)); err != nil {
		t.Fatal(err)
	}
	w.nodes[0].halt()
	w.dethrone("shard-2")
	var out tally
	send(t, p, 60, out.note)
	eventually(t, "the rest", func() bool { done, _ := out.counts(); return done > 0 })
	p.Close()
	done, errs := out.counts()
	if done+len(errs) != 60 || len(errs) == 0 {
		t.Fatalf("%d done, %d errors of 60", done, len(errs))
	}
	for _, err := range errs {
		if code := themis.CodeOf(err); code != themis.OutcomeUnknown && code != themis.Unreachable {
			t.Errorf("%v is %s", err, code)
		}
	}
}

// A message that was given up before it was handed over is surely not done, so it must never be handed over.
func TestParcelIsTakenOnce(t *testing.T) {
	p := &parcel{}
	wantCode(t, p.lost(errClosed), themis.Unreachable)
	if p.take() {
		t.Fatal("given up, and handed over all the same")
	}
	p = &parcel{}
	p.take()
	wantCode(t, p.lost(errClosed), themis.OutcomeUnknown)
}
