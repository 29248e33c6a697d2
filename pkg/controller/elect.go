package controller

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// shard decides one change of the shard at most.
func (t *step) shard(s cluster.Shard) {
	if t.rehouse(s) || t.elect(s) || t.drop(s) {
		return
	}
	t.join(s)
}

// rehouse follows a node to its new disk. The node's record and its heartbeat must agree on it: two processes under one name
// must not blank each other's copies in turn.
func (t *step) rehouse(s cluster.Shard) bool {
	for _, r := range s.Replicas {
		n, member := t.View.Nodes[r.Node]
		if !member || n.Storage == "" {
			continue
		}
		if a, alive := t.View.Alive[r.Node]; alive && a.Storage != n.Storage {
			t.not("rehouse", string(s.ID)+"/"+string(r.Node), "identity", "the record of %s names storage %s, its heartbeat %s", r.Node, n.Storage, a.Storage)
			continue
		}
		if n.Storage != r.Storage {
			t.do(Rehouse{Shard: s.ID, Node: r.Node, Old: r.Storage, Storage: n.Storage})
			return true
		}
	}
	return false
}

// elect says whether the shard needs another reign, and begins the election if it can succeed and its time has come.
func (t *step) elect(s cluster.Shard) bool {
	rule, why := t.needsElection(s)
	if rule == "" {
		return false
	}
	subject := string(s.ID)
	if t.Paused != "" {
		t.not("elect", subject, "paused", "%s; elections are paused: %s", why, t.Paused)
		return true
	}
	a := t.Elections[s.ID]
	if a.Running || a.Failed > 0 && t.now.Before(a.Ended.Add(t.c.Backoff(a.Failed))) {
		return true
	}
	skip, stopping := map[themis.NodeID]string{}, map[themis.NodeID]bool{}
	var answer, stay []cluster.Member
	var missing []string
	for _, m := range s.Voters() {
		if t.stopping(m.Node) != nil {
			stopping[m.Node] = true
		}
		reason := t.cannotReign(s.ID, m.Node)
		if rule == "full" && reason == "" && t.full(m) {
			reason = "has a full disk"
		}
		switch {
		case reason != "":
			skip[m.Node] = reason
			missing = append(missing, string(m.Node)+" "+reason)
		case !t.up(m.Node):
			missing = append(missing, string(m.Node)+" does not answer")
		default:
			answer = append(answer, m)
			if !stopping[m.Node] && slices.Contains(s.Successors(), m) {
				stay = append(stay, m)
			}
		}
	}
	if rule == ruleStopping && len(stay) == 0 {
		t.not("elect", subject, rule, "%s; no copy that could follow it is on a node that stays", why)
		return false
	}
	stop, could := t.electable(s, answer)
	if stop != "" {
		if t.looked() {
			t.not("elect", subject, stop, "%s; %s; %s", why, could, strings.Join(missing, ", "))
		}
		return true
	}
	if t.load[s.Primary.Node] > 0 {
		t.load[s.Primary.Node]--
	}
	t.do(Elect{Shard: s.ID, Epoch: s.Epoch + 1, Rule: rule, Why: why, Skip: skip, Stopping: stopping, Load: maps.Clone(t.load)})
	if len(stay) > 0 {
		answer = stay
	}
	t.load[t.likely(s, answer)]++
	return true
}

// ruleStopping is why a reign ends that its node hands over.
const ruleStopping = "stopping"

// stopping is the node's word that it is on its way out, or nil.
func (t *step) stopping(node themis.NodeID) *cluster.Stopping {
	a := t.View.Alive[node]
	if p := t.Probes[node]; p.Boot != "" && p.Boot != a.Boot {
		return nil // that was the process before
	}
	return a.Stopping
}

// needsElection says why the shard's primary can't go on, or nothing.
func (t *step) needsElection(s cluster.Shard) (rule, why string) {
	node := s.Primary.Node
	switch {
	case s.Epoch == 0:
		return "first-reign", "it never had a primary"
	case s.Primary.IsZero():
		return "no-primary", "it has no primary"
	}
	if _, ok := t.View.Nodes[node]; !ok {
		return "member", fmt.Sprintf("its primary %s is no longer a member", node)
	}
	if _, failed := t.View.Failed[node]; failed && guard.On(guard.FailedPrimary) {
		return "failed", fmt.Sprintf("its primary %s is FAILED", node) // why is told by the event that declared it
	}
	if t.restarted(s) {
		return "boot", fmt.Sprintf("its primary %s has restarted since it was crowned", node)
	}
	if p := t.Probes[node]; p.Answered() && !p.LastOK.Before(t.Elections[s.ID].Ended) {
		if epoch, ok := p.Resigned[s.ID]; ok && epoch == s.Epoch && guard.On(guard.Resigned) {
			return "resigned", fmt.Sprintf("its primary %s has ended its reign of epoch %d", node, epoch)
		}
		if why := p.Unfit[s.ID]; why != "" {
			return "unfit", fmt.Sprintf("the copy of its primary %s can't lead: %s", node, why)
		}
	}
	if why := t.givesWay(s); why != "" {
		return "full", why
	}
	if st := t.stopping(node); st != nil && st.Ready[s.ID] == s.Epoch {
		return ruleStopping, fmt.Sprintf("its primary %s stops, and has answered all that was open", node)
	}
	if t.cut(node) {
		return "cut", fmt.Sprintf("its primary %s has been cut from the control plane for longer than its lease", node)
	}
	return "", ""
}

