package node

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// controlPatience is how long an operator's question waits for the control plane: less than clients wait for this node.
const controlPatience = 3 * time.Second

// foundOrJoin is what to type for a node that belongs to no cluster.
const foundOrJoin = "themis-cli cluster init --nodes HOST,HOST,HOST, or themis-cli node join HOST"

// noMap is why this node can tell nothing of a cluster: it belongs to none, or has not heard the control plane of its own since it
// was started. Who belongs to one must never be told to make another.
func (n *Node) noMap() *themis.Error {
	j := n.joined()
	if j == nil {
		return themis.Errorf(themis.NoPrimary, "%s belongs to no cluster yet", n.id.Node).Do(foundOrJoin)
	}
	members := slices.Sorted(maps.Keys(j.InitialCluster))
	if !n.embedded() || len(members) == 0 {
		at := strings.Join(endpointsOf(j.Endpoints), ", ")
		return themis.Errorf(themis.NoPrimary, "%s belongs to %s, whose control plane has not answered since this process began: %s", n.id.Node, j.Name, at).
			Do("make sure that the control plane runs, and that %s reaches it", n.id.Node)
	}
	return themis.Errorf(themis.NoPrimary, "%s belongs to %s, whose control plane has not answered since this process began: it was made of %s, most of which must run",
		n.id.Node, j.Name, strings.Join(members, ", ")).Do("start those that are down, then themis-cli cluster health")
}

// noControl says what an operator is told when the control plane gave no answer: this node did, so it isn't UNREACHABLE.
func (n *Node) noControl(err error) error {
	if code := themis.CodeOf(err); code != themis.Unreachable && code != themis.Deadline {
		return err
	}
	return themis.Errorf(themis.Deadline, "the control plane has no quorum, or can't be reached from %s: %s", n.id.Node, strings.ReplaceAll(err.Error(), "\n", "; ")).
		Do("themis-cli cluster health")
}
