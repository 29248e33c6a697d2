package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	defaultTimeout = 10 * time.Second
	defaultRefresh = time.Second

	hedgeAfter = 300 * time.Millisecond // a node that has not answered by then is asked together with the next one
	findWithin = 5 * time.Second        // a node to begin with
)

// Options of a Client.
type Options struct {
	Endpoints []string    // host:port of nodes' gRPC services; one that lives is enough
	Files     pki.Files   // who this process is
	Source    *pki.Source // instead of Files

	Timeout time.Duration // of requests whose context has no deadline; default 10 s
	Refresh time.Duration // how often the map is asked for; default 1 s
	Log     *slog.Logger  // default: discarded

	Dial func(ctx context.Context, addr string) (net.Conn, error) // default: TCP
}

// Client talks to one cluster.
type Client struct {
	o    Options
	pool *rpc.Pool

	stop  context.CancelFunc
	life  context.Context //nolint:containedctx // of the goroutines that Close waits for
	wg    sync.WaitGroup
	alive atomic.Pointer[place] // the node that answered last

	table  atomic.Pointer[Map]
	keeper keeper
	reigns reigns

	mu     sync.Mutex
	closed bool
}

// place is a node as it can be dialled.
type place struct {
	addr string
	node themis.NodeID // empty: whoever proves to be the host
}

func (p place) String() string {
	if p.node == "" {
		return p.addr
	}
	return fmt.Sprintf("%s (%s)", p.node, p.addr)
}

// New finds a node that answers. UNREACHABLE names every endpoint and why it does not; UNAUTHENTICATED says who was not believed.
func New(ctx context.Context, o Options) (*Client, error) {
	if len(o.Endpoints) == 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "endpoints: none; want the gRPC address of at least one node").Do("themis-cli --endpoint HOST:50051 …")
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Refresh <= 0 {
		o.Refresh = defaultRefresh
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Source == nil {
		source, err := pki.Open(o.Files, pki.Options{})
		if err != nil {
			return nil, err
		}
		o.Source = source
	}
	pool, err := rpc.NewPool(rpc.PoolOptions{Source: o.Source, Log: o.Log, Dial: o.Dial})
	if err != nil {
		return nil, err
	}
	c := &Client{o: o, pool: pool}
	c.life, c.stop = context.WithCancel(context.Background())
	c.keeper.init()
	c.spawn(c.keep)
	find, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	_, err = ask(find, c, func(ctx context.Context, a nodev1.AdminServiceClient) (*nodev1.DescribeResponse, error) {
		return a.Describe(ctx, &nodev1.DescribeRequest{})
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Close ends every call under way and waits for the goroutines of the client.
func (c *Client) Close() error {
	c.mu.Lock()
	done := c.closed
	c.closed = true
	c.mu.Unlock()
	if done {
		return nil
	}
	c.stop()
	err := c.pool.Close()
	c.wg.Wait()
	c.reigns.end()
	return err
}

// spawn starts a goroutine that Close waits for. Once the client is closed it starts none and answers false.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.wg.Go(f)
	return true
}

var errClosed = themis.Errorf(themis.Unreachable, "the client is closed")

// Identity is what this process' certificate says about it.
func (c *Client) Identity() pki.Info { return c.o.Source.Info() }

// limited gives a context without a deadline the default one.
func (c *Client) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, c.o.Timeout)
}

// places are all nodes that may be asked: the one that answered last, the endpoints, and those of the map.
func (c *Client) places() []place {
	if p := c.alive.Load(); p != nil {
		return c.known(*p)
	}
	return c.known()
}

// known are those places, each once, the endpoints and the map's members behind the first.
func (c *Client) known(first ...place) []place {
	var out []place
	add := func(p place) {
		if p.addr != "" && !slices.ContainsFunc(out, func(q place) bool { return q.addr == p.addr }) {
			out = append(out, p)
		}
	}
	for _, p := range first {
		add(p)
	}
	for _, e := range c.o.Endpoints {
		add(place{addr: e})
	}
	if m := c.table.Load(); m != nil {
		for _, n := range m.Members {
			add(place{n.GRPC, n.ID})
		}
	}
	return out
}

// answer is what one node said.
type answer[T any] struct {
	from  place
	value T
	err   error
}

// ask asks one node after the other until one answers; one that hangs is asked together with the next. For questions only, since
// several nodes may hear them.
func ask[T any](ctx context.Context, c *Client, call func(context.Context, nodev1.AdminServiceClient) (T, error)) (T, error) {
	var zero T
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	places := c.places()
	answers := make(chan answer[T], len(places))
	start := func(p place) {
		c.spawn(func() {
			a := answer[T]{from: p}
			conn, err := c.pool.Admin(ctx, p.addr, p.node)
			if err == nil {
				a.value, err = call(ctx, conn)
			}
			a.err = err
			answers <- a
		})
	}
	var failed []answer[T]
	for next := 0; len(failed) < len(places); {
		if next == len(failed) { // nobody is being asked
			start(places[next])
			next++
		}
		var hedge <-chan time.Time
		if next < len(places) {
			hedge = time.After(hedgeAfter)
		}
		select {
		case a := <-answers:
			if a.err == nil {
				c.alive.Store(&a.from)
				return a.value, nil
			}
			if decided(a.err) {
				return zero, a.err
			}
			failed = append(failed, a)
		case <-hedge:
			start(places[next])
			next++
		case <-ctx.Done():
			return zero, nobody(places, failed, ctx.Err())
		case <-c.life.Done():
			return zero, errClosed
		}
	}
	return zero, nobody(places, failed, nil)
}

// decided answers whether another node would say the same.
func decided(err error) bool {
	switch themis.CodeOf(err) {
	case themis.Unreachable, themis.Unauthenticated, themis.NoPrimary, themis.Deadline, themis.Overloaded, themis.OutcomeUnknown:
		return false
	}
	return true
}

// nobody puts together why no node answered. What a node said counts for more than a silence.
func nobody[T any](places []place, failed []answer[T], ended error) error {
	var why []string
	for _, p := range places {
		i := slices.IndexFunc(failed, func(a answer[T]) bool { return a.from == p })
		switch {
		case i < 0 && ended != nil:
			why = append(why, fmt.Sprintf("%s did not answer in time", p))
		case i >= 0:
			why = append(why, failed[i].err.Error())
		}
	}
	if errors.Is(ended, context.Canceled) {
		return themis.Errorf(themis.Deadline, "given up: %w", ended)
	}
	for _, code := range []themis.Code{themis.Unauthenticated, themis.NoPrimary, themis.Overloaded, themis.Deadline} {
		i := slices.IndexFunc(failed, func(a answer[T]) bool {
			return themis.CodeOf(a.err) == code && !errors.Is(a.err, context.DeadlineExceeded) // that one nobody said
		})
		if i >= 0 {
			return failed[i].err
		}
	}
	return themis.Errorf(themis.Unreachable, "none of %d endpoints answers: %s", len(places), strings.Join(why, "; "))
}
