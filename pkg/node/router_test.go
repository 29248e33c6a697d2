package node

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// TestUnknownStaysUnknown: a repetition that is refused says nothing of the attempt before it, whose entry may yet be committed.
func TestUnknownStaysUnknown(t *testing.T) {
	unknown, full := themis.Errorf(themis.OutcomeUnknown, "time ran out"), themis.Errorf(themis.ReadOnly, "a disk is full")
	nobody, late := themis.Errorf(themis.NoPrimary, "nobody leads"), themis.Errorf(themis.Unreachable, "no connection")
	for _, c := range []struct {
		what       string
		repeatable bool
		ends       []error // of the attempts; with the last one time is over
		want       themis.Code
	}{
		{"refused at once", true, []error{full}, themis.ReadOnly},
		{"not done, then refused", true, []error{nobody, full}, themis.ReadOnly},
		{"unknown, then refused", true, []error{unknown, full}, themis.OutcomeUnknown},
		{"unknown, then not done until time is over", true, []error{unknown, nobody, nobody}, themis.OutcomeUnknown},
		{"unknown, then not reached until time is over", true, []error{unknown, late}, themis.OutcomeUnknown},
		{"unknown, then done", true, []error{unknown, nobody, nil}, ""},
		{"unknown, and not to be repeated", false, []error{unknown}, themis.OutcomeUnknown},
		{"not reached until time is over", true, []error{late, late}, themis.NoPrimary},
	} {
		r := &router{n: &Node{}}
		r.n.view.Store(&cluster.View{})
		ctx, cancel := context.WithCancel(t.Context())
		tries := 0
		err := r.try(ctx, c.repeatable, sender{}, func(cluster.View) error {
			tries++
			if tries == len(c.ends) {
				cancel()
			}
			return c.ends[tries-1]
		})
		if got := themis.CodeOf(err); err == nil && c.want != "" || err != nil && got != c.want || tries != len(c.ends) {
			t.Errorf("%s: %v after %d attempts, want %q", c.what, err, tries, c.want)
		}
		cancel()
	}
}

// A document that was acknowledged in a new collection is read and listed by its primary, though the map that the primary goes by is older
// than the collection.
func TestNewCollectionBehindAnOldMap(t *testing.T) {
	t.Parallel()
	f := newFleet(t, "node-1")
	f.found(initArgs{Name: "demo", Shards: 1, RF: 1, Redundancy: "NONE", Mode: themis.Sync})
	f.until("node-1", "HEALTHY", isHealthy)
	n := f.nodes["node-1"].inside.Load()
	old, ok := n.latest()
	if !ok {
		t.Fatal("no map")
	}
	if err := f.put("node-1", "k", `{"a":1}`); err != nil {
		t.Fatal(err)
	}
	if _, known := old.Collection("things"); known {
		t.Fatal("the old map has the collection")
	}
	r := &router{n: n}
	got, err := r.readHere(t.Context(), old, "shard-1", themis.Strong, placement("", "k"), &nodev1.ReadRequest{Collection: "things", Key: "k"})
	if err != nil || string(got.GetValue()) != `{"a":1}` {
		t.Errorf("read: %q, %v", got.GetValue(), err)
	}
	scan := func(collection string) (keys []string) {
		err := r.scanHere(t.Context(), old, "shard-1", themis.Strong, &nodev1.ScanRequest{Collection: collection, ShardId: "shard-1"}, func(d *nodev1.ScannedDocument) error {
			keys = append(keys, d.GetKey())
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		return keys
	}
	if keys := scan("things"); !slices.Equal(keys, []string{"k"}) {
		t.Errorf("listed: %v", keys)
	}
	if keys := scan("nothing"); len(keys) != 0 {
		t.Errorf("of no collection: %v", keys)
	}
}

// A node that is cut off from the control plane tells a client that can ask other nodes at once that it does not lead; for all others, and
// while its lease holds, it waits for a primary.
func TestCutOffNodeKeepsNobodyWaiting(t *testing.T) {
	m, err := control.NewMap(control.NewMemory(nil), "c1", control.Options{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	lease, err := m.Heartbeat(t.Context(), cluster.Alive{Node: "node-1", Storage: "disk-1", Boot: "boot-1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		lease bool
		from  sender
		tries int
	}{
		"cut off, a client with a map":   {false, senderOf(&nodev1.WriteRequest{ShardId: "shard-1"}), 1},
		"cut off, one without":           {false, senderOf(&nodev1.ReadRequest{}), 3},
		"a client with a map":            {true, senderOf(&nodev1.ScanRequest{ShardId: "shard-1"}), 3},
		"another node, which can repeat": {true, senderOf(&nodev1.WriteRequest{ShardId: "shard-1", Forwarded: true}), 1},
	} {
		r := &router{n: &Node{}}
		r.n.view.Store(&cluster.View{})
		if c.lease {
			r.n.lease.Store(lease)
		}
		ctx, cancel := context.WithCancel(t.Context())
		tries := 0
		err := r.try(ctx, true, c.from, func(cluster.View) error {
			if tries++; tries == 3 {
				cancel()
			}
			return themis.Errorf(themis.NoPrimary, "nobody leads")
		})
		if tries != c.tries || themis.CodeOf(err) != themis.NoPrimary {
			t.Errorf("%s: %d attempts, want %d; %v", name, tries, c.tries, err)
		}
		cancel()
	}
}
