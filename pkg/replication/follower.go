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

// Hello opens a primary's stream to one follower.
type Hello struct {
	Cluster     themis.ClusterID
	Shard       themis.ShardID
	Epoch       themis.Epoch
	Primary     cluster.Member
	Follower    themis.StorageID // as the record names it
	Lineage     []themis.EpochStart
	First, Last themis.Seq // what the primary's log holds
	Barrier     themis.Seq
	Acked       themis.Seq   // the follower has acknowledged everything up to here in this reign; 0: nothing yet
	AckedAlone  themis.Epoch // what is cut of reigns up to this one may have been acknowledged: under ASYNC
	Stream      uint64       // of the primary's streams in this reign: each is higher than those before
}

// Welcome is a follower's answer to a Hello.
type Welcome struct {
	Accepted bool
	Refused  string
	Promised themis.Epoch // when refused for its epoch
	Common   themis.Seq   // the follower keeps this much; frames begin behind it
	Install  bool         // the primary must send its state first
	Lost     string       // what it must have lost since it acknowledged it; the follower is blank from here on
}

// Standing is what a replica knows of itself when somebody asks something of it.
type Standing struct {
	Cluster  themis.ClusterID
	Shard    themis.ShardID
	Self     cluster.Member
	Promised themis.Epoch // durable: nothing below it is accepted, ever
	Blank    string       // why it counts for nothing until rebuilt; empty: whole
	Filled   bool         // blank, but a primary's state was installed: frames may follow it
	Last     themis.Position
	Base     themis.Seq // the log holds entries behind this one
	Applied  themis.Seq // in the store: these are committed and can't be cut
	Lineage  []themis.EpochStart

	Booted       time.Time    // this process
	Leased       time.Time    // until when it promised the read lease to a primary
	EverPromised bool         // this replica existed before this boot, so an earlier boot may have promised a lease
	Resigned     themis.Epoch // the newest reign of its own, in this process, that has ended and had committed its first entry; 0: none
}

// Receive decides how a replica answers a primary that opens a stream.
func Receive(s Standing, h Hello) Welcome {
	switch {
	case h.Cluster != s.Cluster || h.Shard != s.Shard:
		return Welcome{Refused: "a stream for " + string(h.Shard) + " of cluster " + string(h.Cluster)}
	case h.Follower != s.Self.Storage && guard.On(guard.Incarnation):
		return Welcome{Refused: "the record names storage " + string(h.Follower) + ", here is " + string(s.Self.Storage)}
	case h.Epoch < s.Promised && guard.On(guard.Fence):
		return Welcome{Refused: "promised a later epoch", Promised: s.Promised}
	}
	if s.Blank != "" && !s.Filled {
		return Welcome{Accepted: true, Install: true}
	}
	common := Common(s.Lineage, s.Last.Seq, h.Lineage, h.Last)
	if common < h.Acked && guard.On(guard.AckedLost) {
		return Welcome{Accepted: true, Install: true, Lost: fmt.Sprintf("it had acknowledged seq %d in epoch %d, and has the primary's log up to seq %d only: its disk is an older state of itself, or forgot what it had synced", h.Acked, h.Epoch, common)}
	}
	if !guard.On(guard.Lineage) {
		common = min(s.Last.Seq, h.Last)
	}
	if common < s.Applied {
		// What was applied was committed; a primary that lacks it is not one this replica can follow by cutting.
		return Welcome{Accepted: true, Install: true}
	}
	if common+1 < h.First || common < s.Base {
		return Welcome{Accepted: true, Install: true}
	}
	return Welcome{Accepted: true, Common: common}
}

// Common is the last seq up to which two logs are equal: both have the entry, under the same epoch (Kafka's KIP-101 shows why
// only epochs can tell; Raft's log matching why they do). Lineages are oldest first; an empty log has none.
func Common(a []themis.EpochStart, lastA themis.Seq, b []themis.EpochStart, lastB themis.Seq) themis.Seq {
	end := func(l []themis.EpochStart, i int, last themis.Seq) themis.Seq {
		if i+1 < len(l) {
			return l[i+1].Seq - 1
		}
		return last
	}
	for i, x := range slices.Backward(a) {
		for j, y := range slices.Backward(b) {
			if x.Epoch == y.Epoch {
				return min(end(a, i, lastA), end(b, j, lastB))
			}
		}
	}
	return 0
}

// mute says whether an earlier run of this replica may have promised a read lease that still holds: then there is no ballot.
func mute(everPromised bool, booted, now time.Time) bool {
	return everPromised && booted.Add(election.ReadLease).After(now) && guard.On(guard.RestartVote)
}

// Vote decides whether a replica gives its ballot for epoch e, and what the ballot says. The caller ends the replica's own reign
// and makes the promise durable before the ballot leaves the node.
func Vote(s Standing, e themis.Epoch, now time.Time) (b election.Ballot, refused string) {
	if e < s.Promised {
		return b, "promised a later epoch already"
	}
	if s.Blank != "" && guard.On(guard.BlankNoBallot) {
		return b, "blank: " + s.Blank
	}
	if mute(s.EverPromised, s.Booted, now) {
		return b, "restarted less than one lease ago: an earlier run may have promised a read lease"
	}
	return election.Ballot{
		Cluster: s.Cluster, Shard: s.Shard, Voter: s.Self, Epoch: e, Last: s.Last, LeaseRemaining: max(0, s.Leased.Sub(now)), Resigned: s.Resigned,
	}, ""
}
