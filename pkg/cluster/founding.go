package cluster

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// Founding is what was fixed when the cluster was made and what its shards have now, by the keys of the configuration that say it.
// What meta doesn't tell is left out. Shards of more modes than hybrid has are told with the names of all.
func Founding(meta Meta, shards []Shard) map[string]string {
	out := map[string]string{"sharding.cluster.active_shards": strconv.Itoa(len(shards))}
	for key, value := range map[string]string{"cluster.name": meta.Name, "cluster.mode": meta.Redundancy} {
		if value != "" {
			out[key] = value
		}
	}
	if meta.VirtualNodes > 0 {
		out["sharding.virtual_nodes"] = strconv.Itoa(meta.VirtualNodes)
	}
	lists, modes, k, rf := map[themis.Mode][]themis.ShardID{}, []string{}, 0, 0
	for _, s := range shards {
		lists[s.Have.Mode] = append(lists[s.Have.Mode], s.ID)
		if !slices.Contains(modes, string(s.Have.Mode)) {
			modes = append(modes, string(s.Have.Mode))
		}
		k, rf = max(k, s.Have.K), max(rf, s.Have.RF)
	}
	slices.Sort(modes)
	out["replication.min_sync_replicas"], out["replication.replication_factor"] = strconv.Itoa(k), strconv.Itoa(rf)
	out["replication.mode"] = strings.Join(modes, ", ")
	out["replication.synchronous_shards"], out["replication.asynchronous_shards"] = "[]", "[]"
	if len(modes) == 2 && len(lists[themis.Sync]) > 0 && len(lists[themis.Async]) > 0 {
		out["replication.mode"] = string(themis.Hybrid)
		out["replication.synchronous_shards"], out["replication.asynchronous_shards"] = idList(lists[themis.Sync]), idList(lists[themis.Async])
	}
	return out
}

// SameFounding says whether two values of a key of Founding say the same: lists of shards do in any order.
func SameFounding(key, a, b string) bool {
	if a == b || key != "replication.synchronous_shards" && key != "replication.asynchronous_shards" {
		return a == b
	}
	var x, y []themis.ShardID
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

func idList(ids []themis.ShardID) string {
	b, _ := json.Marshal(ids) // strings always have JSON
	return string(b)
}
