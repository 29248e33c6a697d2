package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// shardView is one shard while its part of the report is made.
type shardView struct {
	*builder
	s       cluster.Shard
	primary *LocalReplica // the primary's own word; nil: not known
	out     ShardReport
}

func (b *builder) shard(s cluster.Shard) ShardReport {
	v := &shardView{builder: b, s: s}
	v.out = ShardReport{
		ID: s.ID, Epoch: s.Epoch, Mode: s.Have.Mode, RF: s.Have.RF, K: s.Have.K, Primary: s.Primary.Node,
		ISR: []themis.NodeID{}, Replicas: []ReplicaReport{},
	}
	if s.Want != s.Have {
		v.out.Want = ptr(s.Want)
	}
	for _, m := range s.ISR {
		v.out.ISR = append(v.out.ISR, m.Node)
	}
	slices.SortFunc(v.out.ISR, func(x, y themis.NodeID) int { return natural(string(x), string(y)) })
	if l := b.local(s.Primary, s.ID); l != nil && l.Role == Primary && l.Epoch >= s.Epoch {
		v.primary = l
		v.out.Bytes, v.out.Documents, v.out.Commit = copied(l.Bytes), copied(l.Documents), ptr(l.Commit)
		v.out.Queued = ptr(int64(l.Waiting))
		if l.Stalled != nil {
			v.out.Queued = ptr(int64(max(l.Waiting, l.Stalled.Queued)))
		}
	}
	for _, r := range s.Replicas {
		v.out.Replicas = append(v.out.Replicas, v.replica(r))
	}
	slices.SortFunc(v.out.Replicas, func(x, y ReplicaReport) int {
		if (x.Role == Primary) != (y.Role == Primary) {
			if x.Role == Primary {
				return -1
			}
			return 1
		}
		return natural(string(x.Node), string(y.Node))
	})
	v.serving()
	v.policy()
	for _, r := range v.out.Replicas {
		v.replicaFindings(r)
	}
	v.crashCost()
	switch {
	case v.out.Readable != nil && !*v.out.Readable:
		v.out.State = ShardUnavailable
	case b.hurt[s.ID]:
		v.out.State = ShardDegraded
	default:
		v.out.State = ShardOK
	}
	return v.out
}

func copied[T any](p *T) *T {
	if p == nil {
		return nil
	}
	return ptr(*p)
}

func (v *shardView) find(code Code, node themis.NodeID, since time.Time, x values) {
	v.add(code, "", place{shard: v.s.ID, node: node}, since, x)
}

// serving decides readable and writable, and says why not.
func (v *shardView) serving() {
	s, node := v.s, v.s.Primary.Node
	f, failed := v.view.Failed[node]
	_, member := v.view.Nodes[node]
	switch {
	case s.Primary.IsZero() && s.Epoch == 0:
		v.noPrimary("none was elected yet", time.Time{})
	case s.Primary.IsZero():
		v.noPrimary("the last one lost its disk, and no other was elected", time.Time{})
	case !member:
		v.noPrimary(fmt.Sprintf("%s led it and is no longer a member", node), time.Time{})
	case failed:
		v.noPrimary(fmt.Sprintf("%s led it and is FAILED (%s)", node, f.Why), f.Since)
	case v.states[node].Refused:
		v.notServing(fmt.Sprintf("no process of %s runs: its address refuses connections; another copy is elected once it is declared FAILED", node), v.states[node].Since)
	case v.quiet(node):
		v.out.Writable, v.out.Queued = v.floorBroken(), nil
		v.find(StateUnknown, "", v.states[node].Since, values{
			"what": "whether " + string(s.ID) + " serves", "cause": fmt.Sprintf("its primary %s was not heard for %s", node, duration(v.now.Sub(v.states[node].At))),
		})
	case v.fresh(node) == nil:
		v.out.Writable = v.floorBroken()
		v.find(StateUnknown, "", v.states[node].Since, values{
			"what": "whether " + string(s.ID) + " serves", "cause": fmt.Sprintf("its primary %s gave no answer", node),
		})
	case v.resigned() != nil:
		v.noPrimary(fmt.Sprintf("%s led it, and its reign is over; its copy has promised epoch %d; an election follows", node, v.resigned().Epoch), time.Time{})
	case v.primary == nil:
		v.notServing("it does not act as the primary yet", time.Time{})
	case v.primary.Broken != "":
		v.notServing(v.primary.Broken, time.Time{})
	case v.primary.Blank != "":
		v.notServing(v.primary.Blank, time.Time{})
	case v.primary.NotServing != "":
		v.notServing(v.primary.NotServing+v.lacking(), time.Time{})
	default:
		v.out.Readable = ptr(true)
		v.writable()
	}
}

