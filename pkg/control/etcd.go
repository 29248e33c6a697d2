package control

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/themisdb/themis/pkg/themis"
)

const (
	readAttempt  = 300 * time.Millisecond // the first one; each further one has twice as long
	writeAttempt = 500 * time.Millisecond
	attemptMax   = 5 * time.Second
	readBudget   = 10 * time.Second // for reads whose context has no end
	retryPause   = 25 * time.Millisecond

	keepAlivePing    = 10 * time.Second // the server takes offence at less than 5 s
	keepAliveTimeout = 3 * time.Second
	progressEvery    = time.Second
	watchAttempt     = time.Second // for a member to begin a watch
)

// oldestEtcd is what an external cluster must at least be: 3.6.9 ended stale reads after a pause, and 3.6.11 is the oldest
// that may be rolled to 3.7.
var oldestEtcd = [3]int{3, 6, 11}

// Etcd is the KV in an etcd cluster, embedded or the user's own; the code is the same.
type Etcd struct {
	c *clientv3.Client
}

var _ KV = (*Etcd)(nil)

func unreachable(endpoints []string, err error) error {
	return themis.Errorf(themis.Unreachable, "control plane at %s doesn't answer: %w", strings.Join(endpoints, ","), err)
}

func checkVersion(endpoint, version string) error {
	number, _, _ := strings.Cut(version, "-")
	var have [3]int
	for i, s := range strings.SplitN(number, ".", 3) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return themis.Errorf(themis.RefusedUnsafe, "%s: etcd calls itself version %q", endpoint, version)
		}
		have[i] = n
	}
	if slices.Compare(have[:], oldestEtcd[:]) < 0 {
		return themis.Errorf(themis.RefusedUnsafe, "%s runs etcd %s; want at least %d.%d.%d, older ones have answered with stale reads after a pause",
			endpoint, version, oldestEtcd[0], oldestEtcd[1], oldestEtcd[2]).Do("upgrade etcd, or use control.mode: embedded")
	}
	return nil
}

// SetEndpoints replaces the endpoints, after members came or went.
func (e *Etcd) SetEndpoints(endpoints []string) { e.c.SetEndpoints(endpoints...) }

// Close implements KV.
func (e *Etcd) Close() error {
	if err := e.c.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close control plane client: %w", err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// read tries f until it answers, until its error is one that another try won't change, or until ctx ends. Each try has its
// own deadline, so that a paused member doesn't hold it: the next try goes to another one.
func (e *Etcd) read(ctx context.Context, f func(context.Context) error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, readBudget)
		defer cancel()
	}
	limit := readAttempt
	last := errors.New("not asked yet")
	for ctx.Err() == nil && e.c.Ctx().Err() == nil {
		attempt, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), limit)
		err := f(attempt)
		cancel()
		if err == nil || permanent(err) {
			return translate(err)
		}
		last = err
		limit = min(2*limit, attemptMax)
		pause(ctx, retryPause)
	}
	if e.c.Ctx().Err() != nil {
		return ErrClosed
	}
	return unreachable(e.c.Endpoints(), errors.Join(ctx.Err(), last))
}

func codeOf(err error) codes.Code {
	if coded, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return coded.Code()
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return status.Code(err)
}

// permanent says that another try would bring the same answer.
func permanent(err error) bool {
	if forLearner(err) {
		return false // another member will do it
	}
	if _, ours := errors.AsType[*themis.Error](err); ours {
		return true
	}
	switch codeOf(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition,
		codes.OutOfRange, codes.DataLoss, codes.Unimplemented:
		return true
	}
	return errors.Is(err, rpctypes.ErrNoSpace)
}

// notDone says that a transaction which ended with err was surely not done: it was refused before it was proposed.
func notDone(err error) bool {
	switch {
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTooManyRequests), errors.Is(err, rpctypes.ErrNoSpace),
		forLearner(err):
		return true
	}
	return permanent(err)
}

// forLearner says that a member refused because it is still a learner.
func forLearner(err error) bool {
	return rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner)
}

// translate turns etcd's errors into those of this room.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rpctypes.ErrCompacted):
		return ErrCompacted
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return ErrLeaseNotFound
	case errors.Is(err, rpctypes.ErrNoSpace):
		return noSpace()
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return themis.Errorf(themis.TooLarge, "%v: %w", err, ErrTooLarge)
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return themis.Errorf(themis.Unauthenticated, "etcd refuses the user: %w", err).Do("correct control.password_file; it is read anew")
	}
	return err
}

// Get implements KV.
func (e *Etcd) Get(ctx context.Context, key string) (Record, error) {
	records, _, err := e.List(ctx, Only(key))
	if err != nil || len(records) == 0 {
		return Record{Key: key}, err
	}
	return records[0], nil
}

// List implements KV.
func (e *Etcd) List(ctx context.Context, ranges ...Range) ([]Record, themis.Revision, error) {
	var gets []clientv3.Op
	for _, r := range ranges {
		gets = append(gets, get(r))
	}
	var out []Record
	var rev themis.Revision
	err := e.read(ctx, func(ctx context.Context) error {
		resp, err := e.c.Txn(ctx).Then(gets...).Commit()
		if err != nil {
			return err
		}
		out, rev = nil, themis.Revision(resp.Header.Revision)
		for _, part := range resp.Responses {
			for _, kv := range part.GetResponseRange().GetKvs() {
				out = append(out, Record{Key: string(kv.Key), Value: kv.Value, Revision: themis.Revision(kv.ModRevision)})
			}
		}
		return nil
	})
	return out, rev, err
}

