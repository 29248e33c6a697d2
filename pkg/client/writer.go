package client

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// WriterOptions of a Writer.
type WriterOptions struct {
	InFlight int           // documents under way at most; default 512
	Bytes    int64         // of documents under way at most; default 32 MiB. A larger document goes alone
	Timeout  time.Duration // of one document; default Options.Timeout
	Concern  themis.WriteConcern
}

// Writer writes many documents at once: they are pipelined to the primaries over one stream each, where many share an fsync. Writes of
// one document are done in the order in which they were given. It may be used by any number of goroutines.
//
//	Send ── room? ──► its document free? ──► lane to the primary ══ stream ══► answer ──► done
//	                                              ▲                    │ surely not done, or repeatable
//	                                              └─── by a newer map ─┘
type Writer struct {
	c *Client
	o WriterOptions

	count *semaphore.Weighted // documents under way
	bytes *semaphore.Weighted // of those

	in     chan *item
	events chan event
	stop   context.CancelFunc
	life   context.Context //nolint:containedctx // of its goroutines
	wg     sync.WaitGroup

	// Owned by run.
	lanes map[place]*lane
	order map[document][]*item // documents with a write under way, and the writes that wait for it
	again []*item              // to be sent once more
	wire  uint64               // id of the last message
}

type document struct{ collection, key string }

// item is one write on its way.
type item struct {
	doc      document
	op       *nodev1.Operation
	token    themis.Token
	id       string
	concern  themis.WriteConcern
	size     int64
	deadline time.Time
	done     func(Written, error)

	attempt   attempt
	err       error // of the last attempt
	route     route
	notBefore time.Time // of the next attempt, unless the map changes
}

// event is what a lane tells run: an answer, or its end.
type event struct {
	from   *lane
	answer *nodev1.WriteResponse
	err    error // the lane has ended
}

const (
	writerItems = 512
	writerBytes = 32 << 20
	writerTick  = 20 * time.Millisecond
	answerGrace = 500 * time.Millisecond // a node answers by itself at the deadline; this much later nobody waits any more
)

// NewWriter makes a Writer. Close it before the client.
func (c *Client) NewWriter(o WriterOptions) *Writer {
	if o.InFlight <= 0 {
		o.InFlight = writerItems
	}
	if o.Bytes <= 0 {
		o.Bytes = writerBytes
	}
	if o.Timeout <= 0 {
		o.Timeout = c.o.Timeout
	}
	w := &Writer{
		c: c, o: o, count: semaphore.NewWeighted(int64(o.InFlight)), bytes: semaphore.NewWeighted(o.Bytes),
		in: make(chan *item), events: make(chan event), lanes: map[place]*lane{}, order: map[document][]*item{},
	}
	w.life, w.stop = context.WithCancel(c.life)
	w.wg.Go(w.run)
	return w
}

// Put writes one document and waits for the outcome.
func (w *Writer) Put(ctx context.Context, collection, key string, value []byte, opts ...WriteOption) (Written, error) {
	type outcome struct {
		w   Written
		err error
	}
	got := make(chan outcome, 1)
	if err := w.Send(ctx, collection, key, value, func(x Written, err error) { got <- outcome{x, err} }, opts...); err != nil {
		return Written{}, err
	}
	select {
	case o := <-got:
		return o.w, o.err
	case <-ctx.Done():
		return Written{}, themis.Errorf(themis.OutcomeUnknown, "put %s/%s: given up while it was under way: %w", collection, key, ctx.Err())
	}
}

// Send gives one document on its way and returns as soon as there is room for it. done is called once, from a goroutine of the Writer,
// and must neither block nor call the Writer. With an error of Send itself nothing was sent, and done is never called.
func (w *Writer) Send(ctx context.Context, collection, key string, value []byte, done func(Written, error), opts ...WriteOption) error {
	x := write{op: Op{Key: key, Value: value}, concern: w.o.Concern}
	for _, o := range opts {
		o(&x)
	}
	if x.id == "" {
		x.id = NewRequestID()
	}
	wire, err := wireOps(collection, []Op{x.op})
	if err != nil {
		return err
	}
	first, cancel := w.c.limited(ctx)
	defer cancel()
	if _, err := w.c.firstMap(first); err != nil {
		return err
	}
	i := &item{
		doc: document{collection, key}, op: wire[0], token: token(x.op.ShardKey, key), id: x.id, concern: x.concern,
		size: min(int64(len(value)), w.o.Bytes), done: done, attempt: attempt{changes: true},
	}
	full := func(err error) error {
		return themis.Errorf(themis.Deadline, "no room in the pipeline: %w", err)
	}
	if err := w.count.Acquire(ctx, 1); err != nil {
		return full(err)
	}
	if err := w.bytes.Acquire(ctx, i.size); err != nil {
		w.count.Release(1)
		return full(err)
	}
	i.deadline = time.Now().Add(w.o.Timeout)
	select {
	case w.in <- i:
		return nil
	case <-w.life.Done():
		err = errClosed
	case <-ctx.Done():
		err = full(ctx.Err())
	}
	w.release(i)
	return err
}

func (w *Writer) release(i *item) {
	w.bytes.Release(i.size)
	w.count.Release(1)
}

// Flush waits until nothing is under way, and every outcome was told.
func (w *Writer) Flush(ctx context.Context) error {
	if err := w.count.Acquire(ctx, int64(w.o.InFlight)); err != nil {
		return themis.Errorf(themis.Deadline, "writes are under way: %w", err)
	}
	w.count.Release(int64(w.o.InFlight))
	return nil
}

// Close ends what is under way, each write with its outcome so far, and waits for the goroutines. Flush first to let them finish.
func (w *Writer) Close() {
	w.stop()
	w.wg.Wait()
}

