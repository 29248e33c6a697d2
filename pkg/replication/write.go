package replication

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// Change is one operation and the conditions under which it may be done.
type Change struct {
	themis.Op
	IfVersion themis.HLC // only at this version; 0: any
	IfAbsent  bool       // only if there is no document
	MustExist bool       // NOT_FOUND if there is no document
}

// Write is what a client wants changed, as one entry: all of it or nothing.
type Write struct {
	Changes   []Change
	RequestID string
	Concern   themis.WriteConcern
}

// Written is what became of it.
type Written struct {
	Seq     themis.Seq
	HLC     themis.HLC
	Ops     []store.OpResult
	Concern themis.WriteConcern // the effective one
}

const stripes = 256

// stripe orders the writes to its documents: a condition is checked and the entry gets its place in the log under one lock.
type stripe struct {
	mu     sync.Mutex
	newest map[string]newest // documents with writes that are not applied yet
}

type newest struct {
	seq     themis.Seq
	version themis.HLC
	exists  bool
}

var stripeSeed = maphash.MakeSeed()

func documentName(o *themis.Op) string {
	b := make([]byte, 0, 8+len(o.Placement)+len(o.Key))
	b = binary.BigEndian.AppendUint32(b, uint32(o.Collection))
	b = binary.BigEndian.AppendUint32(b, uint32(len(o.Placement))) //nolint:gosec // bounded
	b = append(b, o.Placement...)
	return string(append(b, o.Key...))
}

// Write appends, waits until the shard's mode and the request's concern hold, and answers; the store has it a moment later, and
// STRONG and SESSION reads wait for that. Errors that say it was
// surely not done: NO_PRIMARY (ask the newer primary), NOT_ENOUGH_REPLICAS, OVERLOADED, DEADLINE, VERSION_MISMATCH, NOT_FOUND,
// REQUEST_ID_REUSED, READ_ONLY. OUTCOME_UNKNOWN says that it may have been done.
func (r *Replica) Write(ctx context.Context, w Write) (Written, error) {
	rg := r.leading.Load()
	if rg == nil {
		return Written{}, r.notPrimary()
	}
	if err := rg.admit(ctx); err != nil {
		return Written{}, err
	}
	ops := make([]themis.Op, len(w.Changes))
	for i := range w.Changes {
		ops[i] = w.Changes[i].Op
	}
	payload := themis.AppendOps(make([]byte, 0, payloadSize(ops)), ops)
	p, mine, known, err := rg.begin(ctx, w, payload)
	if err != nil {
		return Written{}, err
	}
	if known != nil {
		effective, err := rg.copied(ctx, known.Seq, w.Concern)
		return Written{Seq: known.Seq, HLC: known.HLC, Ops: known.Ops, Concern: effective}, err
	}
	if mine {
		defer rg.answered()
		switch led, err := p.append.Commit(); {
		case err != nil:
			r.failIfPoisoned(err)
			return Written{}, err
		case led:
			rg.durable()
		}
	}
	done, err := rg.await(ctx, p, w.Concern)
	if !mine && themis.CodeOf(err) == themis.Deadline && ctx.Err() == nil {
		return r.Write(ctx, w) // the time of the same request, made before, was over: not this one's
	}
	return done, err
}

// gatherMax is the longest time that a batch is held back for the answers to the one before.
const gatherMax = 2 * time.Millisecond

// gather holds a batch back until the writes before it are answered: who writes again at once then joins it, and one fsync on
// every copy serves all of them. On a network or a disk that takes longer the batches go out without waiting.
func (r *Replica) gather() {
	rg := r.leading.Load()
	if rg == nil {
		return
	}
	upTo := r.log.Durable()
	timer := time.NewTimer(gatherMax)
	defer timer.Stop()
	for {
		next := rg.change.next()
		if themis.Seq(r.commit.Load()) >= upTo {
			return
		}
		select {
		case <-next:
		case <-timer.C:
			return
		case <-rg.ctx.Done():
			return
		}
	}
}

