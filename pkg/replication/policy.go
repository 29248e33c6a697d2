package replication

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// changing is the policy that may be in force already without this primary knowing.
func (r *Reign) changing() (cluster.Policy, bool) {
	if r.flying == nil || !r.flying.Policy() || !guard.On(guard.ModeBoth) {
		return cluster.Policy{}, false
	}
	return r.flying.Next.Have, true
}

// changingSoon is the policy that is wanted, while what is committed must not run ahead of what it demands.
func (r *Reign) changingSoon(now time.Time) (cluster.Policy, bool) {
	if r.flying != nil || r.held.IsZero() || now.Sub(r.held) > r.rules.AckTimeout || !guard.On(guard.ModeHolds) {
		return cluster.Policy{}, false
	}
	return r.shard.Want, true
}

// safe is the highest seq that is held as the policy demands of what is committed: an election by it sees all up to there.
func (r *Reign) safe(p cluster.Policy) themis.Seq {
	limit := r.durable
	if !guard.On(guard.OwnSync) {
		limit = r.appended
	}
	if !guard.On(guard.SyncWaits) {
		return limit
	}
	switch p.Mode {
	case themis.Sync:
		for _, m := range r.counted() {
			if m != r.self {
				limit = min(limit, r.seq(m))
			}
		}
		if len(r.shard.ISR) < 1+p.K && guard.On(guard.ISRFloor) {
			limit = min(limit, max(r.barrier, r.commit)) // reads may go on, client writes may not
		}
	case themis.SemiSync:
		limit = min(limit, r.kth(p.K))
		if rep, ok := r.shard.Replica(r.joining.Node); ok && rep.Class == cluster.Async && guard.On(guard.MaximalISR) {
			limit = min(limit, r.seq(r.joining)) // it may be a voter already, in the place of one that acknowledged
		}
	case themis.Async:
		if r.lapsed {
			limit = r.commit
		}
	}
	return limit
}

// kth is the k-th largest of what the follower voters have on disk; 0 if there are fewer.
func (r *Reign) kth(k int) themis.Seq {
	var have []themis.Seq
	for _, m := range r.shard.Voters() {
		if f := r.peers[m]; f != nil && m != r.self {
			have = append(have, f.durable)
		}
	}
	if k < 1 || len(have) < k {
		return 0
	}
	slices.SortFunc(have, func(a, b themis.Seq) int { return cmp.Compare(b, a) })
	return have[k-1]
}

// Writable says why a client's write may not be appended now, or nil.
func (r *Reign) Writable(now time.Time) error {
	s := r.shard
	if !r.Ready() {
		return themis.Errorf(themis.NoPrimary, "%s: the reign of epoch %d has not committed its first entry yet", s.ID, s.Epoch).In(s.ID)
	}
	if r.retired {
		return themis.Errorf(themis.NoPrimary, "%s: %s stops", s.ID, s.Primary).In(s.ID)
	}
	if r.Frozen() {
		return themis.Errorf(themis.NoPrimary, "%s: the reign of epoch %d is being handed over, since %s stops", s.ID, s.Epoch, s.Primary).In(s.ID)
	}
	if next, changing := r.changing(); changing {
		if err := r.writable(next, now); err != nil {
			return err
		}
	}
	return r.writable(s.Have, now)
}

// writable says why a write could not be acknowledged under the policy, or nil.
func (r *Reign) writable(p cluster.Policy, now time.Time) error {
	s := r.shard
	switch p.Mode {
	case themis.Sync:
		if len(s.ISR) < 1+p.K && guard.On(guard.ISRFloor) {
			return themis.Errorf(themis.NotEnoughReplicas, "%s: %d of %d in-sync copies; writes wait until another copy is whole", s.ID, len(s.ISR), 1+p.K).In(s.ID)
		}
		if full := r.onFullDisks(s.ISR); len(s.ISR)-len(full) < 1+p.K && len(full) > 0 && guard.On(guard.FullMember) {
			return needsRoom(s, full)
		}
		// Who is silent may leave only while 1 + k remain: with fewer answering, an appended write would have no known outcome.
		near := 0
		for _, m := range s.ISR {
			if r.isNear(m, now) {
				near++
			}
		}
		if near < p.K && guard.On(guard.NearFloor) {
			return themis.Errorf(themis.NotEnoughReplicas, "%s: %d of %d in-sync followers answer", s.ID, near, p.K).In(s.ID)
		}
	case themis.SemiSync:
		var near []cluster.Member
		for _, m := range s.Voters() {
			if r.isNear(m, now) {
				near = append(near, m)
			}
		}
		full := r.onFullDisks(near)
		if len(near) >= p.K && len(near)-len(full) < p.K && guard.On(guard.FullMember) {
			return needsRoom(s, full)
		}
		if len(near) < p.K {
			return themis.Errorf(themis.NotEnoughReplicas, "%s: %d of %d followers answer", s.ID, len(near), p.K).In(s.ID)
		}
	}
	return nil
}

