package playground

import (
	"context"
	"errors"
	"slices"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Change is one thing that happened: an event of the cluster, or a node's process that became another state.
type Change struct {
	Event   *cluster.Event // nil: a process
	Node    themis.NodeID
	Process ProcessState
}

// Follow tells what happens until ctx ends, which is no error, or until no process is left.
func (p *Playground) Follow(ctx context.Context, tell func(Change)) (err error) {
	c, err := p.Client(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	before, err := p.read()
	if err != nil || before == nil {
		return err
	}
	seen := make([]ProcessState, len(before.Nodes))
	for i, m := range before.Nodes {
		seen[i] = p.look(m)
	}
	for frame, watchErr := range c.Watch(ctx, 0) { // at least once a second, also while no node answers
		s, err := p.read() // other commands change it
		if err != nil {
			return err
		}
		if s == nil {
			return nil // taken away
		}
		for i, m := range s.Nodes {
			if now := p.look(m); i < len(seen) && now != seen[i] {
				seen[i] = now
				tell(Change{Node: m.ID, Process: now})
			}
		}
		if watchErr == nil {
			for i := range frame.Events {
				tell(Change{Event: &frame.Events[i]})
			}
		}
		if !slices.ContainsFunc(seen, func(st ProcessState) bool { return st != Stopped }) {
			return nil
		}
	}
	return nil
}
