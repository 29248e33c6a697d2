package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// following is one primary's stream into this replica. A newer one, a ballot or a reign of its own ends it.
type following struct {
	r      *Replica
	epoch  themis.Epoch
	ctx    context.Context //nolint:containedctx // ends with the stream
	cancel context.CancelCauseFunc
	heard  time.Time
	from   themis.NodeID
	choked bool // frames were passed over for want of room: the stream must begin anew before any more is taken
}

// Accept answers a primary's hello. Where the welcome accepts frames, f serves them; its caller sends the welcome first.
func (r *Replica) Accept(ctx context.Context, h Hello) (w Welcome, f *following, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out(); err != nil {
		return Welcome{Refused: err.Error()}, nil, nil
	}
	if r.installing {
		return Welcome{Refused: "a state is being installed"}, nil, nil
	}
	if err := ctx.Err(); err != nil {
		return Welcome{}, nil, err
	}
	w = Receive(r.standing(), h)
	if !w.Accepted {
		return w, nil, nil
	}
	if h.Epoch == r.heard.epoch && h.Stream < r.heard.stream && guard.On(guard.NewestStream) {
		return Welcome{Refused: "a newer stream of this reign came before"}, nil, nil
	}
	r.heard.epoch, r.heard.stream = h.Epoch, h.Stream
	if r.reign != nil {
		if r.reign.epoch >= h.Epoch {
			return Welcome{Refused: "this copy leads", Promised: r.promise.Promised}, nil, nil
		}
		r.reign.resign(fmt.Errorf("%s leads epoch %d", h.Primary.Node, h.Epoch))
		r.reign = nil
		r.leading.Store(nil)
	}
	if r.follow != nil {
		r.follow.cancel(errors.New("a newer stream came"))
		r.follow = nil
	}
	if err := r.promiseEpoch(h.Epoch); err != nil {
		return w, nil, err
	}
	if w.Lost != "" {
		if err := r.setBlank(w.Lost); err != nil {
			return w, nil, err
		}
		r.o.Event("quarantine", "done", "acked-lost", w.Lost, r.promise.Promised)
	}
	if w.Install {
		return w, nil, nil
	}
	if err := r.cutBack(w.Common, h); err != nil {
		return w, nil, err
	}
	if err := r.noteLease(false); err != nil {
		return w, nil, err
	}
	fctx, cancel := context.WithCancelCause(ctx)
	r.follow = &following{r: r, epoch: h.Epoch, ctx: fctx, cancel: cancel, heard: time.Now(), from: h.Primary.Node}
	return w, r.follow, nil
}

// cutBack takes away what the primary's log doesn't have, after it was written to rescued/; mu is held.
func (r *Replica) cutBack(common themis.Seq, h Hello) error {
	last := r.log.Last()
	if last.Seq <= common {
		return nil
	}
	file, n, err := r.rescue(common+1, last.Seq, h.AckedAlone, false)
	if err != nil {
		return fmt.Errorf("rescue seq %d to %d of %s: %w", common+1, last.Seq, r.o.Shard, err)
	}
	if err := r.log.TruncateBack(common); err != nil {
		return fmt.Errorf("cut %s behind seq %d: %w", r.o.Shard, common, err)
	}
	r.unsafe(common)
	r.o.Event("log_cut", "done", "lineage", fmt.Sprintf("%d entries behind seq %d are not in the log of epoch %d; %d writes saved to %s", last.Seq-common, common, h.Epoch, n, file), h.Epoch)
	r.o.Logger.Warn("divergent tail cut", "seq", common, "cut", last.Seq-common, "epoch", h.Epoch, "rescued", file)
	return nil
}

