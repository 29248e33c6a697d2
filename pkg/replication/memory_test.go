package replication_test

import (
	"testing"

	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/replication/transporttest"
)

func TestMemory(t *testing.T) {
	transporttest.Run(t, func(t *testing.T, r *replication.Replica, _ string) replication.Transport {
		m := replication.NewMemory()
		m.Put(transporttest.Primary, r) // its own copy is not asked
		m.Put(transporttest.Follower, r)
		t.Cleanup(func() {
			m.Put(transporttest.Follower, nil)
			m.Wait()
		})
		return m.From(transporttest.Primary)
	})
}
