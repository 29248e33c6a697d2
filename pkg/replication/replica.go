package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// Options are what a replica is opened with.
type Options struct {
	Dir     string
	Cluster themis.ClusterID
	Shard   themis.ShardID
	Self    cluster.Member
	Boot    themis.BootID
	Fresh   bool         // the record names this disk and no reign has begun: an empty directory is whole
	Counted bool         // the record has this disk as a voter after the first reign: an empty directory lacks what was there, or the disk is another
	Epoch   themis.Epoch // of the record; what is begun anew here, or was lost with REPLICA.json, may have promised it

	Log   wal.Options // Cluster, Shard, Storage, Tap are set here
	Store store.Options
	Rules func() Rules // those in force now; nil: DefaultRules

	Transport Transport
	Registry  Registry
	Reigns    func(now time.Time) bool                                   // the node's lease holds: ASYNC may acknowledge
	Room      func() Room                                                // on the disk; nil: enough
	Event     func(action, outcome, rule, reason string, e themis.Epoch) // the audit trail
	Logger    *slog.Logger

	Heartbeat   time.Duration       // default 300 ms
	QueueWrites int                 // writes that may wait for copies; default 4096
	Scrub       time.Duration       // the log is read for damage, 256 KiB at a time, so often; default 1 s
	KeepLog     func() themis.Bytes // log that is kept for followers that were away; nil: 1 GiB
}

// Room is how much is left on the disk of a replica.
type Room int

// The kinds of room.
const (
	Enough Room = iota
	Little      // clients' writes are refused; what others have appended is still taken
	None        // nothing that grows is taken
)

