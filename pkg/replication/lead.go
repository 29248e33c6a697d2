package replication

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// reigning is one reign of this replica, from the crown to its end. All that acts as primary hangs on its context.
type reigning struct {
	r      *Replica
	epoch  themis.Epoch
	ctx    context.Context //nolint:containedctx // the reign is the context: what belongs to it ends with it
	end    context.CancelCauseFunc
	began  time.Time
	group  *errgroup.Group
	change signal // commit, acks, record: whoever waits looks again

	mu        sync.Mutex
	core      *Reign // nil until the barrier is on this disk
	shippers  map[cluster.Member]*shipper
	fleet     []*shipper // the same; replaced whole
	waiting   []*pending // appended and not yet in the store, in the order of the log
	confirmed int        // of waiting, how many are committed: the first ones
	ahead     int        // bytes of those
	requests  map[string]*pending
	streams   uint64 // opened in this reign
	queued    int
	open      int       // writes that have a place in the log and whose callers wait
	stalled   time.Time // since when writes wait for copies; zero: they don't

	stripes [stripes]stripe
}

// pending is a write that was appended and is not yet in the store.
type pending struct {
	id     string // of the request
	digest uint64
	append *wal.Append
	seq    themis.Seq
	hlc    themis.HLC
	keys   []string
	size   int       // of its payload
	begun  time.Time // when it was let in
	ops    []store.OpResult
	done   chan struct{} // closed once it is committed, or err says why that is not known
	err    error
}

// lead reigns over the record's epoch until the record, a follower, a ballot or the disk ends it. Only the disk's error, or
// that of ctx, is returned.
func (r *Replica) lead(ctx context.Context, record cluster.Shard) error {
	rctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	g, rctx := errgroup.WithContext(rctx)
	rg := &reigning{
		r: r, epoch: record.Epoch, ctx: rctx, end: end, began: time.Now(), group: g, shippers: map[cluster.Member]*shipper{},
		requests: map[string]*pending{},
	}
	defer r.dethrone(rg)
	first, err := r.enthrone(rg, record)
	if err == nil {
		err = first.Wait()
	}
	if err != nil {
		r.o.Event("reign", "failed", "", err.Error(), record.Epoch)
		return onlyPoison(err)
	}
	now := time.Now()
	rg.mu.Lock()
	rg.core = NewReign(record, themis.Seq(r.commit.Load()), first.Entry().Seq, now, r.o.Rules())
	rg.core.Durable(first.Entry().Seq, now)
	rg.mu.Unlock()
	r.o.Logger.Info("reign begins", "epoch", rg.epoch, "seq", first.Entry().Seq, "isr", record.ISR, "wait_ms", record.WaitMs)
	g.Go(rg.loop)
	err = g.Wait()
	cause := context.Cause(rctx)
	r.o.Logger.Info("reign ends", "epoch", rg.epoch, "cause", cause, "err", err)
	return errors.Join(onlyPoison(err), ctx.Err())
}

// onlyPoison drops an error that ends a reign but not the replica.
func onlyPoison(err error) error {
	if errors.Is(err, wal.ErrPoisoned) {
		return err
	}
	return nil
}

// enthrone makes this replica refuse all older epochs and everybody else's frames, and appends the reign's first entry.
func (r *Replica) enthrone(rg *reigning, record cluster.Shard) (*wal.Append, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = record.Epoch
	if r.follow != nil {
		r.follow.cancel(errors.New("crowned"))
		r.follow = nil
	}
	if record.Epoch < r.promise.Promised {
		return nil, fmt.Errorf("epoch %d was promised meanwhile", r.promise.Promised)
	}
	if err := r.promiseEpoch(record.Epoch); err != nil {
		return nil, err
	}
	floor := r.openStore().AppliedHLC()
	r.log.SetClock(func(last themis.HLC, _ int) themis.HLC { return max(last, floor).After(time.Now()) })
	if err := r.log.SetEpoch(record.Epoch); err != nil {
		return nil, fmt.Errorf("begin epoch %d of %s: %w", record.Epoch, r.o.Shard, err)
	}
	r.reign = rg
	r.leading.Store(rg)
	r.hurryUp()
	return r.log.Begin(themis.KindBarrier, themis.Tags{}, nil, 1)
}

// dethrone leaves nothing of the reign behind; who still waits is told that the outcome is unknown.
func (r *Replica) dethrone(rg *reigning) {
	e := rg.resign(errors.New("the reign ended"))
	_ = rg.group.Wait()
	r.mu.Lock()
	r.resigned = max(r.resigned, e)
	if r.reign == rg {
		r.reign = nil
		r.leading.Store(nil)
	}
	r.mu.Unlock()
	rg.mu.Lock()
	defer rg.mu.Unlock()
	for _, p := range rg.waiting[rg.confirmed:] {
		p.err = r.unknown(rg.epoch)
		close(p.done)
	}
	rg.waiting, rg.confirmed, rg.ahead = nil, 0, 0
	rg.change.wake()
}

