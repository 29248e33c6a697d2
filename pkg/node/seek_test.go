package node

import (
	"fmt"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// TestKnownNodesAreBounded: a node remembers others, in a steady order, and not more than it would ask.
func TestKnownNodesAreBounded(t *testing.T) {
	n := &Node{id: identity{Node: "node-007"}}
	v := cluster.View{Nodes: map[themis.NodeID]cluster.Node{}}
	for i := range 200 {
		id := themis.NodeID(fmt.Sprintf("node-%03d", i))
		v.Nodes[id] = cluster.Node{ID: id, GRPC: fmt.Sprintf("10.0.0.%d:50051", i)}
	}
	known := n.known(v)
	if len(known) != knownMost || known[6] != (knownNode{"node-006", "10.0.0.6:50051"}) || known[7].Node != "node-008" {
		t.Errorf("%d known: %v", len(known), known)
	}
}
