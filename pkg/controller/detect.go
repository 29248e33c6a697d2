package controller

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// step is one Step at work: the world, and what was decided so far.
type step struct {
	World
	now     time.Time
	c       Config
	actions []Action
	notDone []Action
	load    map[themis.NodeID]int           // primaries
	copies  map[themis.NodeID]int           // voters and joining copies
	joining map[themis.NodeID]int           // joining copies
	leaving map[cluster.Member]themis.Bytes // what copies take there that are being made anew elsewhere
}

// Step says what should be done now: actions in the order in which to do them, then what is not done and why.
func Step(w World, now time.Time, c Config) []Action {
	t := &step{World: w, now: now, c: c, load: Loads(w.View), copies: map[themis.NodeID]int{}, joining: map[themis.NodeID]int{}, leaving: map[cluster.Member]themis.Bytes{}}
	for _, s := range w.View.Shards {
		for _, r := range s.Replicas {
			if r.Class != cluster.Spare {
				t.copies[r.Node]++
			}
			if isJoining(r) {
				t.joining[r.Node]++
				if r.Replaces != nil {
					t.leaves(s, *r.Replaces)
				}
			}
		}
	}
	verdicts := t.verdicts()
	if reason := t.isolated(); reason != "" && len(verdicts) > 0 {
		t.not("declare-failed", "cluster", "isolated", "%s", reason)
		return t.notDone
	}
	t.clear()
	t.actions = append(t.actions, verdicts...)
	for _, id := range w.View.ShardIDs() {
		t.shard(w.View.Shards[id])
	}
	return append(t.actions, t.notDone...)
}

// Loads is how many shards each member leads.
func Loads(v cluster.View) map[themis.NodeID]int {
	out := map[themis.NodeID]int{}
	for id := range v.Nodes {
		out[id] = 0
	}
	for _, s := range v.Shards {
		if !s.Primary.IsZero() {
			out[s.Primary.Node]++
		}
	}
	return out
}

// NodeState is the node's state as probes and records tell it.
func NodeState(p Probe, failed bool, n cluster.Node, now time.Time, c Config) cluster.State {
	switch {
	case failed:
		return cluster.FailedState
	case !p.Answered(), now.Sub(p.LastOK) >= c.FailAfterMax:
		return cluster.Suspect
	case n.Draining:
		return cluster.Draining
	}
	return cluster.Up
}

func (t *step) do(a Action) { t.actions = append(t.actions, a) }

func (t *step) not(action, subject, rule, format string, args ...any) {
	t.notDone = append(t.notDone, NotDone{Subject: subject, Action: action, Rule: rule, Reason: fmt.Sprintf(format, args...)})
}

// looked says whether this controller has probed for as long as the earliest verdict takes.
func (t *step) looked() bool { return t.now.Sub(t.Since) >= t.c.FailAfterMin }

// up says whether the node is a member that answers and isn't declared FAILED.
func (t *step) up(node themis.NodeID) bool {
	n, ok := t.View.Nodes[node]
	if !ok {
		return false
	}
	_, failed := t.View.Failed[node]
	if node == t.Self {
		return !failed
	}
	s := NodeState(t.Probes[node], failed, n, t.now, t.c)
	return s == cluster.Up || s == cluster.Draining
}

// failedFor is how long the verdict on the node has been known here, whatever the clock of who gave it says; a node that is no member
// is gone for ever.
func (t *step) failedFor(node themis.NodeID) (time.Duration, bool) {
	if _, ok := t.View.Nodes[node]; !ok {
		return 1<<63 - 1, true
	}
	if _, failed := t.View.Failed[node]; !failed {
		return 0, false
	}
	since, known := t.FailedSince[node]
	if !known {
		return 0, true
	}
	return t.now.Sub(since), true
}

func (t *step) verdicts() []Action {
	var out []Action
	for _, id := range t.View.NodeIDs() {
		if _, failed := t.View.Failed[id]; failed || id == t.Self {
			continue
		}
		p := t.Probes[id]
		if why := t.gone(p); why != "" {
			out = append(out, DeclareFailed{Node: id, Boot: p.Boot, LastOK: p.LastOK, First: p.FailingSince, Since: t.now, Why: why})
		}
	}
	return out
}

// gone says why the probed node must be declared FAILED now, or nothing. A node is silent since its last answer, or
// since its first failure where it never answered, but not longer than this controller has been listening: to the one before
// it, longer than to the others.
func (t *step) gone(p Probe) string {
	if p.FailingSince.IsZero() {
		return ""
	}
	from, listening := p.LastOK, t.Since
	if from.IsZero() {
		from = p.FailingSince
	}
	if !p.Watched.IsZero() && p.Watched.Before(listening) {
		listening = p.Watched
	}
	if from.Before(listening) {
		from = listening
	}
	silent := t.now.Sub(from)
	words := fmt.Sprintf("silent for %.1f s", silent.Seconds())
	if p.Why != "" {
		words += ": " + p.Why
	}
	switch {
	case silent < t.c.FailAfterMin:
		return ""
	case p.Refused && p.Why == "":
		return "connection refused, " + words
	case p.Refused: // its words say so
		return words
	case p.Failures >= t.c.Threshold:
		return fmt.Sprintf("%d probes in a row without an answer, %s", p.Failures, words)
	case silent >= t.c.FailAfterMax:
		return words
	}
	return ""
}

// isolated says why this controller may itself be the one that is cut off, or nothing. A refused connection shows that the
// other machine is reached. In a cluster of two nobody can tell, and the epoch protects the data.
func (t *step) isolated() string {
	if len(t.View.Nodes) < 3 {
		return ""
	}
	for _, id := range t.View.NodeIDs() {
		p := t.Probes[id]
		reached := p.Answered() && t.now.Sub(p.LastOK) < t.c.FailAfterMax || !p.FailingSince.IsZero() && p.Refused
		if id != t.Self && reached {
			return ""
		}
	}
	return fmt.Sprintf("none of the %d other nodes can be reached: it may be this node that is cut off", len(t.View.Nodes)-1)
}

// clear takes back verdicts on nodes that answer again, and on those that left.
func (t *step) clear() {
	for _, id := range slices.Sorted(maps.Keys(t.View.Failed)) {
		p := t.Probes[id]
		_, member := t.View.Nodes[id]
		switch {
		case !member:
			t.do(ClearFailed{id, "it is no longer a member"})
		case id == t.Self:
			t.do(ClearFailed{id, "this controller runs there"})
		case p.Answered() && !p.LastOK.Before(t.Since) && guard.On(guard.VerdictCleared):
			t.do(ClearFailed{id, "it answered a probe"})
		}
	}
}

// Phases is the time from the last answer to the verdict, for the event that records it: until the first failed probe, and
// from there to the verdict.
func (a DeclareFailed) Phases() []cluster.Phase {
	var out []cluster.Phase
	if !a.LastOK.IsZero() {
		out = append(out, cluster.Phase{Name: "first_failure", Ms: ms(a.First.Sub(a.LastOK))})
	}
	return append(out, cluster.Phase{Name: "declare", Ms: ms(a.Since.Sub(a.First))})
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
