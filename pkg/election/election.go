// Package election is the arithmetic of failover: what a ballot says, how ballots are counted under each mode, and how long
// leases hold. It takes values and returns values; who asks for ballots, who verifies signatures and who commits the result
// are other rooms.
//
// A ballot for epoch e is a durable promise to refuse every epoch below e for ever. The rules (design, promises 4, 5, 16):
//
//	first reign   every voter's ballot, since nothing tells an empty log from a lost one yet
//	SYNC          the most advanced of the ISR members that answer
//	SEMI_SYNC     at least voters − k ballots; the most advanced wins
//	ASYNC         at least one; the most advanced of those that answer; what may be lost is stated
//
// "Most advanced" is by epoch of the last entry, then by its seq (Ongaro, "Consensus: Bridging Theory and Practice", §3.6.1).
package election

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// Ballot is a voter's promise and the end of its log.
type Ballot struct {
	Cluster        themis.ClusterID
	Shard          themis.ShardID
	Voter          cluster.Member
	Boot           themis.BootID
	Epoch          themis.Epoch // the proposed one, now promised
	Last           themis.Position
	LeaseRemaining time.Duration // of the read lease it still promises to the old primary
	Resigned       themis.Epoch  // of a reign that had committed its first entry and that this ballot ended; 0: none
	Nonce          []byte
}

// Signed is the canonical form that the voter's key signs: every field, each with its length in front.
func (b Ballot) Signed() []byte {
	out := []byte("themis ballot 1\n")
	text := func(s string) {
		out = binary.LittleEndian.AppendUint32(out, uint32(len(s))) //nolint:gosec // short names
		out = append(out, s...)
	}
	number := func(n uint64) { out = binary.LittleEndian.AppendUint64(out, n) }
	text(string(b.Cluster))
	text(string(b.Shard))
	text(string(b.Voter.Node))
	text(string(b.Voter.Storage))
	text(string(b.Boot))
	number(uint64(b.Epoch))
	number(uint64(b.Last.Epoch))
	number(uint64(b.Last.Seq))
	number(uint64(b.Last.LSN))
	number(uint64(b.LeaseRemaining.Milliseconds())) //nolint:gosec // never negative
	text(string(b.Nonce))
	number(uint64(b.Resigned))
	return out
}

// Rejected is a replica that did not win, and why.
type Rejected struct {
	Node   themis.NodeID `json:"node"`
	Rule   string        `json:"rule"`
	Detail string        `json:"detail"`
}

func (r Rejected) String() string { return string(r.Node) + ": " + r.Detail }

// Request is one count.
type Request struct {
	Shard     cluster.Shard
	Epoch     themis.Epoch // the proposed one
	Ballots   []Ballot
	Silent    map[themis.NodeID]string // why a replica gave no ballot
	AllowLoss bool                     // an operator's explicit word
	Stopping  map[themis.NodeID]bool   // on their way out: among equals another wins
	Load      map[themis.NodeID]int    // primaries a node has already; among equals the least loaded wins
}

// Result is what the count says. Without a winner the shard stays as it is, and Why names the rule that stopped it.
type Result struct {
	Winner    *Ballot
	Rule      string
	Need, Got int
	MayLose   bool          // acknowledged writes may be missing from the winner's log
	Wait      time.Duration // the winner acknowledges and reads nothing before this has passed
	Others    []Rejected
	Why       string
}

// Count counts.
func Count(r Request) Result {
	s := r.Shard
	res := Result{Rule: string(s.Have.Mode)}
	voters := s.Voters()
	var valid []Ballot
	for _, rep := range s.Replicas {
		b, reason := find(r, rep)
		if reason.Detail != "" {
			res.Others = append(res.Others, reason)
			continue
		}
		valid = append(valid, b)
		res.Wait = max(res.Wait, b.LeaseRemaining)
	}
	if resigned(s, valid) || !guard.On(guard.LeaseWait) {
		res.Wait = 0
	}
	candidates := valid
	switch {
	case r.AllowLoss:
		res.Rule, res.Need, res.MayLose = "allow-data-loss", 1, true
	case s.Epoch == 0 && guard.On(guard.FirstReign):
		res.Rule, res.Need = "first-reign", len(voters)
	case s.Have.Mode == themis.Sync:
		res.Need = 1
		if guard.On(guard.ISRElection) {
			candidates = slices.DeleteFunc(slices.Clone(valid), func(b Ballot) bool { return !s.InSync(b.Voter) })
			for _, b := range valid {
				if !s.InSync(b.Voter) {
					res.Others = append(res.Others, Rejected{b.Voter.Node, "isr", "not in the in-sync set"})
				}
			}
		}
	case s.Have.Mode == themis.SemiSync:
		res.Need = max(1, len(voters)-s.Have.K)
		if !guard.On(guard.Ballots) {
			res.Need = 1
		}
	default:
		res.Need = 1
		res.MayLose = !slices.ContainsFunc(valid, func(b Ballot) bool { return b.Voter == s.Primary })
	}
	res.Got = len(candidates)
	if res.Got < res.Need || res.Got == 0 {
		res.Why = fmt.Sprintf("%d of %d ballots that count [%s]", res.Got, res.Need, res.Rule)
		res.MayLose = false
		return res
	}
	slices.SortStableFunc(candidates, func(a, b Ballot) int { return better(a, b, r) })
	if !guard.On(guard.MostAdvanced) {
		slices.Reverse(candidates)
	}
	w := candidates[0]
	res.Winner = &w
	for _, b := range candidates[1:] {
		res.Others = append(res.Others, behind(b, w))
	}
	return res
}

