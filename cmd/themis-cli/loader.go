package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

const (
	faultsShown = 100
	lineMax     = themis.MaxDocumentBytes + 1
	readers     = 64 // documents that are read back at once
)

// loader is one load on its way.
type loader struct {
	c   *client.Client
	src source
	f   loadFlags

	mu    sync.Mutex
	out   loadAnswer
	open  int64 // documents under way when it ended too early
	doing string
	began time.Time // of what it is doing
}

func (l *loader) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// begin names what is done from now on.
func (l *loader) begin(doing string) {
	l.note(func() { l.doing, l.began = doing, time.Now() })
}

// errStopped ends a load that goes on in vain.
var errStopped = errors.New("stopped")

// ahead holds a load back where it is too far ahead of its first document that is not stored; see workload.Window.
type ahead struct {
	mu   sync.Mutex
	more *sync.Cond
	w    *workload.Window
}

func newAhead() *ahead {
	a := &ahead{w: workload.NewWindow()}
	a.more = sync.NewCond(&a.mu)
	return a
}

// wait returns once there is room for document n, or ctx has ended.
func (a *ahead) wait(ctx context.Context, n int64) {
	wake := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.more.Broadcast()
	})
	defer wake()
	a.mu.Lock()
	defer a.mu.Unlock()
	for !a.w.Room(n) && ctx.Err() == nil {
		a.more.Wait()
	}
}

func (a *ahead) done(n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.w.Done(n)
	a.more.Broadcast()
}

// write loads the documents of src.
func (l *loader) write(ctx context.Context, src source) (err error) {
	digest, err := src.digest(ctx)
	if err != nil {
		return err
	}
	overtaken := func(item) bool { return false }
	if l.f.run != "" { // what was written long ago is no longer known as done: written again, it would go over the later line, which still is
		l.note(func() { l.src = src })
		l.begin("read")
		if overtaken, err = latest(ctx, src); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := l.c.NewWriter(client.WriterOptions{InFlight: l.f.workers, Concern: themis.WriteConcern(l.f.concern), Timeout: loadTimeout})
	defer w.Close()
	l.note(func() { l.src = src })
	l.begin("written")
	window, sent := newAhead(), int64(-1)
	err = src.each(ctx, func(i item) error {
		if overtaken(i) {
			l.note(func() { l.out.Lines++; l.out.Overtaken++ })
			return nil
		}
		sent++
		at := sent
		window.wait(ctx, at)
		l.note(func() { l.out.Lines++ })
		if i.err != nil {
			l.fault(i, i.err)
			window.done(at)
			return nil
		}
		id := client.RequestID(fmt.Sprintf("%s-%s-%d", l.out.Run, digest, i.n))
		err := w.Send(ctx, l.f.collection, i.key, i.value, func(_ client.Written, err error) {
			if err == nil {
				l.note(func() { l.out.Written++; l.out.Bytes += int64(len(i.value)) })
			} else if l.failed(i, err, ctx.Err() != nil) { // it stays open: nothing far behind it is sent
				stop(fmt.Errorf("%s %d: %w", src.unit(), i.n, err))
				return
			}
			window.done(at)
		}, id)
		if ctx.Err() != nil {
			return errStopped
		}
		return err
	})
	if err == nil {
		err = w.Flush(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	w.Close()
	l.note(func() {
		took := time.Since(l.began)
		l.out.Duration, l.out.Rate = took.Milliseconds(), float64(l.out.Written)/max(took.Seconds(), 0.001)
	})
	return err
}

const loadTimeout = 60 * time.Second // of one document: longer than a failover with a rebuild

// ofTheLine answers whether only this document can't be written. Anything else would befall the next ones too.
func ofTheLine(err error) bool {
	switch themis.CodeOf(err) {
	case themis.InvalidArgument, themis.TooLarge, themis.RequestIDReused, themis.VersionMismatch:
		return true
	}
	return false
}

// failed notes what became of a document that was not written, and answers whether the load is over. Once it is, and ends all that is under
// way, nothing is wrong with a document of which nothing else is known: it may be stored or not.
func (l *loader) failed(i item, err error, ended bool) (over bool) {
	if code := themis.CodeOf(err); ended && (code == themis.OutcomeUnknown || code == themis.Unreachable || code == themis.Deadline) {
		l.note(func() { l.open++ })
		return true
	}
	l.fault(i, err)
	return !ofTheLine(err)
}

func (l *loader) fault(i item, err error) {
	l.note(func() {
		l.out.Failed++
		if len(l.out.Errors) < faultsShown {
			l.out.Errors = append(l.out.Errors, lineFault{i.n, i.key, themis.CodeOf(err), err.Error()})
		}
	})
}

// latest reads src and finds the documents whose key comes again further down.
func latest(ctx context.Context, src source) (overtaken func(item) bool, err error) {
	if src.unique() {
		return func(item) bool { return false }, nil
	}
	last := map[string]int64{}
	err = src.each(ctx, func(i item) error {
		if i.err == nil {
			last[i.key] = i.n
		}
		return nil
	})
	return func(i item) bool { return i.err == nil && last[i.key] != i.n }, err
}

// verify reads back what src says and compares. Of several lines with one key the last one counts.
func (l *loader) verify(ctx context.Context, src source) error {
	l.note(func() { l.src = src })
	l.begin("read")
	overtaken, err := latest(ctx, src)
	if err != nil {
		return err
	}
	l.note(func() { l.out.Verified, l.out.Different = new(int64), new(int64) })
	l.begin("verified")
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(readers, l.f.workers))
	err = src.each(ctx, func(i item) error {
		if i.err != nil && l.f.only { // nothing was said of it yet
			l.different(i, "can't be compared: "+i.err.Error())
			return nil
		}
		if i.err != nil || overtaken(i) { // such lines were never written, or others went over them
			return nil
		}
		g.Go(func() error { return l.compare(ctx, i) })
		if ctx.Err() != nil {
			return errStopped
		}
		return nil
	})
	if waited := g.Wait(); waited != nil {
		return waited
	}
	return err
}

func (l *loader) compare(ctx context.Context, i item) error {
	d, err := l.c.Get(ctx, l.f.collection, i.key)
	switch {
	case themis.CodeOf(err) == themis.NotFound:
		l.different(i, "not there")
	case err != nil:
		return fmt.Errorf("read back %s %d: %w", l.src.unit(), i.n, err)
	case !bytes.Equal(d.Value, i.value):
		l.different(i, fmt.Sprintf("%d bytes in the cluster, %d in the %s", len(d.Value), len(i.value), l.src.unit()))
	default:
		l.note(func() { *l.out.Verified++ })
	}
	return nil
}

func (l *loader) different(i item, detail string) {
	l.note(func() {
		*l.out.Different++
		if len(l.out.Differences) < faultsShown {
			l.out.Differences = append(l.out.Differences, lineFault{Line: i.n, Key: i.key, Detail: detail})
		}
	})
}
