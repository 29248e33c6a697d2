package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"

	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

// How a lost connection is tried again: soon, because a restarted node is wanted back, and never rarely.
const (
	// RefusedAgain is for how long a Pool may go on to tell of a connection that was refused after the address has begun to answer.
	RefusedAgain = 3 * backoffMost / 2

	backoffFirst  = 50 * time.Millisecond
	backoffMost   = time.Second
	backoffFactor = 1.6
	backoffJitter = 0.2
)

// PoolOptions of a Pool. Zero durations and counts take the defaults of `sharding.communication.rpc`.
type PoolOptions struct {
	Source *pki.Source // this process' identity
	TLS    *tls.Config // instead of Source: for a newcomer that has no certificate yet, as pki.PinnedConfig makes it

	Log     *slog.Logger // default: discarded
	Metrics *Metrics     // default: counted unseen

	ConnectTimeout time.Duration // TCP and TLS together; default 5 s
	RequestTimeout time.Duration // of unary calls that bring no deadline; default 30 s
	Keepalive      time.Duration // of silent connections; default 60 s, at least 30 s or servers hang up
	MaxPerTarget   int           // channels to one address, by expected node, lane and compression; default 10
	MaxChannels    int           // in all; default 4096

	Dial func(ctx context.Context, addr string) (net.Conn, error) // default: TCP
}

// Pool keeps one verified channel per target. It starts no goroutine of its own; those of its channels end with Close. Every
// error of every call is a *themis.Error. It may be used by any number of goroutines.
type Pool struct {
	opts PoolOptions
	open *connections

	mu      sync.Mutex
	closed  bool
	targets map[targetKey]*target
	perAddr map[string]int
}

type targetKey struct {
	addr     string
	node     themis.NodeID
	lane     string
	compress bool
}

// ConnOption is a rare wish about a channel.
type ConnOption func(*targetKey)

// Lane asks for a channel of its own under that name, so that bulk traffic and heartbeats don't wait for each other in one
// TCP stream. The same name gives the same channel.
func Lane(name string) ConnOption { return func(k *targetKey) { k.lane = name } }

// Compressed asks for a channel that compresses what it sends: for links between datacenters.
func Compressed() ConnOption { return func(k *targetKey) { k.compress = true } }

// NewPool makes an empty pool.
func NewPool(o PoolOptions) (*Pool, error) {
	o.ConnectTimeout = or(o.ConnectTimeout, defaultDial)
	o.RequestTimeout = or(o.RequestTimeout, 30*time.Second)
	o.Keepalive = or(o.Keepalive, pingEvery)
	o.MaxPerTarget = or(o.MaxPerTarget, 10)
	o.MaxChannels = or(o.MaxChannels, 4096)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		}
	}
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Pool{opts: o, open: newConnections(), targets: map[targetKey]*target{}, perAddr: map[string]int{}}, nil
}

func (o PoolOptions) validate() error {
	var faults []error
	bad := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if (o.Source == nil) == (o.TLS == nil) {
		bad("certificates: want exactly one of Source and TLS")
	}
	if o.ConnectTimeout < 0 || o.RequestTimeout < 0 {
		bad("connection_timeout_ms %d, request_timeout_ms %d: want more than 0", o.ConnectTimeout.Milliseconds(), o.RequestTimeout.Milliseconds())
	}
	if o.Keepalive < pingMinimum {
		bad("keepalive_time_ms %d: at least %d, servers hang up on more", o.Keepalive.Milliseconds(), pingMinimum.Milliseconds())
	}
	if o.MaxPerTarget < 0 || o.MaxChannels < 0 {
		bad("max_connections_per_shard %d, channels %d: want more than 0", o.MaxPerTarget, o.MaxChannels)
	}
	if len(faults) == 0 {
		return nil
	}
	return themis.Errorf(themis.InvalidArgument, "rpc: %w", errors.Join(faults...))
}

// Conn is the channel to addr (host:port; an IPv6 address in brackets). Where expect is given, the other side must prove to be that
// node, else to be the host. It does not wait for the connection: the first call does, and fails at once where there is none.
func (p *Pool) Conn(ctx context.Context, addr string, expect themis.NodeID, opts ...ConnOption) (*grpc.ClientConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, themis.Errorf(themis.Deadline, "connect to %s: %w", addr, context.Cause(ctx))
	}
	key := targetKey{addr: addr, node: expect}
	for _, o := range opts {
		o(&key)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, themis.Errorf(themis.Unreachable, "connect to %s: the connections of this process are closed", addr)
	}
	if t, ok := p.targets[key]; ok {
		return t.conn, nil
	}
	if p.perAddr[addr] >= p.opts.MaxPerTarget || len(p.targets) >= p.opts.MaxChannels {
		return nil, themis.Errorf(themis.Overloaded, "connect to %s: %d channels to it and %d in all are open, at most %d and %d are allowed",
			addr, p.perAddr[addr], len(p.targets), p.opts.MaxPerTarget, p.opts.MaxChannels)
	}
	t, err := p.newTarget(key)
	if err != nil {
		return nil, err
	}
	p.targets[key] = t
	p.perAddr[addr]++
	return t.conn, nil
}

// Shards is the inter-shard service of a node.
func (p *Pool) Shards(ctx context.Context, addr string, expect themis.NodeID, opts ...ConnOption) (sharding.ShardServiceClient, error) {
	conn, err := p.Conn(ctx, addr, expect, opts...)
	if err != nil {
		return nil, err
	}
	return sharding.NewShardServiceClient(conn), nil
}

// Replication is the log shipping service of a node.
func (p *Pool) Replication(ctx context.Context, addr string, expect themis.NodeID, opts ...ConnOption) (nodev1.ReplicationServiceClient, error) {
	conn, err := p.Conn(ctx, addr, expect, opts...)
	if err != nil {
		return nil, err
	}
	return nodev1.NewReplicationServiceClient(conn), nil
}

