package main

import (
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/client"
)

// What no flag says is what the nodes' own configurations say, a flag goes over them, and nodes that contradict each other are refused.
func TestFoundingValues(t *testing.T) {
	node := func(name, key, value string) client.Description {
		return client.Description{Node: "node-1", Founding: []client.FoundingValue{{Key: key, Value: value, From: "file " + name}}}
	}
	hybrid := client.Description{Node: "node-1", Founding: []client.FoundingValue{
		{Key: "replication.mode", Value: "hybrid", From: "file a.yaml:1"}, {Key: "replication.synchronous_shards", Value: `["shard-1"]`, From: "file a.yaml:2"},
		{Key: "replication.asynchronous_shards", Value: `["shard-2","shard-3","shard-4"]`, From: "file a.yaml:3"},
	}}
	for name, c := range map[string]struct {
		given []string
		nodes []client.Description
		check func(f initFlags) bool
		fault string
	}{
		"nothing":   {nodes: []client.Description{{}, {}}, check: func(f initFlags) bool { return f.shards == 4 && f.replication == "sync" }},
		"a value":   {nodes: []client.Description{{}, node("a.yaml:3", "sharding.cluster.active_shards", "8")}, check: func(f initFlags) bool { return f.shards == 8 }},
		"a mode":    {nodes: []client.Description{node("a.yaml:3", "replication.mode", "async")}, check: func(f initFlags) bool { return f.replication == "async" }},
		"a flag":    {given: []string{"shards"}, nodes: []client.Description{node("a", "sharding.cluster.active_shards", "8")}, check: func(f initFlags) bool { return f.shards == 4 }},
		"agreeing":  {nodes: []client.Description{node("a", "cluster.mode", "NONE"), node("b", "cluster.mode", "NONE")}, check: func(f initFlags) bool { return f.mode == "NONE" }},
		"contrary":  {nodes: []client.Description{node("a.yaml:3", "replication.replication_factor", "3"), node("b.yaml:4", "replication.replication_factor", "2")}, fault: "replication.replication_factor: 3 (node-1, file a.yaml:3), and 2 (node-1, file b.yaml:4)"},
		"any order": {nodes: []client.Description{hybrid, node("b", "replication.asynchronous_shards", `["shard-4","shard-2","shard-3"]`)}, check: func(f initFlags) bool { return len(f.syncShards) == 1 }},
		"a member":  {nodes: []client.Description{node("a", "sharding.virtual_nodes", "64"), {ClusterID: "c1", Founding: []client.FoundingValue{{Key: "sharding.virtual_nodes", Value: "32"}}}}, check: func(f initFlags) bool { return f.virtual == 64 }},
		"hybrid": {nodes: []client.Description{hybrid}, check: func(f initFlags) bool {
			return f.replication == "hybrid" && strings.Join(f.syncShards, ",") == "shard-1"
		}},
		"no list":   {given: []string{"replication"}, nodes: []client.Description{hybrid}, check: func(f initFlags) bool { return f.replication == "sync" && len(f.syncShards) == 0 }},
		"more":      {nodes: []client.Description{hybrid, node("b", "sharding.cluster.active_shards", "6")}, fault: "name 4 shards, the cluster is to have 6"},
		"a newer":   {nodes: []client.Description{node("a", "cluster.colour", "red")}, check: func(f initFlags) bool { return f.shards == 4 }},
		"by range":  {nodes: []client.Description{node("a", "sharding.strategy", "range")}, fault: "sharding.strategy range (node-1, file a): this version places documents by hash"},
		"no number": {nodes: []client.Description{node("a", "sharding.cluster.active_shards", "many")}, fault: `sharding.cluster.active_shards (node-1, file a): "many"`},
	} {
		f := initFlags{shards: 4, rf: 2, k: 1, replication: "sync", mode: "MIRROR", virtual: 150, given: func(flag string) bool {
			return strings.Contains(strings.Join(c.given, " "), flag)
		}}
		said, err := f.fill(c.nodes)
		switch {
		case c.fault != "":
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || !c.check(f):
			t.Errorf("%s: %+v, %v", name, f, err)
		case (name == "a value" || name == "a mode" || name == "agreeing") && len(said) != 1:
			t.Errorf("%s: said %v", name, said)
		}
	}
}

// What flags leave to the nodes' configurations is not refused before those were asked.
func TestFlagsThatNodesComplete(t *testing.T) {
	for _, f := range []initFlags{{replication: "hybrid"}, {replication: "sync", syncShards: []string{"1"}}} {
		f.nodes, f.shards, f.rf, f.k, f.mode, f.virtual = []string{"a", "b"}, 4, 2, 1, "MIRROR", 150
		r, err := f.request()
		if err != nil {
			t.Errorf("%+v: %v", f, err)
		}
		if err := f.arithmetic(r); err == nil || !strings.Contains(err.Error(), "--sync-shards") {
			t.Errorf("with no word of the nodes: %v", err)
		}
	}
}
