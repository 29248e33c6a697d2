package control

import (
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Memory is the KV without etcd: for tests and simulations, one for all nodes of a cluster in one process.
type Memory struct {
	now     func() time.Time
	virtual bool

	mu        sync.Mutex
	rev       themis.Revision
	compacted themis.Revision // changes up to it have been forgotten
	records   map[string]memRecord
	keys      []string // of records, sorted
	history   []Change // after compacted, oldest first
	leases    map[LeaseID]*memLease
	lastLease LeaseID
	changed   chan struct{} // closed, and replaced, whenever rev grows
	closed    chan struct{}
}

type memRecord struct {
	value []byte
	rev   themis.Revision
	lease LeaseID
}

type memLease struct {
	ttl     time.Duration
	expires time.Time
	timer   *time.Timer // nil on a virtual clock
}

var _ KV = (*Memory)(nil)

// historyMax is how many changes are remembered; older ones are compacted.
const historyMax = 1 << 17

// NewMemory makes an empty store. With now == nil it lives on the real clock, or on that of a testing/synctest bubble, and
// leases end by themselves. With a clock of the caller's own, leases end when Expire is called.
func NewMemory(now func() time.Time) *Memory {
	m := &Memory{
		now: now, virtual: now != nil, rev: 1, records: map[string]memRecord{}, leases: map[LeaseID]*memLease{},
		changed: make(chan struct{}), closed: make(chan struct{}),
	}
	if now == nil {
		m.now = time.Now
	}
	return m
}

// Get implements KV.
func (m *Memory) Get(ctx context.Context, key string) (Record, error) {
	records, _, err := m.List(ctx, Only(key))
	if err != nil || len(records) == 0 {
		return Record{Key: key}, err
	}
	return records[0], nil
}

// List implements KV.
func (m *Memory) List(ctx context.Context, ranges ...Range) ([]Record, themis.Revision, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return nil, 0, err
	}
	var out []Record
	for _, r := range ranges {
		out = append(out, m.list(r)...)
	}
	return out, m.rev, nil
}

func (m *Memory) list(r Range) []Record {
	from, _ := slices.BinarySearch(m.keys, r.From)
	to, _ := slices.BinarySearch(m.keys, r.To)
	keys := slices.Clone(m.keys[from:max(from, to)])
	if r.Descending {
		slices.Reverse(keys)
	}
	if r.Limit > 0 && len(keys) > r.Limit {
		keys = keys[:r.Limit]
	}
	var out []Record
	for _, k := range keys {
		rec := Record{Key: k, Revision: m.records[k].rev}
		if !r.KeysOnly {
			rec.Value = slices.Clone(m.records[k].value)
		}
		out = append(out, rec)
	}
	return out
}

// Txn implements KV.
func (m *Memory) Txn(ctx context.Context, t Txn) (bool, themis.Revision, error) {
	if err := t.check(); err != nil {
		return false, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return false, 0, err
	}
	for _, c := range t.If {
		if m.records[c.Key].rev != c.Revision {
			return false, m.rev, nil
		}
	}
	for _, p := range t.Put {
		if p.Lease != 0 && m.leases[p.Lease] == nil {
			return false, 0, ErrLeaseNotFound
		}
	}
	var changes []Change
	for _, p := range t.Put {
		changes = append(changes, Change{Key: p.Key, Value: slices.Clone(p.Value)})
	}
	for _, k := range t.Delete {
		changes = append(changes, Change{Key: k, Deleted: true})
	}
	m.commit(changes)
	for _, p := range t.Put {
		if p.Lease != 0 {
			r := m.records[p.Key]
			r.lease = p.Lease
			m.records[p.Key] = r
		}
	}
	return true, m.rev, nil
}