// Documents is the document service of a node.
func (p *Pool) Documents(ctx context.Context, addr string, expect themis.NodeID, opts ...ConnOption) (nodev1.DocumentServiceClient, error) {
	conn, err := p.Conn(ctx, addr, expect, opts...)
	if err != nil {
		return nil, err
	}
	return nodev1.NewDocumentServiceClient(conn), nil
}

// Admin is the administrative service of a node.
func (p *Pool) Admin(ctx context.Context, addr string, expect themis.NodeID, opts ...ConnOption) (nodev1.AdminServiceClient, error) {
	conn, err := p.Conn(ctx, addr, expect, opts...)
	if err != nil {
		return nil, err
	}
	return nodev1.NewAdminServiceClient(conn), nil
}

// Forget closes every channel to an address that is no longer anybody's. Calls on them end; the next Conn makes a new one.
func (p *Pool) Forget(addr string) error {
	p.mu.Lock()
	var gone []*target
	for key, t := range p.targets {
		if key.addr == addr {
			gone = append(gone, t)
			delete(p.targets, key)
		}
	}
	delete(p.perAddr, addr)
	p.mu.Unlock()
	return closeAll(gone)
}

// Recheck is Server.Recheck for the connections of the pool. They are made again when they are next used.
func (p *Pool) Recheck() int {
	if p.opts.Source == nil {
		return 0
	}
	return p.open.recheck(func(cs tls.ConnectionState) error { return p.opts.Source.CheckPeer(cs, false) })
}

// Close ends every channel and every call on them.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	var all []*target
	for _, t := range p.targets {
		all = append(all, t)
	}
	clear(p.targets)
	clear(p.perAddr)
	p.mu.Unlock()
	return closeAll(all)
}

func closeAll(targets []*target) error {
	var errs []error
	for _, t := range targets {
		if err := t.conn.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the channel to %s: %w", t.key.addr, err))
		}
	}
	return errors.Join(errs...)
}

// IsRefused answers whether the other machine was there and said that nobody listens. That is known at once and for sure,
// unlike a connection that is only slow, so failure detection counts it without waiting.
func IsRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// MayFallBack answers whether a call that failed may be made over HTTP instead: only where gRPC could not be reached or was too
// slow to do anything. Never where this process was refused, and never where it may have been done.
func MayFallBack(err error) bool {
	code := themis.CodeOf(err)
	return code == themis.Unreachable || code == themis.Deadline && !errors.Is(err, context.Canceled)
}

// target is one channel.
type target struct {
	key   targetKey
	conn  *grpc.ClientConn
	pool  *Pool
	shake atomic.Pointer[error] // how the last attempt to connect ended; the error is nil once it succeeded
}

func (p *Pool) newTarget(key targetKey) (*target, error) {
	host, port, err := net.SplitHostPort(key.addr)
	if err != nil || host == "" || port == "" {
		return nil, themis.Errorf(themis.InvalidArgument, "address %q: want host:port, with an IPv6 address in brackets", key.addr)
	}
	config := p.opts.TLS
	if p.opts.Source != nil {
		config = p.opts.Source.ClientConfig(key.node, host)
	}
	t := &target{key: key, pool: p}
	creds := &transport{config: config, metrics: p.opts.Metrics, open: p.open, onShake: t.note, onOpen: t.opened}
	calls := []grpc.CallOption{grpc.ForceCodecV2(newCodec()), grpc.MaxCallRecvMsgSize(MaxMessageBytes), grpc.MaxCallSendMsgSize(MaxMessageBytes)}
	if key.compress {
		calls = append(calls, grpc.UseCompressor(gzip.Name))
	}
	// The address goes through as it is: the dialer below resolves it, and no proxy of the environment comes between nodes.
	where := (&url.URL{Scheme: "passthrough", Path: "/" + key.addr}).String()
	t.conn, err = grpc.NewClient(where,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(t.dial),
		grpc.WithDefaultCallOptions(calls...),
		grpc.WithChainUnaryInterceptor(t.unary),
		grpc.WithChainStreamInterceptor(t.stream),
		grpc.WithStatsHandler(evidenceHandler{}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: backoffFirst, Multiplier: backoffFactor, Jitter: backoffJitter, MaxDelay: backoffMost},
			MinConnectTimeout: p.opts.ConnectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: p.opts.Keepalive, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithReadBufferSize(bufferBytes), grpc.WithWriteBufferSize(bufferBytes),
		grpc.WithIdleTimeout(0), // kept
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "address %q: %w", key.addr, err)
	}
	return t, nil
}

// dial makes the TCP connection and remembers why it could not.
func (t *target) dial(ctx context.Context, _ string) (net.Conn, error) {
	conn, err := t.pool.opts.Dial(ctx, t.key.addr)
	if err != nil {
		t.note(err)
		return nil, err
	}
	return conn, nil
}

func (t *target) note(err error) { t.shake.Store(&err) }

// why is the reason why there is no connection, if there is none.
func (t *target) why() error {
	if err := t.shake.Load(); err != nil && *err != nil && t.conn.GetState() != connectivity.Ready {
		return *err
	}
	return nil
}

// opened counts a connection by who it goes to.
func (t *target) opened(who pki.Info) func() {
	label := string(who.Shard)
	if label == "" {
		label = who.Name()
	}
	gauge := t.pool.opts.Metrics.connections.WithLabelValues(protocol, label)
	gauge.Inc()
	return gauge.Dec
}

// name says whom a call was for.
func (t *target) name() string {
	if t.key.node == "" {
		return t.key.addr
	}
	return fmt.Sprintf("%s (%s)", t.key.node, t.key.addr)
}
