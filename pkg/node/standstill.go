package node

import (
	"context"
	"time"
)

// standstill bounds the time in which a stream that brought no deadline makes no progress. A stream that goes on is not cut.
type standstill struct{ timer *time.Timer }

// withStandstill gives a context without a deadline one that ends when nothing was passed on for defaultTimeout.
func withStandstill(ctx context.Context) (context.Context, *standstill, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	s := &standstill{}
	if _, limited := ctx.Deadline(); !limited {
		s.timer = time.AfterFunc(defaultTimeout, cancel)
	}
	return ctx, s, func() {
		if s.timer != nil {
			s.timer.Stop()
		}
		cancel()
	}
}

// pass runs something that passes a part on. How long the receiver takes for that is no standstill.
func (s *standstill) pass(part func() error) error {
	if s.timer == nil {
		return part()
	}
	s.timer.Stop()
	defer s.timer.Reset(defaultTimeout)
	return part()
}
