package node

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
)

// writers sends writes of one size on a stream, as fast as they are taken.
type writers struct {
	grpc.BidiStreamingServer[nodev1.WriteRequest, nodev1.WriteResponse]
	ctx      context.Context
	bytes    int
	left     int
	received int
	answered map[uint64]bool
	mu       sync.Mutex
}

func (w *writers) Context() context.Context { return w.ctx }

func (w *writers) Recv() (*nodev1.WriteRequest, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left == 0 {
		return nil, io.EOF
	}
	w.left--
	w.received++
	return &nodev1.WriteRequest{Id: uint64(w.received), Operations: []*nodev1.Operation{{Key: "k", Value: make([]byte, w.bytes)}}}, nil //nolint:gosec // small
}

func (w *writers) Send(a *nodev1.WriteResponse) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answered[a.GetId()] = true
	return nil
}

// A node holds no more of one stream's writes than it may, whether they are many or large, and answers all of them in the end.
func TestWritesOfOneStreamAreBounded(t *testing.T) {
	for name, c := range map[string]struct{ bytes, left, most int }{
		"large":        {16 << 20, 40, streamBytes >> 24},
		"larger still": {streamBytes + 1, 4, 2},
		"many":         {1, 3 * streamWrites, streamWrites + 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := &writers{ctx: t.Context(), bytes: c.bytes, left: c.left, answered: map[uint64]bool{}}
			open, done := make(chan struct{}), make(chan error, 1)
			go func() {
				done <- writeAll(w, func(_ context.Context, r *nodev1.WriteRequest) *nodev1.WriteResponse {
					<-open
					return &nodev1.WriteResponse{Id: r.GetId()}
				})
			}()
			synctest.Wait()
			w.mu.Lock()
			if w.received > c.most || w.received < 2 {
				t.Errorf("%s: %d of %d writes were taken in at once, want %d at most", name, w.received, c.left+w.received, c.most)
			}
			w.mu.Unlock()
			close(open)
			if err := <-done; err != nil || len(w.answered) != c.left {
				t.Errorf("%s: %d of %d answered, %v", name, len(w.answered), c.left, err)
			}
		})
	}
}

// A stream that breaks while it waits for room ends, and what it held is given up.
func TestWritesOfAStreamThatBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cut := context.WithCancel(t.Context())
		w := &writers{ctx: ctx, bytes: 16 << 20, left: 40, answered: map[uint64]bool{}}
		done := make(chan error, 1)
		go func() {
			done <- writeAll(w, func(ctx context.Context, r *nodev1.WriteRequest) *nodev1.WriteResponse {
				<-ctx.Done()
				return &nodev1.WriteResponse{Id: r.GetId()}
			})
		}()
		synctest.Wait()
		cut()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
