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
	open  int64 // documents under way when it was interrupted
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
	digest, err := src.digest()
	if err != nil {
		return err
	}
	asked := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	w := l.c.NewWriter(client.WriterOptions{InFlight: l.f.workers, Concern: themis.WriteConcern(l.f.concern), Timeout: loadTimeout})
	defer w.Close()
	l.note(func() { l.src = src })
	l.begin("written")
	window, sent := newAhead(), int64(-1)
	err = src.each(func(i item) error {
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
			switch {
			case err == nil:
				l.note(func() { l.out.Written++; l.out.Bytes += int64(len(i.value)) })
				window.done(at)
			case ofTheLine(err):
				l.fault(i, err)
				window.done(at)
			case asked.Err() != nil: // told to stop: nothing is wrong with the line, and it may be stored or not
				l.note(func() { l.open++ })
			default: // it stays open: nothing far behind it is sent
				l.fault(i, err)
				stop(fmt.Errorf("%s %d: %w", src.unit(), i.n, err))
			}
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

func (l *loader) fault(i item, err error) {
	l.note(func() {
		l.out.Failed++
		if len(l.out.Errors) < faultsShown {
			l.out.Errors = append(l.out.Errors, lineFault{i.n, i.key, themis.CodeOf(err), err.Error()})
		}
	})
}

// verify reads back what src says and compares. Of several lines with one key the last one counts.
func (l *loader) verify(ctx context.Context, src source) error {
	last := map[string]int64{}
	l.note(func() { l.src = src })
	l.begin("read")
	if !src.unique() {
		err := src.each(func(i item) error {
			if i.err == nil {
				last[i.key] = i.n
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	l.note(func() { l.out.Verified, l.out.Different = new(int64), new(int64) })
	l.begin("verified")
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(readers, l.f.workers))
	err := src.each(func(i item) error {
		if i.err != nil && l.f.only { // nothing was said of it yet
			l.different(i, "can't be compared: "+i.err.Error())
			return nil
		}
		if i.err != nil || !src.unique() && last[i.key] != i.n { // such lines were never written, or others went over them
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