func (o Options) withDefaults() Options {
	if o.Heartbeat == 0 {
		o.Heartbeat = 300 * time.Millisecond
	}
	if o.QueueWrites == 0 {
		o.QueueWrites = 4096
	}
	if o.Scrub == 0 {
		o.Scrub = time.Second
	}
	if o.KeepLog == nil {
		o.KeepLog = func() themis.Bytes { return 1 << 30 }
	}
	if o.Rules == nil {
		o.Rules = DefaultRules
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Room == nil {
		o.Room = func() Room { return Enough }
	}
	if o.Event == nil {
		o.Event = func(string, string, string, string, themis.Epoch) {}
	}
	o.Logger = o.Logger.With("shard", o.Shard)
	o.Log.Cluster, o.Log.Shard, o.Log.Storage = o.Cluster, o.Shard, o.Self.Storage
	o.Store.Logger = o.Logger
	return o
}

// Replica is one shard's copy on this node.
type Replica struct {
	o      Options
	log    *wal.Log
	booted time.Time
	heard  struct { // the newest hello that was accepted; mu is held
		epoch  themis.Epoch
		stream uint64
	}
	aged bool // the directory existed before this process
	cut  string

	storeMu sync.RWMutex // held for writing only while an install exchanges the store
	store   *store.Store

	mu       sync.Mutex // of what follows: who this replica listens to; held while its disk is written to, and for as long as an install takes
	promise  promiseFile
	leased   time.Time
	reign    *reigning    // not nil while it leads
	follow   *following   // not nil while it follows
	last     themis.Epoch // the newest reign of its own
	resigned themis.Epoch // the newest one that has ended and had committed its first entry
	fault    error
	quitting bool // the node goes down

	installs   sync.Mutex // held by the install there is, and from when the replica is closed; before mu
	installing bool       // mu is held: log, store and promise are its

	told struct { // by the map: its watcher serves every shard of the node, and waits for no disk
		sync.Mutex
		news
	}
	learned chan struct{} // a newer record, or a verdict

	damage  atomic.Pointer[error]    // of the log, found while it was read to others or for checking: CORRUPT
	leading atomic.Pointer[reigning] // reign, for those who must not wait for mu
	fitness atomic.Pointer[Fitness]  // what Fitness answered last
	commit  atomic.Uint64            // highest seq known to be committed
	applied signal                   // something was committed or applied
	recent  recent                   // frames that are not applied yet
	hurry   chan struct{}            // somebody waits for something to be applied
	hurried atomic.Int64             // when somebody last did, in ns
}

// news is what a replica knows of the rest: the newest record, and the nodes where this shard's copy is lost, whose disks are full, and that
// are on their way out.
type news struct {
	record                 cluster.Shard
	failed, full, stopping map[themis.NodeID]bool
}

func (r *Replica) news() news {
	r.told.Lock()
	defer r.told.Unlock()
	return r.told.news
}

// signal wakes all who wait for something to change.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next change. Take it before looking.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// Open opens the replica in o.Dir and applies what is known to be committed. Errors of the log and the store pass through; a
// directory of another cluster, shard or disk is INVALID_ARGUMENT.
func Open(o Options) (_ *Replica, err error) {
	o = o.withDefaults()
	r := &Replica{o: o, booted: time.Now(), learned: make(chan struct{}, 1), hurry: make(chan struct{}, 1)}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if err := dropCheckpoints(o.Dir); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	p, there, err := readPromise(o.Dir)
	lost := ""
	if themis.CodeOf(err) == themis.Corrupt {
		aside := fmt.Sprintf("%s.damaged-%d", filepath.Join(o.Dir, promiseName), r.booted.Unix())
		lost = fmt.Sprintf("what it had promised is not known, %s is damaged and was moved to %s: %v", promiseName, aside, err)
		err = os.Link(filepath.Join(o.Dir, promiseName), aside) // the new one takes its place in one step
	}
	if err != nil {
		return nil, err
	}
	switch {
	case !there || lost != "":
		p = promiseFile{LeaseFree: !there, Format: 1, Cluster: o.Cluster, Shard: o.Shard, Storage: o.Self.Storage, Blank: lost}
		if guard.On(guard.PromiseReread) {
			p.Promised = o.Epoch
		}
		if lost != "" {
			o.Event("quarantine", "done", "corruption", lost, p.Promised)
			o.Logger.Warn("replica is blank", "reason", lost)
		} else if !o.Fresh && guard.On(guard.EmptyIsBlank) {
			p.Blank = "a new copy, not yet filled"
			if o.Counted {
				p.Blank = "the map has a copy on this disk, and none is here: its directory was emptied, or the disk exchanged; it is filled from the others"
				o.Event("quarantine", "done", "empty-is-blank", p.Blank, p.Promised)
				o.Logger.Warn("replica is blank", "reason", p.Blank)
			}
		}
		if err := p.write(o.Dir); err != nil {
			return nil, err
		}
	case p.Cluster != o.Cluster || p.Shard != o.Shard || p.Storage != o.Self.Storage:
		return nil, themis.Errorf(themis.InvalidArgument, "%s belongs to %s of cluster %s on storage %s, not to %s of cluster %s on storage %s",
			o.Dir, p.Shard, p.Cluster, p.Storage, o.Shard, o.Cluster, o.Self.Storage).In(o.Shard).Do("move the directory away; the copy is rebuilt from the others")
	}
	r.promise, r.aged = p, !p.LeaseFree
	o.Log.Tap, o.Log.Gather = r.tap, r.gather
	var rec wal.Recovery
	defer func() {
		if err != nil {
			err = errors.Join(err, r.close())
		}
	}()
	err = r.openOrQuarantine("wal", func(dir string) (err error) { r.log, rec, err = wal.Open(dir, o.Log); return err })
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", o.Shard, err)
	}
	err = r.openOrQuarantine("store", func(dir string) (err error) { r.store, err = store.Open(dir, o.Store); return err })
	if err != nil {
		return nil, fmt.Errorf("open store of %s: %w", o.Shard, err)
	}
	if rec.CutBytes > 0 {
		r.cut = fmt.Sprintf("%d bytes of a torn tail were cut at offset %d of %s: %s", rec.CutBytes, rec.CutOffset, rec.CutFile, rec.CutReason)
		o.Logger.Warn("torn tail cut", "bytes", rec.CutBytes, "file", rec.CutFile, "offset", rec.CutOffset, "reason", rec.CutReason)
	}
	if err := r.reconcile(rec); err != nil {
		return nil, err
	}
	r.commit.Store(uint64(r.store.Applied().Seq))
	if r.store.Applied().Seq >= r.log.Base().Seq { // else what follows the store is no longer in the log: a primary's state comes first
		r.commit.Store(uint64(max(rec.MaxCommit, r.store.Applied().Seq)))
	}
	return r, nil
}

