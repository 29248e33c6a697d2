package control

import (
	"context"
	"fmt"
	"iter"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Call names what is asked of a KV.
type Call string

// The calls of a KV, as Faulty tells them apart.
const (
	CallList  Call = "list" // Get too
	CallTxn   Call = "txn"
	CallWatch Call = "watch" // at its beginning and before every batch
	CallLease Call = "lease"
)

// Faulty is one node's way to a store, with the faults that a test or a simulation wants. Both functions are called from any
// goroutine and may wait; nil functions do nothing.
type Faulty struct {
	KV
	// Before is asked first. An error keeps the call from the store and is its answer.
	Before func(ctx context.Context, c Call) error
	// After is asked when the store has done it. With an error the answer is lost: a transaction ends with ErrUnknownOutcome.
	After func(ctx context.Context, c Call) error
}

var _ KV = (*Faulty)(nil)

func (f *Faulty) before(ctx context.Context, c Call) error {
	if f.Before == nil {
		return nil
	}
	return f.Before(ctx, c)
}

func (f *Faulty) after(ctx context.Context, c Call) error {
	if f.After == nil {
		return nil
	}
	return f.After(ctx, c)
}

// Get implements KV.
func (f *Faulty) Get(ctx context.Context, key string) (Record, error) {
	if err := f.before(ctx, CallList); err != nil {
		return Record{}, err
	}
	r, err := f.KV.Get(ctx, key)
	if lost := f.after(ctx, CallList); lost != nil {
		return Record{}, lost
	}
	return r, err
}

// List implements KV.
func (f *Faulty) List(ctx context.Context, ranges ...Range) ([]Record, themis.Revision, error) {
	if err := f.before(ctx, CallList); err != nil {
		return nil, 0, err
	}
	r, rev, err := f.KV.List(ctx, ranges...)
	if lost := f.after(ctx, CallList); lost != nil {
		return nil, 0, lost
	}
	return r, rev, err
}

// Txn implements KV.
func (f *Faulty) Txn(ctx context.Context, t Txn) (bool, themis.Revision, error) {
	if err := f.before(ctx, CallTxn); err != nil {
		return false, 0, err
	}
	ok, rev, err := f.KV.Txn(ctx, t)
	if lost := f.after(ctx, CallTxn); lost != nil {
		return false, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, lost)
	}
	return ok, rev, err
}

// Watch implements KV.
func (f *Faulty) Watch(ctx context.Context, prefix string, from themis.Revision) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		if err := f.before(ctx, CallWatch); err != nil {
			yield(Batch{}, fmt.Errorf("%w: %w", ErrWatchLost, err))
			return
		}
		for b, err := range f.KV.Watch(ctx, prefix, from) {
			if lost := f.before(ctx, CallWatch); lost != nil {
				yield(Batch{}, fmt.Errorf("%w: %w", ErrWatchLost, lost))
				return
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// Grant implements KV.
func (f *Faulty) Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error) {
	if err := f.before(ctx, CallLease); err != nil {
		return 0, 0, err
	}
	id, granted, err := f.KV.Grant(ctx, ttl)
	if lost := f.after(ctx, CallLease); lost != nil {
		return 0, 0, lost
	}
	return id, granted, err
}

// KeepAlive implements KV.
func (f *Faulty) KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error) {
	if err := f.before(ctx, CallLease); err != nil {
		return 0, err
	}
	left, err := f.KV.KeepAlive(ctx, id)
	if lost := f.after(ctx, CallLease); lost != nil {
		return 0, lost
	}
	return left, err
}

// Revoke implements KV.
func (f *Faulty) Revoke(ctx context.Context, id LeaseID) error {
	if err := f.before(ctx, CallLease); err != nil {
		return err
	}
	if err := f.KV.Revoke(ctx, id); err != nil {
		return err
	}
	return f.after(ctx, CallLease)
}
