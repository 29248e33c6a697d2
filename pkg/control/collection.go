package control

import (
	"context"
	"fmt"
	"strconv"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

func parseCollection(s string) (themis.CollectionID, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 {
		return 0, themis.Errorf(themis.Corrupt, "collection number %q: want 1 to 4294967295", s)
	}
	return themis.CollectionID(n), nil
}

// EnsureCollection finds the collection of that name or makes it, with the next free number. However many ask at once, they
// get the same one. Records of collections are never deleted, so that a number never comes back.
func (m *Map) EnsureCollection(ctx context.Context, name string) (cluster.Collection, error) {
	if err := themis.CheckCollection(name); err != nil {
		return cluster.Collection{}, err
	}
	for range swapTries {
		c, now, err := m.findCollection(ctx, name)
		if err != nil {
			return cluster.Collection{}, fmt.Errorf("collection %s: %w", name, err)
		}
		if c.ID != 0 {
			return c, nil
		}
		if c, err = m.nextCollection(ctx, name); err != nil {
			return cluster.Collection{}, fmt.Errorf("collection %s: %w", name, err)
		}
		b, err := cluster.Encode(c)
		if err != nil {
			return cluster.Collection{}, err
		}
		byName, byID := m.keys.name(name), m.keys.collection(c.ID)
		t := Txn{
			If:  []Compare{{byName, 0}, {byID, 0}},
			Put: []Put{{Key: byName, Value: strconv.AppendUint(nil, uint64(c.ID), 10)}, {Key: byID, Value: b}},
		}
		_, ok, err := m.commit(ctx, t, byName, now)
		if err != nil {
			return cluster.Collection{}, fmt.Errorf("collection %s: %w", name, err)
		}
		if ok {
			return c, nil
		}
	}
	return cluster.Collection{}, busy("collection " + name)
}

// Collection finds the collection of that name; false: there is none.
func (m *Map) Collection(ctx context.Context, name string) (cluster.Collection, bool, error) {
	c, _, err := m.findCollection(ctx, name)
	return c, c.ID != 0, err
}

// findCollection returns a collection without a number when there is none of that name.
func (m *Map) findCollection(ctx context.Context, name string) (cluster.Collection, themis.Revision, error) {
	id, at, now, err := read(ctx, m, m.keys.name(name), func(b []byte) (themis.CollectionID, error) { return parseCollection(string(b)) })
	if err != nil || at.Revision == 0 {
		return cluster.Collection{}, now, err
	}
	c, at, _, err := read(ctx, m, m.keys.collection(id), cluster.Decode[cluster.Collection])
	if err == nil && (at.Revision == 0 || c.ID != id || c.Name != name) {
		err = themis.Errorf(themis.Corrupt, "its name leads to number %d, which is not it", id)
	}
	return c, now, err
}

func (m *Map) nextCollection(ctx context.Context, name string) (cluster.Collection, error) {
	last := Prefix(m.keys.of(underCollections))
	last.Descending, last.Limit, last.KeysOnly = true, 1, true
	records, _, err := m.kv.List(ctx, last)
	if err != nil {
		return cluster.Collection{}, err
	}
	c := cluster.Collection{Format: cluster.Format, ID: 1, Name: name, Created: m.opts.Now().UTC()}
	if len(records) > 0 {
		_, id := m.keys.split(records[0].Key)
		highest, err := parseCollection(id)
		if err != nil {
			return c, err
		}
		c.ID = highest + 1
	}
	return c, nil
}
