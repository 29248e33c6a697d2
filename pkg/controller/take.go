package controller

import (
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// Silence is how long a controller's heartbeat, its probes, may stay away before another control node takes over.
const Silence = 2 * time.Second

// GoneSilence is the same where the controller's node announces itself no more in the control plane: it has stopped, or the
// control plane confirms it no longer, and then it decides nothing.
const GoneSilence = 500 * time.Millisecond

// ConfirmWithin is how long a controller goes on without a transaction of its own that the control plane has confirmed. Its lease may
// be renewed all that time, where the disk of the control plane's member beside it hangs and the others are well.
const ConfirmWithin = 3 * time.Second

// Bid is what a control node knows when it asks itself whether to be the controller.
type Bid struct {
	Self      themis.NodeID
	Rank      int                // its place among the control nodes, so that not all bid at once
	Record    cluster.Controller // who is
	Gone      bool               // its node announces itself no more in the control plane
	Stopping  bool               // this node is on its way out
	Confirmed bool               // the control plane confirms this node's own lease
	Undone    time.Duration      // as controller: since the control plane confirmed a transaction of its own last
	Silent    time.Duration      // since the controller's heartbeat was heard, or could have been heard, last
}

// MayReign says whether the node may be the controller at all. One that is cut off from the control plane, or whose
// transactions it does not confirm, decides nothing, but its probes would go on and keep the others from taking over.
func (b Bid) MayReign() bool {
	if !guard.On(guard.ControllerLease) {
		return true
	}
	return b.Confirmed && (b.Undone <= ConfirmWithin || !guard.On(guard.ControllerDoes))
}

// Due says whether the time to bid has come, as far as this node alone can tell. Ask the others before it is made: see Unheard.
func (b Bid) Due() bool {
	if !b.MayReign() || b.Stopping {
		return false
	}
	if b.Record.Term == 0 || b.Record.Node == b.Self {
		return true
	}
	return b.Silent > b.limit()+time.Duration(max(b.Rank, 0))*100*time.Millisecond && guard.On(guard.TakeOver)
}

func (b Bid) limit() time.Duration {
	if b.Gone {
		return GoneSilence
	}
	return Silence
}

// Heard is another control node's word on the controller's heartbeat.
type Heard struct {
	Node themis.NodeID
	Term themis.Term
	Age  time.Duration // since it came
}

// Unheard says whether none of the control nodes that answered has heard the controller lately. A node whose own link to it is
// cut would otherwise take over, declare it FAILED, and be deposed by it in turn, for ever.
func (b Bid) Unheard(others []Heard) bool {
	for _, h := range others {
		if h.Node != b.Self && h.Term >= b.Record.Term && h.Age <= b.limit() && guard.On(guard.ControllerHeard) {
			return false
		}
	}
	return true
}
