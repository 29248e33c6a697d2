package node

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/themis"
)

// Applied values that a node can't live by leave those in force that are, and its state says so.
func TestSettingsThatDoNotGoWithTheNodesOwn(t *testing.T) {
	own, err := config.Load([]config.Source{{Name: "own.yaml", Data: []byte("wal: {segment_size_mb: 64}")}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{cfg: own, log: slog.New(slog.DiscardHandler)}
	n.learnSettings(cluster.Settings{Version: 1, Values: map[string]string{"wal.keep_segments": "50", "replication.timeout_ms": "200"}})
	n.learnSettings(cluster.Settings{Version: 2, Values: map[string]string{"wal.keep_segments": "1000", "replication.timeout_ms": "300"}})
	if c := n.conf(); c.WAL.KeepSegments != 50 || n.rules().AckTimeout != 200*time.Millisecond {
		t.Errorf("in force: %+v, %s", c.WAL, n.rules().AckTimeout)
	}
	if s := n.inForce.Load(); s.refused == nil || !strings.Contains(s.refused.Error(), "configuration version 2 is not in force here") || !strings.Contains(s.refused.Error(), "wal.max_size_gb") {
		t.Errorf("%+v", s.refused)
	}
	n.learnSettings(cluster.Settings{Version: 3, Values: map[string]string{"wal.keep_segments": "60"}})
	if s := n.inForce.Load(); s.refused != nil || s.config.WAL.KeepSegments != 60 || n.rules().AckTimeout != 100*time.Millisecond {
		t.Errorf("%+v, %v", s.config.WAL, s.refused)
	}
}

// A file says the same as the cluster where the lists are in another order, or where what differs counts for nothing.
func TestAFileThatSaysTheSame(t *testing.T) {
	shard := func(id themis.ShardID, mode themis.Mode, k int) cluster.Shard {
		return cluster.Shard{ID: id, Have: cluster.Policy{Mode: mode, K: k, RF: 2}}
	}
	hybrid := map[themis.ShardID]cluster.Shard{"shard-1": shard("shard-1", themis.Sync, 1), "shard-2": shard("shard-2", themis.Sync, 1), "shard-3": shard("shard-3", themis.Async, 0)}
	async := map[themis.ShardID]cluster.Shard{"shard-1": shard("shard-1", themis.Async, 0)}
	for _, c := range []struct {
		shards map[themis.ShardID]cluster.Shard
		file   string
		fine   bool
	}{
		{hybrid, "replication: {mode: hybrid, synchronous_shards: [2, 1], asynchronous_shards: [3], min_sync_replicas: 1}\nsharding: {cluster: {active_shards: 3}}", true},
		{hybrid, "replication: {mode: hybrid, synchronous_shards: [3, 1], asynchronous_shards: [2], min_sync_replicas: 1}\nsharding: {cluster: {active_shards: 3}}", false},
		{async, "replication: {mode: async, min_sync_replicas: 1, replication_factor: 2}", true},
		{async, "replication: {mode: sync, min_sync_replicas: 1, replication_factor: 2}", false},
	} {
		asked, err := config.Load([]config.Source{{Name: "a.yaml", Data: []byte(c.file)}}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		base, err := config.Load(nil, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := onlyAtInit(cluster.View{Shards: c.shards}, asked.Founding(), base); (err == nil) != c.fine {
			t.Errorf("%s: %v", c.file, err)
		}
	}
}

func TestSeldom(t *testing.T) {
	s, now, yes := seldom{every: time.Second}, time.Now(), 0
	for i := range 3500 {
		if s.now(now.Add(time.Duration(i) * time.Millisecond)) {
			yes++
		}
	}
	if yes != 4 {
		t.Errorf("%d times in 3.5 s", yes)
	}
}