// openOrQuarantine opens a part of the replica. What is damaged is neither skipped nor repaired in place: it is moved aside for
// people to look at, and the replica is blank until a peer rebuilds it (promise 11).
func (r *Replica) openOrQuarantine(part string, open func(dir string) error) error {
	dir := filepath.Join(r.o.Dir, part)
	err := open(dir)
	if themis.CodeOf(err) != themis.Corrupt {
		return err
	}
	if err := r.quarantine(part, fmt.Errorf("%s is damaged: %w", part, err)); err != nil {
		return err
	}
	return open(dir)
}

// quarantine moves a part that is not open aside; mu is held, or nobody else has the replica yet.
func (r *Replica) quarantine(part string, why error) error {
	dir := filepath.Join(r.o.Dir, part)
	aside := fmt.Sprintf("%s.damaged-%d", dir, r.booted.Unix())
	reason := fmt.Sprintf("%v; it was moved to %s", why, aside)
	if guard.On(guard.BlankFirst) { // without its log and with a young store the replica would look new
		if err := r.setBlank(reason); err != nil {
			return err
		}
	}
	if err := os.Rename(dir, aside); err != nil {
		return errors.Join(why, err)
	}
	r.o.Event("quarantine", "done", "corruption", reason, r.promise.Promised)
	return nil
}

// reconcile makes log and store agree after whatever ended the last process.
func (r *Replica) reconcile(rec wal.Recovery) error {
	applied := r.store.Applied()
	switch {
	case applied.Seq > r.log.Last().Seq && len(r.promise.Lineage) > 0:
		// The crash fell between the exchange of the store and that of the log.
		if err := r.log.Reset(applied, r.promise.Lineage); err != nil {
			return fmt.Errorf("continue the install of %s: %w", r.o.Shard, err)
		}
	case applied.Seq > r.log.Last().Seq:
		return r.setBlank(fmt.Sprintf("the log ends at seq %d, the store had applied seq %d", r.log.Last().Seq, applied.Seq))
	case applied.Seq < r.log.Base().Seq:
		return r.setBlank(fmt.Sprintf("the store is at seq %d, the log begins behind seq %d", applied.Seq, r.log.Base().Seq))
	}
	if rec.Blank {
		return r.setBlank(rec.BlankReason)
	}
	return nil
}

func (r *Replica) storeDir() string { return filepath.Join(r.o.Dir, "store") }

func (r *Replica) setBlank(reason string) error {
	r.o.Logger.Warn("replica is blank", "reason", reason)
	if r.promise.Blank == "" {
		r.promise.Blank = reason
	}
	r.promise.Filled = false
	return r.promise.write(r.o.Dir)
}

// Run does the replica's background work until ctx ends, and closes it. An error of the disk ends it early: the replica is
// out, and says why.
func (r *Replica) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.applyLoop(ctx) })
	g.Go(func() error { return r.keepLoop(ctx) })
	g.Go(func() error { return r.scrubLoop(ctx) })
	g.Go(func() error { return r.roleLoop(ctx) })
	err := g.Wait()
	if err = ignoreCanceled(err); err != nil {
		r.fail(err)
	}
	r.mu.Lock()
	if r.follow != nil {
		r.follow.cancel(errors.New("the node is going down"))
		r.follow = nil
	}
	r.quitting = true
	if r.fault == nil && (!r.leased.After(time.Now()) || !guard.On(guard.LeaseNote)) {
		err = errors.Join(err, r.noteLease(true))
	}
	r.mu.Unlock()
	r.installs.Lock() // the last one ends, and no other begins
	defer r.installs.Unlock()
	return errors.Join(err, r.close())
}

// noteLease makes it durable that this disk may have promised a read lease, before the first of a run, or that it has none open;
// mu is held. Without the second a replica gives no ballot for one lease length after its next start.
func (r *Replica) noteLease(free bool) error {
	if r.promise.LeaseFree == free {
		return nil
	}
	next := r.promise
	next.LeaseFree = free
	if err := next.write(r.o.Dir); err != nil {
		return err
	}
	r.promise = next
	return nil
}