// Serve takes what the primary ships until the stream, this replica or a later epoch ends it. One goroutine receives, writes and
// answers, so that nothing is handed over on the way of a write: a primary that has more than the disk takes sends it in larger pieces.
func (f *following) Serve(in Incoming) error {
	defer f.cancel(nil)
	var mu sync.Mutex // whoever has it may send
	over := make(chan error, 1)
	go func() { // ends when Recv does, and Recv ends when the caller's stream does
		for {
			m, err := in.Recv()
			mu.Lock()
			if err == nil && f.ctx.Err() == nil {
				err = f.serve(in, m)
			}
			mu.Unlock()
			if err != nil || f.ctx.Err() != nil {
				over <- err
				return
			}
		}
	}()
	select {
	case <-f.ctx.Done():
		mu.Lock()
		defer mu.Unlock()
		f.r.mu.Lock()
		promised := f.r.promise.Promised
		f.r.mu.Unlock()
		return in.Send(Reply{Promised: promised, Refused: fmt.Sprint(context.Cause(f.ctx))})
	case err := <-over:
		return err
	}
}

func (f *following) serve(in Incoming, m Ship) error {
	reply, err := f.take(m)
	if err != nil {
		return errors.Join(err, in.Send(Reply{Refused: err.Error()}))
	}
	return in.Send(reply)
}

func (f *following) take(m Ship) (Reply, error) {
	r := f.r
	r.mu.Lock()
	if r.follow != f || f.epoch < r.promise.Promised && guard.On(guard.Fence) {
		promised := r.promise.Promised
		r.mu.Unlock()
		return Reply{Promised: promised, Refused: "another primary is followed"}, nil
	}
	room := r.o.Room()
	if room == None && guard.On(guard.NoRoomNoFrames) {
		f.choked = f.choked || len(m.Frames) > 0
	} else if f.choked {
		r.mu.Unlock()
		return Reply{}, themis.Errorf(themis.ReadOnly, "there is room on the disk of %s again: the stream begins anew", r.o.Self.Node).In(r.o.Shard)
	}
	if len(m.Frames) > 0 && !f.choked {
		first := r.log.Durable() + 1
		if _, err := r.log.AppendFrames(m.Frames); err != nil {
			r.mu.Unlock()
			if errors.Is(err, wal.ErrClosed) {
				return Reply{Refused: "the node is going down"}, nil
			}
			if themis.CodeOf(err) != themis.InvalidArgument {
				r.failIfPoisoned(err)
			}
			return Reply{}, fmt.Errorf("append from %s: %w", f.from, err)
		}
		r.recent.offer(run{m.Frames, first, r.log.Durable()})
	}
	now := time.Now()
	f.heard = now
	r.leased = now.Add(election.ReadLease)
	if m.Free {
		r.leased = time.Time{}
	}
	if m.Free && r.quitting { // promises no further one
		f.cancel(errors.New("the node is going down"))
		r.follow = nil
	}
	if m.Whole {
		if err := r.nowWhole(); err != nil {
			r.mu.Unlock()
			return Reply{}, err
		}
	}
	last, silent := r.log.Last(), r.promise.Blank != "" || mute(r.aged, r.booted, now)
	r.safe(min(m.Commit, last.Seq)) // before another stream may cut what it says is committed
	r.mu.Unlock()
	return Reply{Mute: silent, Durable: last.Seq, LSN: last.LSN, Applied: r.openStore().Applied().Seq, Echo: m.Sent}, nil
}

// nowWhole takes a rebuilt copy for whole: the control plane counts it, so its primary was the current one; mu is held.
func (r *Replica) nowWhole() error {
	if _, is := r.log.Blank(); is {
		if err := r.log.ClearBlank(); err != nil {
			return err
		}
	}
	if r.promise.Blank == "" {
		return nil
	}
	next := r.promise
	next.Blank, next.Filled = "", false
	if err := next.write(r.o.Dir); err != nil {
		return err
	}
	r.promise = next
	r.o.Logger.Info("copy is whole", "epoch", next.Promised, "seq", r.log.Durable())
	return nil
}

// Takes says why a checkpoint can't be taken now, or nil.
func (r *Replica) Takes() error {
	if r.o.Room() != Enough {
		return themis.Errorf(themis.ReadOnly, "the disk of %s is full", r.o.Self.Node).In(r.o.Shard)
	}
	return nil
}