// answered tells that the caller of a write that was appended has its answer.
func (rg *reigning) answered() {
	rg.mu.Lock()
	rg.open--
	rg.mu.Unlock()
}

func payloadSize(ops []themis.Op) int {
	n := 4
	for i := range ops {
		n += 14 + len(ops[i].Placement) + len(ops[i].Key) + len(ops[i].Value)
	}
	return n
}

func (r *Replica) notPrimary() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != nil {
		return themis.Errorf(themis.NoPrimary, "%s on %s is out: %v", r.o.Shard, r.o.Self.Node, r.fault).In(r.o.Shard)
	}
	record := r.news().record
	return themis.Errorf(themis.NoPrimary, "%s on %s does not lead; the record names %q in epoch %d", r.o.Shard, r.o.Self.Node, record.Primary, record.Epoch).In(r.o.Shard)
}

// admit waits, inside the request's time and a bounded queue, until a client's write may be appended.
func (rg *reigning) admit(ctx context.Context) error {
	waited := false
	defer func() {
		if waited {
			rg.mu.Lock()
			rg.queued--
			rg.mu.Unlock()
		}
	}()
	rg.mu.Lock()
	err := rg.writable()
	rg.mu.Unlock()
	if err == nil {
		return nil
	}
	for {
		next := rg.change.next()
		rg.mu.Lock()
		err := rg.writable()
		if themis.CodeOf(err) == themis.ReadOnly { // room comes when people make it: the client is told at once
			rg.mu.Unlock()
			return err
		}
		if err != nil && !waited {
			if rg.queued >= rg.r.o.QueueWrites {
				rg.mu.Unlock()
				return themis.Errorf(themis.Overloaded, "%s: %d writes wait already: %v", rg.r.o.Shard, rg.r.o.QueueWrites, err).In(rg.r.o.Shard)
			}
			waited = true
			rg.queued++
		}
		rg.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-next:
		case <-rg.ctx.Done():
			return rg.r.notPrimary()
		case <-ctx.Done():
			return err
		}
	}
}

// writable is core.Writable, under the node's lease in the control plane and with room on its disk; mu is held.
func (rg *reigning) writable() error {
	if rg.core == nil {
		return themis.Errorf(themis.NoPrimary, "%s: the reign of epoch %d is only beginning", rg.r.o.Shard, rg.epoch).In(rg.r.o.Shard)
	}
	now := time.Now()
	if !rg.r.holdsLease(now) {
		return rg.withoutLease()
	}
	if rg.r.o.Room() != Enough && guard.On(guard.DiskFull) {
		return themis.Errorf(themis.ReadOnly, "%s takes no writes: the disk of %s, its primary, is full", rg.r.o.Shard, rg.r.o.Self.Node).
			In(rg.r.o.Shard).Do("themis-cli cluster health")
	}
	return rg.core.Writable(now)
}

const noLease = "this primary can't renew its lease in the control plane"

// holdsLease says whether the node's lease in the control plane holds: without it a primary answers nothing.
func (r *Replica) holdsLease(now time.Time) bool {
	return r.o.Reigns(now) || !guard.On(guard.NodeLease)
}

// withoutLease is why a primary whose node's lease has ended answers nothing.
func (rg *reigning) withoutLease() error {
	return themis.Errorf(themis.NoPrimary, "%s: %s", rg.r.o.Shard, noLease).In(rg.r.o.Shard).Do("themis-cli cluster health")
}

func digestOf(payload []byte) uint64 {
	sum := sha256.Sum256(payload)
	return max(1, binary.LittleEndian.Uint64(sum[:]))
}

