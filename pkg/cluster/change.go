package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// The functions below make the next record of a shard from the present one. They are pure; the control plane commits what
// they return only if the record still has the revision that the caller saw. They refuse what would break a promise, with
// the rule's name in the error, and never change their receiver.

func refuse(s Shard, rule, format string, args ...any) error {
	e := themis.Errorf(themis.RefusedUnsafe, format, args...).In(s.ID)
	e.Detail = string(s.ID) + ": " + e.Detail + " [" + rule + "]"
	return e
}

// Crown begins the reign of epoch s.Epoch + 1 under winner. Under SYNC the winner must be in the ISR, and the other members
// stay in it, since they have all that was acknowledged; the old primary leaves. Under the other modes membership is earned
// anew in each reign, since a member of the old set may lack what the winner has. wait is how long read leases that voters
// promised to the old primary may still hold; lossAccepted is an operator's word.
func (s Shard) Crown(winner Member, boot themis.BootID, wait time.Duration, lossAccepted bool) (Shard, error) {
	r, ok := s.Replica(winner.Node)
	switch {
	case !ok || r.Member != winner:
		return s, refuse(s, "member", "%s with storage %s is not a replica", winner.Node, winner.Storage)
	case r.Class != Voter:
		return s, refuse(s, "voter", "%s is %s, only voters lead", winner.Node, r.Class)
	case s.Have.Mode == themis.Sync && !s.InSync(winner) && s.Epoch > 0 && !lossAccepted && guard.On(guard.ISRElection):
		return s, refuse(s, "isr", "%s is not in the in-sync set", winner.Node)
	}
	next := s.clone()
	next.Epoch++
	next.Primary, next.Boot, next.WaitMs = winner, boot, wait.Milliseconds()
	switch {
	case s.Have.Mode == themis.Sync && s.InSync(winner):
		next.ISR = slices.DeleteFunc(next.ISR, func(m Member) bool { return m == s.Primary && m != winner })
	default:
		next.ISR = []Member{winner}
	}
	return next, nil
}

// RemoveFromISR takes a follower out of the in-sync set. While at least 1 + k members remain this needs nothing more; below
// that the member must have been declared FAILED, so that a follower that only paused can still be elected.
func (s Shard) RemoveFromISR(m Member, failed bool) (Shard, error) {
	switch {
	case m == s.Primary:
		return s, refuse(s, "isr-primary", "the primary can't leave its own in-sync set")
	case !s.InSync(m):
		return s, nil
	case s.Have.Mode == themis.Sync && len(s.ISR)-1 < 1+s.Have.K && !failed && guard.On(guard.FailedFloor):
		return s, refuse(s, "isr-floor", "without %s %d of %d in-sync members remain, and it has not been declared FAILED", m.Node, len(s.ISR)-1, 1+s.Have.K)
	}
	next := s.clone()
	next.ISR = slices.DeleteFunc(next.ISR, func(x Member) bool { return x == m })
	return next, nil
}

// Ask wants another mode and k of the shard; what is in force stays until its primary can change it (Adopt). k below 0 is the one
// that is wanted already, and at least 1 where the mode waits for followers. ASYNC and shards of one copy have no followers to wait for.
func (s Shard) Ask(mode themis.Mode, k int) (Shard, error) {
	next := s.clone()
	next.Want.Mode = mode
	switch {
	case mode == themis.Async || s.Want.RF == 1 && k < 0:
		next.Want.K = 0
	case k < 0:
		next.Want.K = max(1, s.Want.K)
	default:
		next.Want.K = k
	}
	if err := next.Want.Check(); err != nil {
		return s, fmt.Errorf("%s: %w", s.ID, err)
	}
	return next, nil
}

// Asked is the answer of `replication set-mode` for one shard.
type Asked struct {
	Shard   themis.ShardID `json:"shard"`
	Before  Policy         `json:"before"` // what was wanted
	Want    Policy         `json:"want"`
	Have    Policy         `json:"have"` // in force when it was said
	Changed bool           `json:"changed"`
}

// Adopt puts the mode and the k that are wanted in force; the replication factor stays. That everything which was committed is held as
// they demand is the primary's to know (replication.Reign.Next): an election by them must see all of it. SYNC begins with an in-sync
// set that can take writes.
func (s Shard) Adopt() (Shard, error) {
	next := s.clone()
	next.Have.Mode, next.Have.K, next.AsyncUntil = s.Want.Mode, s.Want.K, s.AckedAlone()
	if err := next.Have.Check(); err != nil {
		return s, err
	}
	if next.Have.Mode == themis.Sync && len(s.ISR) < 1+next.Have.K {
		return s, refuse(s, "isr-floor", "%d of %d in-sync members are there", len(s.ISR), 1+next.Have.K)
	}
	return next, nil
}

// BelowFloor are the members that leave the in-sync set by next, a change of s, so that fewer than 1 + k remain under SYNC.
func (s Shard) BelowFloor(next Shard) []Member {
	if s.Have.Mode != themis.Sync || len(next.ISR) >= min(len(s.ISR), 1+s.Have.K) || !guard.On(guard.FloorVerdict) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(s.ISR), next.InSync)
}