// quiet says whether the node gave no answer to the newest question and was not heard for QuietFor: what it said last does not stand for the
// present, though its figures may still be shown with their age.
func (v *shardView) quiet(node themis.NodeID) bool {
	o := v.states[node]
	return o.State != nil && o.Err != "" && v.now.Sub(o.At) >= QuietFor
}

// resigned is the primary's copy where it says that its reign is over for good; nil: it does not.
func (v *shardView) resigned() *LocalReplica {
	if l := v.local(v.s.Primary, v.s.ID); l != nil && l.Resigned == v.s.Epoch && v.s.Epoch > 0 && l.Blank == "" && l.Broken == "" {
		return l
	}
	return nil
}

func (v *shardView) noPrimary(cause string, since time.Time) {
	v.out.Readable, v.out.Writable = ptr(false), ptr(false)
	if why := v.control.NotDone[string(v.s.ID)]; why != "" {
		cause += "; held back: " + why
	}
	answering := 0
	for _, m := range v.s.Voters() {
		if v.fresh(m.Node) != nil {
			answering++
		}
	}
	v.find(ShardNoPrimary, "", since, values{"epoch": uint64(v.s.Epoch), "cause": cause, "voters": len(v.s.Voters()), "answering": answering})
}

func (v *shardView) notServing(cause string, since time.Time) {
	v.out.Readable, v.out.Writable = ptr(false), ptr(false)
	v.find(ShardNotServing, "", since, values{"epoch": uint64(v.s.Epoch), "cause": cause, "node": string(v.s.Primary.Node)})
}

// floorBroken is false where the record alone shows that no write can be taken, else not known.
func (v *shardView) floorBroken() *bool {
	if v.s.Have.Mode == themis.Sync && len(v.s.ISR) < 1+v.s.Have.K {
		return ptr(false)
	}
	return nil
}

func (v *shardView) writable() {
	need, have, what := 0, 0, ""
	switch v.s.Have.Mode {
	case themis.Sync:
		need, have, what = 1+v.s.Have.K, len(v.s.ISR), "in-sync copies are there"
	case themis.SemiSync:
		need, what = v.s.Have.K, "followers are connected"
		for _, f := range v.primary.Followers {
			if r, ok := v.s.Replica(f.Node); ok && r.Member == f.Member && r.Class == cluster.Voter && f.Connected {
				have++
			}
		}
	}
	stall := v.primary.Stalled
	cause := v.primary.ReadOnly
	switch {
	case cause != "":
	case have < need:
		cause = fmt.Sprintf("%d of %d %s", have, need, what)
	case stall != nil:
		cause = "writes are not acknowledged by enough copies"
		if stall.Waits != "" {
			cause = stall.Waits
		}
	}
	v.out.Writable = ptr(cause == "")
	if cause == "" {
		return
	}
	waits, since := v.repair(), time.Time{}
	if stall != nil {
		since = stall.Since
	}
	long, words := known(int64(0), false), "an unknown time"
	if !since.IsZero() {
		long, words = millis(v.now.Sub(since)), duration(v.now.Sub(since))
	}
	v.find(ShardReadOnly, "", since, values{"cause": cause, "queued": *v.out.Queued, "waits": waits, "have": have, "need": need, "for_ms": long, "for": words})
}

// lacking says which copies a primary that does not serve yet is without, and what is done about them; empty: none.
func (v *shardView) lacking() string {
	var away []string
	for _, f := range v.primary.Followers {
		if v.s.InSync(f.Member) && !f.Connected {
			away = append(away, string(f.Node))
		}
	}
	out := ""
	if len(away) > 0 {
		out = "; it waits for " + strings.Join(away, ", ") + " of the in-sync set"
	}
	if need := 1 + v.s.Have.K; v.s.Have.Mode == themis.Sync && len(v.s.ISR) < need {
		out += fmt.Sprintf("; writes need %d in-sync copies and there is %d: %s", need, len(v.s.ISR), v.repair())
	}
	return out
}

