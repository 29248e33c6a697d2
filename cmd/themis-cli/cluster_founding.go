package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// foundingValue is a flag of `cluster init` that a node's own configuration may speak for.
type foundingValue struct {
	key, flag string
	into      any // where the value belongs: *string, *int or *[]string
}

func (f *initFlags) foundingValues(async *[]string) []foundingValue {
	return []foundingValue{
		{"cluster.name", "name", &f.name}, {"cluster.mode", "mode", &f.mode},
		{"sharding.cluster.active_shards", "shards", &f.shards}, {"sharding.virtual_nodes", "virtual-nodes", &f.virtual},
		{"replication.replication_factor", "replication-factor", &f.rf}, {"replication.min_sync_replicas", "min-sync-replicas", &f.k},
		{"replication.mode", "replication", &f.replication},
		{"replication.synchronous_shards", "sync-shards", &f.syncShards}, {"replication.asynchronous_shards", "sync-shards", async},
	}
}

// fill takes what no flag says from the nodes' own configurations, and says what it took from where. A flag goes over all of them; nodes
// that contradict each other are refused.
func (f *initFlags) fill(nodes []client.Description) (said []string, err error) {
	var async []string
	for _, v := range f.foundingValues(&async) {
		if f.given(v.flag) || (v.flag == "sync-shards" && !strings.EqualFold(f.replication, string(themis.Hybrid))) {
			continue
		}
		value, from := "", ""
		for _, n := range nodes {
			for _, own := range n.Founding {
				switch {
				case own.Key == "sharding.strategy" && own.Value != "hash":
					return nil, themis.Errorf(themis.Unimplemented, "%s %s (%s, %s): this version places documents by hash", own.Key, own.Value, n.Node, own.From)
				case own.Key != v.key:
				case from == "":
					value, from = own.Value, fmt.Sprintf("%s, %s", n.Node, own.From)
					if err := v.take(value); err != nil {
						return nil, fmt.Errorf("%s (%s): %q: %w", v.key, from, value, err)
					}
					said = append(said, fmt.Sprintf("%s %s (%s)", v.key, value, from))
				case !cluster.SameFounding(v.key, own.Value, value) && n.ClusterID == "": // what a member's file says counts no more
					return nil, usage.Wrong("%s: %s (%s), and %s (%s, %s)", v.key, value, from, own.Value, n.Node, own.From).
						Do("let the nodes' configurations agree, or give --%s", v.flag)
				}
			}
		}
	}
	if named := len(f.syncShards) + len(async); len(async) > 0 && named != f.shards {
		return nil, usage.Wrong("replication.synchronous_shards and replication.asynchronous_shards of the nodes' configurations name %d shards, the cluster is to have %d", named, f.shards).
			Do("--sync-shards SHARD,…: the others are async")
	}
	return said, nil
}

func (v foundingValue) take(value string) error {
	if s, ok := v.into.(*string); ok {
		*s = value
		return nil
	}
	return json.Unmarshal([]byte(value), v.into)
}