// run owns everything that is under way.
func (w *Writer) run() {
	tick := time.NewTicker(writerTick)
	defer tick.Stop()
	for {
		select {
		case i := <-w.in:
			if queue, busy := w.order[i.doc]; busy {
				w.order[i.doc] = append(queue, i)
				continue
			}
			w.order[i.doc] = nil
			w.send(i, time.Now())
		case e := <-w.events:
			w.heard(e)
		case now := <-tick.C:
			w.giveUp(now)
			w.sendAgain(now)
		case <-w.life.Done():
			w.abandon()
			return
		}
	}
}

// send puts an item on the lane of its primary, or among those to be tried again.
func (w *Writer) send(i *item, now time.Time) {
	left := i.deadline.Sub(now)
	if left <= 0 {
		if i.err == nil {
			i.err = themis.Errorf(themis.Deadline, "put %s/%s: no time was left when its turn came", i.doc.collection, i.doc.key)
		}
		w.finish(i, Written{}, i.attempt.verdict(i.err))
		return
	}
	m := w.c.table.Load()
	i.route.m = m
	r, err := w.c.route(m, m.Routing.Shard(i.token), i.attempt.avoid)
	if err != nil {
		i.attempt.tries++
		w.retry(i, err, now)
		return
	}
	i.route = r
	l := w.lanes[r.to]
	if l == nil {
		l = w.open(r.to)
		w.lanes[r.to] = l
	}
	w.wire++
	p := &parcel{item: i, message: &nodev1.WriteRequest{
		Id: w.wire, Collection: i.doc.collection, Operations: []*nodev1.Operation{i.op}, RequestId: i.id, WriteConcern: string(i.concern),
		RoutingVersion: r.version(), ShardId: r.target(), TimeoutMs: uint64(max(1, left.Milliseconds())), //nolint:gosec // positive
	}}
	select {
	case l.out <- p:
		l.pending[w.wire] = p
	default: // full of what was given up, and the node reads nothing
		i.attempt.tries++
		w.retry(i, themis.Errorf(themis.Overloaded, "%s takes no more writes", r.to), now)
	}
}

// retry takes an item to be sent again, unless that can't help.
func (w *Writer) retry(i *item, err error, now time.Time) {
	i.err = err
	if !i.attempt.again(err) || !now.Before(i.deadline) {
		w.finish(i, Written{}, i.attempt.verdict(err))
		return
	}
	i.notBefore = now.Add(i.attempt.pause())
	w.again = append(w.again, i)
	w.c.want()
}

// sendAgain sends what has waited long enough, or what a newer map may help.
func (w *Writer) sendAgain(now time.Time) {
	if len(w.again) == 0 {
		return
	}
	m := w.c.table.Load()
	waiting := w.again
	w.again = nil
	for _, i := range waiting {
		if now.Before(i.notBefore) && m.Revision <= i.route.m.Revision {
			w.again = append(w.again, i)
			continue
		}
		w.send(i, now)
	}
}

// finish tells the outcome, and lets the next write of the same document go.
func (w *Writer) finish(i *item, out Written, err error) {
	i.done(out, err)
	w.release(i) // behind the word of it: whoever has flushed has been told all
	queue := w.order[i.doc]
	if len(queue) == 0 {
		delete(w.order, i.doc)
		return
	}
	w.order[i.doc] = queue[1:]
	w.send(queue[0], time.Now())
}

// heard takes an answer or the end of a lane.
func (w *Writer) heard(e event) {
	now := time.Now()
	if e.err != nil {
		if w.lanes[e.from.to] == e.from {
			delete(w.lanes, e.from.to)
		}
		e.from.end()
		for id, p := range e.from.pending {
			delete(e.from.pending, id)
			w.failed(p.item, p.lost(e.err), now)
		}
		return
	}
	p := e.from.pending[e.answer.GetId()]
	if p == nil {
		return // it was given up before
	}
	delete(e.from.pending, e.answer.GetId())
	if bad := e.answer.GetProblem(); len(bad) > 0 {
		w.failed(p.item, problem(bad), now)
		return
	}
	w.finish(p.item, written(e.answer, p.id), nil)
}

func (w *Writer) failed(i *item, err error, now time.Time) {
	i.attempt.failed(i.route, err)
	w.retry(i, err, now)
}

// giveUp ends attempts at a primary that is none any more, and writes that nobody answers.
func (w *Writer) giveUp(now time.Time) {
	for _, l := range w.lanes {
		over := false
		for id, p := range l.pending {
			late := now.Sub(p.deadline) > answerGrace
			if !late && (!p.route.direct || p.route.reign.Err() == nil) {
				continue
			}
			over = true
			delete(l.pending, id)
			w.failed(p.item, p.lost(themis.Errorf(themis.Unreachable, "%s gave no answer", l.to)), now)
		}
		if over && len(l.pending) == 0 {
			delete(w.lanes, l.to)
			l.end()
		}
	}
}

// abandon ends everything, with what is known of it.
func (w *Writer) abandon() {
	for _, l := range w.lanes {
		l.end()
	}
	for to, l := range w.lanes {
		delete(w.lanes, to)
		for _, p := range l.pending {
			err := p.lost(errClosed)
			p.attempt.failed(p.route, err)
			w.drop(p.item, err)
		}
	}
	for _, i := range w.again {
		w.drop(i, errClosed)
	}
	for _, queue := range w.order {
		for _, i := range queue {
			w.drop(i, errClosed)
		}
	}
	clear(w.order)
}

func (w *Writer) drop(i *item, err error) {
	i.done(Written{}, i.attempt.verdict(err))
	w.release(i)
}