// begin gives the write its place in the log: then it is mine to see it to the disk. Or it finds that the same request was made
// before: then p is that one, still under way, or known is its result.
func (rg *reigning) begin(ctx context.Context, w Write, payload []byte) (p *pending, mine bool, known *store.RequestRecord, err error) {
	first := &pending{id: w.RequestID, begun: time.Now(), done: make(chan struct{})}
	if err := rg.settled(ctx); err != nil {
		return nil, false, nil, err
	}
	if err := rg.keepPace(ctx); err != nil {
		return nil, false, nil, err
	}
	p = first
	if w.RequestID != "" {
		p.digest = digestOf(payload)
		rg.mu.Lock()
		if twin := rg.requests[w.RequestID]; twin != nil {
			rg.mu.Unlock()
			if twin.digest != p.digest {
				return nil, false, nil, reused(w.RequestID)
			}
			return twin, false, nil, nil
		}
		rg.requests[w.RequestID] = p
		rg.mu.Unlock()
		defer func() {
			if err != nil || known != nil {
				rg.abandon(w.RequestID, first, known, err)
			}
		}()
		rec, there, err := rg.r.openStore().Request(w.RequestID)
		switch {
		case err != nil:
			return nil, false, nil, err
		case there && rec.Digest != p.digest:
			return nil, false, nil, reused(w.RequestID)
		case there:
			return nil, false, &rec, nil
		}
	}
	for {
		wait, err := rg.place(w, p, payload)
		if err != nil || wait == 0 {
			return p, err == nil, nil, err
		}
		if err := rg.r.waitApplied(ctx, rg.ctx, wait); err != nil {
			return nil, false, nil, err
		}
	}
}

// settled waits until everything that came before this reign is in the store: request ids and conditions are looked up there.
func (rg *reigning) settled(ctx context.Context) error {
	if !guard.On(guard.BarrierApplied) {
		return nil
	}
	rg.mu.Lock()
	barrier := rg.core.barrier
	rg.mu.Unlock()
	return rg.r.waitApplied(ctx, rg.ctx, barrier)
}

// keepPace waits while too much is confirmed that is not in the store: reads would have to wait long for it.
func (rg *reigning) keepPace(ctx context.Context) error {
	for {
		next := rg.r.applied.next()
		rg.mu.Lock()
		writes, bytes := rg.confirmed, rg.ahead
		rg.mu.Unlock()
		if writes < mostUnapplied && bytes < recentBytes {
			return nil
		}
		rg.r.hurryUp()
		select {
		case <-next:
		case <-rg.ctx.Done():
			return rg.r.notPrimary()
		case <-ctx.Done():
			return themis.Errorf(themis.Deadline, "%s: %d confirmed writes of %d bytes are on their way to the store; there was no time to wait for them", rg.r.o.Shard, writes, bytes).In(rg.r.o.Shard)
		}
	}
}

// mostUnapplied is how many writes may be confirmed and not yet in the store, of recentBytes in all.
const mostUnapplied = 1024

func reused(id string) error {
	return themis.Errorf(themis.RequestIDReused, "Idempotency-Key %q was used for another write: of another document, with another verb or another body", id)
}

// abandon tells twins of a request that was not appended, or was known, what the first one was told.
func (rg *reigning) abandon(id string, p *pending, known *store.RequestRecord, err error) {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	delete(rg.requests, id)
	if known != nil {
		p.seq, p.hlc, p.ops = known.Seq, known.HLC, known.Ops
	}
	p.err = err
	close(p.done)
}