// commit applies changes at the next revision; deletes of absent keys are none.
func (m *Memory) commit(changes []Change) {
	changes = slices.DeleteFunc(changes, func(c Change) bool { return c.Deleted && m.records[c.Key].rev == 0 })
	if len(changes) == 0 {
		return
	}
	m.rev++
	for i := range changes {
		c := &changes[i]
		c.Revision = m.rev
		at, there := slices.BinarySearch(m.keys, c.Key)
		switch {
		case c.Deleted:
			m.keys = slices.Delete(m.keys, at, at+1)
			delete(m.records, c.Key)
			continue
		case !there:
			m.keys = slices.Insert(m.keys, at, c.Key)
		}
		m.records[c.Key] = memRecord{value: c.Value, rev: m.rev}
	}
	m.history = append(m.history, changes...)
	if len(m.history) > historyMax {
		m.compact(m.history[len(m.history)/2].Revision)
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// Compact forgets the history up to and with rev.
func (m *Memory) Compact(rev themis.Revision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.compact(min(rev, m.rev))
}

func (m *Memory) compact(rev themis.Revision) {
	m.compacted = max(m.compacted, rev)
	kept, _ := slices.BinarySearchFunc(m.history, m.compacted+1, func(c Change, r themis.Revision) int { return int(c.Revision - r) })
	m.history = slices.Clone(m.history[kept:])
	close(m.changed)
	m.changed = make(chan struct{})
}

// Watch implements KV.
func (m *Memory) Watch(ctx context.Context, prefix string, from themis.Revision) iter.Seq2[Batch, error] {
	return func(yield func(Batch, error) bool) {
		for first := true; ; first = false {
			batch, changed, err := m.since(ctx, prefix, from)
			if err != nil {
				yield(Batch{}, err)
				return
			}
			if batch.Revision >= from || first && len(batch.Changes) == 0 {
				if !yield(batch, nil) {
					return
				}
				from = max(from, batch.Revision+1)
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(Batch{}, ctx.Err())
				return
			case <-m.closed:
				yield(Batch{}, ErrClosed)
				return
			}
		}
	}
}

// since is the history from that revision on, and the channel that closes when there is more.
func (m *Memory) since(ctx context.Context, prefix string, from themis.Revision) (Batch, <-chan struct{}, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return Batch{}, nil, err
	}
	if from <= m.compacted {
		return Batch{}, nil, ErrCompacted
	}
	at, _ := slices.BinarySearchFunc(m.history, from, func(c Change, r themis.Revision) int { return int(c.Revision - r) })
	b := Batch{Revision: m.rev}
	for _, c := range m.history[at:] {
		if strings.HasPrefix(c.Key, prefix) {
			c.Value = slices.Clone(c.Value)
			b.Changes = append(b.Changes, c)
		}
	}
	return b, m.changed, nil
}

// Grant implements KV.
func (m *Memory) Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return 0, 0, err
	}
	m.lastLease++
	id := m.lastLease
	ttl = wholeSeconds(ttl)
	l := &memLease{ttl: ttl, expires: m.now().Add(ttl)}
	if !m.virtual {
		l.timer = time.AfterFunc(ttl, m.Expire)
	}
	m.leases[id] = l
	return id, ttl, nil
}

func wholeSeconds(d time.Duration) time.Duration {
	return max(time.Second, (d + time.Second - 1).Truncate(time.Second))
}

// KeepAlive implements KV.
func (m *Memory) KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return 0, err
	}
	l := m.leases[id]
	if l == nil {
		return 0, ErrLeaseNotFound
	}
	l.expires = m.now().Add(l.ttl)
	if l.timer != nil {
		l.timer.Reset(l.ttl)
	}
	return l.ttl, nil
}

// Revoke implements KV.
func (m *Memory) Revoke(ctx context.Context, id LeaseID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.usable(ctx); err != nil {
		return err
	}
	m.end(id)
	return nil
}

// Expire ends the leases whose time is over.
func (m *Memory) Expire() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expire()
}

func (m *Memory) expire() {
	now := m.now()
	for _, id := range slices.Sorted(maps.Keys(m.leases)) {
		if !now.Before(m.leases[id].expires) {
			m.end(id)
		}
	}
}

func (m *Memory) end(id LeaseID) {
	l := m.leases[id]
	if l == nil {
		return
	}
	if l.timer != nil {
		l.timer.Stop()
	}
	delete(m.leases, id)
	var changes []Change
	for _, k := range m.keys {
		if m.records[k].lease == id {
			changes = append(changes, Change{Key: k, Deleted: true})
		}
	}
	m.commit(changes)
}

// usable is asked, under the lock, before everything.
func (m *Memory) usable(ctx context.Context) error {
	select {
	case <-m.closed:
		return ErrClosed
	default:
	}
	m.expire()
	return ctx.Err()
}

// Close implements KV. Watches end with ErrClosed.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.closed:
	default:
		close(m.closed)
	}
	for _, l := range m.leases {
		if l.timer != nil {
			l.timer.Stop()
		}
	}
	return nil
}