// Quit prepares the replica for its end: as primary it serves nothing any more and frees its followers of their read leases; as
// follower it waits to be freed. It returns when nothing is open, or when ctx ends. Then end the context of Run.
func (r *Replica) Quit(ctx context.Context) {
	r.mu.Lock()
	r.quitting = true
	r.mu.Unlock()
	if rg := r.leading.Load(); rg != nil {
		rg.retire()
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for r.leases() {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// leases says whether a lease is open: promised by this replica, or to it by a follower that has not heard yet that it is free.
func (r *Replica) leases() bool {
	r.mu.Lock()
	leased, rg := r.leased, r.reign
	r.mu.Unlock()
	return leased.After(time.Now()) || rg != nil && rg.binds()
}

func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (r *Replica) close() error {
	var err error
	if r.log != nil {
		err = r.log.Close()
	}
	if s := r.openStore(); s != nil {
		err = errors.Join(err, s.Close())
	}
	return err
}

func (r *Replica) openStore() *store.Store {
	r.storeMu.RLock()
	defer r.storeMu.RUnlock()
	return r.store
}

// Stopping shows the replica which nodes are on their way out.
func (r *Replica) Stopping(nodes map[themis.NodeID]bool) {
	r.told.Lock()
	defer r.told.Unlock()
	r.told.stopping = nodes
}

// Learn shows the replica the newest record and verdicts: on which nodes this shard's copy is lost, and whose disks are full.
func (r *Replica) Learn(record cluster.Shard, failed, full map[themis.NodeID]bool) {
	r.told.Lock()
	if record.Revision >= r.told.record.Revision {
		r.told.record = record
	}
	r.told.failed, r.told.full = failed, full
	r.told.Unlock()
	select {
	case r.learned <- struct{}{}:
	default:
	}
}

// roleLoop begins and ends reigns as the record says. At most one reign runs, and it ends before roleLoop does.
func (r *Replica) roleLoop(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.learned:
		}
		record := r.news().record
		r.mu.Lock()
		mine := record.Primary == r.o.Self && record.Boot == r.o.Boot && record.Epoch > r.last && record.Epoch >= r.promise.Promised && r.promise.Blank == "" && !r.quitting
		r.mu.Unlock()
		if !mine {
			continue
		}
		if err := r.lead(ctx, record); err != nil {
			return err
		}
	}
}

// fail puts the replica out: a failed write or fsync is final (promise 11). Its reign and its following end.
func (r *Replica) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault == nil {
		r.fault = err
		r.o.Logger.Error("replica is out", "err", err)
		rule := "fsync-final"
		if themis.CodeOf(err) == themis.Corrupt {
			rule = "corruption"
		}
		r.o.Event("replica_fault", "failed", rule, err.Error(), r.promise.Promised)
		r.remember(err)
	}
	if r.reign != nil {
		r.reign.end(err)
	}
	if r.follow != nil {
		r.follow.cancel(err)
		r.follow = nil
	}
}

// remember makes the copy blank for the next process: after a failed sync the kernel shows what is not on the disk, so nothing
// that is read here later proves anything. A disk that was full, and an entry that a later version has to read, put nothing in
// doubt. On a disk that takes nothing the word can't be kept; mu is held.
func (r *Replica) remember(err error) {
	if wal.NoRoom(err) || themis.CodeOf(err) == themis.Unimplemented || !guard.On(guard.FaultIsBlank) {
		return
	}
	if err := r.setBlank("it stopped: " + err.Error()); err != nil {
		r.o.Logger.Error("the fault could not be noted on the disk", "err", err)
	}
}

// Fault is why the replica is out; nil while it is not.
func (r *Replica) Fault() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault
}

func (r *Replica) failIfPoisoned(err error) {
	if errors.Is(err, wal.ErrPoisoned) {
		r.fail(err)
	}
}

// Fitness is whether this copy can lead, and whether it does where the record says so.
type Fitness struct {
	Unfit    string       // why it can't: its disk failed, or it is blank; empty: it can
	Resigned themis.Epoch // the record's, under which this boot of it should reign, and does not any more, or never will; 0: none
}

// Unfit says why this copy can't lead: its disk failed, or it is blank. Empty: it can.
func (r *Replica) Unfit() string { return r.Fitness().Unfit }

// Fitness waits for a disk that a promise or a frame is being written to: one that hangs answers nothing.
func (r *Replica) Fitness() Fitness {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.judge()
}

// LastFitness waits for no disk: it is what was known last, where one is being written to.
func (r *Replica) LastFitness() Fitness {
	if r.mu.TryLock() {
		defer r.mu.Unlock()
		return r.judge()
	}
	if f := r.fitness.Load(); f != nil {
		return *f
	}
	return Fitness{}
}

// judge makes the Fitness; mu is held.
func (r *Replica) judge() Fitness {
	f := Fitness{Unfit: r.promise.Blank, Resigned: r.ended()}
	if r.fault != nil {
		f.Unfit = r.fault.Error()
	}
	r.fitness.Store(&f)
	return f
}

