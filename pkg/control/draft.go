package control

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// draft is a view in the making. Between two publications it copies each map that it changes once, so that views that were
// published before stay as they were.
type draft struct {
	keys    keys
	v       cluster.View
	copied  map[string]bool   // by kind: this draft's own map, not yet shared
	routing map[string][]byte // the table's record and its parts, by key
	stale   bool              // routing has changed since v.Routing was made
	changed bool              // anything has changed since the last publication
}

func newDraft(k keys) *draft {
	return &draft{keys: k, copied: map[string]bool{}, routing: map[string][]byte{}}
}

// apply takes in one change. Keys of kinds that are no part of a view, or that a newer version wrote, are passed over.
func (d *draft) apply(c Change) error {
	kind, id := d.keys.split(c.Key)
	err := d.applyKind(c, kind, id)
	if err != nil {
		return fmt.Errorf("read %s: %w", c.Key, err)
	}
	return nil
}

func (d *draft) applyKind(c Change, kind, id string) (err error) {
	v := &d.v
	switch kind {
	case "nodes":
		return put(d, kind, &v.Nodes, themis.NodeID(id), c, func(n *cluster.Node) { n.Revision = c.Revision })
	case "alive":
		return put(d, kind, &v.Alive, themis.NodeID(id), c, nil)
	case "failed":
		return put(d, kind, &v.Failed, themis.NodeID(id), c, nil)
	case "shards":
		return put(d, kind, &v.Shards, themis.ShardID(id), c, func(s *cluster.Shard) { s.Revision = c.Revision })
	case "collections":
		return d.applyCollection(c, id)
	case "collection-names":
		return d.applyName(c, id)
	case keyMeta:
		err = one(&v.Meta, c)
	case "config":
		err = one(&v.Settings, c)
	case keyController:
		if err = one(&v.Controller, c); err == nil && !c.Deleted {
			v.Controller.Revision = c.Revision
		}
	case keyRouting:
		d.routing[c.Key] = c.Value
		if c.Deleted {
			delete(d.routing, c.Key)
		}
		d.stale = d.stale || id == "" // parts come before the record that names them
	default:
		return nil
	}
	d.changed = true
	return err
}

// put takes a change into one of the view's maps, copying the map first if it has been published.
func put[K comparable, V cluster.Record](d *draft, kind string, m *map[K]V, id K, c Change, complete func(*V)) error {
	if !d.copied[kind] {
		d.copied[kind] = true
		*m = maps.Clone(*m)
	}
	if *m == nil {
		*m = map[K]V{}
	}
	d.changed = true
	if c.Deleted {
		delete(*m, id)
		return nil
	}
	v, err := cluster.Decode[V](c.Value)
	if err != nil {
		return err
	}
	if complete != nil {
		complete(&v)
	}
	(*m)[id] = v
	return nil
}

// one takes a change into a record of which there is one.
func one[V cluster.Record](into *V, c Change) (err error) {
	if c.Deleted {
		var none V
		*into = none
		return nil
	}
	*into, err = cluster.Decode[V](c.Value)
	return err
}

func (d *draft) applyCollection(c Change, id string) error {
	n, err := parseCollection(id)
	if err != nil {
		return err
	}
	return put(d, "collections", &d.v.Collections, n, c, nil)
}

// applyName takes in a name, whose value is the collection's number.
func (d *draft) applyName(c Change, name string) error {
	const kind = "collection-names"
	if !d.copied[kind] {
		d.copied[kind] = true
		d.v.CollectionsByName = maps.Clone(d.v.CollectionsByName)
	}
	if d.v.CollectionsByName == nil {
		d.v.CollectionsByName = map[string]themis.CollectionID{}
	}
	d.changed = true
	if c.Deleted {
		delete(d.v.CollectionsByName, name)
		return nil
	}
	n, err := parseCollection(string(c.Value))
	d.v.CollectionsByName[name] = n
	return err
}

// publish hands out what has been drafted. What comes later goes into copies.
func (d *draft) publish(id themis.ClusterID) (cluster.View, error) {
	if d.v.Meta.ID == "" {
		return cluster.View{}, themis.Errorf(themis.NotFound, "cluster %s: not initialised here", id).Do("themis-cli cluster init --nodes HOST,HOST,HOST")
	}
	if d.v.Meta.ID != id {
		return cluster.View{}, themis.Errorf(themis.Corrupt, "cluster %s: its record names %s", id, d.v.Meta.ID)
	}
	if d.stale {
		t, err := joinRouting(d.keys, d.routing)
		if err != nil {
			return cluster.View{}, err
		}
		d.v.Routing, d.stale = t, false
	}
	clear(d.copied)
	d.changed = false
	return d.v, nil
}

// routingPartBytes is the size from which a table is kept in parts.
const routingPartBytes = 512 << 10

// routingHead stands in place of a table that is kept in parts.
type routingHead struct {
	Format  int    `json:"format"`
	Version uint64 `json:"version"`
	Parts   int    `json:"parts"`
}

// splitRouting is the table as records: first its parts, if it is large, then the record that makes it the table in force.
func splitRouting(k keys, t *routing.Table) (parts []Put, head Put, err error) {
	b, err := t.Encode()
	if err != nil {
		return nil, head, err
	}
	head = Put{Key: k.of(keyRouting), Value: b}
	if len(b) <= routingPartBytes {
		return nil, head, nil
	}
	for i := 0; len(b) > 0; i++ {
		n := min(len(b), routingPartBytes)
		parts = append(parts, Put{Key: k.routingPart(t.Version(), i), Value: b[:n]})
		b = b[n:]
	}
	head.Value, err = json.Marshal(routingHead{cluster.Format, t.Version(), len(parts)})
	return parts, head, err
}

// joinRouting makes the table of its records; nil when there is none.
func joinRouting(k keys, records map[string][]byte) (*routing.Table, error) {
	b, ok := records[k.of(keyRouting)]
	if !ok {
		return nil, nil
	}
	var head routingHead
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, themis.Errorf(themis.Corrupt, "read %s: %w", k.of(keyRouting), err)
	}
	if head.Parts > 0 {
		var whole strings.Builder
		for i := range head.Parts {
			part, ok := records[k.routingPart(head.Version, i)]
			if !ok {
				return nil, themis.Errorf(themis.Corrupt, "read %s: part %d of %d is missing", k.of(keyRouting), i, head.Parts)
			}
			whole.Write(part)
		}
		b = []byte(whole.String())
	}
	t, err := routing.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", k.of(keyRouting), err)
	}
	return t, nil
}