// Install puts a primary's checkpoint in dir in the place of this replica's store, and an empty log behind it. Until the
// primary says that it is counted the replica is blank. What takes long is done while others may ask the replica, which follows nobody
// and votes for nobody meanwhile.
func (r *Replica) Install(h Hello, snap store.Snapshot, dir string) error {
	r.installs.Lock()
	defer r.installs.Unlock()
	if err := r.beginInstall(h); err != nil {
		return err
	}
	defer func() {
		r.mu.Lock()
		r.installing = false
		r.mu.Unlock()
	}()
	if err := r.rescueBeforeInstall(Common(r.log.Lineage(), r.log.Last().Seq, h.Lineage, h.Last), h); err != nil {
		return fmt.Errorf("rescue before install: %w", err)
	}
	whole, err := store.Prepare(r.storeDir(), dir, snap, r.o.Store)
	if err != nil {
		return err
	}
	if err := r.exchange(whole, snap, upTo(h.Lineage, snap.Position.Seq)); err != nil {
		return errors.Join(err, whole.Discard())
	}
	r.safe(snap.Position.Seq)
	r.o.Logger.Info("installed", "epoch", h.Epoch, "seq", snap.Position.Seq, "bytes", snap.Bytes())
	return nil
}

// beginInstall keeps everybody else from what is exchanged: r.installing is set where it answers nil.
func (r *Replica) beginInstall(h Hello) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out(); err != nil {
		return err
	}
	switch w := Receive(r.standing(), h); {
	case !w.Accepted:
		return themis.Errorf(themis.RefusedUnsafe, "install: %s", w.Refused).In(r.o.Shard)
	case !w.Install:
		return themis.Errorf(themis.RefusedUnsafe, "install: no longer needed, the copy goes on behind seq %d", w.Common).In(r.o.Shard)
	}
	if r.follow != nil {
		r.follow.cancel(errors.New("an install began"))
		r.follow = nil
	}
	if err := r.promiseEpoch(h.Epoch); err != nil {
		return err
	}
	r.installing = true
	return nil
}

// out says why the replica takes nothing any more; nil: it does. mu is held.
func (r *Replica) out() error {
	switch {
	case r.fault != nil:
		return themis.Errorf(themis.ReadOnly, "this copy is out: %w", r.fault).In(r.o.Shard)
	case r.quitting:
		return themis.Errorf(themis.NoPrimary, "the node is going down").In(r.o.Shard)
	}
	return nil
}

// exchange puts the new store in the place of the old one, and an empty log behind it, whose epochs up to there are lineage.
func (r *Replica) exchange(whole *store.Prepared, snap store.Snapshot, lineage []themis.EpochStart) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.out(); err != nil {
		return err
	}
	next := r.promise
	if next.Blank == "" {
		next.Blank = "being rebuilt"
	}
	next.Lineage, next.Filled = lineage, false
	if err := next.write(r.o.Dir); err != nil {
		return err
	}
	r.promise = next
	if err := r.exchangeStore(whole.Install); err != nil {
		return err
	}
	if err := r.log.Reset(snap.Position, lineage); err != nil {
		return fmt.Errorf("begin the log behind seq %d: %w", snap.Position.Seq, err)
	}
	next.Lineage, next.Filled = nil, true
	if err := next.write(r.o.Dir); err != nil {
		return err
	}
	r.promise = next
	return nil
}

// exchangeStore closes the store, lets it be exchanged and opens what is there then; mu is held.
func (r *Replica) exchangeStore(exchange func() error) error {
	r.storeMu.Lock()
	defer r.storeMu.Unlock()
	if err := r.store.Close(); err != nil {
		return fmt.Errorf("close the old store: %w", err)
	}
	failed := exchange()
	s, err := store.Open(r.storeDir(), r.o.Store)
	if err != nil {
		return errors.Join(failed, err)
	}
	r.store = s
	return failed
}
