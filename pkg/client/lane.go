package client

import (
	"context"
	"errors"
	"io"
	"sync/atomic"

	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// lane is one stream of writes to one node.
type lane struct {
	to      place
	out     chan *parcel
	end     context.CancelFunc
	pending map[uint64]*parcel // owned by Writer.run: not answered yet
}

// parcel is one item in one message. Whoever takes it first decides: the sender hands it over, or the Writer keeps it back.
type parcel struct {
	*item
	message *nodev1.WriteRequest
	taken   atomic.Bool
}

// take answers true to the first who asks.
func (p *parcel) take() bool { return p.taken.CompareAndSwap(false, true) }

// lost is the error of a message that got no answer because of err: surely not done where it was never handed over, and now never will be.
func (p *parcel) lost(err error) error {
	if p.take() {
		return themis.Errorf(themis.Unreachable, "%w", err)
	}
	return themis.Errorf(themis.OutcomeUnknown, "%w", err)
}

// open starts the goroutines of a lane. They end with the stream, when the lane is ended, and with the Writer.
func (w *Writer) open(to place) *lane {
	l := &lane{to: to, out: make(chan *parcel, w.o.InFlight), pending: map[uint64]*parcel{}}
	ctx, cancel := context.WithCancel(w.life)
	l.end = cancel
	w.wg.Go(func() {
		err := w.follow(ctx, l)
		select {
		case w.events <- event{from: l, err: err}:
		case <-w.life.Done():
		}
	})
	return l
}

// follow runs the stream until it ends, and says why.
func (w *Writer) follow(ctx context.Context, l *lane) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d, err := w.c.pool.Documents(ctx, l.to.addr, l.to.node, rpc.Lane("write"))
	if err != nil {
		return err
	}
	stream, err := d.WriteStream(ctx)
	if err != nil {
		return err
	}
	w.wg.Go(func() {
		for {
			select {
			case p := <-l.out:
				if !p.take() {
					continue
				}
				if err := stream.Send(p.message); err != nil {
					return // Recv says why
				}
			case <-ctx.Done():
				return
			}
		}
	})
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return themis.Errorf(themis.Unreachable, "%s ended the stream", l.to)
		}
		if err != nil {
			return err
		}
		select {
		case w.events <- event{from: l, answer: m}:
		case <-ctx.Done():
			return themis.Errorf(themis.Unreachable, "the stream to %s was ended: %w", l.to, ctx.Err())
		}
	}
}

// problem is the error in an answer of a stream.
func problem(b []byte) error {
	p, err := rpc.ParseProblem(b)
	if err != nil {
		return themis.Errorf(themis.OutcomeUnknown, "the answer can't be read: %w", err)
	}
	return p.Err()
}
