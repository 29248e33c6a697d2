package replication

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// Damage of a log that is being served: bytes that are not what was written, or that can't be read.
//
//	found by     the shipper of a follower that is behind, or the scrubber, which reads the whole log again and again
//	said         at once: event log_damage with file and offset, and a finding of health while it stands
//	then         a copy that does not lead stops, and is built anew from the primary; one that leads does so as soon as another
//	             copy can be elected without loss. Until then it goes on from its store, which is checked by itself, and whoever
//	             needs the damaged part gets the store instead.
//
// What the page cache holds is read from there: damage of the disk below shows itself when the cache has dropped it.

const scrubBytes = 256 << 10 // at a time

// damaged takes note of an error that says that the log is damaged.
func (r *Replica) damaged(err error) {
	if themis.CodeOf(err) != themis.Corrupt || !guard.On(guard.LogDamage) {
		return
	}
	if !r.damage.CompareAndSwap(nil, &err) {
		return
	}
	r.o.Logger.Error("log is damaged", "err", err)
	r.o.Event("log_damage", "found", "corruption", err.Error(), r.log.Last().Epoch)
}

// leave is the damage of the log once this copy can be done without. Under ASYNC no other copy is known to have what a primary
// acknowledged, so it stays until its node is stopped in order.
func (r *Replica) leave() error {
	r.mu.Lock()
	rg, mode := r.reign, r.news().record.Have.Mode
	r.mu.Unlock()
	damage := r.damage.Load()
	if damage == nil || rg != nil && rg.ctx.Err() == nil && (mode == themis.Async || !rg.replaceable()) {
		return nil
	}
	return *damage
}

// replaceable says whether another copy could be handed the reign.
func (rg *reigning) replaceable() bool {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	return rg.core != nil && rg.core.HasSuccessor(time.Now())
}

// shippable is the seq of the oldest entry that followers can get from the log.
func (r *Replica) shippable() themis.Seq {
	first := r.log.First()
	if damage := r.damage.Load(); damage != nil {
		if c, ok := errors.AsType[*wal.CorruptError](*damage); ok {
			first = max(first, c.Seq+1)
		}
	}
	return first
}

// scrubLoop reads the log from its beginning to its end, again and again, slowly, and takes note of the first damage.
func (r *Replica) scrubLoop(ctx context.Context) error {
	tick := time.NewTicker(r.o.Scrub)
	defer tick.Stop()
	var scan *wal.Scanner
	defer func() {
		if scan != nil {
			_ = scan.Close()
		}
	}()
	var buf []byte
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		var err error
		if scan == nil {
			scan, err = r.log.Scan(r.log.First())
		}
		var b wal.Batch
		if err == nil {
			b, err = scan.NextFrames(buf, scrubBytes)
			buf = b.Frames
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) { // what was cut or trimmed meanwhile is none
			r.damaged(err)
		}
		if scan != nil {
			_ = scan.Close()
		}
		scan, buf = nil, nil
	}
}
