package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// The errors of the map. Nothing has been changed when they are returned. Test with errors.Is.
var (
	ErrStale   = errors.New("the record has changed since it was read")
	ErrDeposed = errors.New("another controller has taken over")
)

// Options are the map's times.
type Options struct {
	Now    func() time.Time // default time.Now; its readings must carry the monotonic clock where leases are used
	Relist time.Duration    // a watch reads everything anew this often, should an event have been lost; default 5 minutes
	Fresh  time.Duration    // a watch asks this often whether it is still current; default 1 s
	TTL    time.Duration    // of a node's lease; default 5 s
}

// Map is one cluster's map in a store. It keeps nothing in memory.
type Map struct {
	kv     KV
	id     themis.ClusterID
	keys   keys
	opts   Options
	events atomic.Uint64 // numbers the events of this process
}

// NewMap is the map of that cluster, whether or not it has been initialised yet.
func NewMap(kv KV, id themis.ClusterID, o Options) (*Map, error) {
	k, err := keysOf(id)
	if err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Relist = orDefault(o.Relist, 5*time.Minute)
	o.Fresh = orDefault(o.Fresh, time.Second)
	o.TTL = orDefault(o.TTL, 5*time.Second)
	return &Map{kv: kv, id: id, keys: k, opts: o}, nil
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// Cluster is the id the map was made for.
func (m *Map) Cluster() themis.ClusterID { return m.id }

// View reads the whole map at one revision. NOT_FOUND when the cluster was never initialised.
func (m *Map) View(ctx context.Context) (cluster.View, error) {
	d, err := m.list(ctx)
	if err != nil {
		return cluster.View{}, err
	}
	return d.publish(m.id)
}

// list reads everything into a fresh draft.
func (m *Map) list(ctx context.Context) (*draft, error) {
	records, rev, err := m.kv.List(ctx, m.keys.mapRanges()...)
	if err != nil {
		return nil, fmt.Errorf("read cluster map: %w", err)
	}
	d := newDraft(m.keys)
	for _, r := range records {
		if err := d.apply(Change{Key: r.Key, Value: r.Value, Revision: r.Revision}); err != nil {
			return nil, err
		}
	}
	d.v.Revision = rev
	return d, nil
}

// resolveTries bounds how often a transaction without an answer is tried again.
const (
	resolveTries = 8
	resolvePause = 50 * time.Millisecond
)

// commit does t and returns its revision, or ok == false when a compare failed. witness is a key that t compares and writes;
// since is a revision at which the caller saw the state of it that t compares.
//
// When no answer comes it reads the witness back. Unchanged, the same transaction is tried again: its compare lets it happen
// at most once, however many copies of it are on their way. Changed, the first change after since tells whose it was.
func (m *Map) commit(ctx context.Context, t Txn, witness string, since themis.Revision) (themis.Revision, bool, error) {
	doubt := false
	var last error
	for range resolveTries {
		ok, rev, err := m.kv.Txn(ctx, t)
		switch {
		case err == nil && ok:
			return rev, true, nil
		case err == nil && !doubt:
			return 0, false, nil
		case err != nil && !doubt && !errors.Is(err, ErrUnknownOutcome):
			return 0, false, err
		}
		doubt = true
		if err != nil {
			last = err
		}
		now, readErr := m.kv.Get(ctx, witness)
		switch {
		case readErr != nil:
			return 0, false, unknown(errors.Join(last, readErr))
		case now.Revision != compared(t, witness):
			return m.firstChange(ctx, t, witness, since)
		case err == nil:
			return 0, false, nil // another compare failed, and what was compared never comes back: no copy can succeed any more
		}
		pause(ctx, resolvePause)
	}
	return 0, false, unknown(last)
}

func unknown(err error) error {
	return themis.Errorf(themis.OutcomeUnknown, "%w: %w", ErrUnknownOutcome, err).Do("themis-cli cluster health")
}

func compared(t Txn, key string) themis.Revision {
	for _, c := range t.If {
		if c.Key == key {
			return c.Revision
		}
	}
	return 0
}

// firstChange says whether the first change of the witness after since is the one that t makes.
func (m *Map) firstChange(ctx context.Context, t Txn, witness string, since themis.Revision) (themis.Revision, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, readBudget)
	defer cancel()
	last := ErrWatchLost
	for range resolveTries {
		for batch, err := range m.kv.Watch(ctx, witness, since+1) {
			if err != nil {
				last = err
				break
			}
			for _, c := range batch.Changes {
				if c.Key == witness {
					return c.Revision, ours(t, c), nil
				}
			}
		}
		if !errors.Is(last, ErrWatchLost) {
			break
		}
		pause(ctx, resolvePause)
	}
	return 0, false, unknown(last)
}

func ours(t Txn, c Change) bool {
	for _, p := range t.Put {
		if p.Key == c.Key {
			return !c.Deleted && bytes.Equal(p.Value, c.Value)
		}
	}
	return c.Deleted
}

// read gets one record and the revision at which that was the truth, which commit needs where the record is absent.
func read[T any](ctx context.Context, m *Map, key string, decode func([]byte) (T, error)) (value T, at Record, now themis.Revision, err error) {
	records, now, err := m.kv.List(ctx, Only(key))
	if err != nil {
		return value, at, 0, fmt.Errorf("read %s: %w", key, err)
	}
	at = Record{Key: key}
	if len(records) == 0 {
		return value, at, now, nil
	}
	at = records[0]
	if value, err = decode(at.Value); err != nil {
		return value, at, now, fmt.Errorf("read %s: %w", key, err)
	}
	return value, at, now, nil
}

// swapTries bounds how often a change that reads for itself begins again because others were faster.
const swapTries = 16

func busy(what string) error {
	return themis.Errorf(themis.Overloaded, "%s: others change the record all the time: %w", what, ErrStale)
}
