package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

// Memory is a network between replicas of one process, for tests: the twin of gRPC, with the same suite to pass
// (package transporttest). Its methods may be called at any time from any goroutine.
type Memory struct {
	mu      sync.Mutex
	at      map[themis.NodeID]*Replica
	cut     map[themis.NodeID]bool
	streams map[*pipe]bool
	serving sync.WaitGroup
}

// NewMemory is a network that nobody is in.
func NewMemory() *Memory {
	return &Memory{at: map[themis.NodeID]*Replica{}, cut: map[themis.NodeID]bool{}, streams: map[*pipe]bool{}}
}

// From is the transport of one node. It reaches others, and nobody is reached from it, while both are in the network and not cut off.
func (m *Memory) From(me themis.NodeID) Transport { return memoryTransport{m, me} }

// Put brings a node's replica into the network, or takes the node out where r is nil; streams that it has end.
func (m *Memory) Put(node themis.NodeID, r *Replica) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[node] = r
	m.endStreams(node)
}

// Cut takes a node's way to all others away, and ends its streams, or gives the way back.
func (m *Memory) Cut(node themis.NodeID, cut bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut[node] = cut
	if cut {
		m.endStreams(node)
	}
}

// Wait returns when no stream is served any more: all have ended, by their ctx or by Put and Cut.
func (m *Memory) Wait() { m.serving.Wait() }

// endStreams ends what a node has; mu is held.
func (m *Memory) endStreams(node themis.NodeID) {
	for p := range m.streams {
		if p.from == node || p.to == node {
			p.end()
		}
	}
}

// reach is the other's replica; mu is held.
func (m *Memory) reach(from, to themis.NodeID) (*Replica, error) {
	r := m.at[to]
	if r == nil || m.at[from] == nil || m.cut[from] || m.cut[to] {
		return nil, fmt.Errorf("%s does not reach %s: %w", from, to, errLost)
	}
	return r, nil
}

var errLost = errors.New("connection lost")

type memoryTransport struct {
	m  *Memory
	me themis.NodeID
}

// Open implements Transport.
func (t memoryTransport) Open(ctx context.Context, to cluster.Member, h Hello) (Outgoing, Welcome, error) {
	t.m.mu.Lock()
	r, err := t.m.reach(t.me, to.Node)
	t.m.mu.Unlock()
	if err != nil {
		return nil, Welcome{}, err
	}
	ctx, end := context.WithCancel(ctx)
	w, f, err := r.Accept(ctx, h)
	if err != nil || f == nil {
		end()
		return nil, w, err
	}
	p := &pipe{from: t.me, to: to.Node, ctx: ctx, end: end, down: make(chan Ship, 16), up: make(chan Reply, 16), served: make(chan struct{})}
	t.m.mu.Lock()
	defer t.m.mu.Unlock()
	if now, err := t.m.reach(t.me, to.Node); err != nil || now != r {
		end()
		f.cancel(errLost)
		return nil, Welcome{}, errors.Join(errLost, err)
	}
	t.m.streams[p] = true
	t.m.serving.Go(func() { t.m.serve(p, f) })
	return primaryEnd{p}, w, nil
}

func (m *Memory) serve(p *pipe, f *following) {
	if p.err = f.Serve(followerEnd{p}); p.err == nil {
		p.err = io.EOF
	}
	close(p.served)
	p.end()
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.streams, p)
}

// Install implements Transport. Nothing is kept of one that broke off.
func (t memoryTransport) Install(ctx context.Context, to cluster.Member, h Hello, snap store.Snapshot, dir string, progress func(themis.Bytes)) error {
	t.m.mu.Lock()
	r, err := t.m.reach(t.me, to.Node)
	t.m.mu.Unlock()
	if err == nil {
		err = r.Takes()
	}
	if err != nil {
		return err
	}
	in, err := os.MkdirTemp(r.o.Dir, "install-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(in) }()
	sent := themis.Bytes(0)
	progress(sent)
	for _, f := range snap.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := copyFile(filepath.Join(in, f.Name), filepath.Join(dir, f.Name))
		if err != nil {
			return err
		}
		sent += n
		progress(sent)
	}
	if sent != snap.Bytes() {
		return themis.Errorf(themis.Corrupt, "install %s: %d bytes came, %d were sent", h.Shard, sent, snap.Bytes())
	}
	return r.Install(h, snap, in)
}

func copyFile(to, from string) (themis.Bytes, error) {
	in, err := os.Open(from) //nolint:gosec // a checkpoint
	if err != nil {
		return 0, err
	}
	defer func() { _ = in.Close() }()
	out, err := os.Create(to) //nolint:gosec // in a directory of our own
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(out, in)
	return themis.Bytes(n), errors.Join(err, out.Close())
}

// pipe is one stream.
type pipe struct {
	from, to themis.NodeID
	ctx      context.Context //nolint:containedctx // ends with the stream
	end      context.CancelFunc
	down     chan Ship
	up       chan Reply
	served   chan struct{} // closed when the follower has said its last, before ctx ends
	err      error         // what its end says then
}

type primaryEnd struct{ *pipe }

// Send implements Outgoing.
func (p primaryEnd) Send(m Ship) error {
	if p.ctx.Err() != nil {
		return errLost
	}
	select {
	case p.down <- m:
		return nil
	case <-p.ctx.Done():
		return errLost
	}
}

// Recv implements Outgoing: what the follower said before it ended the stream comes first.
func (p primaryEnd) Recv() (Reply, error) {
	select {
	case m := <-p.up:
		return m, nil
	case <-p.ctx.Done():
	}
	select {
	case <-p.served:
	default:
		return Reply{}, errLost
	}
	select {
	case m := <-p.up:
		return m, nil
	default:
		return Reply{}, p.err
	}
}

type followerEnd struct{ *pipe }

// Recv implements Incoming.
func (p followerEnd) Recv() (Ship, error) {
	if p.ctx.Err() != nil {
		return Ship{}, errLost
	}
	select {
	case m := <-p.down:
		return m, nil
	case <-p.ctx.Done():
		return Ship{}, errLost
	}
}

// Send implements Incoming.
func (p followerEnd) Send(m Reply) error {
	if p.ctx.Err() != nil {
		return errLost
	}
	select {
	case p.up <- m:
		return nil
	case <-p.ctx.Done():
		return errLost
	}
}