// isNear says whether the member is a follower that was heard a moment ago.
func (r *Reign) isNear(m cluster.Member, now time.Time) bool {
	f := r.peers[m]
	return m != r.self && f != nil && now.Sub(f.heard) < r.rules.HeardFor
}

// onFullDisks are the followers among the members whose disks are full.
func (r *Reign) onFullDisks(members []cluster.Member) (full []string) {
	for _, m := range members {
		if m != r.self && r.full[m.Node] {
			full = append(full, string(m.Node))
		}
	}
	return full
}

// needsRoom refuses what would have to wait for a full disk: nobody knows when it would end.
func needsRoom(s cluster.Shard, full []string) error {
	return themis.Errorf(themis.ReadOnly, "%s takes no writes: the disk of %s is full, and without it too few copies could acknowledge them", s.ID, strings.Join(full, ", ")).
		In(s.ID).Do("themis-cli cluster health")
}

// ConfirmedSince is the latest moment at which enough followers had still promised that no election could succeed without one
// of them: every other member that may be in the ISR under SYNC, k followers under SEMI_SYNC. The zero time: never yet. Under
// ASYNC, and where this primary is the only one electable, it needs nobody and says so by ok.
func (r *Reign) ConfirmedSince() (at time.Time, alone bool) {
	at, alone = r.confirmedSince(r.shard.Have)
	if next, changing := r.changing(); changing {
		if also, nobody := r.confirmedSince(next); alone || !nobody && also.Before(at) {
			at, alone = also, nobody
		}
	}
	return at, alone
}

func (r *Reign) confirmedSince(p cluster.Policy) (at time.Time, alone bool) {
	switch p.Mode {
	case themis.Sync:
		alone = true
		for _, m := range r.counted() {
			if m == r.self {
				continue
			}
			f := r.peers[m]
			if f == nil {
				return time.Time{}, false
			}
			if alone || f.confirmed.Before(at) {
				at = f.confirmed
			}
			alone = false
		}
		return at, alone
	case themis.SemiSync:
		var have []time.Time
		for _, m := range r.shard.Voters() {
			if f := r.peers[m]; f != nil && m != r.self {
				have = append(have, f.confirmed)
			}
		}
		slices.SortFunc(have, func(a, b time.Time) int { return b.Compare(a) })
		if p.K >= 1 && len(have) >= p.K {
			return have[p.K-1], false
		}
		return time.Time{}, false
	}
	return time.Time{}, true
}

// holdAgain is after how many times AckTimeout what is committed may be held back for another policy once more.
const holdAgain = 10

// adopting proposes the policy that is wanted once everything that was committed is held as it demands. From then on, until the
// outcome is known, both policies are counted by, so an election by either sees every acknowledged write. Under writes without a pause
// what is committed would stay ahead for ever: it is held back until the copies have it, for as long as a silent member may hold
// writes up, and where that was not enough again after ten times as long.
func (r *Reign) adopting(now time.Time) *Proposal {
	if r.shard.Want.Mode == r.shard.Have.Mode && r.shard.Want.K == r.shard.Have.K || !r.joining.IsZero() {
		r.held = time.Time{}
		return nil
	}
	next, err := r.shard.Adopt()
	if err != nil {
		r.held = time.Time{}
		return nil // SYNC waits for its floor
	}
	if r.safe(r.shard.Want) < r.commit && guard.On(guard.ModeWaits) {
		if r.held.IsZero() || now.Sub(r.held) > holdAgain*r.rules.AckTimeout {
			r.held = now
		}
		return nil
	}
	r.held = time.Time{}
	return &Proposal{Seen: r.shard, Next: next, Why: "what was committed is held as it demands"}
}
