package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// The errors of a lease. Test with errors.Is.
var (
	ErrLeaseLost = errors.New("the node's lease in the control plane could not be renewed")
	ErrReplaced  = errors.New("another process announces itself under this node's name")
)

const (
	renewals    = 5  // tries in one TTL
	driftShare  = 10 // a tenth of the TTL is left to clocks that run at different speeds
	revokeLimit = time.Second
)

// Lease is a node's one lease in the control plane, with its heartbeat record bound to it. It holds from the moment when its
// last renewal was sent, for the time that was granted less a tenth: the control plane, which counts from the moment the
// renewal arrived, never ends it earlier. A machine that was suspended may outlive it; nothing durable may rest on it.
type Lease struct {
	m    *Map
	node themis.NodeID
	boot themis.BootID

	mu     sync.Mutex
	id     LeaseID
	alive  cluster.Alive
	err    error // why the last try to keep the lease failed
	until  time.Time
	tenure tenure
	timer  *time.Timer // ends the tenure when its time is over
}

// tenure is an uninterrupted time in which the lease held.
type tenure struct {
	ctx context.Context
	end context.CancelCauseFunc
}

// Heartbeat takes the node's lease and announces the node. Where another process has announced itself under this name and its
// lease has not ended, replace says why it may not be replaced, or nil; a nil replace always lets it. Run must be called to keep
// the lease; the lease ends by itself otherwise.
func (m *Map) Heartbeat(ctx context.Context, alive cluster.Alive, replace func(old cluster.Alive) error) (*Lease, error) {
	if replace == nil {
		replace = func(cluster.Alive) error { return nil }
	}
	alive.Format = cluster.Format
	l := &Lease{m: m, node: alive.Node, boot: alive.Boot, alive: alive}
	l.tenure.ctx, l.tenure.end = context.WithCancelCause(context.Background())
	l.tenure.end(ErrLeaseLost)
	if err := l.take(ctx, replace); err != nil {
		return nil, fmt.Errorf("heartbeat of %s: %w", alive.Node, err)
	}
	return l, nil
}

// Holds says whether the lease holds at now, a reading of the clock that carries its monotonic part.
func (l *Lease) Holds(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until)
}

// Lost closes when the lease stops to hold. After a new beginning there is another channel.
func (l *Lease) Lost() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tenure.ctx.Done()
}

// Context ends with parent, and with cause ErrLeaseLost when the lease stops to hold; at once when it doesn't hold now.
func (l *Lease) Context(parent context.Context) (context.Context, context.CancelFunc) {
	l.mu.Lock()
	reign := l.tenure.ctx
	l.mu.Unlock()
	ctx, cancel := context.WithCancelCause(parent)
	stop := context.AfterFunc(reign, func() { cancel(ErrLeaseLost) })
	return ctx, func() { stop(); cancel(nil) }
}

// Run renews the lease until ctx ends, then gives it back and returns nil. A lease that was lost is taken anew as soon as the
// control plane answers. It returns ErrReplaced when another process has taken the node's name: this one must stop.
func (l *Lease) Run(ctx context.Context) error {
	every := l.m.opts.TTL / renewals
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			l.giveBack(context.WithoutCancel(ctx))
			return nil
		case <-t.C:
		}
		err := l.renew(ctx)
		if errors.Is(err, ErrLeaseNotFound) {
			l.expire()
			err = l.take(ctx, l.replaced)
		}
		if errors.Is(err, ErrReplaced) {
			l.expire()
			return fmt.Errorf("heartbeat of %s: %w", l.node, err)
		}
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
	}
}

// Err is why the last try to keep the lease failed; nil when it didn't.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *Lease) renew(ctx context.Context) error {
	l.mu.Lock()
	id := l.id
	l.mu.Unlock()
	sent := l.m.opts.Now()
	ctx, cancel := context.WithTimeout(ctx, l.m.opts.TTL/2)
	defer cancel()
	ttl, err := l.m.kv.KeepAlive(ctx, id)
	if err != nil {
		return err
	}
	l.extend(sent, ttl)
	return nil
}

// replaced is what a process that had announced itself says of another one under its name.
func (l *Lease) replaced(old cluster.Alive) error {
	return themis.Errorf(themis.RefusedUnsafe, "boot %s: %w", old.Boot, ErrReplaced)
}

// take grants a lease and announces the node under it.
func (l *Lease) take(ctx context.Context, replace func(old cluster.Alive) error) error {
	sent := l.m.opts.Now()
	id, ttl, err := l.m.kv.Grant(ctx, l.m.opts.TTL)
	if err != nil {
		return err
	}
	if err := l.announce(ctx, id, replace); err != nil {
		l.revoke(ctx, id)
		return err
	}
	l.mu.Lock()
	l.id = id
	l.mu.Unlock()
	l.extend(sent, ttl)
	return nil
}

// PutAlive replaces what the node announces: its load, its version. ErrLeaseNotFound while the lease is lost.
func (l *Lease) PutAlive(ctx context.Context, alive cluster.Alive) error {
	l.mu.Lock()
	alive.Format, alive.Node, alive.Boot = cluster.Format, l.node, l.boot
	l.alive = alive
	id := l.id
	l.mu.Unlock()
	return l.announce(ctx, id, l.replaced)
}

func (l *Lease) announce(ctx context.Context, id LeaseID, replace func(old cluster.Alive) error) error {
	l.mu.Lock()
	alive := l.alive
	l.mu.Unlock()
	key := l.m.keys.alive(l.node)
	b, err := cluster.Encode(alive)
	if err != nil {
		return err
	}
	for range swapTries {
		old, at, now, err := read(ctx, l.m, key, cluster.Decode[cluster.Alive])
		if err != nil {
			return err
		}
		if at.Revision != 0 && old.Boot != l.boot {
			if err := replace(old); err != nil {
				return err
			}
		}
		t := Txn{If: []Compare{{key, at.Revision}}, Put: []Put{{Key: key, Value: b, Lease: id}}}
		_, ok, err := l.m.commit(ctx, t, key, now)
		if err != nil || ok {
			return err
		}
	}
	return busy(key)
}

// extend counts the lease from the moment the request was sent, and begins a tenure if none is under way.
func (l *Lease) extend(sent time.Time, ttl time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := sent.Add(ttl - ttl/driftShare)
	if !until.After(l.until) {
		return
	}
	left := until.Sub(l.m.opts.Now())
	if left <= 0 {
		return // the answer took longer than the lease
	}
	l.until = until
	if l.tenure.ctx.Err() != nil {
		l.tenure.ctx, l.tenure.end = context.WithCancelCause(context.Background())
	}
	if l.timer == nil {
		l.timer = time.AfterFunc(left, l.check)
		return
	}
	l.timer.Reset(left)
}

// check ends the tenure if its time is over.
func (l *Lease) check() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left := l.until.Sub(l.m.opts.Now()); left > 0 {
		l.timer.Reset(left)
		return
	}
	l.tenure.end(ErrLeaseLost)
}

// expire ends the tenure now.
func (l *Lease) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Time{}
	l.tenure.end(ErrLeaseLost)
	if l.timer != nil {
		l.timer.Stop()
	}
}

func (l *Lease) giveBack(ctx context.Context) {
	l.expire()
	l.mu.Lock()
	id := l.id
	l.mu.Unlock()
	l.revoke(ctx, id)
}

// revoke is a courtesy: a lease that isn't revoked ends by itself soon.
func (l *Lease) revoke(ctx context.Context, id LeaseID) {
	ctx, cancel := context.WithTimeout(ctx, revokeLimit)
	defer cancel()
	_ = l.m.kv.Revoke(ctx, id)
}
