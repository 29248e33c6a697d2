// Package registrytest is what every maker of replication.Registry has to pass: the cluster map over etcd and over its twin in memory, and
// the single records that tests and simulations of replication keep.
package registrytest

import (
	"context"
	"reflect"
	"testing"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Plane is a control plane with one shard under SYNC with k = 1: two voters, both in sync, the first of them leads.
type Plane struct {
	Change func(ctx context.Context, seen, next cluster.Shard) (cluster.Shard, error) // the Registry's
	Now    func() cluster.Shard                                                       // the record in force
	Failed func(node themis.NodeID, gone bool)                                        // gives the verdict on a node, or takes it back
	Ask    func(m themis.Mode, k int)                                                 // for another policy
}

// Maker makes one, for as long as the test runs.
type Maker func(t *testing.T) Plane

// Run puts the planes of a maker to every test.
func Run(t *testing.T, mk Maker) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Plane)
	}{
		{"a change lands", lands},
		{"the same change lands once", once},
		{"a change of another epoch", anotherEpoch},
		{"below the floor", belowTheFloor},
		{"a policy", policy},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, mk(t)) })
	}
}

// without is the record without its second member, and that member.
func without(t *testing.T, s cluster.Shard) (cluster.Shard, cluster.Member) {
	t.Helper()
	gone := s.ISR[1]
	next, err := s.RemoveFromISR(gone, true)
	if err != nil {
		t.Fatal(err)
	}
	return next, gone
}

func (p Plane) done(t *testing.T, seen, next cluster.Shard) cluster.Shard {
	t.Helper()
	got, err := p.Change(t.Context(), seen, next)
	if err != nil {
		t.Fatal(err)
	}
	next.Revision = got.Revision
	if now := p.Now(); got.Revision <= seen.Revision || !reflect.DeepEqual(got, next) || !reflect.DeepEqual(now, next) {
		t.Fatalf("from %+v\nto %+v\nreturned %+v\nin force %+v", seen, next, got, now)
	}
	return got
}

func (p Plane) refused(t *testing.T, seen, next cluster.Shard, want themis.Code) {
	t.Helper()
	before := p.Now()
	if _, err := p.Change(t.Context(), seen, next); themis.CodeOf(err) != want {
		t.Errorf("%v, want %s", err, want)
	}
	if now := p.Now(); !reflect.DeepEqual(now, before) {
		t.Errorf("a refused change left its mark: %+v, before %+v", now, before)
	}
}

func lands(t *testing.T, p Plane) {
	seen := p.Now()
	next, gone := without(t, seen)
	p.Failed(gone.Node, true)
	shrunk := p.done(t, seen, next)
	back, err := shrunk.AddToISR(gone)
	if err != nil {
		t.Fatal(err)
	}
	p.done(t, shrunk, back)
	p.refused(t, shrunk, back, themis.StalePlan)
}

// Who does not know what became of a change submits it again, also after others have come on top of it.
func once(t *testing.T, p Plane) {
	seen := p.Now()
	next, gone := without(t, seen)
	p.Failed(gone.Node, true)
	shrunk := p.done(t, seen, next)
	p.refused(t, seen, next, themis.StalePlan)
	back, err := shrunk.AddToISR(gone)
	if err != nil {
		t.Fatal(err)
	}
	p.done(t, shrunk, back)
	p.refused(t, seen, next, themis.StalePlan)
}

func anotherEpoch(t *testing.T, p Plane) {
	seen := p.Now()
	seen.Epoch++
	next, gone := without(t, seen)
	p.Failed(gone.Node, true)
	p.refused(t, seen, next, themis.StalePlan)
}

// What the primary saw of a verdict once does not count: it must stand now.
func belowTheFloor(t *testing.T, p Plane) {
	seen := p.Now()
	next, gone := without(t, seen)
	p.refused(t, seen, next, themis.RefusedUnsafe)
	p.Failed(seen.Primary.Node, true)
	p.refused(t, seen, next, themis.RefusedUnsafe)
	p.Failed(gone.Node, true)
	p.Failed(gone.Node, false)
	p.refused(t, seen, next, themis.RefusedUnsafe)
	p.Failed(gone.Node, true)
	p.done(t, seen, next)
}

func policy(t *testing.T, p Plane) {
	p.Ask(themis.SemiSync, 1)
	asked := p.Now()
	next, err := asked.Adopt()
	if err != nil {
		t.Fatal(err)
	}
	if got := p.done(t, asked, next); got.Have != got.Want || got.Have.Mode != themis.SemiSync {
		t.Errorf("in force: %+v", got.Have)
	}
	p.refused(t, asked, next, themis.StalePlan)
}
