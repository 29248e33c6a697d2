package control

import (
	"context"
	"fmt"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// DiskAge is how old the node's disk was when it last said so; the zero record: it never did.
func (m *Map) DiskAge(ctx context.Context, node themis.NodeID) (cluster.DiskAge, error) {
	a, _, _, err := read(ctx, m, m.keys.age(node), cluster.Decode[cluster.DiskAge])
	if err != nil {
		return a, fmt.Errorf("age of the disk of %s: %w", node, err)
	}
	return a, nil
}

// DiskAges are those of all nodes, as the member of the control plane that is asked last saw them, which needs no quorum: a disk is at
// least that old.
func (m *Map) DiskAges(ctx context.Context) ([]cluster.DiskAge, error) {
	under := Prefix(m.keys.of(underAges))
	under.Stale = true
	records, _, err := m.kv.List(ctx, under)
	if err != nil {
		return nil, fmt.Errorf("ages of disks: %w", err)
	}
	var out []cluster.DiskAge
	for _, r := range records {
		a, err := cluster.Decode[cluster.DiskAge](r.Value)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", r.Key, err)
		}
		out = append(out, a)
	}
	return out, nil
}

// PutDiskAge records it. The age of one disk never falls: REFUSED_UNSAFE.
func (m *Map) PutDiskAge(ctx context.Context, a cluster.DiskAge) error {
	a.Format = cluster.Format
	key := m.keys.age(a.Node)
	b, err := cluster.Encode(a)
	if err != nil {
		return err
	}
	for range swapTries {
		old, at, since, err := read(ctx, m, key, cluster.Decode[cluster.DiskAge])
		if err == nil {
			err = a.Follows(old)
		}
		if err != nil {
			return fmt.Errorf("age of the disk of %s: %w", a.Node, err)
		}
		_, ok, err := m.commit(ctx, Txn{If: []Compare{{key, at.Revision}}, Put: []Put{{Key: key, Value: b}}}, key, since)
		if err != nil || ok {
			return err
		}
	}
	return themis.Errorf(themis.Overloaded, "age of the disk of %s: others change it at the same time", a.Node)
}