// place checks the conditions and appends. wait is the seq of an unapplied write that a failed condition rests on: only once
// that is certain can the condition be said to fail.
func (rg *reigning) place(w Write, p *pending, payload []byte) (wait themis.Seq, err error) {
	names := make([]string, len(w.Changes))
	var locks []int
	for i := range w.Changes {
		names[i] = documentName(&w.Changes[i].Op)
		locks = append(locks, int(maphash.String(stripeSeed, names[i])%stripes)) //nolint:gosec // below stripes
	}
	at := slices.Clone(locks)
	slices.Sort(locks)
	for _, i := range slices.Compact(locks) {
		rg.stripes[i].mu.Lock()
		defer rg.stripes[i].mu.Unlock()
	}
	existed := make([]bool, len(w.Changes))
	within := map[string]bool{} // what the write itself has made of a document
	for i := range w.Changes {
		n, err := rg.newestOf(&w.Changes[i], rg.stripes[at[i]].newest[names[i]])
		if err != nil {
			return 0, err
		}
		if err := w.Changes[i].check(n); err != nil {
			return n.seq, ifCertain(n.seq, err)
		}
		existed[i] = n.exists
		if len(w.Changes) > 1 {
			if exists, is := within[names[i]]; is {
				existed[i] = exists
			}
			within[names[i]] = w.Changes[i].Code == themis.OpPut
		}
	}
	e, err := rg.append(w, p, payload, names, existed)
	if err != nil {
		return 0, err
	}
	for i := range w.Changes {
		s := &rg.stripes[at[i]]
		if s.newest == nil {
			s.newest = map[string]newest{}
		}
		s.newest[names[i]] = newest{e.Seq, e.HLC + themis.HLC(i), w.Changes[i].Code == themis.OpPut} //nolint:gosec // a small index
	}
	return 0, nil
}

// append gives the entry its seq and makes the write findable by it, in one step: it may be applied a moment later.
func (rg *reigning) append(w Write, p *pending, payload []byte, names []string, existed []bool) (themis.Entry, error) {
	rg.mu.Lock()
	defer rg.mu.Unlock()
	if err := context.Cause(rg.ctx); err != nil {
		return themis.Entry{}, themis.Errorf(themis.NoPrimary, "%s: the reign of epoch %d ended: %v", rg.r.o.Shard, rg.epoch, err).In(rg.r.o.Shard)
	}
	if err := rg.stillWritable(p); err != nil {
		return themis.Entry{}, err
	}
	a, err := rg.r.log.Begin(themis.KindWrite, themis.Tags{RequestID: w.RequestID, BodyDigest: p.digest}, payload, len(w.Changes))
	if errors.Is(err, wal.ErrNoReign) || errors.Is(err, wal.ErrPoisoned) || errors.Is(err, wal.ErrClosed) {
		return themis.Entry{}, themis.Errorf(themis.NoPrimary, "%s: nothing was appended: %w", rg.r.o.Shard, err).In(rg.r.o.Shard)
	}
	if err != nil {
		return themis.Entry{}, err
	}
	e := a.Entry()
	p.append, p.seq, p.hlc, p.keys, p.size, p.ops = a, e.Seq, e.HLC, names, len(payload), make([]store.OpResult, len(w.Changes))
	for i := range w.Changes {
		p.ops[i] = store.OpResult{Collection: w.Changes[i].Collection, Placement: w.Changes[i].Placement, Version: e.HLC + themis.HLC(i), Existed: existed[i]} //nolint:gosec // a small index
	}
	rg.waiting = append(rg.waiting, p)
	rg.open++
	return e, nil
}

// letIn is how long what let a write in holds without another look.
const letIn = 50 * time.Millisecond

// stillWritable is writable for a write that was let in: what changes slowly is looked at again only if it waited since; mu is held.
func (rg *reigning) stillWritable(p *pending) error {
	if now := time.Now(); now.Sub(p.begun) < letIn && !rg.core.Frozen() && !rg.core.retired {
		return nil
	}
	return rg.writable()
}

func ifCertain(wait themis.Seq, err error) error {
	if wait > 0 {
		return nil
	}
	return err
}

// newestOf is the newest state of the change's document, applied or not: n, or what the store has where n is none.
func (rg *reigning) newestOf(c *Change, n newest) (newest, error) {
	if n.seq > 0 {
		return n, nil
	}
	version, exists, err := rg.r.openStore().Version(c.Collection, c.Placement, c.Key)
	return newest{version: version, exists: exists}, err
}