// repair says in words what is being done about a missing copy.
func (v *shardView) repair() string {
	for _, r := range v.out.Replicas {
		if !r.Joining {
			continue
		}
		if r.Rebuild == nil {
			return fmt.Sprintf("a new copy on %s %s", r.Node, v.joining(r))
		}
		return fmt.Sprintf("a new copy is being built on %s (%s %%, ETA %s)", r.Node, word(r.Rebuild.Percent), eta(r.Rebuild.ETAMs))
	}
	if why := v.control.NotDone[string(v.s.ID)]; why != "" {
		return "no new copy is being built: " + why
	}
	return "no new copy is being built yet"
}

// joining says how far a new copy is of which no snapshot is on its way.
func (v *shardView) joining(r ReplicaReport) string {
	switch {
	case r.State == cluster.FailedState:
		return "is on a failed node"
	case r.LagEntries != nil && *r.LagEntries > 0 && r.State != cluster.Blank:
		return "reads the log: " + lagWords(r)
	case r.LagEntries != nil && r.State != cluster.Blank:
		return "has all and is about to be taken into the in-sync set"
	case v.primary == nil || v.primary.Bytes == nil:
		return "waits to begin: no primary says how much it is to get"
	}
	out := fmt.Sprintf("waits to begin: about %d bytes are to come, and how long it takes is known once they do", *v.primary.Bytes)
	if r.Why != "" {
		out += "; " + r.Why
	}
	return out
}

func eta(ms *int64) string {
	if ms == nil {
		return "unknown"
	}
	return duration(time.Duration(*ms) * time.Millisecond)
}

// policy adds the findings about how many copies there should be and how writes are acknowledged.
func (v *shardView) policy() {
	s := v.s
	voters := len(s.Voters())
	if voters < s.Want.RF {
		v.find(CopyMissing, "", time.Time{}, values{"voters": voters, "rf": s.Want.RF, "repair": v.repair()})
	}
	if len(s.ISR) == 1 && s.Have.RF > 1 && s.Epoch > 0 {
		v.find(ISROfOne, "", time.Time{}, values{"node": string(s.ISR[0].Node), "rf": s.Have.RF})
	}
	if s.Want.RF == 1 && s.Have.RF == 1 && voters == 1 {
		v.find(SingleCopy, "", time.Time{}, values{"node": string(s.Voters()[0].Node)})
	}
	if s.Want != s.Have {
		v.find(PolicyChanging, "", time.Time{}, values{"want": s.Want.String(), "have": s.Have.String()})
	}
}

// crashCost is nothing under the modes that wait for another disk; under ASYNC it is what the best follower lacks.
func (v *shardView) crashCost() {
	if v.s.Have.Mode != themis.Async {
		v.out.CrashCost = CrashCost{ptr(int64(0)), ptr(int64(0))}
		return
	}
	if p := v.primary; p != nil {
		best, lag := themis.Seq(0), (*int64)(nil)
		for _, r := range v.out.Replicas {
			if r.Role == Replica && !r.Joining && r.Seq != nil && *r.Seq >= best {
				best, lag = *r.Seq, copied(r.LagMs)
			}
		}
		v.out.CrashCost = CrashCost{ptr(ahead(p.Seq, best)), lag}
	}
	if v.s.Have.RF > 1 {
		v.find(AsyncMayLose, "", time.Time{}, values{"node": string(v.s.Primary.Node), "entries": v.out.CrashCost.Entries, "ms": v.out.CrashCost.Ms})
	}
}

func ahead(a, b themis.Seq) int64 {
	if b >= a {
		return 0
	}
	return int64(a - b) //nolint:gosec // seqs stay far below 2^63
}

// lagWords is how far the copy is behind.
func lagWords(r ReplicaReport) string {
	var parts []string
	if r.LagEntries != nil {
		parts = append(parts, fmt.Sprintf("%d entries behind", *r.LagEntries))
	}
	if r.LagBytes != nil {
		parts = append(parts, fmt.Sprintf("%d bytes", *r.LagBytes))
	}
	if r.LagMs != nil {
		parts = append(parts, fmt.Sprintf("%d ms", *r.LagMs))
	}
	if len(parts) == 0 {
		parts = append(parts, "how far it is behind is not known")
	}
	if r.Why != "" {
		parts = append(parts, r.Why)
	}
	return strings.Join(parts, ", ")
}
