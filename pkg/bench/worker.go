package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/node"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	benchCluster = "bench"
	benchShard   = themis.ShardID("shard-1")
)

// worker is one process: a copy of the shard behind a real server and the raw peer beside it, or a member of etcd.
type worker struct {
	id      themis.NodeID
	source  *pki.Source
	pool    *rpc.Pool
	serving *errgroup.Group
	stop    context.CancelFunc

	mu    sync.Mutex
	addrs map[themis.NodeID]string

	copy    atomic.Pointer[replication.Replica]
	dir     string
	keep    bool // its files, when it is closed
	endCopy context.CancelFunc
	copyEnd chan error

	raw  *rawPeer
	prof *os.File
	etcd *embed.Etcd
}

func (w *worker) verbs() map[string]verb {
	return map[string]verb{
		"serve": with(w.serve), "open": with(w.open), "shut": with(w.shut), "learn": with(w.learn), "write": with(w.write),
		"settle": with(w.settle), "raw": with(w.rawRound),
		"etcd": with(w.etcdMember), "profile": with(w.profile),
	}
}

type serveArgs struct {
	Node  themis.NodeID
	Files pki.Files
	Dir   string
}

type served struct {
	GRPC string
	Raw  string
}

// serve opens the two listeners.
func (w *worker) serve(ctx context.Context, a serveArgs) (any, error) {
	var err error
	w.id = a.Node
	if w.source, err = pki.Open(a.Files, pki.Options{}); err != nil {
		return nil, err
	}
	if w.pool, err = rpc.NewPool(rpc.PoolOptions{Source: w.source}); err != nil {
		return nil, err
	}
	server, err := rpc.NewServer(rpc.ServerOptions{Source: w.source, Cluster: benchCluster})
	if err != nil {
		return nil, err
	}
	node.ServeReplication(server, w.get, func(themis.ShardID) string { return w.dir }, nil)
	lis, err := rpc.Listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if w.raw, err = listenRaw(w.source, a.Dir); err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	ctx, w.stop = context.WithCancel(ctx)
	w.serving, ctx = errgroup.WithContext(ctx)
	w.serving.Go(func() error { return server.Run(ctx, lis) })
	w.serving.Go(func() error { return w.raw.run(ctx) })
	return served{GRPC: lis.Addr().String(), Raw: w.raw.addr()}, nil
}

func (w *worker) get(themis.ShardID) (*replication.Replica, error) {
	if r := w.copy.Load(); r != nil {
		return r, nil
	}
	return nil, themis.Errorf(themis.NoPrimary, "%s has no copy", w.id)
}

func (w *worker) close() error {
	err := w.closeCopy()
	if w.etcd != nil {
		w.etcd.Close()
	}
	if w.stop != nil {
		w.stop()
		err = errors.Join(err, w.serving.Wait())
	}
	if w.pool != nil {
		err = errors.Join(err, w.pool.Close())
	}
	return err
}

func (w *worker) closeCopy() error {
	if w.copy.Load() == nil {
		return nil
	}
	w.endCopy()
	err := <-w.copyEnd
	w.copy.Store(nil)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if w.keep {
		return err
	}
	return errors.Join(err, os.RemoveAll(w.dir))
}

type openArgs struct {
	Dir  string
	Keep bool // its files, when it is closed
	Bare bool // nothing but positions goes into the store
}

type opened struct {
	Took     time.Duration
	Last     themis.Seq // in the log
	Stored   themis.Seq // of those, what the store on disk had
	LogBytes themis.Bytes
}

