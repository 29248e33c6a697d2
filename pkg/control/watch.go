package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// Watch follows the map. Make it with Map.Watch; it ends with the context it was made with.
type Watch struct {
	m      *Map
	views  chan cluster.View
	latest atomic.Pointer[cluster.View]

	mu      sync.Mutex
	seen    themis.Revision // everything up to it has been taken in
	fresh   time.Time       // the map was surely current then
	pending []probe         // answers that are ahead of seen, oldest first
	err     error
}

// probe is the store's revision, and when it was asked for.
type probe struct {
	rev  themis.Revision
	sent time.Time
}

const (
	pendingMax  = 16
	behindMax   = 2 // times Options.Fresh: a watch that lacks what was answered that long ago is begun anew
	watchPause  = 100 * time.Millisecond
	watchPauseX = 2 * time.Second
)

// Watch follows the map until ctx ends. Whatever breaks on the way is mended: it reads anew and goes on; State tells.
func (m *Map) Watch(ctx context.Context) *Watch {
	w := &Watch{m: m, views: make(chan cluster.View, 1), err: errors.New("not read yet")}
	go w.run(ctx)
	return w
}

// Views delivers the newest view whenever there is a new one. A slow reader misses those between, never the last. The channel
// closes when the watch has ended. It has one reader; any number may use Latest.
func (w *Watch) Views() <-chan cluster.View { return w.views }

// Latest is the newest view; false before the first.
func (w *Watch) Latest() (cluster.View, bool) {
	v := w.latest.Load()
	if v == nil {
		return cluster.View{}, false
	}
	return *v, true
}

// State says how long ago, at most, the latest view was the truth, and what has kept it from being renewed, nil when nothing
// has. Before the first view the age is 0 and the error says what is awaited.
func (w *Watch) State() (age time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fresh.IsZero() {
		return 0, w.err
	}
	return w.m.opts.Now().Sub(w.fresh), w.err
}

func (w *Watch) run(ctx context.Context) {
	defer close(w.views)
	wait := watchPause
	for ctx.Err() == nil {
		began := time.Now()
		err := w.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil || errors.Is(err, ErrCompacted) {
			continue // read anew at once
		}
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
		if time.Since(began) > watchPauseX {
			wait = watchPause
		}
		pause(ctx, wait)
		wait = min(2*wait, watchPauseX)
	}
}

// follow reads the map and takes in every change since, until it is time to read anew (nil) or until something breaks.
func (w *Watch) follow(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.m.opts.Relist)
	defer cancel()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	sent := w.m.opts.Now()
	d, err := w.m.list(ctx)
	if err != nil {
		return err
	}
	if err := w.publish(d); err != nil {
		return err
	}
	w.begin(probe{d.v.Revision, sent})

	var probing sync.WaitGroup
	probing.Go(func() { w.probe(ctx, giveUp) })
	defer probing.Wait()
	defer cancel()
	for batch, err := range w.m.kv.Watch(ctx, string(w.m.keys), d.v.Revision+1) {
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		if err != nil {
			if given := context.Cause(ctx); errors.Is(given, ErrWatchLost) {
				err = given
			}
			return err
		}
		for _, c := range batch.Changes {
			if err := d.apply(c); err != nil {
				return err
			}
		}
		d.v.Revision = max(d.v.Revision, batch.Revision)
		if d.changed {
			if err := w.publish(d); err != nil {
				return err
			}
		}
		w.advance(batch.Revision)
	}
	return ErrWatchLost
}

// publish replaces the view that nobody has taken yet. Only run sends, so there is always room.
func (w *Watch) publish(d *draft) error {
	v, err := d.publish(w.m.id)
	if err != nil {
		return err
	}
	w.latest.Store(&v)
	select {
	case <-w.views:
	default:
	}
	w.views <- v
	return nil
}

// probe asks again and again for the store's revision. A view is current as of the moment of asking once the watch has
// delivered everything up to the answer. A watch that doesn't, as one on a member of the control plane that stands still, whose
// connection lives on for a while, is given up: the next one may go to another member.
func (w *Watch) probe(ctx context.Context, giveUp context.CancelCauseFunc) {
	t := time.NewTicker(w.m.opts.Fresh)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		sent := w.m.opts.Now()
		attempt, cancel := context.WithTimeout(ctx, max(w.m.opts.Fresh, time.Second))
		_, rev, err := w.m.kv.List(attempt, Only(w.m.keys.of(keyMeta)))
		cancel()
		if ctx.Err() == nil {
			w.answer(probe{rev, sent}, err)
		}
		if late := w.behind(); late > behindMax*w.m.opts.Fresh && guard.On(guard.WatchBehind) {
			giveUp(fmt.Errorf("%w: what was answered %s ago has not come", ErrWatchLost, late))
		}
	}
}

func (w *Watch) begin(p probe) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen, w.fresh, w.pending, w.err = p.rev, p.sent, nil, nil
}

func (w *Watch) answer(p probe, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	switch {
	case err != nil:
	case p.rev <= w.seen:
		w.fresh = p.sent
	case len(w.pending) < pendingMax: // when full, the oldest are kept: they are the ones that will be reached
		w.pending = append(w.pending, p)
	}
}

// behind is how long ago the oldest answer that the watch has not reached was asked for.
func (w *Watch) behind() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.pending) == 0 {
		return 0
	}
	return w.m.opts.Now().Sub(w.pending[0].sent)
}

func (w *Watch) advance(rev themis.Revision) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = max(w.seen, rev)
	w.pending = slices.DeleteFunc(w.pending, func(p probe) bool {
		if p.rev > w.seen {
			return false
		}
		if p.sent.After(w.fresh) {
			w.fresh = p.sent
		}
		return true
	})
}