// find returns the replica's ballot, or why it has none that counts.
func find(r Request, rep cluster.Replica) (Ballot, Rejected) {
	no := func(rule, format string, args ...any) (Ballot, Rejected) {
		return Ballot{}, Rejected{rep.Node, rule, fmt.Sprintf(format, args...)}
	}
	if rep.Class != cluster.Voter {
		return no("voter", "%s, not a voter", rep.Class)
	}
	i := slices.IndexFunc(r.Ballots, func(b Ballot) bool { return b.Voter.Node == rep.Node })
	if i < 0 {
		if why := r.Silent[rep.Node]; why != "" {
			return no("ballot", "no ballot: %s", why)
		}
		return no("ballot", "no ballot")
	}
	b := r.Ballots[i]
	switch {
	case b.Voter.Storage != rep.Storage && guard.On(guard.Incarnation):
		return no("incarnation", "storage %s, the record has %s", b.Voter.Storage, rep.Storage)
	case b.Shard != r.Shard.ID:
		return no("shard", "a ballot of %s", b.Shard)
	case b.Epoch != r.Epoch:
		return no("epoch", "a ballot for epoch %d, not %d", b.Epoch, r.Epoch)
	}
	return b, Rejected{}
}

// resigned says whether the primary itself ended its reign by its ballot. Then nobody reads under a lease any more: not it, and
// not those before it, whose leases it had waited out before it committed its first entry.
func resigned(s cluster.Shard, valid []Ballot) bool {
	return s.Epoch > 0 && slices.ContainsFunc(valid, func(b Ballot) bool { return b.Voter == s.Primary && b.Resigned == s.Epoch })
}

func better(a, b Ballot, r Request) int {
	return cmp.Or(
		cmp.Compare(b.Last.Epoch, a.Last.Epoch),
		cmp.Compare(b.Last.Seq, a.Last.Seq),
		last(r.Stopping[a.Voter.Node], r.Stopping[b.Voter.Node]),
		cmp.Compare(r.Load[a.Voter.Node], r.Load[b.Voter.Node]),
		cmp.Compare(a.Voter.Node, b.Voter.Node),
	)
}

// last orders what is marked behind what is not.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

func behind(b, winner Ballot) Rejected {
	switch {
	case b.Last.Epoch < winner.Last.Epoch:
		return Rejected{b.Voter.Node, "most-advanced", fmt.Sprintf("last epoch %d < %d", b.Last.Epoch, winner.Last.Epoch)}
	case b.Last.Seq < winner.Last.Seq:
		return Rejected{b.Voter.Node, "most-advanced", fmt.Sprintf("last seq %d < %d", b.Last.Seq, winner.Last.Seq)}
	}
	return Rejected{b.Voter.Node, "load", "as advanced as the winner, but not preferred"}
}

// The read lease: a follower promises it with every ack and heartbeat, the primary counts a little less of it, and from the
// moment it sent what the follower answers.
const (
	ReadLease       = 2 * time.Second
	ReadLeaseMargin = ReadLease / 10
)

// Lease is a right that was asked for at Sent and granted for Length. It is judged by the monotonic clock of its holder only.
type Lease struct {
	Sent   time.Time
	Length time.Duration
	Margin time.Duration // for clocks that run at different rates
}

// Holds says whether the lease can be relied on at now.
func (l Lease) Holds(now time.Time) bool { return !l.Sent.IsZero() && now.Before(l.Until()) }

// Until is the first moment at which it can't.
func (l Lease) Until() time.Time { return l.Sent.Add(l.Length - l.Margin) }