// check compares the change's conditions with the newest state of its document.
func (c *Change) check(n newest) error {
	switch {
	case c.IfVersion != 0 && !n.exists:
		return themis.Errorf(themis.VersionMismatch, "document %q does not exist; If-Match asked for version %s", c.Key, c.IfVersion)
	case c.IfVersion != 0 && n.version != c.IfVersion:
		return themis.Errorf(themis.VersionMismatch, "document %q is at version %s; If-Match asked for %s", c.Key, n.version, c.IfVersion)
	case c.IfAbsent && n.exists:
		return themis.Errorf(themis.VersionMismatch, "document %q exists already, at version %s; If-None-Match: * asked that it does not", c.Key, n.version)
	case c.MustExist && !n.exists:
		return themis.Errorf(themis.NotFound, "document %q does not exist", c.Key)
	}
	return nil
}

// settle drops the document states that the applied write left behind.
func (rg *reigning) settle(p *pending) {
	for _, name := range p.keys {
		s := &rg.stripes[maphash.String(stripeSeed, name)%stripes]
		s.mu.Lock()
		if s.newest[name].seq == p.seq {
			delete(s.newest, name)
		}
		s.mu.Unlock()
	}
}

// await answers once the entry is committed, and on as many disks as the concern asks for.
func (rg *reigning) await(ctx context.Context, p *pending, concern themis.WriteConcern) (Written, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return Written{}, themis.Errorf(themis.OutcomeUnknown, "%s: time ran out before the write was confirmed", rg.r.o.Shard).In(rg.r.o.Shard)
	}
	if p.err != nil {
		if p.append != nil && p.append.Failed() != nil { // it may know that the entry was never written
			return Written{}, p.append.Failed()
		}
		return Written{}, p.err
	}
	effective, err := rg.copied(ctx, p.seq, concern)
	return Written{Seq: p.seq, HLC: p.hlc, Ops: p.ops, Concern: effective}, err
}

// copied waits until a committed entry is on as many disks as the concern asks for, and answers the concern that then holds.
func (rg *reigning) copied(ctx context.Context, seq themis.Seq, concern themis.WriteConcern) (effective themis.WriteConcern, err error) {
	need, effective := rg.need(concern)
	for need > 1 {
		next := rg.change.next()
		rg.mu.Lock()
		have := rg.core.Copies(seq)
		rg.mu.Unlock()
		if have >= need {
			break
		}
		select {
		case <-next:
		case <-rg.ctx.Done():
			return "", rg.r.unknown(rg.epoch)
		case <-ctx.Done():
			return "", themis.Errorf(themis.OutcomeUnknown, "%s: the write at seq %d is committed, but only %d of the %d copies that write_concern %s asks for have it",
				rg.r.o.Shard, seq, have, need, concern).In(rg.r.o.Shard)
		}
	}
	return effective, nil
}

// need is how many disks a concern asks for, the primary's included (C-71), and the concern that is met by those that the mode
// asks for anyway: never weaker than the mode.
func (rg *reigning) need(c themis.WriteConcern) (disks int, effective themis.WriteConcern) {
	rg.mu.Lock()
	have := rg.core.Shard().Have
	rg.mu.Unlock()
	disks = 1
	switch c {
	case themis.ConcernQuorum, themis.ConcernLocalQuorum:
		disks = have.RF/2 + 1
	case themis.ConcernAll:
		disks = have.RF
	}
	byMode := 1
	if have.Mode != themis.Async {
		byMode = 1 + have.K
	}
	switch n := max(byMode, disks); {
	case n >= have.RF && have.RF > 1:
		return disks, themis.ConcernAll
	case n >= have.RF/2+1 && have.RF > 1:
		return disks, themis.ConcernQuorum
	}
	return disks, themis.ConcernImmediate
}
