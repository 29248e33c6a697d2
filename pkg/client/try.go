package client

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	pauseFirst = 20 * time.Millisecond
	pauseMost  = 500 * time.Millisecond
)

// route is where one attempt goes: to the primary that a map names, or around it.
type route struct {
	m      *Map
	shard  themis.ShardID
	to     place
	direct bool            // to is the primary; else another node, which passes the request on
	reign  context.Context //nolint:containedctx // of the primary
}

// version and target are the fields by which a primary checks that the sender's table is right; a node that passes requests on
// takes its own table.
func (r route) version() uint64 {
	if !r.direct {
		return 0
	}
	return r.m.Routing.Version()
}

func (r route) target() string {
	if !r.direct {
		return ""
	}
	return string(r.shard)
}

func token(shardKey, key string) themis.Token {
	if shardKey != "" {
		return routing.TokenOf(shardKey)
	}
	return routing.TokenOf(key)
}

// route finds the way to a shard. avoid is a primary that could not be reached: then another node passes the request on.
func (c *Client) route(m *Map, shard themis.ShardID, avoid place) (route, error) {
	s, ok := m.Shard(shard)
	if !ok {
		return route{}, themis.Errorf(themis.NotFound, "no shard %q", shard)
	}
	if s.Primary.IsZero() {
		return route{}, themis.Errorf(themis.NoPrimary, "%s has no primary", shard).In(shard)
	}
	r := route{m: m, shard: shard, to: place{m.nodes[s.Primary.Node].GRPC, s.Primary.Node}, direct: true, reign: c.reigns.of(s)}
	if r.to != avoid {
		return r, nil
	}
	for _, p := range c.places() {
		if p.addr != avoid.addr && p.node != avoid.node {
			r.to, r.direct = p, false
			return r, nil
		}
	}
	return r, nil
}

// attempt is one request on its way: what was tried and how it ended.
type attempt struct {
	changes bool  // it would change something
	unknown error // how an attempt ended after which the change may have been made; nil: none did
	avoid   place
	tries   int
}

// again answers whether a request that ended with err may and should be tried again: it was surely not done, or it may be
// repeated because it changes nothing or carries an id.
func (a *attempt) again(err error) bool {
	switch themis.CodeOf(err) {
	case themis.NoPrimary, themis.StaleRoute, themis.Unreachable, themis.Overloaded, themis.RateLimited, themis.NotEnoughReplicas, themis.ReadOnly,
		themis.Deadline, themis.OutcomeUnknown:
		return true
	}
	return false
}

// failed takes note of how an attempt ended.
func (a *attempt) failed(r route, err error) {
	a.tries++
	a.avoid = place{}
	switch themis.CodeOf(err) {
	case themis.OutcomeUnknown:
		if a.changes {
			a.unknown = err
		}
		fallthrough
	case themis.Unreachable:
		if r.direct && r.reign.Err() == nil {
			a.avoid = r.to
		}
	}
}

// verdict is the error of the whole. Once an attempt had no answer, nothing but success says what became of the change.
func (a *attempt) verdict(err error) error {
	switch code := themis.CodeOf(err); {
	case a.unknown == nil || code == themis.OutcomeUnknown:
		return err
	case code == themis.Deadline || code == themis.Unreachable: // the repetition reached nobody
		return a.unknown
	}
	e := themis.Errorf(themis.OutcomeUnknown, "an attempt had no answer, and a repetition ended with: %w", err)
	if inner, ok := asError(err); ok {
		e.Shard = inner.Shard
	}
	return e
}

// pause is how long to wait before the next attempt.
func (a *attempt) pause() time.Duration {
	d := min(pauseFirst<<min(a.tries, 10), pauseMost)
	return d/2 + rand.N(d/2) //nolint:gosec // spreads load, guards nothing
}

