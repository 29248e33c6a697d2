package node

import (
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/themis"
)

// A node is ready only while the shards that it leads may be read; copies that follow need not answer.
func TestANodeIsReadyWhileWhatItLeadsIsRead(t *testing.T) {
	here, there := cluster.Member{Node: "node-1", Storage: "disk-1"}, cluster.Member{Node: "node-2", Storage: "disk-2"}
	lapsed := &replication.ReignStatus{NotServing: "this primary can't renew its lease in the control plane"}
	for what, c := range map[string]struct {
		primary cluster.Member
		status  replication.Status
		want    themis.Code
	}{
		"leads":                            {here, replication.Status{Self: here, Reign: &replication.ReignStatus{}}, ""},
		"leads, and can't renew its lease": {here, replication.Status{Self: here, Reign: lapsed}, themis.NoPrimary},
		"was elected, and does not act":    {here, replication.Status{Self: here}, themis.NoPrimary},
		"led with a disk that it lost":     {cluster.Member{Node: "node-1", Storage: "disk-0"}, replication.Status{Self: here}, ""},
		"follows":                          {there, replication.Status{Self: here}, ""},
		"led before":                       {there, replication.Status{Self: here, Reign: lapsed}, ""},
		"is out":                           {there, replication.Status{Self: here, Fault: "fsync: input/output error"}, themis.ReadOnly},
	} {
		err := serves(cluster.Shard{ID: "shard-1", Primary: c.primary}, c.status)
		if got := themis.CodeOf(err); err != nil && got != c.want || err == nil && c.want != "" {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
}
