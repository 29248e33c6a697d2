package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	stopWithin = 5 * time.Second        // after this a node ends, whatever it still leads
	quitWithin = 400 * time.Millisecond // for primaries and followers to free each other of read leases
	stopLook   = 10 * time.Millisecond  // between two looks at what it still leads
)

// errStopped ends a node that has left its duties.
var errStopped = errors.New("the node was told to stop")

// untilStopped waits until the node is told to stop, leaves its duties unless others stop as well, and then ends the node by its
// error.
func (n *Node) untilStopped(ctx context.Context) error {
	hurry := false
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-n.o.Stop:
	case <-n.o.Hurry:
		hurry = true
	}
	n.stopping.Store(&cluster.Stopping{})
	n.log.Info("told to stop", "hand_over", !hurry)
	if !hurry {
		n.leaveDuties(ctx)
	}
	n.shards.quit(ctx)
	return errors.Join(errStopped, ctx.Err())
}

// leaveDuties hands over what others can take.
func (n *Node) leaveDuties(ctx context.Context) {
	m, lease := n.m.Load(), n.lease.Load()
	if m == nil || lease == nil || !lease.Holds(time.Now()) {
		return // no member, or cut from the control plane: others are elected in its place
	}
	began := time.Now()
	v, _ := n.latest()
	before := v.Duties(n.id.Node, n.boot)
	limited, cancel := context.WithTimeout(ctx, stopWithin)
	hurry := make(chan struct{})
	go func() { // ends with limited
		defer close(hurry)
		select {
		case <-n.o.Hurry:
			cancel()
		case <-limited.Done():
		}
	}()
	left := n.leave(limited, lease)
	cancel()
	<-hurry
	n.tellStop(ctx, m, before, left, time.Since(began))
}

// leave says in the heartbeat that the node stops and which of its reigns are ready to go to another, until it has no duty left
// or ctx ends. It answers what is left.
func (n *Node) leave(ctx context.Context, lease *control.Lease) cluster.Duties {
	said := false
	for {
		changed := n.changed.next()
		v, _ := n.latest()
		duties := v.Duties(n.id.Node, n.boot)
		if said && duties.None() {
			return duties
		}
		st := &cluster.Stopping{Ready: n.handOver(duties)}
		if !said || !maps.Equal(st.Ready, n.stopping.Load().Ready) {
			n.stopping.Store(st)
			try, cancel := context.WithTimeout(ctx, time.Second)
			err := lease.PutAlive(try, n.alive())
			cancel()
			if said = err == nil; err != nil {
				n.log.Warn("the control plane was not told that this node stops", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return duties
		case <-changed:
		case <-time.After(stopLook):
		}
	}
}

// handOver holds back new writes of the shards that somebody else can lead, and answers which can go now.
func (n *Node) handOver(d cluster.Duties) map[themis.ShardID]themis.Epoch {
	ready := map[themis.ShardID]themis.Epoch{}
	for id, r := range n.shards.all() {
		if e := r.HandOver(slices.Contains(d.Lead, id)); e > 0 {
			ready[id] = e
		}
	}
	return ready
}

// tellStop writes into the audit trail what became of the node's duties.
func (n *Node) tellStop(ctx context.Context, m *control.Map, before, left cluster.Duties, took time.Duration) {
	v, _ := n.latest()
	e := cluster.Event{
		Actor: n.actor(), Action: "node_stop", Subject: string(n.id.Node), Outcome: "done", Rule: "stopping", DurationMs: ms(took),
		Reason: fmt.Sprintf("handed over %d of %d shards that others can lead", len(before.Lead)-len(left.Lead), len(before.Lead)),
	}
	if alone := v.ShardsLedBy(n.id.Node); len(alone) > 0 {
		e.Reason += fmt.Sprintf("; %d that it still leads have no primary until one is elected or it is back: %v", len(alone), alone)
	}
	if !left.None() {
		e.Outcome = "not_done"
	}
	try, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := m.AppendEvent(try, n.id.Node, n.dated(e)); err != nil {
		n.log.Warn("event not written", "action", e.Action, "err", err)
	}
}
