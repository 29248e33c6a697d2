package playground

import (
	"context"
	"errors"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Change is one thing that happened: an event of the cluster, or a node's process that became another state.
type Change struct {
	Event   *cluster.Event // nil: a process
	Node    themis.NodeID
	Process ProcessState
}

// Follow tells what happens until ctx ends, which is no error, or until no process is left. It begins with the processes that don't
// run.
func (p *Playground) Follow(ctx context.Context, tell func(Change)) (err error) {
	c, err := p.Client(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	seen := map[themis.NodeID]ProcessState{}
	for frame, watchErr := range c.Watch(ctx, 0) { // at least once a second, also while no node answers
		s, err := p.read() // other commands change it
		if err != nil {
			return err
		}
		if s == nil {
			return nil // taken away
		}
		left := false
		for _, m := range s.Nodes {
			now, before := p.look(m), seen[m.ID]
			if now != before && (now != Running || before != "") {
				tell(Change{Node: m.ID, Process: now})
			}
			seen[m.ID] = now
			left = left || now != Stopped
		}
		if watchErr == nil {
			for i := range frame.Events {
				tell(Change{Event: &frame.Events[i]})
			}
		}
		if !left {
			return nil
		}
	}
	return nil
}
