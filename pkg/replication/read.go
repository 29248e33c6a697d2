package replication

import (
	"context"
	"iter"
	"time"

	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

// Reader is a moment at which a replica may be read.
type Reader struct {
	s   *store.Store
	Seq themis.Seq // everything up to here is in it
}

// Get returns one document.
func (v Reader) Get(c themis.CollectionID, placement []byte, key string) (store.Document, bool, error) {
	return v.s.Get(c, placement, key)
}

// Scan yields the documents of a collection in order of placement and key.
func (v Reader) Scan(c themis.CollectionID, o store.ScanOptions) iter.Seq2[store.Document, error] {
	return v.s.Scan(c, o)
}

// Read waits until the replica may answer at that level, inside ctx. STRONG needs the primary, under a read lease or after one
// round of confirmations; SESSION needs what the session has seen (atLeast) to be applied; EVENTUAL needs nothing.
// BOUNDED_STALENESS is answered as STRONG. Errors: NO_PRIMARY, DEADLINE.
func (r *Replica) Read(ctx context.Context, level themis.Consistency, atLeast themis.Seq) (Reader, error) {
	switch level {
	case themis.Eventual:
	case themis.Session:
		if err := r.waitApplied(ctx, ctx, atLeast); err != nil {
			return Reader{}, err
		}
	default:
		if err := r.confirm(ctx); err != nil {
			return Reader{}, err
		}
	}
	s := r.openStore()
	return Reader{s, s.Applied().Seq}, nil
}

// confirm returns once nobody else can have been crowned before ctx's request came, and all that was acknowledged is applied.
func (r *Replica) confirm(ctx context.Context) error {
	rg := r.leading.Load()
	if rg == nil {
		return r.notPrimary()
	}
	asked := time.Now()
	for first := true; ; first = false {
		next := rg.change.next()
		upTo, ok := rg.mayRead(asked)
		if ok {
			return r.waitApplied(ctx, rg.ctx, upTo)
		}
		if first {
			rg.wakeShippers() // a heartbeat each, now
		}
		select {
		case <-next:
		case <-rg.ctx.Done():
			return r.notPrimary()
		case <-ctx.Done():
			if !r.holdsLease(time.Now()) {
				return rg.withoutLease()
			}
			return themis.Errorf(themis.NoPrimary, "%s: too few copies confirmed in time that epoch %d still reigns", r.o.Shard, rg.epoch).In(r.o.Shard)
		}
	}
}

// mayRead says whether a read that was asked for then may be answered, and what it must see.
func (rg *reigning) mayRead(asked time.Time) (themis.Seq, bool) {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	if rg.core == nil || !rg.core.Ready() || rg.ctx.Err() != nil {
		return 0, false
	}
	now := time.Now()
	if !rg.r.holdsLease(now) {
		return 0, false
	}
	if rg.core.MayRead(now) {
		return rg.core.Commit(), true
	}
	at, _ := rg.core.ConfirmedSince()
	return rg.core.Commit(), !rg.core.retired && !at.IsZero() && !at.Before(asked)
}

// waitApplied waits until seq is in the store.
func (r *Replica) waitApplied(ctx, reign context.Context, seq themis.Seq) error {
	if r.openStore().Applied().Seq >= seq {
		return nil
	}
	for {
		next := r.applied.next()
		if r.openStore().Applied().Seq >= seq {
			return nil
		}
		r.hurryUp()
		select {
		case <-next:
		case <-reign.Done():
			return r.notPrimary()
		case <-ctx.Done():
			return themis.Errorf(themis.Deadline, "%s: seq %d was not applied in time, the store is at %d", r.o.Shard, seq, r.openStore().Applied().Seq).In(r.o.Shard)
		}
	}
}
