package node

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/routing"
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

// silent is a control plane that may stop answering.
type silent struct {
	control.KV
	quiet, gone bool
}

func (s *silent) List(ctx context.Context, ranges ...control.Range) ([]control.Record, themis.Revision, error) {
	if s.gone {
		return nil, 0, themis.Errorf(themis.Unreachable, "control plane refused the connection")
	}
	if s.quiet {
		<-ctx.Done()
		return nil, 0, ctx.Err()
	}
	return s.KV.List(ctx, ranges...)
}

func (s *silent) Get(ctx context.Context, key string) (control.Record, error) {
	records, _, err := s.List(ctx, control.Only(key))
	if err != nil || len(records) == 0 {
		return control.Record{Key: key}, err
	}
	return records[0], nil
}

// newCollections is a router whose map knows no collection yet.
func newCollections(t *testing.T) (*router, *control.Map, *silent) {
	t.Helper()
	kv := &silent{KV: control.NewMemory(nil)}
	m, err := control.NewMap(kv, "c1", control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	table, err := routing.First(2, 8)
	if err != nil {
		t.Fatal(err)
	}
	r := &router{n: &Node{}}
	r.n.m.Store(m)
	r.n.view.Store(&cluster.View{Routing: table})
	return r, m, kv
}

// A delete in a collection that there is not is answered like one of a document that there is not, and makes no collection.
func TestADeleteMakesNoCollection(t *testing.T) {
	r, m, _ := newCollections(t)
	for _, c := range []struct {
		what string
		ops  []*nodev1.Operation
		want themis.Code
		says string
	}{
		{"a delete", []*nodev1.Operation{{Key: "a", Delete: true}}, themis.NotFound, `document "a" does not exist`},
		{"two", []*nodev1.Operation{{Key: "a", Delete: true}, {Key: "a", Delete: true}}, themis.NotFound, `document "a" does not exist`},
		{"of a version", []*nodev1.Operation{{Key: "a", Delete: true, IfMatch: "019e830e1a000004"}}, themis.VersionMismatch, `document "a" does not exist; If-Match asked for version 019e830e1a000004`},
	} {
		_, err := r.Write(t.Context(), &nodev1.WriteRequest{Collection: "nothing", Operations: c.ops})
		e, ok := errors.AsType[*themis.Error](err)
		if !ok || e.Code != c.want || e.Detail != c.says || e.Shard != r.n.view.Load().Routing.Shard(placement("", "a")) {
			t.Errorf("%s: %v of shard %q", c.what, err, e.Shard)
		}
		if ok && e.Code == themis.NotFound && e.Fix != "themis-cli doc scan nothing --limit 10" {
			t.Errorf("%s: next %q", c.what, e.Fix)
		}
	}
	if _, made, err := m.Collection(t.Context(), "nothing"); made || err != nil {
		t.Errorf("made %t, %v", made, err)
	}
	if c, err := m.EnsureCollection(t.Context(), "new"); err != nil { // which the map here does not know yet
		t.Error(err)
	} else if id, err := r.collection(t.Context(), &nodev1.WriteRequest{Collection: "new", Operations: []*nodev1.Operation{{Key: "a", Delete: true}}}); err != nil || id != c.ID {
		t.Errorf("of another node's: %d, %v", id, err)
	}
}

// What the control plane did not answer in the request's time was surely not done: that it has no primary would be said of a shard that may have one.
func TestTimeThatEndsBeforeAWriteIsADeadline(t *testing.T) {
	r, _, kv := newCollections(t)
	put, del := &nodev1.Operation{Key: "a", Value: []byte("1")}, &nodev1.Operation{Key: "a", Delete: true}
	for what, c := range map[string]struct {
		op   *nodev1.Operation
		gone bool
		want themis.Code
	}{
		"a new collection":                      {put, false, themis.Deadline},
		"a delete":                              {del, false, themis.Deadline},
		"a shard key":                           {&nodev1.Operation{Key: "a", ShardKey: "b", Value: []byte("1")}, false, themis.Deadline},
		"a new collection, and nobody there":    {put, true, themis.NoPrimary},
		"a delete, and nobody there":            {del, true, themis.NoPrimary},
		"a read by shard key, and nobody there": {nil, true, themis.NoPrimary},
	} {
		kv.quiet, kv.gone = !c.gone, c.gone
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		var err error
		if c.op == nil {
			_, err = r.Read(ctx, &nodev1.ReadRequest{Collection: "new", Key: "a", ShardKey: "b"})
		} else {
			_, err = r.Write(ctx, &nodev1.WriteRequest{Collection: "new", Operations: []*nodev1.Operation{c.op}})
		}
		cancel()
		if themis.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
}
