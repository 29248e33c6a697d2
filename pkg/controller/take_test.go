package controller

import (
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

func TestBid(t *testing.T) {
	of := func(node string, term uint64) cluster.Controller {
		return cluster.Controller{Node: themis.NodeID(node), Term: themis.Term(term)}
	}
	for _, c := range []struct {
		what   string
		bid    Bid
		others []Heard
		due    bool
		alone  bool
	}{
		{"nobody ever was", Bid{Self: "a", Confirmed: true}, nil, true, true},
		{"it was itself", Bid{Self: "a", Record: of("a", 3), Confirmed: true}, nil, true, true},
		{"it was itself, and the control plane does not confirm it", Bid{Self: "a", Record: of("a", 3)}, nil, false, true},
		{"it is, and was confirmed a moment ago", Bid{Self: "a", Record: of("a", 3), Confirmed: true, Undone: 2 * time.Second}, nil, true, true},
		{"it is, and nothing that it asks for is done", Bid{Self: "a", Record: of("a", 3), Confirmed: true, Undone: 3100 * time.Millisecond}, nil, false, true},
		{"heard a moment ago", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Silent: time.Second}, nil, false, true},
		{"silent", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Silent: 2100 * time.Millisecond}, nil, true, true},
		{"silent, and cut off itself", Bid{Self: "b", Record: of("a", 3), Silent: time.Minute}, nil, false, true},
		{"it has stopped", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Gone: true, Silent: 600 * time.Millisecond}, []Heard{{"c", 3, 600 * time.Millisecond}}, true, true},
		{"it has stopped a moment ago", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Gone: true, Silent: 400 * time.Millisecond}, []Heard{{"c", 3, 400 * time.Millisecond}}, false, false},
		{"silent, and this node stops", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Stopping: true, Silent: time.Minute}, nil, false, true},
		{"it was itself, and it stops", Bid{Self: "a", Record: of("a", 3), Confirmed: true, Stopping: true}, nil, false, true},
		{"another's turn", Bid{Self: "c", Rank: 2, Record: of("a", 3), Confirmed: true, Silent: 2100 * time.Millisecond}, nil, false, true},
		{"another hears it", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Silent: time.Minute}, []Heard{{"c", 3, 900 * time.Millisecond}}, true, false},
		{"another hears a later one", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Silent: time.Minute}, []Heard{{"c", 4, 900 * time.Millisecond}}, true, false},
		{"another heard it long ago", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Silent: time.Minute}, []Heard{{"c", 3, 3 * time.Second}}, true, true},
		{"another heard the one before", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Silent: time.Minute}, []Heard{{"c", 2, time.Second}}, true, true},
		{"one of two hears it", Bid{Self: "b", Record: of("a", 3), Confirmed: true, Silent: time.Minute}, []Heard{{"c", 3, 9 * time.Second}, {"d", 3, time.Second}}, true, false},
	} {
		if got := c.bid.Due(); got != c.due {
			t.Errorf("%s: due %v, want %v", c.what, got, c.due)
		}
		if got := c.bid.Unheard(c.others); got != c.alone {
			t.Errorf("%s: unheard %v, want %v", c.what, got, c.alone)
		}
	}
}
