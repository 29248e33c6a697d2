package doctor

import (
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

// Evidence is what Gather brought home: every member's own word, and what could be seen from here. Times are of this machine's clock.
type Evidence struct {
	Cluster   string    `json:"cluster"` // the name that was asked for; empty: any
	Began     time.Time `json:"began"`
	Ended     time.Time `json:"ended"`
	Own       Own       `json:"own"`
	Witnesses []Witness `json:"witnesses"` // every member, and every endpoint that is none; by node
}

// Own is the certificate that this process shows.
type Own struct {
	Name    string    `json:"name"`
	Expires time.Time `json:"expires"` // zero: not known
}

// Witness is one node that was asked.
type Witness struct {
	Node   themis.NodeID       `json:"node"` // as the map says, else as it says of itself; empty: an endpoint that did not answer
	Addr   string              `json:"addr"`
	Member bool                `json:"member"` // the map names it
	Err    string              `json:"error"`  // why it did not answer, or not to the end; empty: it did
	Code   themis.Code         `json:"code"`   // of Err
	Self   *client.Description `json:"self"`   // null: it did not say
	SelfAt time.Time           `json:"self_at"`
	Cert   *Certificate        `json:"certificate"`
	Clock  *Clock              `json:"clock"` // null: not measured
	Looks  []Look              `json:"looks"` // oldest first
}

// Look is what one node said of the cluster at one moment.
type Look struct {
	At     time.Time     `json:"at"` // when its answer arrived
	Report health.Report `json:"report"`
	Map    *MapWord      `json:"map"` // null: it told none
}

// MapWord is what one node takes for the cluster map.
type MapWord struct {
	At         time.Time          `json:"at"` // when its answer arrived
	ClusterID  themis.ClusterID   `json:"cluster_id"`
	Cluster    string             `json:"cluster"`
	Revision   themis.Revision    `json:"revision"`
	Routing    uint64             `json:"routing_version"`
	Settings   uint64             `json:"config_version"`
	Controller cluster.Controller `json:"controller"`
	Shards     []cluster.Shard    `json:"shards"`
	Members    []cluster.Node     `json:"members"`
}

// Certificate is what a node shows to whoever connects, whether it is believed or not.
type Certificate struct {
	Subject   string    `json:"subject"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Untrusted string    `json:"untrusted"` // why the CA does not vouch for it, whatever the date; empty: it does
}

// Clock is how far a node's clock is ahead of this machine's: the time in its answer less the middle between question and answer.
type Clock struct {
	Skew  time.Duration `json:"skew_ns"`
	Error time.Duration `json:"error_ns"` // the truth is at most this far off
	At    time.Time     `json:"at"`
}

// clockSample is one question and its answer.
type clockSample struct {
	asked, answered time.Time // of this machine
	told            time.Time // of the node, at some moment in between; cut to whole milliseconds
}

const clockStep = time.Millisecond // the resolution of what nodes tell

// clockOf takes the sample with the shortest way, which is the sharpest.
func clockOf(samples []clockSample) *Clock {
	var best *Clock
	for _, s := range samples {
		way := s.answered.Sub(s.asked)
		c := Clock{
			Skew:  s.told.Add(clockStep / 2).Sub(s.asked.Add(way / 2)).Round(time.Microsecond),
			Error: (way/2 + clockStep/2).Round(time.Microsecond), At: s.answered,
		}
		if best == nil || c.Error < best.Error {
			best = &c
		}
	}
	return best
}

// newest is the witness's last look; nil: it has none.
func (w Witness) newest() *Look {
	if len(w.Looks) == 0 {
		return nil
	}
	return &w.Looks[len(w.Looks)-1]
}

// word is the newest map that the witness told; nil: none.
func (w Witness) word() *MapWord {
	for i := len(w.Looks) - 1; i >= 0; i-- {
		if m := w.Looks[i].Map; m != nil {
			return m
		}
	}
	return nil
}

// name is the node, or the address of one that has not said who it is.
func (w Witness) name() string {
	if w.Node == "" {
		return w.Addr
	}
	return string(w.Node)
}

// silent says that nothing was heard of the witness.
func (w Witness) silent() bool { return w.newest() == nil && w.Self == nil }
