package control

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// RegisterNode adds a member. The same node with the same disk again is no error; its record stays as it is and is returned.
// Another disk under a name that exists is REFUSED_UNSAFE.
func (m *Map) RegisterNode(ctx context.Context, n cluster.Node) (cluster.Node, error) {
	if err := themis.CheckNode(string(n.ID)); err != nil {
		return cluster.Node{}, err
	}
	key := m.keys.node(n.ID)
	for range swapTries {
		old, at, now, err := read(ctx, m, key, cluster.Decode[cluster.Node])
		if err != nil {
			return cluster.Node{}, fmt.Errorf("register %s: %w", n.ID, err)
		}
		if at.Revision != 0 {
			old.Revision = at.Revision
			if old.Storage != n.Storage {
				return cluster.Node{}, themis.Errorf(themis.RefusedUnsafe, "register %s: a member with storage %s has this name, yours is %s", n.ID, old.Storage, n.Storage).
					Do("themis-cli node remove %s", n.ID)
			}
			return old, nil
		}
		n.Revision = 0
		switch out, err := m.putNode(ctx, n, now); {
		case err == nil:
			return out, nil
		case !errors.Is(err, ErrStale):
			return cluster.Node{}, fmt.Errorf("register %s: %w", n.ID, err)
		}
	}
	return cluster.Node{}, busy("register " + string(n.ID))
}

// UpdateNode replaces a member's record if it still has n.Revision, else ErrStale.
func (m *Map) UpdateNode(ctx context.Context, n cluster.Node) (cluster.Node, error) {
	if n.Revision == 0 {
		return cluster.Node{}, themis.Errorf(themis.InvalidArgument, "update %s: without the revision that was seen", n.ID)
	}
	out, err := m.putNode(ctx, n, n.Revision)
	if err != nil {
		return cluster.Node{}, fmt.Errorf("update %s: %w", n.ID, err)
	}
	return out, nil
}

func (m *Map) putNode(ctx context.Context, n cluster.Node, since themis.Revision) (cluster.Node, error) {
	b, err := cluster.Encode(n)
	if err != nil {
		return n, err
	}
	key := m.keys.node(n.ID)
	rev, ok, err := m.commit(ctx, Txn{If: []Compare{{key, n.Revision}}, Put: []Put{{Key: key, Value: b}}}, key, since)
	switch {
	case err != nil:
		return n, err
	case !ok:
		return n, themis.Errorf(themis.StalePlan, "nodes/%s: %w", n.ID, ErrStale)
	}
	n.Revision = rev
	return n, nil
}

// RemoveNode takes a member out of the map. REFUSED_UNSAFE while a shard has a copy on it; no such member is no error.
func (m *Map) RemoveNode(ctx context.Context, id themis.NodeID) error {
	key := m.keys.node(id)
	for range swapTries {
		records, now, err := m.kv.List(ctx, Only(key), Prefix(m.keys.of(underShards)))
		if err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
		if len(records) == 0 || records[0].Key != key {
			return nil
		}
		if err := m.checkUnused(records[1:], id); err != nil {
			return err
		}
		t := Txn{If: []Compare{{key, records[0].Revision}}, Delete: []string{key, m.keys.failed(id)}}
		_, ok, err := m.commit(ctx, t, key, now)
		if err != nil {
			return fmt.Errorf("remove %s: %w", id, err)
		}
		if ok {
			return nil
		}
	}
	return busy("remove " + string(id))
}

func (m *Map) checkUnused(shards []Record, node themis.NodeID) error {
	var used []string
	for _, r := range shards {
		s, err := cluster.Decode[cluster.Shard](r.Value)
		if err != nil {
			return fmt.Errorf("read %s: %w", r.Key, err)
		}
		if _, there := s.Replica(node); there {
			used = append(used, string(s.ID))
		}
	}
	if len(used) > 0 {
		return themis.Errorf(themis.RefusedUnsafe, "remove %s: it has copies of %s", node, strings.Join(used, ", ")).Do("stop it, and wait until its copies are made anew elsewhere: themis-cli shard list")
	}
	return nil
}
