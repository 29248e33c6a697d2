package replication

import (
	"fmt"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// Rules are the numbers a reign goes by.
type Rules struct {
	AckTimeout time.Duration // a member whose oldest missing entry is older leaves the ISR, while 1 + k remain
	JoinWindow themis.Seq    // a copy within so many entries of the end is proposed for the ISR
	HeardFor   time.Duration // a follower unheard for longer does not count as reachable
}

// DefaultRules are the numbers in force unless the configuration says otherwise.
func DefaultRules() Rules {
	return Rules{AckTimeout: time.Second, JoinWindow: 4096, HeardFor: 3 * time.Second}
}

// Ack is what a follower says of itself.
type Ack struct {
	Durable themis.Seq
	Applied themis.Seq
	LSN     themis.LSN // behind the last durable entry
	Sent    time.Time  // when the primary sent what this answers; zero: nothing to confirm
	Mute    bool       // it would give no ballot now
}

type follower struct {
	durable, applied themis.Seq
	lsn              themis.LSN
	heard            time.Time // when the newest ack came
	confirmed        time.Time // the newest Sent it answered: it promises the read lease from then on
	mute             bool      // it would give no ballot, as it said last
	free             bool      // it was told that its promises are not needed: they confirm nothing any more
	gone             bool      // its stream has ended
}

// Proposal is a change of the ISR or of the policy on its way to the control plane. From the moment it is made until its outcome is
// known the reign counts by both the old and the new record.
type Proposal struct {
	Seen, Next cluster.Shard
	Member     cluster.Member // who enters or leaves the ISR; zero: it changes the policy
	Add        bool
	Why        string
}

// Policy says whether it is the policy that changes.
func (p *Proposal) Policy() bool { return p.Member.IsZero() }

// Reign is what a primary knows and decides in one epoch: which entries are committed, who must have them, who may join or
// must leave, and whether it may answer reads. It is pure: it is told of events with their time and changes only itself.
// One goroutine owns it.
type Reign struct {
	self    cluster.Member
	shard   cluster.Shard // the record as this primary knows it; every proposal compares its revision
	rules   Rules
	barrier themis.Seq
	start   time.Time // nothing is committed before: read leases of the last reign may hold until then

	appended themis.Seq // in the local log, perhaps not yet on disk
	durable  themis.Seq // on the local disk
	commit   themis.Seq
	peers    map[cluster.Member]*follower
	acked    map[cluster.Member]themis.Seq // the most that each has acknowledged in this reign since its stream began or broke
	marks    []mark                        // when which seq was appended: to tell how old a missing entry is
	failed   map[themis.NodeID]bool        // nodes whose copy is lost
	full     map[themis.NodeID]bool        // nodes whose disk has little room
	stopping map[themis.NodeID]bool        // nodes on their way out
	frozen   bool                          // the reign is to be handed over: no new write
	retired  bool                          // it serves nothing any more
	lapsed   bool                          // the node's lease in the control plane has ended

	joining cluster.Member // counted already, though not yet proposed: it must reach target first
	target  themis.Seq
	since   time.Time
	flying  *Proposal
	held    time.Time // since then what is committed is held back for the policy that is wanted; zero: it isn't
}

type mark struct {
	seq themis.Seq
	at  time.Time
}

// NewReign begins the reign that the record describes. committed is what is known to be committed from before; barrier is the
// seq of the reign's first entry, which the caller has appended.
func NewReign(shard cluster.Shard, committed, barrier themis.Seq, now time.Time, rules Rules) *Reign {
	return &Reign{
		self: shard.Primary, shard: shard, rules: rules, barrier: barrier, appended: barrier, commit: committed,
		start: now.Add(time.Duration(shard.WaitMs) * time.Millisecond),
		peers: map[cluster.Member]*follower{}, acked: map[cluster.Member]themis.Seq{}, marks: []mark{{barrier, now}},
	}
}

// Appended tells of entries up to last in the local log.
func (r *Reign) Appended(last themis.Seq, now time.Time) {
	if last <= r.appended {
		return
	}
	r.appended = last
	if n := len(r.marks); n == 0 || now.Sub(r.marks[n-1].at) > r.rules.AckTimeout/16 {
		r.marks = append(r.marks, mark{last, now})
	} else {
		r.marks[n-1].seq = last // keeps the older time: a missing entry seems older than it is by a sixteenth at most
	}
}

// Durable tells that the local disk has everything up to seq.
func (r *Reign) Durable(seq themis.Seq, now time.Time) {
	r.durable = max(r.durable, seq)
	r.advance(now)
}

// Heard tells what a follower acknowledged. A disk that the record does not know counts for nothing.
func (r *Reign) Heard(from cluster.Member, a Ack, now time.Time) {
	f := r.peers[from]
	if f == nil {
		f = &follower{}
		r.peers[from] = f
	}
	f.durable, f.applied = max(f.durable, a.Durable), max(f.applied, a.Applied)
	r.acked[from] = max(r.acked[from], a.Durable)
	f.heard, f.lsn, f.mute = now, max(f.lsn, a.LSN), a.Mute
	f.gone = false
	if a.Sent.After(f.confirmed) && !f.free {
		f.confirmed = a.Sent
	}
	r.advance(now)
}

// Reset tells that a follower's log was cut back to seq: it starts anew from there.
func (r *Reign) Reset(from cluster.Member, seq themis.Seq, now time.Time) {
	r.peers[from] = &follower{durable: seq, heard: now}
	r.acked[from] = seq
}

// Asked tells that a follower is asked to cut its log back to seq, if it has more. Whether it has done so is known with its answer
// only: until then it counts for no more than that.
func (r *Reign) Asked(m cluster.Member, seq themis.Seq) {
	if !guard.On(guard.AskedCounts) {
		return
	}
	if f := r.peers[m]; f != nil {
		f.durable = min(f.durable, seq)
	}
	r.acked[m] = min(r.acked[m], seq)
}

// Emptied tells that a follower has said that it is to be filled anew: whatever it had acknowledged, it vouches for nothing.
func (r *Reign) Emptied(from cluster.Member, now time.Time) {
	r.Reset(from, 0, now)
	r.Lost(from)
}

// Acked is how far the follower's log reached once in this reign, since it was cut back last; 0: nowhere, or it was emptied.
func (r *Reign) Acked(m cluster.Member) themis.Seq { return r.acked[m] }

// Lost tells that a follower's stream has ended: until it is heard again it neither joins the in-sync set nor follows this reign.
func (r *Reign) Lost(from cluster.Member) {
	if f := r.peers[from]; f != nil {
		f.gone = true
	}
}

// Rule tells the numbers to go by from now on.
func (r *Reign) Rule(rules Rules) { r.rules = rules }

// Leased tells whether the node's lease in the control plane holds: without it nothing is committed on this disk's word alone.
func (r *Reign) Leased(holds bool) { r.lapsed = !holds }

// Retire ends what the reign serves: it reads and writes nothing any more, so that it can free its followers.
func (r *Reign) Retire() { r.retired = true }

// Free says whether a follower may be told that this reign needs none of its read leases any more, and from then on relies on none.
// That is so where it serves nothing any more, and for a member whose node stops and that no read waits for. Leases of reigns
// before this one are over once its first entry is committed.
func (r *Reign) Free(m cluster.Member) bool {
	f := r.peers[m]
	needless := r.shard.Have.Mode == themis.Sync && r.stopping[m.Node] && !slices.Contains(r.counted(), m)
	if f == nil || r.Resigned() == 0 || !r.retired && !needless {
		return false
	}
	if guard.On(guard.FreeLease) {
		f.free, f.confirmed = true, time.Time{}
	}
	return true
}

// Learn takes a newer record of the same reign, and the nodes that are declared FAILED. It settles a proposal whose outcome
// the record shows. A record of another reign is not learned: the caller ends this one.
func (r *Reign) Learn(shard cluster.Shard, failed map[themis.NodeID]bool, now time.Time) error {
	r.failed = failed
	if shard.Epoch != r.shard.Epoch || shard.Primary != r.self {
		return themis.Errorf(themis.NoPrimary, "epoch %d under %s ended: the record has epoch %d under %q", r.shard.Epoch, r.self, shard.Epoch, shard.Primary).In(shard.ID)
	}
	if shard.Revision > r.shard.Revision {
		r.shard = shard
		if r.flying != nil && shard.Revision > r.flying.Seen.Revision {
			r.settle()
		}
	}
	r.advance(now)
	return nil
}

// Disks tells whose disks are full: their copies take what is on its way to them, and no further client write may need them.
func (r *Reign) Disks(full map[themis.NodeID]bool) { r.full = full }

// Refused tells that the proposal was surely not taken, and won't be. Where a newer record has settled it already, and another is on its
// way, that one's outcome is still open.
func (r *Reign) Refused(p *Proposal, now time.Time) {
	if r.flying != p && guard.On(guard.RefusedOwn) {
		return
	}
	r.settle()
	r.advance(now)
}

func (r *Reign) settle() {
	r.flying, r.joining, r.target = nil, cluster.Member{}, 0
}

// Commit is the highest seq that is safe. It never falls.
func (r *Reign) Commit() themis.Seq { return r.commit }

// Shard is the record as the reign knows it.
func (r *Reign) Shard() cluster.Shard { return r.shard }

// Ready says whether the barrier is committed: before that nothing may be read.
func (r *Reign) Ready() bool { return r.commit >= r.barrier }

// Resigned is the reign's epoch if a ballot that ends it frees its successor from waiting out read leases, else 0. The leases of
// reigns before this one may hold until its first entry is committed.
func (r *Reign) Resigned() themis.Epoch {
	if !r.Ready() && guard.On(guard.ReadyResign) {
		return 0
	}
	return r.shard.Epoch
}

// Stopping tells which nodes are on their way out: they lead no more, and in-sync sets do without them where they can.
func (r *Reign) Stopping(nodes map[themis.NodeID]bool) { r.stopping = nodes }

// Freeze holds back new writes, so that the reign can be handed over, or lets them in again.
func (r *Reign) Freeze(on bool) { r.frozen = on }

// Frozen says whether new writes are held back.
func (r *Reign) Frozen() bool { return r.frozen && guard.On(guard.Freeze) }

// Quiet says whether the reign can be handed over: all that was appended is committed, and another copy that may be elected and
// was heard lately has all of it.
func (r *Reign) Quiet(now time.Time) bool {
	return r.frozen && r.Ready() && r.commit >= r.appended && r.flying == nil && r.succeeded(now, r.appended)
}

// HasSuccessor says whether it is worth while to hold new writes back: another copy could soon be handed the reign.
func (r *Reign) HasSuccessor(now time.Time) bool {
	return r.Ready() && r.succeeded(now, r.appended-min(r.appended, r.rules.JoinWindow))
}

// succeeded says whether a copy that has everything up to seq may be elected, would vote, and was heard lately.
func (r *Reign) succeeded(now time.Time, seq themis.Seq) bool {
	return slices.ContainsFunc(r.shard.Successors(), func(m cluster.Member) bool {
		f := r.peers[m]
		return f != nil && f.durable >= seq && !f.mute && !f.gone && now.Sub(f.heard) < r.rules.HeardFor && !r.failed[m.Node] && !r.stopping[m.Node]
	})
}

// Tick lets time pass.
func (r *Reign) Tick(now time.Time) { r.advance(now) }

func (r *Reign) advance(now time.Time) {
	if now.Before(r.start) {
		return
	}
	limit := r.safe(r.shard.Have)
	if next, changing := r.changing(); changing {
		limit = min(limit, r.safe(next))
	}
	if next, soon := r.changingSoon(now); soon {
		limit = min(limit, r.safe(next))
	}
	if limit > r.commit && (limit >= r.barrier || !guard.On(guard.Barrier)) {
		r.commit = limit
	}
	r.trim()
}

// counted is the ISR, and whoever may be in it already without this primary knowing.
func (r *Reign) counted() []cluster.Member {
	set := r.shard.ISR
	if !guard.On(guard.ShrinkFirst) && r.flying != nil && !r.flying.Add {
		set = r.flying.Next.ISR
	}
	if !r.joining.IsZero() && !slices.Contains(set, r.joining) && guard.On(guard.MaximalISR) {
		set = append(slices.Clone(set), r.joining)
	}
	return set
}

func (r *Reign) seq(m cluster.Member) themis.Seq {
	if f := r.peers[m]; f != nil {
		return f.durable
	}
	return 0
}

func (r *Reign) trim() {
	least := r.durable
	for _, m := range r.shard.ISR {
		if m != r.self {
			least = min(least, r.seq(m))
		}
	}
	for len(r.marks) > 1 && r.marks[0].seq <= least {
		r.marks = r.marks[1:]
	}
}

// Copies is on how many voters' disks the entry is known to be, this one's included.
func (r *Reign) Copies(seq themis.Seq) int {
	n := 0
	for _, m := range r.shard.Voters() {
		if m == r.self && r.durable >= seq || m != r.self && r.seq(m) >= seq {
			n++
		}
	}
	return n
}

// Missing is how long the member has lacked its oldest missing entry; 0 if it has all.
func (r *Reign) Missing(m cluster.Member, now time.Time) time.Duration {
	have := r.seq(m)
	if have >= r.appended {
		return 0
	}
	for _, k := range r.marks {
		if k.seq > have {
			return now.Sub(k.at)
		}
	}
	return 0
}

// MayRead says whether a linearizable read may be answered now without asking anybody.
func (r *Reign) MayRead(now time.Time) bool {
	if !r.Ready() || r.retired {
		return false
	}
	at, alone := r.ConfirmedSince()
	return alone || election.Lease{Sent: at, Length: election.ReadLease, Margin: election.ReadLeaseMargin}.Holds(now) || !guard.On(guard.ReadLease)
}

// Next is the change of the ISR or of the policy that should be proposed now, or nil. At most one is on its way at a time.
func (r *Reign) Next(now time.Time) *Proposal {
	if r.flying != nil {
		return nil
	}
	if p := r.leaving(now); p != nil {
		r.flying = p
		return p
	}
	if !r.Ready() {
		return nil
	}
	p := r.adopting(now)
	if p == nil {
		p = r.entering(now)
	}
	r.flying = p
	return p
}

func (r *Reign) leaving(now time.Time) *Proposal {
	for _, m := range r.shard.ISR {
		if m == r.self {
			continue
		}
		failed, full, stopping := r.failed[m.Node], r.full[m.Node], r.stopping[m.Node]
		late := r.Missing(m, now)
		if !failed && !full && !stopping && late <= r.rules.AckTimeout {
			continue
		}
		if !failed && !r.Ready() { // the reign's first entry waits for all but those who are lost
			continue
		}
		next, err := r.shard.RemoveFromISR(m, failed)
		if err != nil {
			continue // the floor holds: wait for its ack, or for the controller's verdict
		}
		why := fmt.Sprintf("no ack for %d ms", late.Milliseconds())
		switch {
		case failed:
			why = "its node was declared FAILED, or its copy has stopped for good"
		case full:
			why = "its disk is full"
		case stopping:
			why = "its node stops"
		}
		return &Proposal{Seen: r.shard, Next: next, Member: m, Why: why}
	}
	return nil
}

// entering first counts the newcomer, then waits until it has all that was appended at that moment, then proposes it. If it
// does not get there in time it is no longer counted; nothing was proposed, so the record can't hold it.
func (r *Reign) entering(now time.Time) *Proposal {
	if !r.joining.IsZero() {
		switch {
		case r.seq(r.joining) >= r.target:
			next, err := r.shard.AddToISR(r.joining)
			if err != nil {
				r.settle()
				return nil
			}
			return &Proposal{Seen: r.shard, Next: next, Member: r.joining, Add: true, Why: "it has all that was appended"}
		case now.Sub(r.since) > r.rules.AckTimeout || r.failed[r.joining.Node] || r.stopping[r.joining.Node]:
			r.settle()
			r.advance(now)
		}
		return nil
	}
	for _, rep := range r.shard.Replicas {
		f := r.peers[rep.Member]
		if rep.Class == cluster.Spare || r.shard.InSync(rep.Member) || f == nil || f.gone || r.failed[rep.Node] || r.full[rep.Node] || r.stopping[rep.Node] ||
			now.Sub(f.heard) > r.rules.AckTimeout || f.durable+r.rules.JoinWindow < r.appended || f.durable < r.commit {
			continue
		}
		r.joining, r.target, r.since = rep.Member, r.appended, now
		return r.entering(now)
	}
	return nil
}

// Progress is what the reign knows of one copy, for people.
type Progress struct {
	Member           cluster.Member
	Class            cluster.Class
	InSync           bool
	Durable, Applied themis.Seq
	LSN              themis.LSN // 0: never heard in this reign
	Heard            time.Time  // zero: never in this reign
	Missing          time.Duration
}

// Progress lists the copies of the record in its order.
func (r *Reign) Progress(now time.Time) []Progress {
	var out []Progress
	for _, rep := range r.shard.Replicas {
		p := Progress{Member: rep.Member, Class: rep.Class, InSync: r.shard.InSync(rep.Member)}
		if rep.Member == r.self {
			p.Durable, p.Applied, p.Heard = r.durable, r.commit, now
		} else if f := r.peers[rep.Member]; f != nil {
			p.Durable, p.Applied, p.LSN, p.Heard, p.Missing = f.durable, f.applied, f.lsn, f.heard, r.Missing(rep.Member, now)
		}
		out = append(out, p)
	}
	return out
}
