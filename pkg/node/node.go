// Package node is one themisd as a value: it builds the parts and owns the goroutines.
//
//	gRPC, HTTP, metrics ── from the first moment, also before the node belongs to a cluster
//	member ── once it does: control plane (embedded etcd or its client), lease, watch of the map,
//	          the shards it has copies of, the router, and on control nodes the controller
//
// Run returns when everything it started has ended; the first error ends all of it.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

// Options are what a node is run with.
type Options struct {
	Config  config.Config
	Version string
	Logger  *slog.Logger
	// Listening is told the addresses that were bound, before anything is served.
	Listening func(Addresses)
	// Stop, once closed, lets the node hand over what it leads, for a few seconds at most, and then end as when ctx ends.
	Stop <-chan struct{}
	// Hurry, once closed, ends the node without handing anything over, or cuts that short. It still ends in order.
	Hurry <-chan struct{}

	keepUnused time.Duration // default keepUnused; for tests
	began      func(*Node)   // nil: nobody wants to know; for tests
}

// Addresses are where a node can be reached.
type Addresses struct {
	GRPC, HTTP, Metrics string
}

// Node is one running node.
type Node struct {
	o       Options
	cfg     config.Config
	log     *slog.Logger
	boot    themis.BootID
	began   time.Time
	source  *pki.Source
	pool    *rpc.Pool
	addr    Addresses
	metrics *metrics

	mu     sync.Mutex
	id     identity
	hlc    themis.HLC
	member chan struct{} // closed once the node belongs to a cluster

	membership sync.Mutex // one node joins or leaves through this one at a time
	signing    sync.Mutex // one newcomer's certificate at a time
	promotions chan promotion

	view     atomic.Pointer[cluster.View]
	inForce  atomic.Pointer[settings] // nil: the node's own values
	changed  broadcast                // a newer view
	renewed  broadcast                // the certificates were read anew
	m        atomic.Pointer[control.Map]
	lease    atomic.Pointer[control.Lease]
	etcd     atomic.Pointer[control.Server]
	shards   *shards
	unused   *unused
	events   chan cluster.Event
	cache    *store.Cache
	heard    controllerHeard
	gather   *gatherer
	disk     *disk
	aging    aging
	rechecks chan struct{}                               // certificates were read anew
	holding  atomic.Pointer[map[string]string]           // why the controller here holds back
	probed   atomic.Pointer[map[themis.NodeID]time.Time] // when each other node answered the controller here last; kept when another takes over
	stopping atomic.Pointer[cluster.Stopping]            // not nil: the node is on its way out
}

// Run runs a node until ctx ends, or until it was told to stop and has handed over what it leads.
func Run(ctx context.Context, o Options) error {
	cfg := o.Config
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if _, err := settle(cfg, nil); err != nil {
		return err
	}
	dir := cfg.Node.DataDir
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	room := newDisk(dir, cfg.Node.DiskReserveMB, cfg.Node.DiskBallastMB)
	if err := room.look(time.Now()); err != nil { // before anything else: a full disk is given some of the ballast
		o.Logger.Warn("the disk of the data directory can't be looked at", "err", err)
	}
	id, err := openIdentity(dir, cfg.Node.ID)
	if err != nil {
		return err
	}
	n := &Node{
		rechecks: make(chan struct{}, 1), o: o, cfg: cfg, log: o.Logger.With("node", cfg.Node.ID), boot: themis.BootID(randomID()), began: time.Now(),
		id: id, member: make(chan struct{}), promotions: make(chan promotion), events: make(chan cluster.Event, 1024), cache: store.NewCache(themis.Bytes(cfg.Store.CacheMB) << 20),
		disk: room,
	}
	defer n.cache.Close()
	n.metrics = newMetrics(n)
	if n.source, err = n.openPKI(); err != nil {
		return err
	}
	if err := id.checkCluster(dir, n.source.Info()); err != nil {
		return err
	}
	rm := rpc.NewMetrics(n.metrics.registry)
	n.pool, err = rpc.NewPool(rpc.PoolOptions{Source: n.source, Log: n.log, Metrics: rm, ConnectTimeout: cfg.RPC.ConnectionTimeout, RequestTimeout: cfg.RPC.RequestTimeout})
	if err != nil {
		return err
	}
	defer func() { _ = n.pool.Close() }()
	n.shards = newShards(n)
	n.unused = newUnused(n)
	if n.o.began != nil {
		n.o.began(n)
	}
	n.gather = newGatherer(n)
	if id.Joined != nil {
		close(n.member)
	}
	return n.serve(ctx, rm)
}

// seldom says yes once in a while.
type seldom struct {
	every time.Duration
	last  atomic.Int64
}

func (s *seldom) now(t time.Time) bool {
	last, now := s.last.Load(), t.UnixNano()
	return now-last >= int64(s.every) && s.last.CompareAndSwap(last, now)
}

func (n *Node) openPKI() (*pki.Source, error) {
	p := n.cfg.PKI
	badToken := seldom{every: time.Second} // anybody may send bad tokens as fast as lines are written
	src, err := pki.Open(pki.Files{Cert: p.Cert, Key: p.Key, CA: p.CA, CRL: p.CRL}, pki.Options{
		SkipHostname: !p.VerifyHostname, SkipPeer: !p.VerifyPeer,
		OnRefuse: func(r *pki.Refusal) {
			n.metrics.peersRefused.WithLabelValues("node", string(r.Side), string(r.Reason)).Inc()
			if r.Reason == pki.BadToken && !badToken.now(time.Now()) {
				return
			}
			n.log.Warn("certificate refused", "side", r.Side, "reason", r.Reason, "err", r)
		},
		OnReload: func(st pki.Status) {
			if st.Problem != "" {
				n.log.Warn("certificates could not be read anew, the last good ones stay in use", "err", st.Problem)
			}
			select {
			case n.rechecks <- struct{}{}:
			default:
			}
		},
	})
	if err != nil {
		return nil, err
	}
	if got := src.Info().Node; got != n.cfg.Node.ID {
		return nil, themis.Errorf(themis.InvalidArgument, "pki.cert %s is for %s, this is %s", p.Cert, src.Info(), n.cfg.Node.ID).
			Do("themis-cli pki issue --node %s", n.cfg.Node.ID)
	}
	return src, nil
}

