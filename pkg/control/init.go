package control

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// First is what a cluster begins with.
type First struct {
	Meta     cluster.Meta
	Nodes    []cluster.Node
	Shards   []cluster.Shard
	Routing  *routing.Table
	Settings cluster.Settings
}

// Init writes the map of a new cluster, or nothing that looks like one: `meta` comes last, and only the holder of the claim
// writes. A repeated call takes over the claim that a broken one left and begins again. REFUSED_UNSAFE when the cluster
// exists, INVALID_ARGUMENT when the map would not be sound.
func (m *Map) Init(ctx context.Context, f First) error {
	if err := m.checkFirst(f); err != nil {
		return err
	}
	claim, err := m.claim(ctx)
	if err != nil {
		return fmt.Errorf("init cluster %s: %w", m.id, err)
	}
	if err := m.sweep(ctx, claim); err != nil {
		return fmt.Errorf("init cluster %s: %w", m.id, err)
	}
	puts, err := m.firstPuts(f)
	if err != nil {
		return fmt.Errorf("init cluster %s: %w", m.id, err)
	}
	for _, batch := range batches(puts) {
		if err := m.underClaim(ctx, claim, Txn{Put: batch}); err != nil {
			return fmt.Errorf("init cluster %s: %w", m.id, err)
		}
	}
	meta, err := cluster.Encode(f.Meta)
	if err != nil {
		return err
	}
	t := Txn{
		If:     []Compare{{m.keys.of(keyMeta), 0}, claim},
		Put:    []Put{{Key: m.keys.of(keyMeta), Value: meta}},
		Delete: []string{claim.Key},
	}
	_, ok, err := m.commit(ctx, t, m.keys.of(keyMeta), claim.Revision)
	if err == nil && !ok {
		err = ErrStale
	}
	if err != nil {
		return fmt.Errorf("init cluster %s: %w", m.id, err)
	}
	return nil
}

func (m *Map) checkFirst(f First) error {
	v := cluster.View{Meta: f.Meta, Routing: f.Routing, Nodes: map[themis.NodeID]cluster.Node{}, Shards: map[themis.ShardID]cluster.Shard{}}
	var errs []error
	if f.Meta.ID != m.id {
		errs = append(errs, fmt.Errorf("meta: cluster %q, the map is that of %q", f.Meta.ID, m.id))
	}
	for _, n := range f.Nodes {
		if _, twice := v.Nodes[n.ID]; twice {
			errs = append(errs, fmt.Errorf("nodes/%s: twice", n.ID))
		}
		if err := themis.CheckNode(string(n.ID)); err != nil {
			errs = append(errs, err)
		}
		v.Nodes[n.ID] = n
	}
	for _, s := range f.Shards {
		if _, twice := v.Shards[s.ID]; twice {
			errs = append(errs, fmt.Errorf("%s: twice", s.ID))
		}
		v.Shards[s.ID] = s
	}
	if err := errors.Join(append(errs, v.Check()...)...); err != nil {
		return themis.Errorf(themis.InvalidArgument, "init cluster %s: %w", m.id, err)
	}
	return nil
}

// claim makes this call the only one that writes. Whoever held the claim before can't go on.
func (m *Map) claim(ctx context.Context) (Compare, error) {
	key := m.keys.of(keyClaim)
	for range swapTries {
		records, now, err := m.kv.List(ctx, Only(key), Only(m.keys.of(keyMeta)))
		if err != nil {
			return Compare{}, err
		}
		seen := Compare{Key: key}
		for _, r := range records {
			if r.Key != key {
				return Compare{}, themis.Errorf(themis.RefusedUnsafe, "cluster %s exists", m.id).Do("themis-cli cluster status")
			}
			seen.Revision = r.Revision
		}
		t := Txn{If: []Compare{seen, {m.keys.of(keyMeta), 0}}, Put: []Put{{Key: key, Value: []byte(rand.Text())}}}
		rev, ok, err := m.commit(ctx, t, key, max(seen.Revision, now))
		if err != nil {
			return Compare{}, err
		}
		if ok {
			return Compare{key, rev}, nil
		}
	}
	return Compare{}, busy("claim")
}

// underClaim writes while the claim stands. Its keys are not compared, so that it may be repeated until the answer comes.
func (m *Map) underClaim(ctx context.Context, claim Compare, t Txn) error {
	t.If = []Compare{claim, {m.keys.of(keyMeta), 0}}
	var err error
	for range resolveTries {
		var ok bool
		ok, _, err = m.kv.Txn(ctx, t)
		switch {
		case err == nil && ok:
			return nil
		case err == nil:
			return fmt.Errorf("another init has taken over: %w", ErrStale)
		case !errors.Is(err, ErrUnknownOutcome):
			return err
		}
		pause(ctx, resolvePause)
	}
	return err
}

// sweep removes what an init that broke off has left.
func (m *Map) sweep(ctx context.Context, claim Compare) error {
	r := Prefix(string(m.keys))
	r.KeysOnly = true
	records, _, err := m.kv.List(ctx, r)
	if err != nil {
		return err
	}
	// Nodes that were told where they belong announce themselves already: that is theirs, and ends with their leases.
	alive := Prefix(m.keys.of(underAlive))
	records = slices.DeleteFunc(records, func(r Record) bool { return r.Key == claim.Key || alive.Contains(r.Key) })
	for chunk := range slices.Chunk(records, MaxTxnOps) {
		var t Txn
		for _, r := range chunk {
			t.Delete = append(t.Delete, r.Key)
		}
		if err := m.underClaim(ctx, claim, t); err != nil {
			return err
		}
	}
	return nil
}

func (m *Map) firstPuts(f First) ([]Put, error) {
	parts, head, err := splitRouting(m.keys, f.Routing)
	if err != nil {
		return nil, err
	}
	puts := append(parts, head)
	add := func(key string, record any) {
		b, encErr := cluster.Encode(record)
		err = errors.Join(err, encErr)
		puts = append(puts, Put{Key: key, Value: b})
	}
	for _, n := range f.Nodes {
		add(m.keys.node(n.ID), n)
	}
	for _, s := range f.Shards {
		add(m.keys.shard(s.ID), s)
	}
	if f.Settings.Version > 0 {
		add(m.keys.of(keySettings), f.Settings)
	}
	return puts, err
}

// batches splits puts so that each batch fits one transaction.
func batches(puts []Put) [][]Put {
	var out [][]Put
	size := 0
	for _, p := range puts {
		n := len(p.Key) + len(p.Value)
		last := len(out) - 1
		if last < 0 || len(out[last]) == MaxTxnOps || size+n > MaxTxnBytes {
			out, size, last = append(out, nil), 0, last+1
		}
		out[last] = append(out[last], p)
		size += n
	}
	return out
}