// ended is the record's epoch where it names this boot of this copy as primary, whose reign is over or can't begin, since a later
// epoch was promised. No reign begins twice, so that only another election helps; mu is held.
func (r *Replica) ended() themis.Epoch {
	record := r.news().record
	e := record.Epoch
	if record.Primary != r.o.Self || record.Boot != r.o.Boot || r.reign != nil && r.reign.epoch == e && r.reign.ctx.Err() == nil {
		return 0
	}
	if e > r.last && e >= r.promise.Promised {
		return 0 // it begins
	}
	return e
}

// standing is what this replica knows of itself; mu is held.
func (r *Replica) standing() Standing {
	blank := r.promise.Blank
	if reason, is := r.log.Blank(); is && blank == "" {
		blank = reason
	}
	return Standing{
		Cluster: r.o.Cluster, Shard: r.o.Shard, Self: r.o.Self, Promised: r.promise.Promised, Blank: blank, Filled: r.promise.Filled,
		Last: r.log.Last(), Base: r.log.Base().Seq, Applied: r.openStore().Applied().Seq, Lineage: r.log.Lineage(),
		Booted: r.booted, Leased: r.leased, EverPromised: r.aged, Resigned: r.resigned,
	}
}

// promiseEpoch makes it durable that nothing below e is accepted any more; mu is held.
func (r *Replica) promiseEpoch(e themis.Epoch) error {
	if e <= r.promise.Promised || !guard.On(guard.Promise) {
		return nil
	}
	next := r.promise
	next.Promised = e
	if err := next.write(r.o.Dir); err != nil {
		return err
	}
	r.promise = next
	return nil
}

// Vote gives this replica's ballot for epoch e: a promise, durable before it is returned. The error says why there is none.
func (r *Replica) Vote(e themis.Epoch) (election.Ballot, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != nil {
		return election.Ballot{}, fmt.Errorf("no ballot: %w", r.fault)
	}
	if r.installing {
		return election.Ballot{}, themis.Errorf(themis.RefusedUnsafe, "another state is being installed").In(r.o.Shard)
	}
	now := time.Now()
	standing := r.standing()
	if _, no := Vote(standing, e, now); no != "" {
		return election.Ballot{}, themis.Errorf(themis.RefusedUnsafe, "%s", no).In(r.o.Shard)
	}
	if r.reign != nil && r.reign.epoch < e {
		r.resigned = max(r.resigned, r.reign.resign(fmt.Errorf("a ballot was given for epoch %d", e)))
	}
	if r.follow != nil && r.follow.epoch < e {
		r.follow.cancel(fmt.Errorf("a ballot was given for epoch %d", e))
		r.follow = nil
	}
	if err := r.promiseEpoch(e); err != nil {
		return election.Ballot{}, err
	}
	standing.Promised, standing.Last, standing.Resigned = e, r.log.Last(), r.resigned
	b, _ := Vote(standing, e, now)
	b.Boot = r.o.Boot
	return b, nil
}

// keepLoop keeps the log's mark durable, the store flushed and the log short.
func (r *Replica) keepLoop(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if err := errors.Join(r.log.MarkDurable(), r.openStore().Fault(), r.leave()); err != nil {
			return fmt.Errorf("keep %s: %w", r.o.Shard, err)
		}
		if n%10 != 0 {
			continue
		}
		if err := r.trim(); err != nil {
			return fmt.Errorf("keep %s: %w", r.o.Shard, err)
		}
	}
}

// Flush brings the store on disk to what is applied, so that the next process has nothing of it to apply anew.
func (r *Replica) Flush() error {
	_, err := r.openStore().Flush()
	return err
}

// trim flushes what a restart would have to replay, and drops whole segments that nobody needs.
func (r *Replica) trim() error {
	s := r.openStore()
	durable, err := s.DurableApplied()
	if err != nil {
		return err
	}
	if s.Applied().Seq > durable+20_000 {
		if durable, err = s.Flush(); err != nil {
			return err
		}
	}
	for r.log.Size() > r.o.KeepLog() && r.log.Segments() > 2 {
		before := r.log.First()
		if err := r.log.TruncateFront(durable); err != nil {
			return err
		}
		if r.log.First() == before {
			break
		}
	}
	return nil
}
