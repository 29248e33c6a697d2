package controller

import (
	"fmt"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// A disk that is full, and on which writes wait, is waited for as long as FullGrace: somebody may be making room. Then the copy that
// they wait for is made anew on a node that keeps room for itself with it; where there is none, nothing is done, and that is said.

// full says whether the member's disk has no room for clients' writes.
func (t *step) full(m cluster.Member) bool {
	a, ok := t.View.Alive[m.Node]
	return ok && a.Storage == m.Storage && a.DiskFull
}

// fullLong says whether it has had none for so long that its copies are made anew elsewhere.
func (t *step) fullLong(m cluster.Member) bool {
	since := t.FullSince[m.Node]
	return t.full(m) && !since.IsZero() && t.now.Sub(since) >= t.c.FullGrace
}

// crowded is the voter on a full disk that the shard's writes wait for, a follower before the primary, or nil.
func (t *step) crowded(s cluster.Shard) *cluster.Member {
	room := 0
	var out *cluster.Member
	for _, m := range s.Voters() {
		switch {
		case t.fullLong(m) && (out == nil || *out == s.Primary):
			out = &m
		case !t.full(m) && t.up(m.Node) && t.cannotReign(s.ID, m.Node) == "":
			room++
		}
	}
	if !guard.On(guard.FullReplaced) || room >= 1+s.Have.K && !t.full(s.Primary) {
		return nil
	}
	return out
}

// roomSoon says whether copies that are on their way from the member's disk leave it enough room, so that no more need to.
func (t *step) roomSoon(m cluster.Member) bool {
	a := t.View.Alive[m.Node]
	soon := a.DiskFree + t.leaving[m]
	return soon > a.DiskFree && soon >= a.DiskReserve+a.DiskReserve/4 && guard.On(guard.FullEnough)
}

// givesWay says why the primary's full disk ends its reign, or nothing: enough other copies have room, or one that can follow it has,
// and the primary's own copy can then be made anew. The place for it is taken in this step.
func (t *step) givesWay(s cluster.Shard) string {
	if !t.full(s.Primary) || !guard.On(guard.FullGoes) {
		return ""
	}
	others, need := t.others(s), 1
	if s.Have.Mode == themis.SemiSync {
		need = max(1, len(s.Voters())-s.Have.K) // ballots: an election that can't get them would hold up all else
	}
	if others >= max(1+s.Have.K, need) {
		return fmt.Sprintf("the disk of its primary %s is full, and enough other copies have room", s.Primary)
	}
	if m := t.crowded(s); others < need || m == nil || *m != s.Primary || t.roomSoon(*m) {
		return ""
	}
	best := t.choose(s, &s.Primary, func(themis.NodeID, string) {}, t.keepsRoom)
	if best == nil {
		return ""
	}
	t.joining[best.node.ID]++
	t.leaves(s, s.Primary)
	return fmt.Sprintf("the disk of its primary %s is full, and its copy can be made anew on %s", s.Primary, best.node.ID)
}

// joinForFull begins the copy that takes the place of one on a full disk, or says why not.
func (t *step) joinForFull(s cluster.Shard) {
	m := t.crowded(s)
	if m == nil {
		return
	}
	why := fmt.Sprintf("the disk of %s is full, and writes wait for it", m)
	if t.roomSoon(*m) {
		t.not("join", string(s.ID), "room-soon", "%s; other copies are on their way from there, which makes room enough", why)
		return
	}
	if t.Paused != "" {
		t.not("join", string(s.ID), "paused", "%s; rebuilds are paused: %s", why, t.Paused)
		return
	}
	var reasons []string
	best := t.choose(s, m, func(id themis.NodeID, reason string) { reasons = append(reasons, string(id)+" "+reason) }, t.keepsRoom)
	switch {
	case best == nil:
		t.not("join", string(s.ID), "no-room", "%s; no other node can take its copy: %s", why, strings.Join(reasons, ", "))
	case *m == s.Primary:
		t.not("join", string(s.ID), "full-primary", "%s; it is the primary, and no other copy has room and surely all that was acknowledged", why)
	default:
		t.begin(s, *best, m, why)
		t.leaves(s, *m)
	}
}

// leaves counts the room that the shard's copy takes on the member's disk as room that it will have.
func (t *step) leaves(s cluster.Shard, m cluster.Member) {
	t.leaving[m] += t.View.Alive[m.Node].Copies[s.ID]
}

// keepsRoom says why the node should not take a copy only because another disk is full, or nothing: it must have room for it, and
// receive no other meanwhile.
func (t *step) keepsRoom(s cluster.Shard, n cluster.Node) string {
	if !guard.On(guard.FullFits) {
		return ""
	}
	if t.joining[n.ID] > 0 {
		return "receives a copy already"
	}
	return t.cramped(s, n)
}

// cramped says why the copy may fill the node's disk, or nothing: with it and half as much again for its growth, and with what other
// copies there still lack, twice the reserve must be free, below which the disk counts as full. What is not known counts as no room.
func (t *step) cramped(s cluster.Shard, n cluster.Node) string {
	size, known := t.size(s)
	if !known {
		return fmt.Sprintf("can't be judged: nobody said how large %s is", s.ID)
	}
	a := t.View.Alive[n.ID]
	need := size + size/2 + 2*a.DiskReserve
	for _, other := range t.View.Shards {
		if _, has := other.Replica(n.ID); has {
			largest, _ := t.size(other)
			need += max(0, largest-a.Copies[other.ID])
		}
	}
	if a.DiskReserve <= 0 || a.DiskFree < need {
		return "has too little room for it beside its own reserve"
	}
	return ""
}

// size is how large the shard's largest copy is, as the nodes last said; false: none did.
func (t *step) size(s cluster.Shard) (largest themis.Bytes, known bool) {
	for _, r := range s.Replicas {
		if b, said := t.View.Alive[r.Node].Copies[s.ID]; said {
			largest, known = max(largest, b), true
		}
	}
	return largest, known
}