// open opens the copy in the directory, or makes an empty one, in the place of the one before.
func (w *worker) open(ctx context.Context, a openArgs) (any, error) {
	if err := w.closeCopy(); err != nil {
		return nil, err
	}
	w.dir, w.keep = filepath.Join(a.Dir, string(benchShard)), a.Keep
	began := time.Now()
	r, err := replication.Open(replication.Options{
		Dir: w.dir, Cluster: benchCluster, Shard: benchShard, Self: memberOf(w.id), Boot: bootOf(w.id), Fresh: true,
		Transport: node.NewTransport(w.pool, w.addressOf), Registry: fixed{}, Store: store.Options{PositionOnly: a.Bare}, Reigns: func(time.Time) bool { return true },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return nil, err
	}
	ctx, w.endCopy = context.WithCancel(ctx)
	w.copyEnd = make(chan error, 1)
	w.copy.Store(r)
	took := time.Since(began)
	go func() { w.copyEnd <- r.Run(ctx) }() // closeCopy waits for it
	s := r.Status()
	return opened{Took: took, Last: s.Last.Seq, Stored: s.Applied, LogBytes: s.LogBytes}, nil
}

// shut closes the copy, with its store on disk as far as it has applied.
func (w *worker) shut(context.Context, struct{}) (any, error) {
	r, err := w.get(benchShard)
	if err == nil {
		err = r.Flush()
	}
	return struct{}{}, errors.Join(err, w.closeCopy())
}

func memberOf(id themis.NodeID) cluster.Member {
	return cluster.Member{Node: id, Storage: themis.StorageID("disk-of-" + id)}
}

func bootOf(id themis.NodeID) themis.BootID { return themis.BootID("boot-of-" + id) }

func (w *worker) addressOf(to themis.NodeID) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a, ok := w.addrs[to]; ok {
		return a, nil
	}
	return "", fmt.Errorf("%s is no member", to)
}

// fixed is a control plane in which nothing changes.
type fixed struct{}

// ChangeShard implements replication.Registry.
func (fixed) ChangeShard(context.Context, cluster.Shard, cluster.Shard) (cluster.Shard, error) {
	return cluster.Shard{}, themis.Errorf(themis.RefusedUnsafe, "the set of copies does not change while it is measured")
}

type learnArgs struct {
	Record cluster.Shard
	Addrs  map[themis.NodeID]string
}

// learn shows the copy who leads; whoever leads waits until its first entry, and all before it, is applied.
func (w *worker) learn(ctx context.Context, a learnArgs) (any, error) {
	w.mu.Lock()
	w.addrs = a.Addrs
	w.mu.Unlock()
	r, err := w.get(benchShard)
	if err != nil {
		return nil, err
	}
	r.Learn(a.Record, nil, nil)
	if a.Record.Primary != memberOf(w.id) {
		return struct{}{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if s := r.Status(); s.Reign != nil && s.Reign.NotServing == "" && s.Reign.NotWriting == "" && s.Applied >= s.Last.Seq {
			return struct{}{}, nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return nil, fmt.Errorf("the reign did not begin: %+v", r.Status().Reign)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

type settleArgs struct{ Seq themis.Seq }

// settle waits until this copy has applied seq and the process rests: what one round leaves to be done is not to weigh on the next.
// A process that never rests is given up on after ten seconds; a copy that lacks seq by then is an error.
func (w *worker) settle(ctx context.Context, a settleArgs) (any, error) {
	r, err := w.get(benchShard)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(10 * time.Second); ; {
		before := busy()
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		applied := r.Status().Applied
		switch late := time.Now().After(end); {
		case applied < a.Seq && late:
			return nil, fmt.Errorf("%s has applied seq %d, and seq %d was acknowledged", w.id, applied, a.Seq)
		case applied >= a.Seq && (late || busy()-before < 5*time.Millisecond):
			return struct{}{}, nil
		}
	}
}

// profile begins a processor profile in that file, or ends the one under way where the name is empty.
func (w *worker) profile(_ context.Context, name string) (any, error) {
	if name == "" {
		pprof.StopCPUProfile()
		return struct{}{}, w.prof.Close()
	}
	var err error
	if w.prof, err = os.Create(name); err == nil { //nolint:gosec // the operator named the directory
		err = pprof.StartCPUProfile(w.prof)
	}
	return struct{}{}, err
}

// busy is the processor time that this process has used.
func busy() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