// others is how many copies could acknowledge a write without the primary: those that are up, in sync where that is asked for, and
// have room. Under ASYNC none is known to have what its primary acknowledged, so no copy counts.
func (t *step) others(s cluster.Shard) (n int) {
	members := s.ISR
	if s.Have.Mode == themis.SemiSync {
		members = s.Voters()
	}
	for _, m := range members {
		if m != s.Primary && s.Have.Mode != themis.Async && t.up(m.Node) && !t.full(m) && t.cannotReign(s.ID, m.Node) == "" {
			n++
		}
	}
	return n
}

// restarted says whether another process answers for the primary than the one that was crowned. Only an answer that is newer
// than the last election counts: an older one may be of the process before.
func (t *step) restarted(s cluster.Shard) bool {
	if !guard.On(guard.BootCheck) {
		return false
	}
	tried := t.Elections[s.ID].Ended
	if p := t.Probes[s.Primary.Node]; p.Boot != "" {
		return p.Boot != s.Boot && !p.LastOK.Before(tried)
	}
	a, alive := t.View.Alive[s.Primary.Node]
	return alive && a.Boot != "" && a.Boot != s.Boot && tried.IsZero()
}

// cut says whether the node answers, says that it can't reach the control plane, and the control plane has not heard it for
// longer than a lease.
func (t *step) cut(node themis.NodeID) bool {
	if _, alive := t.View.Alive[node]; alive {
		return false
	}
	p, gone := t.Probes[node], t.AliveGone[node]
	return p.Answered() && p.ControlCut && !gone.IsZero() && t.now.Sub(gone) >= t.c.CutAfter
}

// cannotReign says why a voter's ballot isn't even asked for.
func (t *step) cannotReign(shard themis.ShardID, node themis.NodeID) string {
	if _, ok := t.View.Nodes[node]; !ok {
		return "is no longer a member"
	}
	if _, failed := t.View.Failed[node]; failed {
		return "is FAILED"
	}
	p := t.Probes[node]
	switch {
	case !p.Answered():
		return ""
	case p.ControlCut && node != t.Self:
		return "can't reach the control plane"
	case p.Unfit[shard] != "":
		return "has a copy that can't lead: " + p.Unfit[shard]
	}
	return ""
}

// electable is what package election will ask for, counted beforehand over those that answer: a ballot fences the old reign, so
// none is asked for in vain. stop is the rule that isn't met, or nothing.
func (t *step) electable(s cluster.Shard, answer []cluster.Member) (stop, words string) {
	voters := s.Voters()
	need, rule := 1, string(s.Have.Mode)
	switch {
	case s.Epoch == 0:
		need, rule = len(voters), "first-reign"
	case s.Have.Mode == themis.Sync && guard.On(guard.ISRElection):
		rule = "isr"
		answer = slices.DeleteFunc(slices.Clone(answer), func(m cluster.Member) bool { return !s.InSync(m) })
	case s.Have.Mode == themis.SemiSync:
		need, rule = max(1, len(voters)-s.Have.K), "ballots"
	}
	if len(answer) >= need && len(answer) > 0 {
		return "", ""
	}
	of := fmt.Sprintf("%d of %d voters answer, %d must", len(answer), len(voters), need)
	if rule == "isr" {
		of = fmt.Sprintf("%d of %d in-sync members answer, 1 must", len(answer), len(s.ISR))
	}
	return rule, of
}

// likely is who wins among equals: used to spread the primaries of one step, never to decide.
func (t *step) likely(s cluster.Shard, answer []cluster.Member) themis.NodeID {
	var best themis.NodeID
	for _, m := range answer {
		if s.Epoch > 0 && s.Have.Mode == themis.Sync && !s.InSync(m) {
			continue
		}
		if best == "" || t.load[m.Node] < t.load[best] || t.load[m.Node] == t.load[best] && m.Node < best {
			best = m.Node
		}
	}
	return best
}
