package control

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Nobody outside this file builds a key.
const (
	rootOfAll = "/themis/"

	keyMeta       = "meta"
	keySettings   = "config/current"
	keyRouting    = "routing" // and routing/<version>/<part> of a table too large for one value
	keyController = "controller"
	keyNothing    = "nothing" // never written
	keyClaim      = "init"    // while `cluster init` is at work

	underNodes       = "nodes/"
	underAlive       = "alive/"
	underFailed      = "failed/"
	underShards      = "shards/"
	underCollections = "collections/"
	underNames       = "collection-names/"
	underEvents      = "events/"
	underTokens      = "tokens/"
	underAges        = "ages/"
)

// keys builds the keys of one cluster; its value is the root, with the slash.
type keys string

var clusterID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func keysOf(id themis.ClusterID) (keys, error) {
	if !clusterID.MatchString(string(id)) {
		return "", themis.Errorf(themis.InvalidArgument, "cluster id %q: want 1 to 64 letters, digits, dashes or underscores", id)
	}
	return keys(rootOfAll + string(id) + "/"), nil
}

func (k keys) of(rest string) string          { return string(k) + rest }
func (k keys) node(id themis.NodeID) string   { return k.of(underNodes + string(id)) }
func (k keys) alive(id themis.NodeID) string  { return k.of(underAlive + string(id)) }
func (k keys) failed(id themis.NodeID) string { return k.of(underFailed + string(id)) }
func (k keys) shard(id themis.ShardID) string { return k.of(underShards + string(id)) }
func (k keys) name(collection string) string  { return k.of(underNames + collection) }
func (k keys) collection(id themis.CollectionID) string {
	return k.of(fmt.Sprintf("%s%010d", underCollections, id))
}
func (k keys) event(id string) string      { return k.of(underEvents + id) }
func (k keys) age(id themis.NodeID) string { return k.of(underAges + string(id)) }
func (k keys) token(id string) string      { return k.of(underTokens + id) }

func (k keys) routingPart(version uint64, part int) string {
	return k.of(fmt.Sprintf("%s/%020d/%04d", keyRouting, version, part))
}

// all but the events: what a View is made of.
func (k keys) mapRanges() []Range {
	all, events := Prefix(string(k)), Prefix(k.of(underEvents))
	return []Range{{From: all.From, To: events.From}, {From: events.To, To: all.To}}
}

// split takes a key apart: "nodes", "node-1". An empty kind means that the key is not of this cluster.
func (k keys) split(key string) (kind, id string) {
	rest, ok := strings.CutPrefix(key, string(k))
	if !ok {
		return "", ""
	}
	kind, id, _ = strings.Cut(rest, "/")
	return kind, id
}

// Clusters are the clusters that the store holds, by id. What a broken `cluster init` left is none of them.
func Clusters(ctx context.Context, kv KV) ([]cluster.Meta, error) {
	var out []cluster.Meta
	r := Prefix(rootOfAll)
	r.Limit, r.KeysOnly = 1, true
	for {
		found, _, err := kv.List(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("list clusters: %w", err)
		}
		if len(found) == 0 {
			return out, nil
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(found[0].Key, rootOfAll), "/")
		k := keys(rootOfAll + id + "/")
		r.From = Prefix(string(k)).To
		meta, err := kv.Get(ctx, k.of(keyMeta))
		if err != nil {
			return nil, fmt.Errorf("list clusters: %w", err)
		}
		if meta.Revision == 0 {
			continue
		}
		m, err := cluster.Decode[cluster.Meta](meta.Value)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", meta.Key, err)
		}
		out = append(out, m)
	}
}