// resign ends the reign and answers what Resigned says of it. Reads and writes look at the reign's context under mu: what they
// find afterwards is that it has ended.
func (rg *reigning) resign(cause error) themis.Epoch {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	rg.end(cause)
	if rg.core == nil {
		return 0
	}
	return rg.core.Resigned()
}

// retire ends what the reign serves, and lets its followers hear that they are free.
func (rg *reigning) retire() {
	rg.mu.Lock()
	if rg.core != nil {
		rg.core.Retire()
	}
	rg.mu.Unlock()
	rg.change.wake()
	rg.wakeShippers()
}

// binds says whether a follower has not yet answered that it heard that it is free.
func (rg *reigning) binds() bool {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	for _, s := range rg.shippers {
		if s.bound && rg.core != nil && rg.core.Resigned() > 0 {
			return true
		}
	}
	return false
}

func (r *Replica) unknown(e themis.Epoch) error {
	return themis.Errorf(themis.OutcomeUnknown, "%s: the reign of epoch %d ended before the write was confirmed", r.o.Shard, e).In(r.o.Shard)
}

// loop carries out what the core decides.
func (rg *reigning) loop() error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for told := themis.Seq(0); ; {
		if err := rg.learn(); err != nil {
			return err
		}
		rg.staff()
		select {
		case <-rg.ctx.Done():
			return rg.ctx.Err()
		case <-tick.C:
		}
		now := time.Now()
		rg.mu.Lock()
		rg.core.Leased(rg.r.holdsLease(now))
		rg.core.Rule(rg.r.o.Rules())
		rg.core.Tick(now)
		switch waits := rg.core.Ready() && rg.writable() != nil; {
		case !waits:
			rg.stalled = time.Time{}
		case rg.stalled.IsZero():
			rg.stalled = now
		}
		p := rg.core.Next(now)
		rg.mu.Unlock()
		rg.progress()
		if c := themis.Seq(rg.r.commit.Load()); c > told { // where no frames carry it
			told = c
			rg.wakeShippers()
		}
		if p != nil {
			rg.group.Go(func() error { return rg.propose(p) })
		}
	}
}

// learn takes the newest record; an error means that the reign is over.
func (rg *reigning) learn() error {
	now := rg.r.news()
	rg.mu.Lock()
	rg.core.Disks(now.full)
	rg.core.Stopping(now.stopping)
	err := rg.core.Learn(now.record, now.failed, time.Now())
	rg.mu.Unlock()
	if err != nil {
		rg.end(err)
	}
	return err
}

// progress passes on what has become committed, first to those who wait for it.
func (rg *reigning) progress() {
	rg.mu.Lock()
	if rg.ctx.Err() != nil { // what follows may cut what this reign had appended
		rg.mu.Unlock()
		return
	}
	c := rg.core.Commit()
	done := rg.confirm(c)
	more := rg.r.commits(c)
	rg.mu.Unlock()
	if more {
		rg.r.applied.wake()
	}
	rg.change.wake()
	for _, p := range done { // last: who was made ready last runs first
		close(p.done)
	}
}

// confirm counts the writes up to seq as confirmed and returns those that were not; mu is held. Who waits for them is told by closing done.
func (rg *reigning) confirm(seq themis.Seq) []*pending {
	from := rg.confirmed
	for rg.confirmed < len(rg.waiting) && rg.waiting[rg.confirmed].seq <= seq {
		rg.ahead += rg.waiting[rg.confirmed].size
		rg.confirmed++
	}
	return slices.Clone(rg.waiting[from:rg.confirmed])
}

// propose submits a change of the ISR or of the policy until its outcome is known, or the record has changed: then the core knows it
// once that is learned. Submitting the very same change again is harmless: it takes effect at most once, since it names the revision
// that it changes.
func (rg *reigning) propose(p *Proposal) error {
	action, rule, what := "isr_remove", "isr", fmt.Sprintf("%s: %s", p.Member, p.Why)
	switch {
	case p.Policy():
		action, rule, what = "policy_change", "mode-waits", fmt.Sprintf("%s to %s: %s", p.Seen.Have, p.Next.Have, p.Why)
	case p.Add:
		action = "isr_add"
	}
	for {
		ctx, cancel := context.WithTimeout(rg.ctx, 2*time.Second)
		next, err := rg.r.o.Registry.ChangeShard(ctx, p.Seen, p.Next)
		cancel()
		switch {
		case err == nil:
			rg.r.o.Event(action, "done", rule, what, rg.epoch)
			now := rg.r.news()
			rg.r.Learn(next, now.failed, now.full)
			return rg.learn()
		case themis.CodeOf(err) == themis.StalePlan && (p.Add || p.Policy()) && guard.On(guard.StaleCounts):
			// The record is newer: by another's change, or by this one, tried before with an unknown outcome, and another's on top of it. Which
			// it is shows once the newer record is learned; until then both sides of the change count. A removal counts by the old set either
			// way, and may be refused by a newer verdict while the record stays.
			return nil
		case themis.CodeOf(err) == themis.StalePlan || themis.CodeOf(err) == themis.RefusedUnsafe:
			if themis.CodeOf(err) == themis.RefusedUnsafe {
				rg.rest() // until the view here is as new as what it was refused by
			}
			rg.mu.Lock()
			rg.core.Refused(p, time.Now())
			rg.mu.Unlock()
			return nil
		case rg.ctx.Err() != nil:
			return rg.ctx.Err()
		}
		rg.r.o.Logger.Warn("change of the shard's record not confirmed, submitting it again", "epoch", rg.epoch, "change", action, "node", p.Member.Node, "err", err)
		rg.rest()
	}
}

