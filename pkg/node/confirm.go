package node

import (
	"context"
	"errors"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/controller"
)

const (
	confirmEvery  = 500 * time.Millisecond
	confirmWithin = 600 * time.Millisecond // for one try
)

// look ends the reign when this node is cut off from the control plane, or nothing that it asks for is done there, and notices when
// this process itself stood still: then the age of an answer says nothing about who gave it. It ticks apart from the steps, which
// may wait for a slow transaction.
func (c *controlLoop) look(ctx context.Context) error {
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		now := time.Now()
		c.mu.Lock()
		c.since = controller.Looking(c.since, c.last, now, c.config())
		if c.last = now; c.since.Equal(now) {
			c.done = now // nor could it ask for anything
		}
		b := controller.Bid{Confirmed: c.n.reigns(now), Undone: now.Sub(c.done)}
		c.mu.Unlock()
		switch {
		case b.MayReign():
		case b.Confirmed:
			return errors.New("the control plane confirms none of this node's transactions any more")
		default:
			return errors.New("the control plane does not confirm this node's lease any more")
		}
	}
}

// confirm asks the control plane again and again whether this is the controller, by the way that its transactions go.
func (c *controlLoop) confirm(ctx context.Context) error {
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		err := c.confirmed(ctx, c.as)
		if errors.Is(err, control.ErrDeposed) {
			return err
		}
		if err == nil {
			c.mu.Lock()
			if c.done.Before(began) {
				c.done = began
			}
			c.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// confirmed makes one try; who takes the controllership does so as well, since its lease alone does not show that it could do anything.
func (c *controlLoop) confirmed(ctx context.Context, as cluster.Controller) error {
	ctx, cancel := context.WithTimeout(ctx, confirmWithin)
	defer cancel()
	return c.m.Confirm(ctx, as)
}
