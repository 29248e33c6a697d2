package node

import (
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// TestNoSecondCluster: a node of a cluster whose control plane was made of others takes no part in making another; an init that broke off goes on.
func TestNoSecondCluster(t *testing.T) {
	n := &Node{}
	control, data := &cluster.ControlMember{}, (*cluster.ControlMember)(nil)
	j := &joined{Name: "demo", ID: "c1", InitialCluster: map[string]string{"node-1": "a", "node-2": "b", "node-3": "c"}}
	for _, c := range []struct {
		what  string
		nodes []cluster.Node
		want  themis.Code
	}{
		{"the same nodes", []cluster.Node{{ID: "node-1", Control: control}, {ID: "node-2", Control: control}, {ID: "node-3", Control: control}, {ID: "node-4"}}, ""},
		{"it alone", []cluster.Node{{ID: "node-1", Control: control}}, themis.RefusedUnsafe},
		{"one of them without its part", []cluster.Node{{ID: "node-1", Control: control}, {ID: "node-2", Control: control}, {ID: "node-3", Control: data}}, themis.RefusedUnsafe},
	} {
		if err := n.sameControl(j, c.nodes); err == nil && c.want != "" || err != nil && themis.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}