// try sends a request until it is done, refused, or time runs out. find names its shard; do sends it once.
func (c *Client) try(ctx context.Context, changes bool, find func(*Map) (themis.ShardID, error), do func(context.Context, route, nodev1.DocumentServiceClient) error) error {
	ctx, cancel := c.limited(ctx)
	defer cancel()
	a := &attempt{changes: changes}
	m, err := c.firstMap(ctx)
	if err != nil {
		return err
	}
	late := lateIn(ctx)
	var why error     // of the last answer; that time ran out says less
	answered := false // somebody told the map meanwhile: the cluster is there
	for {
		err := c.once(ctx, a, m, find, do)
		if err == nil {
			return nil
		}
		if themis.CodeOf(err) != themis.Deadline {
			why = err
		} else if why != nil && themis.CodeOf(why) != themis.OutcomeUnknown {
			err = why
		}
		if !a.again(err) || ctx.Err() != nil || a.unknown == nil && time.Now().After(late) {
			return led(a.verdict(err), m, answered, find)
		}
		now, heard := c.newer(ctx, m, a.pause())
		answered = answered || heard
		if ctx.Err() != nil {
			return led(a.verdict(err), m, answered, find)
		}
		m = now
	}
}

const (
	latePart = 5 // the last fifth of a request's time, and
	lateMost = 300 * time.Millisecond
)

// lateIn is from when on a request that was surely not done is not sent again: no answer would come in time, and a write's outcome be open.
func lateIn(ctx context.Context) time.Time {
	end, limited := ctx.Deadline()
	if !limited {
		return time.Now().Add(1<<63 - 1)
	}
	return end.Add(-min(lateMost, time.Until(end)/latePart))
}

// led says that a shard's primary can't be reached where other nodes of the cluster answer.
func led(err error, m *Map, answered bool, find func(*Map) (themis.ShardID, error)) error {
	if !answered || themis.CodeOf(err) != themis.Unreachable {
		return err
	}
	shard, finds := find(m)
	if finds != nil {
		return err
	}
	out := themis.Errorf(themis.NoPrimary, "the primary of %s can't be reached: %w", shard, err).In(shard)
	out.Err = &rpc.RemoteError{Cluster: m.Cluster, Conn: err} // as a node of the cluster would say it
	return out
}

func (c *Client) once(ctx context.Context, a *attempt, m *Map, find func(*Map) (themis.ShardID, error), do func(context.Context, route, nodev1.DocumentServiceClient) error) error {
	shard, err := find(m)
	if err != nil {
		return err
	}
	r, err := c.route(m, shard, a.avoid)
	if err != nil {
		a.tries++
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(r.reign, cancel)
	defer stop()
	conn, err := c.pool.Documents(ctx, r.to.addr, r.to.node)
	if err == nil {
		err = do(ctx, r, conn)
	}
	if err != nil {
		a.failed(r, err)
	}
	return err
}

// firstMap is Map, waiting within ctx's time for a cluster that was founded a moment ago and whose nodes do not know its map yet.
func (c *Client) firstMap(ctx context.Context) (*Map, error) {
	var why error // of the last answer; that time ran out says less
	for a := (&attempt{}); ; a.tries++ {
		m, err := c.Map(ctx)
		if err == nil || !a.again(err) {
			return m, err
		}
		if why == nil || ctx.Err() == nil {
			why = err
		}
		select {
		case <-ctx.Done():
			return nil, why
		case <-c.life.Done():
			return nil, errClosed
		case <-time.After(a.pause()):
		}
	}
}

// newer waits for d and asks for the map meanwhile; it answers the newest there is, sooner when that is newer than m, and whether anybody
// told it.
func (c *Client) newer(ctx context.Context, m *Map, d time.Duration) (newest *Map, heard bool) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for ctx.Err() == nil {
		now, err := c.refresh(ctx)
		if err == nil && now.Revision > m.Revision {
			return now, true
		}
		heard = heard || err == nil
		if err != nil {
			<-ctx.Done()
		}
	}
	return c.table.Load(), heard
}
