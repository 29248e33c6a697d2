package node

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
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