func get(r Range) clientv3.Op {
	order := clientv3.SortAscend
	if r.Descending {
		order = clientv3.SortDescend
	}
	opts := []clientv3.OpOption{clientv3.WithRange(r.To), clientv3.WithLimit(int64(r.Limit)), clientv3.WithSort(clientv3.SortByKey, order)}
	if r.KeysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	if r.Stale {
		opts = append(opts, clientv3.WithSerializable())
	}
	return clientv3.OpGet(r.From, opts...)
}

// Txn implements KV. It is tried once: whether a second try would be right only the caller knows.
func (e *Etcd) Txn(ctx context.Context, t Txn) (bool, themis.Revision, error) {
	if err := t.check(); err != nil {
		return false, 0, err
	}
	if err := ctx.Err(); err != nil {
		return false, 0, err
	}
	if e.c.Ctx().Err() != nil {
		return false, 0, ErrClosed
	}
	var compares []clientv3.Cmp
	for _, c := range t.If {
		compares = append(compares, clientv3.Compare(clientv3.ModRevision(c.Key), "=", int64(c.Revision)))
	}
	var ops []clientv3.Op
	for _, p := range t.Put {
		ops = append(ops, clientv3.OpPut(p.Key, string(p.Value), clientv3.WithLease(clientv3.LeaseID(p.Lease))))
	}
	for _, k := range t.Delete {
		ops = append(ops, clientv3.OpDelete(k))
	}
	attempt, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), writeAttempt)
	defer cancel()
	var sent atomic.Bool
	attempt = context.WithValue(attempt, sentKey{}, &sent)
	resp, err := e.c.Txn(attempt).If(compares...).Then(ops...).Commit()
	switch {
	case err == nil:
		return resp.Succeeded, themis.Revision(resp.Header.Revision), nil
	case errors.Is(err, rpctypes.ErrNoLeader):
		pause(ctx, retryPause)
		return false, 0, themis.Errorf(themis.Unreachable, "control plane has no leader: %w", err)
	case notDone(err):
		return false, 0, translate(err)
	case !sent.Load():
		return false, 0, unreachable(e.c.Endpoints(), err)
	}
	return false, 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
}

// sentMarker notes in the context of a call that its first bytes have left: a call that fails before that was not done.
type sentMarker struct{}

type sentKey struct{}

func (sentMarker) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentMarker) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}

func (sentMarker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentMarker) HandleConn(context.Context, stats.ConnStats) {}

// Watch implements KV. Each watch has a stream of its own: one that shared it would stay with a member that stands still, where
// etcd's client puts whatever else asks for a watch.
func (e *Etcd) Watch(ctx context.Context, prefix string, from themis.Revision) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
		defer cancel()
		stream := clientv3.NewWatcher(e.c)
		defer func() { _ = stream.Close() }() // how the watch ended has been told
		ask := time.NewTicker(progressEvery)
		defer ask.Stop()
		late := time.AfterFunc(watchAttempt, cancel)
		answers := stream.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(int64(from)), clientv3.WithCreatedNotify())
		if !late.Stop() {
			yield(Batch{}, fmt.Errorf("%w: no member began it within %s", ErrWatchLost, watchAttempt))
			return
		}
		for {
			select {
			case resp, open := <-answers:
				if err := e.watchError(ctx, resp, open); err != nil {
					yield(Batch{}, err)
					return
				}
				if resp.Created && len(resp.Events) == 0 {
					continue
				}
				if !yield(batchOf(resp), nil) {
					return
				}
			case <-ask.C:
				attempt, done := context.WithTimeout(ctx, readAttempt)
				_ = stream.RequestProgress(attempt) // a watch that can't be asked shows itself by silence
				done()
			}
		}
	}
}

func (e *Etcd) watchError(ctx context.Context, resp clientv3.WatchResponse, open bool) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case e.c.Ctx().Err() != nil:
		return ErrClosed
	case !open:
		return ErrWatchLost
	case resp.CompactRevision != 0:
		return ErrCompacted
	case resp.Err() != nil:
		return fmt.Errorf("%w: %w", ErrWatchLost, resp.Err())
	}
	return nil
}

func batchOf(resp clientv3.WatchResponse) Batch {
	b := Batch{Revision: themis.Revision(resp.Header.Revision)}
	for _, ev := range resp.Events {
		b.Changes = append(b.Changes, Change{
			Key: string(ev.Kv.Key), Value: ev.Kv.Value, Revision: themis.Revision(ev.Kv.ModRevision), Deleted: ev.Type == clientv3.EventTypeDelete,
		})
	}
	if n := len(b.Changes); n > 0 { // the header is that of the member's store, which may already be further
		b.Revision = b.Changes[n-1].Revision
	}
	return b
}

// Grant implements KV.
func (e *Etcd) Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error) {
	attempt, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), writeAttempt)
	defer cancel()
	resp, err := e.c.Grant(attempt, int64(wholeSeconds(ttl)/time.Second))
	if err != nil { // a lease that was granted without our knowing ends by itself
		return 0, 0, translate(err)
	}
	return LeaseID(resp.ID), time.Duration(resp.TTL) * time.Second, nil
}

// KeepAlive implements KV.
func (e *Etcd) KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error) {
	attempt, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), writeAttempt)
	defer cancel()
	resp, err := e.c.KeepAliveOnce(attempt, clientv3.LeaseID(id))
	if err != nil {
		return 0, translate(err)
	}
	return time.Duration(resp.TTL) * time.Second, nil
}

// Revoke implements KV.
func (e *Etcd) Revoke(ctx context.Context, id LeaseID) error {
	attempt, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), writeAttempt)
	defer cancel()
	if _, err := e.c.Revoke(attempt, clientv3.LeaseID(id)); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return translate(err)
	}
	return nil
}
