package control

import (
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
)

// Nodes announce themselves before the map is written: founding the cluster must not make them look dead.
func TestInitKeepsHeartbeats(t *testing.T) {
	kv := NewMemory(nil)
	f := first(t, 2)
	m, err := NewMap(kv, f.Meta.ID, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Heartbeat(t.Context(), cluster.Alive{Node: "node-1", Storage: "s", Boot: "b"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Init(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	v, err := m.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v.Alive["node-1"].Boot != "b" {
		t.Fatalf("the heartbeat is gone: %+v", v.Alive)
	}
}
