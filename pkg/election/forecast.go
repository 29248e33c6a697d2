package election

import (
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Standing is what is known of a copy without asking for its ballot, which would end the reign.
type Standing struct {
	cluster.Member
	Last themis.Position // the end of its log
	Bars string          // why it would give no ballot; empty: it would
}

// Forecast is the count as it would be if the primary were gone now. It is by what the copies last said of themselves: an election
// asks them anew. The primary is among the others, with rule "primary".
func Forecast(s cluster.Shard, copies []Standing, load map[themis.NodeID]int) Result {
	r := Request{Shard: s, Epoch: s.Epoch + 1, Silent: map[themis.NodeID]string{}, Load: load}
	for _, c := range copies {
		switch {
		case c.Member == s.Primary:
		case c.Bars != "":
			r.Silent[c.Node] = c.Bars
		default:
			r.Ballots = append(r.Ballots, Ballot{Shard: s.ID, Voter: c.Member, Epoch: r.Epoch, Last: c.Last})
		}
	}
	res := Count(r)
	for i, o := range res.Others {
		if o.Node == s.Primary.Node {
			res.Others[i] = Rejected{o.Node, "primary", "leads now: who would lead without it is asked"}
		}
	}
	return res
}
