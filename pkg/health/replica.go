package health

import (
	"fmt"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

func (v *shardView) replica(r cluster.Replica) ReplicaReport {
	out := ReplicaReport{
		Node: r.Node, Role: Replica, StorageID: r.Storage, InSyncSet: v.s.InSync(r.Member),
		Joining: r.Class == cluster.Async && r.Upstream == "", AgeMs: v.age(r.Node),
	}
	switch {
	case r.Member == v.s.Primary:
		out.Role = Primary
	case r.Class == cluster.Spare:
		out.Role = Spare
	}
	if r.Replaces != nil {
		out.Replaces = r.Replaces.Node
	}
	own, f := v.local(r.Member, v.s.ID), v.follower(r.Member)
	var since time.Time
	out.State, out.Why, since = v.replicaState(r, own, f)
	out.Since = when(since)
	v.figures(&out, own, f)
	out.FailoverReady = v.failoverReady(r, out)
	return out
}

// follower is the copy as its primary sees it; nil: the primary can't be asked or doesn't know it.
func (v *shardView) follower(m cluster.Member) *Follower {
	if v.primary == nil {
		return nil
	}
	i := slices.IndexFunc(v.primary.Followers, func(f Follower) bool { return f.Member == m })
	if i < 0 {
		return nil
	}
	return &v.primary.Followers[i]
}

// replicaState is the copy's state: the verdict on its node, then its own word where it is bad, then its primary's word, then its
// own. IN_SYNC is what the control plane's record says, and nobody else.
func (v *shardView) replicaState(r cluster.Replica, own *LocalReplica, f *Follower) (state cluster.State, why string, since time.Time) {
	failed, isFailed := v.view.Failed[r.Node]
	_, member := v.view.Nodes[r.Node]
	switch {
	case !member:
		return cluster.FailedState, "its node is no longer a member", time.Time{}
	case isFailed:
		return cluster.FailedState, failed.Why, failed.Since
	case own != nil && own.Broken != "":
		return cluster.FailedState, own.Broken, time.Time{}
	case own != nil && own.Blank != "":
		return cluster.Blank, own.Blank, time.Time{}
	case r.Member == v.s.Primary && v.primary != nil:
		return cluster.InSync, "", time.Time{}
	case f != nil && f.Install != nil:
		return cluster.Bootstrapping, f.Error, f.Install.Since
	case f != nil && own == nil && f.AckAgeMs != nil && *f.AckAgeMs > FreshFor.Milliseconds():
		return cluster.Unknown, fmt.Sprintf("neither it nor its primary says; it acknowledged last %s ago", duration(time.Duration(*f.AckAgeMs)*time.Millisecond)), time.Time{}
	case f != nil && f.State != "":
		state, why = f.State, f.Error
	case own != nil && own.State != "":
		state = own.State
	default:
		return cluster.Unknown, v.unknownWhy(r.Node), time.Time{}
	}
	if state == cluster.InSync && !v.s.InSync(r.Member) {
		state = cluster.CatchingUp
	}
	return state, why, time.Time{}
}

func (v *shardView) unknownWhy(node themis.NodeID) string {
	if v.fresh(node) == nil {
		return "neither it nor its primary says"
	}
	return "its primary does not say"
}

// figures fills in how far the copy is, from its own word or else from its last acknowledgement. What is older than FreshFor is
// left out, and its age says so.
func (v *shardView) figures(out *ReplicaReport, own *LocalReplica, f *Follower) {
	switch {
	case own != nil:
		out.AgeMs = v.told(out.Node)
		out.Seq, out.Applied, out.LSN = ptr(own.Seq), ptr(own.Applied), ptr(own.LSN)
	case f != nil && f.AckAgeMs != nil:
		out.AgeMs = ptr(*v.told(v.s.Primary.Node) + *f.AckAgeMs)
		if *out.AgeMs <= FreshFor.Milliseconds() && out.State != cluster.FailedState {
			out.Seq, out.Applied, out.LSN = copied(f.Seq), copied(f.Applied), copied(f.LSN)
		}
	}
	if out.Role == Primary && own != nil {
		out.LagEntries, out.LagBytes, out.LagMs = ptr(int64(0)), ptr(int64(0)), ptr(int64(0))
		return
	}
	if f != nil && out.Seq != nil && (f.AckAgeMs == nil || *f.AckAgeMs <= FreshFor.Milliseconds()) {
		out.LagEntries, out.LagBytes, out.LagMs = copied(f.LagEntries), copied(f.LagBytes), copied(f.LagMs)
	}
	if f != nil && f.Install != nil && out.State == cluster.Bootstrapping {
		out.Rebuild = &Rebuild{Bytes: f.Install.Done, Total: copied(f.Install.Total), ETAMs: copied(f.Install.ETAMs)}
		if t := f.Install.Total; t != nil && *t > 0 {
			out.Rebuild.Percent = ptr(percent(min(1, float64(f.Install.Done)/float64(*t))))
		}
	}
}

// failoverReady says whether the copy could lead at once and without loss.
func (v *shardView) failoverReady(r cluster.Replica, out ReplicaReport) *bool {
	up, _ := v.nodeState(v.view.Nodes[r.Node])
	bad := out.State == cluster.FailedState || out.State == cluster.Blank || up == cluster.Suspect
	switch {
	case out.Role == Primary:
		return nil
	case bad || out.Joining:
		return ptr(false)
	case out.Role == Spare:
		return known(out.LagMs != nil && *out.LagMs <= LagWarn.Milliseconds(), out.LagMs != nil)
	case v.s.Have.Mode == themis.Sync:
		return ptr(out.InSyncSet)
	case out.State == cluster.Unknown:
		return nil
	}
	return ptr(out.State == cluster.InSync)
}

func (v *shardView) replicaFindings(r ReplicaReport) {
	s, since := v.s, time.Time{}
	if r.Since != nil {
		since = *r.Since
	}
	_, member := v.view.Nodes[r.Node]
	_, failed := v.view.Failed[r.Node]
	switch {
	case failed || !member:
		v.find(ReplicaDead, r.Node, since, values{"cause": r.Why, "in_sync": len(s.ISR), "rf": s.Want.RF, "repair": v.repair()})
	case r.State == cluster.FailedState:
		v.find(ReplicaBroken, r.Node, since, values{"cause": r.Why})
	case r.State == cluster.Blank:
		v.find(ReplicaBlank, r.Node, since, values{"cause": r.Why})
	case r.Rebuild != nil:
		v.find(RebuildRunning, r.Node, since, values{
			"percent": r.Rebuild.Percent, "bytes": int64(r.Rebuild.Bytes), "total": r.Rebuild.Total, "eta": eta(r.Rebuild.ETAMs), "eta_ms": r.Rebuild.ETAMs,
		})
	case r.Role == Spare:
		if r.FailoverReady == nil || !*r.FailoverReady {
			v.find(SpareNotReady, r.Node, since, values{"lag": lagWords(r), "lag_ms": r.LagMs})
		}
	case r.State == cluster.Lagging:
		v.find(ReplicaLagging, r.Node, since, values{"lag": lagWords(r), "lag_ms": r.LagMs, "lag_entries": r.LagEntries, "lag_bytes": r.LagBytes})
	case r.State == cluster.CatchingUp, r.State == cluster.Bootstrapping:
		lag := lagWords(r)
		if r.Joining {
			lag = "it " + v.joining(r)
		}
		v.find(ReplicaCatchingUp, r.Node, since, values{"lag": lag, "lag_ms": r.LagMs, "lag_entries": r.LagEntries, "lag_bytes": r.LagBytes})
	case r.State == cluster.Unknown && v.primary != nil:
		v.find(StateUnknown, r.Node, since, values{"what": fmt.Sprintf("the state of %s's copy of %s", r.Node, s.ID), "cause": r.Why})
	case r.LagMs != nil && *r.LagMs > LagWarn.Milliseconds():
		v.find(LagHigh, r.Node, since, values{"lag_ms": r.LagMs, "limit_ms": LagWarn.Milliseconds()})
	}
}
