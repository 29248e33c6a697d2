package replication

import (
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

// Status is what a replica knows of itself, for people and for the cluster's report.
type Status struct {
	Shard    themis.ShardID
	Self     cluster.Member
	Promised themis.Epoch
	Last     themis.Position
	Applied  themis.Seq
	Commit   themis.Seq
	Blank    string
	Fault    string
	Damage   string // of its log, found while it is served
	Store    store.Stats
	LogBytes themis.Bytes
	Segments int
	CutTail  string
	Rescued  int // acknowledged writes in rescued/

	Lineage []themis.EpochStart // of its log

	Following themis.NodeID // the primary whose stream is taken; empty: none
	HeardMs   int64         // since its newest message

	Reign    *ReignStatus // nil: it does not lead
	Resigned themis.Epoch // see Fitness
}

// ReignStatus is what a primary knows of its reign and its followers.
type ReignStatus struct {
	Epoch      themis.Epoch
	NotServing string    // why nothing is read yet; empty: it is
	NotWriting string    // why writes wait; empty: they don't
	ReadOnly   string    // why they are refused: a disk is full; empty: they aren't
	Stalled    time.Time // since when writes wait; zero: they don't, or not for long enough to notice
	Queued     int       // writes that wait for copies: not appended yet, or appended and not confirmed for slowWrite
	Copies     []CopyStatus
}

// CopyStatus is one other copy as its primary sees it.
type CopyStatus struct {
	Progress
	LagBytes themis.Bytes // 0 where it was never heard
	Problem  string       // why there is no stream
	Install  *InstallProgress
}

// Mark is how far a copy has come in what it may have told others: an older state of its disk lacks some of it.
type Mark struct {
	Last     themis.Position
	Promised themis.Epoch
}

// Mark is this copy's.
func (r *Replica) Mark() Mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Mark{r.log.Last(), r.promise.Promised}
}

// DiskBytes is how much of the disk log and store take.
func (r *Replica) DiskBytes() themis.Bytes { return r.log.Size() + r.openStore().Stats().DiskBytes }

// Status is a snapshot of the replica.
func (r *Replica) Status() Status {
	s := r.openStore()
	st := Status{
		Shard: r.o.Shard, Self: r.o.Self, Last: r.log.Last(), Applied: s.Applied().Seq, Commit: themis.Seq(r.commit.Load()),
		Store: s.Stats(), LogBytes: r.log.Size(), Segments: r.log.Segments(), CutTail: r.cut, Lineage: r.log.Lineage(),
	}
	st.Rescued = r.rescuedWrites()
	r.mu.Lock()
	st.Promised = r.promise.Promised
	st.Blank = r.standing().Blank
	if r.fault != nil {
		st.Fault = r.fault.Error()
	}
	if damage := r.damage.Load(); damage != nil {
		st.Damage = (*damage).Error()
	}
	if r.follow != nil {
		st.Following, st.HeardMs = r.follow.from, time.Since(r.follow.heard).Milliseconds()
	}
	rg := r.reign
	st.Resigned = r.ended()
	r.mu.Unlock()
	if rg != nil {
		st.Reign = rg.status()
	}
	return st
}

// slowWrite is how long an appended write takes to be confirmed before it is one that waits for copies.
const slowWrite = 200 * time.Millisecond

// slow is how many callers wait for writes that were appended and are not confirmed since long; mu is held.
func (rg *reigning) slow(now time.Time) int {
	if rg.confirmed == len(rg.waiting) || now.Sub(rg.waiting[rg.confirmed].begun) < slowWrite {
		return 0
	}
	return rg.open // all behind the oldest
}

func (rg *reigning) status() *ReignStatus {
	now := time.Now()
	rg.mu.Lock()
	defer rg.mu.Unlock()
	out := &ReignStatus{Epoch: rg.epoch, Queued: rg.queued + rg.slow(now), Stalled: rg.stalled}
	if rg.core == nil || !rg.core.Ready() {
		out.NotServing = "the reign's first entry is not committed yet"
	} else if !rg.r.holdsLease(now) {
		out.NotServing = noLease
	}
	if err := rg.writable(); err != nil {
		out.NotWriting = err.Error()
		if themis.CodeOf(err) == themis.ReadOnly {
			out.ReadOnly = out.NotWriting
		}
	}
	if rg.core == nil {
		return out
	}
	end := rg.r.log.Last().LSN
	for _, p := range rg.core.Progress(now) {
		if p.Member == rg.r.o.Self {
			continue
		}
		c := CopyStatus{Progress: p}
		if p.LSN > 0 {
			c.LagBytes = max(0, end.Since(p.LSN))
		}
		if s := rg.shippers[p.Member]; s != nil {
			s.mu.Lock()
			c.Problem, c.Install = s.problem, s.install
			s.mu.Unlock()
		}
		out.Copies = append(out.Copies, c)
	}
	slices.SortFunc(out.Copies, func(a, b CopyStatus) int { return strings.Compare(string(a.Member.Node), string(b.Member.Node)) })
	return out
}