// AddToISR takes a replica that durably holds all that the primary had appended at the proposal into the in-sync set. A
// joining copy becomes a voter in the same step: it takes the place of the voter it replaces, or a free place.
func (s Shard) AddToISR(m Member) (Shard, error) {
	i := slices.IndexFunc(s.Replicas, func(r Replica) bool { return r.Member == m })
	switch {
	case i < 0:
		return s, refuse(s, "member", "%s with storage %s is not a replica", m.Node, m.Storage)
	case s.Replicas[i].Class == Spare:
		return s, refuse(s, "voter", "%s is a spare", m.Node)
	case s.InSync(m):
		return s, nil
	}
	next := s.clone()
	joining := &next.Replicas[i]
	if joining.Class == Async {
		old := joining.Replaces
		joining.Class, joining.Replaces = Voter, nil
		if old != nil {
			if *old == s.Primary {
				return s, refuse(s, "replace-primary", "%s would replace the primary", m.Node)
			}
			next.Replicas = slices.DeleteFunc(next.Replicas, func(r Replica) bool { return r.Member == *old })
			next.ISR = slices.DeleteFunc(next.ISR, func(x Member) bool { return x == *old })
		}
		if len(next.Voters()) > max(s.Have.RF, s.Want.RF) {
			return s, refuse(s, "rf", "%d voters, replication factor is %d", len(next.Voters()), s.Want.RF)
		}
	}
	next.ISR = append(next.ISR, m)
	return next, nil
}

// Join adds a copy that begins empty and counts for nothing until AddToISR makes it a voter. One joins at a time.
func (s Shard) Join(r Replica) (Shard, error) {
	if _, there := s.Replica(r.Node); there {
		return s, refuse(s, "one-copy", "%s already has a copy", r.Node)
	}
	for _, x := range s.Replicas {
		if x.Class == Async && x.Upstream == "" {
			return s, refuse(s, "one-replacement", "%s is joining already", x.Node)
		}
	}
	if r.Replaces != nil {
		if old, ok := s.Replica(r.Replaces.Node); !ok || old.Member != *r.Replaces || old.Class != Voter {
			return s, refuse(s, "replaces", "%s is not a voter here", r.Replaces.Node)
		}
	}
	next := s.clone()
	r.Class = Async
	next.Replicas = append(next.Replicas, r)
	return next, nil
}

// Enlist makes a spare that already follows the shard a joining copy: it counts for nothing until AddToISR makes it a voter,
// but it has less to copy than one that begins empty. One joins at a time.
func (s Shard) Enlist(m Member, replaces *Member) (Shard, error) {
	r, ok := s.Replica(m.Node)
	if !ok || r.Member != m || r.Class != Spare {
		return s, refuse(s, "spare", "%s with storage %s is not a spare here", m.Node, m.Storage)
	}
	without := s.clone()
	without.Replicas = slices.DeleteFunc(without.Replicas, func(x Replica) bool { return x.Member == m })
	r.Replaces, r.Upstream = replaces, ""
	next, err := without.Join(r)
	if err != nil {
		return s, err
	}
	return next, nil
}

// StandDown makes a joining copy a spare again, since what it was to replace is back.
func (s Shard) StandDown(m Member) (Shard, error) {
	i := slices.IndexFunc(s.Replicas, func(r Replica) bool { return r.Member == m })
	if i < 0 || s.Replicas[i].Class != Async {
		return s, refuse(s, "joining", "%s with storage %s is not joining", m.Node, m.Storage)
	}
	next := s.clone()
	next.Replicas[i].Class, next.Replicas[i].Replaces = Spare, nil
	return next, nil
}

// Drop removes a copy that is not a voter.
func (s Shard) Drop(m Member) (Shard, error) {
	r, ok := s.Replica(m.Node)
	if !ok || r.Member != m {
		return s, nil
	}
	if r.Class == Voter {
		return s, refuse(s, "drop-voter", "%s is a voter; it is replaced, never dropped", m.Node)
	}
	next := s.clone()
	next.Replicas = slices.DeleteFunc(next.Replicas, func(x Replica) bool { return x.Member == m })
	return next, nil
}

// Rehouse records that a node came back with another disk: under its old name, but blank. It leaves the in-sync set with its
// old storage id (design, promise 8) and counts again only after AddToISR.
func (s Shard) Rehouse(node themis.NodeID, storage themis.StorageID) (Shard, error) {
	old, ok := s.Replica(node)
	if !ok || old.Storage == storage {
		return s, nil
	}
	next := s.clone()
	for i := range next.Replicas {
		if next.Replicas[i].Node == node {
			next.Replicas[i].Storage = storage
		}
		if r := next.Replicas[i].Replaces; r != nil && *r == old.Member {
			next.Replicas[i].Replaces = &Member{node, storage}
		}
	}
	if s.Epoch == 0 && s.InSync(old.Member) { // nothing was ever acknowledged: one empty disk is as good as another
		next.ISR[slices.Index(next.ISR, old.Member)].Storage = storage
		return next, nil
	}
	next.ISR = slices.DeleteFunc(next.ISR, func(m Member) bool { return m == old.Member })
	if s.Primary == old.Member {
		next.Primary, next.Boot = Member{}, ""
	}
	return next, nil
}

func (s Shard) clone() Shard {
	s.Replicas = slices.Clone(s.Replicas)
	s.ISR = slices.Clone(s.ISR)
	return s
}