func (rg *reigning) rest() {
	select {
	case <-rg.ctx.Done():
	case <-time.After(200 * time.Millisecond):
	}
}

// HandOver holds new writes back, so that this replica's reign can go to another copy, or lets them in again; ask again and again
// while it is to go, since they are held back only as long as there is a copy that could follow. It answers the
// epoch of a reign that can go now: what it had appended is committed and answered, and another copy has all of it. 0: none.
func (r *Replica) HandOver(on bool) themis.Epoch {
	rg := r.leading.Load()
	if rg == nil {
		return 0
	}
	rg.mu.Lock()
	defer rg.mu.Unlock()
	if rg.core == nil {
		return 0
	}
	now := time.Now()
	on = on && rg.core.HasSuccessor(now)
	if rg.core.Freeze(on); !on {
		rg.change.wake()
	}
	if !on || rg.open > 0 || rg.ctx.Err() != nil || !rg.core.Quiet(now) {
		return 0
	}
	return rg.epoch
}

// staff has one shipper for every other copy of the record, and none for others.
func (rg *reigning) staff() {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	want := map[cluster.Member]bool{}
	for _, rep := range rg.core.Shard().Replicas {
		if rep.Member == rg.r.o.Self {
			continue
		}
		want[rep.Member] = true
		if rg.shippers[rep.Member] == nil {
			ctx, stop := context.WithCancelCause(rg.ctx)
			s := &shipper{rg: rg, to: rep.Member, stop: stop, wake: make(chan struct{}, 1)}
			rg.shippers[rep.Member] = s
			rg.group.Go(func() error { return s.run(ctx) })
		}
	}
	for m, s := range rg.shippers {
		if !want[m] {
			s.stop(errors.New("no longer a copy of this shard"))
			delete(rg.shippers, m)
		}
	}
	rg.fleet = slices.Collect(maps.Values(rg.shippers))
}

func (rg *reigning) wakeShippers() {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	for _, s := range rg.shippers {
		s.want()
	}
}

// tap hands every batch to the followers while it is on its way to the local disk.
func (r *Replica) tap(b wal.Batch) {
	rg := r.leading.Load()
	if rg == nil {
		return
	}
	r.recent.offer(run{b.Frames, b.First, b.Last})
	rg.mu.Lock()
	if rg.core != nil {
		rg.core.Appended(b.Last, time.Now())
	}
	fleet := rg.fleet
	rg.mu.Unlock()
	for _, s := range fleet {
		s.offer(b)
	}
	runtime.Gosched() // what was sent goes out before this goroutine waits for its own disk
}

// durable tells the core how far the local disk is. What becomes durable after this primary has given its own ballot counts for
// nothing: the ballot does not tell of it. So the disk is looked at first, and then whether the reign still lasts.
func (rg *reigning) durable() {
	seq := rg.r.log.Durable()
	rg.mu.Lock()
	if now := time.Now(); rg.core != nil && rg.ctx.Err() == nil {
		rg.core.Leased(rg.r.holdsLease(now))
		rg.core.Durable(seq, now)
	}
	rg.mu.Unlock()
	rg.progress()
}

// inStore forgets the writes up to seq: whoever looks finds them in the store.
func (r *Replica) inStore(seq themis.Seq) {
	rg := r.leading.Load()
	if rg == nil {
		return
	}
	rg.mu.Lock()
	done := rg.confirm(seq)
	for _, p := range done { // the store was faster than progress
		close(p.done)
	}
	n := 0
	for n < rg.confirmed && rg.waiting[n].seq <= seq {
		p := rg.waiting[n]
		if p.id != "" {
			delete(rg.requests, p.id)
		}
		rg.ahead -= p.size
		n++
	}
	gone := rg.waiting[:n]
	rg.waiting, rg.confirmed = rg.waiting[n:], rg.confirmed-n
	rg.mu.Unlock()
	for _, p := range gone {
		rg.settle(p)
	}
	clear(gone)
}