// serve binds the addresses, then runs the servers and the member's life.
func (n *Node) serve(ctx context.Context, rm *rpc.Metrics) error {
	grpcLis, err := rpc.Listen(n.cfg.Node.GRPCListen)
	if err != nil {
		return err
	}
	httpLis, err := listen("node.http_listen", n.cfg.Node.HTTPListen)
	if err != nil {
		return errors.Join(err, grpcLis.Close())
	}
	var metricsLis net.Listener
	if n.cfg.Metrics.Enabled {
		if metricsLis, err = listen("node.metrics_listen", n.cfg.Node.MetricsListen); err != nil {
			return errors.Join(err, grpcLis.Close(), httpLis.Close())
		}
	}
	n.addr = Addresses{GRPC: advertise(n.cfg.Node.AdvertiseGRPC, grpcLis), HTTP: advertise(n.cfg.Node.AdvertiseHTTP, httpLis)}
	if metricsLis != nil {
		n.addr.Metrics = advertise(n.cfg.Node.AdvertiseMetrics, metricsLis)
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Source: n.source, Cluster: n.source.Info().Cluster, Log: n.log, Metrics: rm, Joining: true})
	if err != nil {
		return errors.Join(err, grpcLis.Close(), httpLis.Close())
	}
	r := &router{n: n}
	sharding.RegisterShardServiceServer(server, &shardService{n: n})
	ServeReplication(server, n.shards.get, func(id themis.ShardID) string { return n.dir("shards", string(id)) }, n.checkStream)
	nodev1.RegisterDocumentServiceServer(server, &documentService{router: r})
	g, ctx := errgroup.WithContext(ctx)
	nodev1.RegisterAdminServiceServer(server, &adminService{n: n, ending: ctx})
	n.log.Info("RPC Shard Server listening on "+grpcLis.Addr().String()+" with mTLS", "grpc", n.addr.GRPC, "http", n.addr.HTTP, "metrics", n.addr.Metrics)
	if n.o.Listening != nil {
		n.o.Listening(n.addr)
	}
	g.Go(func() error { return server.Run(ctx, grpcLis) })
	g.Go(func() error { return n.serveHTTP(ctx, httpLis, r) })
	if metricsLis != nil {
		g.Go(func() error { return serveOn(ctx, metricsLis, n.metrics.handler()) })
	}
	g.Go(func() error { return n.memberLife(ctx) })
	g.Go(func() error { return n.watchDisk(ctx) })
	g.Go(func() error { return n.record(ctx) })
	g.Go(func() error { return n.untilStopped(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-n.rechecks:
				n.renewed.wake()
				// open connections of peers that are no longer trusted end
				if cut := server.Recheck() + n.pool.Recheck(); cut > 0 {
					n.log.Warn("connections closed: their certificates are no longer accepted", "connections", cut)
				}
			}
		}
	})
	err = g.Wait()
	if errors.Is(err, errStopped) || errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return nil
	}
	return err
}

func listen(key, addr string) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "%s %s: %w", key, addr, err).Do("choose a free port, or 0 for any")
	}
	return l, nil
}

// advertise is the address that others are told: the configured one, or the one that was bound with this host's name.
func advertise(configured string, l net.Listener) string {
	bound, _ := l.Addr().(*net.TCPAddr)
	if configured != "" {
		if host, port, err := net.SplitHostPort(configured); err == nil && port == "0" {
			return net.JoinHostPort(host, fmt.Sprint(bound.Port))
		}
		return configured
	}
	host := bound.IP.String()
	if bound.IP.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return net.JoinHostPort(host, fmt.Sprint(bound.Port))
}

// serveOn serves h until ctx ends, and lets requests end for a few seconds.
func serveOn(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		_ = srv.Shutdown(ctx)
		_ = srv.Close()
	})
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return ctx.Err()
}

func (n *Node) joined() *joined {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id.Joined
}

// become makes the node a member, durably, and lets its life as one begin. Saying the same again is harmless.
func (n *Node) become(j joined) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if old := n.id.Joined; old != nil {
		if old.ID == j.ID {
			return nil
		}
		return themis.Errorf(themis.RefusedUnsafe, "%s belongs to cluster %s (%s) already", n.id.Node, old.Name, old.ID).Do("give the node an empty node.data_dir to make it a new one")
	}
	id := n.id
	id.Joined = &j
	if err := id.write(n.cfg.Node.DataDir); err != nil {
		return err
	}
	n.id.Joined = &j // the rest stays as it is, and is read without the lock
	close(n.member)
	return nil
}

func (n *Node) self() cluster.Member { return cluster.Member{Node: n.id.Node, Storage: n.id.Storage} }

func (n *Node) dir(parts ...string) string {
	return filepath.Join(append([]string{n.cfg.Node.DataDir}, parts...)...)
}

// latest is the newest view of the map; false before the first.
func (n *Node) latest() (cluster.View, bool) {
	v := n.view.Load()
	if v == nil {
		return cluster.View{}, false
	}
	return *v, true
}

// broadcast wakes all who wait for something to change.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed at the next change. Take it before looking.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

var _ prometheus.Collector = (*metrics)(nil)
