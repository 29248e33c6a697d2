package node

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// unusedOn is what a node says of unused copies, without the cluster's help.
func (f *fleet) unusedOn(name string) map[themis.ShardID]health.UnusedCopy {
	f.t.Helper()
	m, err := f.admin(name).GetLocalState(f.t.Context(), &nodev1.GetLocalStateRequest{})
	var st health.NodeState
	if err == nil {
		err = json.Unmarshal(m.GetStateJson(), &st)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	out := map[themis.ShardID]health.UnusedCopy{}
	for _, c := range st.Unused {
		out[c.Shard] = c
	}
	return out
}

func (f *fleet) eventually(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(40 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s did not come about", what)
		}
		select {
		case <-f.t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (f *fleet) has(path ...string) bool {
	_, err := os.Stat(f.path(path...))
	return err == nil
}

// A node comes back whose copies were replaced: what it held is removed, but not what was rescued in it, and not while the map can't be
// read. Copies that are in use stay.
func TestUnusedCopies(t *testing.T) {
	t.Parallel()
	f := newFleetWith(t, nil, "node-1", "node-2", "node-3")
	f.keepUnused = 400 * time.Millisecond
	for _, n := range []string{"node-1", "node-2", "node-3"} {
		f.start(n)
	}
	f.foundOf(mirrored, "node-1", "node-2")
	f.until("node-1", "HEALTHY", isHealthy)
	for i := range 20 {
		if err := f.put("node-1", fmt.Sprint("k", i), `{}`); err != nil {
			t.Fatal(err)
		}
	}
	f.join("node-1", "node-3", joinArgs{Control: "no"})
	f.stop("node-2")
	f.until("node-1", "all copies elsewhere", func(r health.Report) bool {
		return !slices.ContainsFunc(r.Shards, func(s health.ShardReport) bool {
			return len(s.ISR) != 2 || slices.Contains(s.ISR, "node-2") || s.Primary == ""
		})
	})
	rescued := f.path("node-2", "shards", "shard-1", "rescued", "acknowledged-epoch-1-seq-1-1-writes-1.ndjson")
	if err := os.MkdirAll(filepath.Dir(rescued), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rescued, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.start("node-2")
	f.untilEvent("node-1", "the audit trail has what was freed", func(e cluster.Event) bool {
		var bytes int
		n, _ := fmt.Sscanf(e.Reason, "%d bytes freed", &bytes)
		return e.Action == "remove_copy" && e.Subject == "shard-2" && e.Actor.ID == "node-2" && n == 1 && bytes > 1000
	})
	if f.has("node-2", "shards", "shard-2") || f.has("node-2", removingDir, "shard-2") {
		t.Error("the copy of shard-2 is still there")
	}
	f.until("node-3", "health says what is kept", func(r health.Report) bool {
		return slices.ContainsFunc(r.Findings, func(x health.Finding) bool {
			return x.Code == health.UnusedCopyKept && x.Subject == "shard-1/node-2" && strings.Contains(x.Why, "rescued/ holds 1 files")
		})
	})

	f.stop("node-1") // the map can't be read any more
	f.eventually("node-2 says so", func() bool { return strings.Contains(f.unusedOn("node-2")["shard-1"].Kept, "the map can't be read") })
	if err := os.Remove(rescued); err != nil {
		t.Fatal(err)
	}
	since := f.unusedOn("node-2")["shard-1"].Since
	f.eventually("it was looked at again, twice the time that it is kept later", func() bool {
		return f.unusedOn("node-2")["shard-1"].Since.Sub(since) > 2*f.keepUnused
	})
	if !f.has("node-2", "shards", "shard-1", "wal") {
		t.Fatal("removed while the map could not be read")
	}
	f.start("node-1")
	f.eventually("the copy of shard-1 is removed", func() bool { return !f.has("node-2", "shards", "shard-1") })
	f.until("node-1", "HEALTHY, without a word of it", func(r health.Report) bool {
		return isHealthy(r) && !slices.ContainsFunc(r.Findings, func(x health.Finding) bool { return x.Code == health.UnusedCopyKept })
	})
	for i := range 20 {
		if got, err := f.get("node-2", fmt.Sprint("k", i)); err != nil || got != `{}` {
			t.Fatalf("%q, %v", got, err)
		}
	}
	for _, n := range []string{"node-1", "node-3"} {
		if !f.has(n, "shards", "shard-1", "wal") || !f.has(n, "shards", "shard-2", "wal") {
			t.Errorf("%s lost a copy in use", n)
		}
	}
}

// Which maps let go of a copy.
func TestCopyInTheMapIsNeverRemoved(t *testing.T) {
	self, two, three := cluster.Member{Node: "node-1", Storage: "disk-1"}, cluster.Member{Node: "node-2", Storage: "disk-2"}, cluster.Member{Node: "node-3", Storage: "disk-3"}
	for name, c := range map[string]struct {
		edit func(v *cluster.View, s *cluster.Shard)
		want string // empty: it may be removed
	}{
		"in use elsewhere": {func(*cluster.View, *cluster.Shard) {}, ""},
		"a replica": {func(_ *cluster.View, s *cluster.Shard) {
			s.Replicas = append(s.Replicas, cluster.Replica{Member: self})
		}, "in the map"},
		"in sync":     {func(_ *cluster.View, s *cluster.Shard) { s.ISR = append(s.ISR, self) }, "in the map"},
		"the primary": {func(_ *cluster.View, s *cluster.Shard) { s.Primary = self }, "in the map"},
		"its disk, another name": {func(_ *cluster.View, s *cluster.Shard) {
			s.Replicas[0].Member = cluster.Member{Node: "node-9", Storage: "disk-1"}
		}, "in the map"},
		"its name, another disk": {func(_ *cluster.View, s *cluster.Shard) {
			s.Replicas[0].Member = cluster.Member{Node: "node-1", Storage: "disk-9"}
		}, "in the map"},
		"another cluster":         {func(v *cluster.View, _ *cluster.Shard) { v.Meta.ID = "c-2" }, "cluster c-2"},
		"the node is no member":   {func(v *cluster.View, _ *cluster.Shard) { delete(v.Nodes, "node-1") }, "does not know this disk"},
		"the node has a new disk": {func(v *cluster.View, _ *cluster.Shard) { v.Nodes["node-1"] = cluster.Node{Storage: "disk-9"} }, "does not know this disk"},
		"no such shard":           {func(v *cluster.View, _ *cluster.Shard) { delete(v.Shards, "shard-1") }, "does not know the shard"},
		"nobody leads":            {func(_ *cluster.View, s *cluster.Shard) { s.Primary = cluster.Member{} }, "no primary"},
		"a copy is missing":       {func(_ *cluster.View, s *cluster.Shard) { s.ISR = s.ISR[:1] }, "1 of 2 copies"},
		"more copies are wanted":  {func(_ *cluster.View, s *cluster.Shard) { s.Want.RF = 3 }, "2 of 3 copies"},
		"more copies are counted": {func(_ *cluster.View, s *cluster.Shard) { s.Have.RF = 3 }, "2 of 3 copies"},
	} {
		t.Run(name, func(t *testing.T) {
			s := cluster.Shard{
				ID: "shard-1", Primary: two, ISR: []cluster.Member{two, three}, Replicas: []cluster.Replica{{Member: two}, {Member: three}},
				Want: cluster.Policy{RF: 2}, Have: cluster.Policy{RF: 2},
			}
			v := cluster.View{Meta: cluster.Meta{ID: "c-1"}, Nodes: map[themis.NodeID]cluster.Node{"node-1": {Storage: "disk-1"}}, Shards: map[themis.ShardID]cluster.Shard{"shard-1": {}}}
			c.edit(&v, &s)
			if _, there := v.Shards["shard-1"]; there {
				v.Shards["shard-1"] = s
			}
			if got := inUse(v, "c-1", self, "shard-1"); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// What a copy's log holds must be in the primary's.
func TestUnusedCopyIsCovered(t *testing.T) {
	two := cluster.Member{Node: "node-2", Storage: "disk-2"}
	v := cluster.View{Shards: map[themis.ShardID]cluster.Shard{"shard-1": {ID: "shard-1", Primary: two}}}
	lineage := []themis.EpochStart{{Epoch: 1, Seq: 1}, {Epoch: 3, Seq: 50}}
	at := func(seq themis.Seq, epoch themis.Epoch, starts ...themis.EpochStart) wal.Inspection {
		return wal.Inspection{Lineage: starts, Last: themis.Position{Seq: seq, Epoch: epoch}, Entries: 1}
	}
	for name, c := range map[string]struct {
		log     wal.Inspection
		primary *health.NodeState
		want    string // empty: it may be removed
	}{
		"all of it is there":            {at(49, 1, lineage[0]), nil, ""},
		"as far as the primary":         {at(90, 3, lineage...), nil, ""},
		"nothing in it":                 {wal.Inspection{}, nil, ""},
		"under reset":                   {wal.Inspection{Resetting: true}, nil, ""},
		"a tail of its own":             {at(52, 1, lineage[0]), nil, "only what is up to seq 49"},
		"a reign that nobody followed":  {at(60, 2, lineage[0], themis.EpochStart{Epoch: 2, Seq: 50}), nil, "only what is up to seq 49"},
		"an epoch that LOG lacks":       {wal.Inspection{Lineage: lineage[:1], Epochs: []themis.EpochStart{{Epoch: 2, Seq: 48}}, Last: themis.Position{Seq: 48, Epoch: 2}, Entries: 1}, nil, "up to seq 47"},
		"more than the primary":         {at(91, 3, lineage...), nil, "only what is up to seq 90"},
		"what the primary has trimmed":  {at(49, 1, lineage[0]), &health.NodeState{Replicas: []health.LocalReplica{{Shard: "shard-1", Storage: "disk-2", Role: health.Primary, Seq: 90, Lineage: lineage[1:]}}}, "up to seq 0"},
		"damaged":                       {wal.Inspection{Findings: []wal.Finding{{Fault: wal.FaultFlipped}}, Entries: 1}, nil, "damaged (FLIPPED)"},
		"the primary does not lead":     {at(49, 1, lineage[0]), &health.NodeState{Replicas: []health.LocalReplica{{Shard: "shard-1", Storage: "disk-2", Role: health.Replica}}}, "does not lead"},
		"the primary is another disk":   {at(49, 1, lineage[0]), &health.NodeState{Replicas: []health.LocalReplica{{Shard: "shard-1", Storage: "disk-9", Role: health.Primary}}}, "does not lead"},
		"the primary has no such shard": {at(49, 1, lineage[0]), &health.NodeState{}, "does not lead"},
	} {
		t.Run(name, func(t *testing.T) {
			st := c.primary
			if st == nil {
				st = &health.NodeState{Replicas: []health.LocalReplica{{Shard: "shard-1", Storage: "disk-2", Role: health.Primary, Seq: 90, Lineage: lineage}}}
			}
			n := &Node{}
			n.gather = newGatherer(n)
			n.gather.seen["node-2"], n.gather.at = health.Observed{State: st}, time.Now().Add(time.Hour)
			got := newUnused(n).uncovered(t.Context(), v, &unusedCopy{UnusedCopy: health.UnusedCopy{Shard: "shard-1"}, log: &c.log})
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// The map brings a copy back after its log was read, it takes more in, and the map lets go of it again, all between two sweeps: it is a
// new unused copy, and what it holds by then counts.
func TestUnusedCopyThatWasOpenedAgain(t *testing.T) {
	n := &Node{}
	n.cfg.Node.DataDir = t.TempDir()
	n.shards = newShards(n)
	dir := n.dir("shards", "shard-1", "wal")
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(entries int) {
		l, _, err := wal.Open(dir, wal.Options{Cluster: "c", Shard: "shard-1", Storage: "disk-1"})
		if err == nil {
			err = l.SetEpoch(1)
		}
		for range entries {
			var a *wal.Append
			if err == nil {
				a, err = l.Begin(themis.KindWrite, themis.Tags{}, themis.AppendOps(nil, []themis.Op{{Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Key: "k", Value: []byte(`1`)}}), 1)
			}
			if err == nil {
				err = a.Wait()
			}
		}
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	two := cluster.Member{Node: "node-2", Storage: "disk-2"}
	v := cluster.View{Shards: map[themis.ShardID]cluster.Shard{"shard-1": {ID: "shard-1", Primary: two}}}
	st := &health.NodeState{Replicas: []health.LocalReplica{{Shard: "shard-1", Storage: "disk-2", Role: health.Primary, Seq: 15, Lineage: []themis.EpochStart{{Epoch: 1, Seq: 1}}}}}
	n.gather = newGatherer(n)
	n.gather.seen["node-2"], n.gather.at = health.Observed{State: st}, time.Now().Add(time.Hour)

	write(10)
	u := newUnused(n)
	before, err := u.note("shard-1")
	if err != nil {
		t.Fatal(err)
	}
	before.Since = before.Since.Add(-time.Hour)
	if why := u.uncovered(t.Context(), v, before); why != "" {
		t.Fatal(why)
	}
	n.shards.tried["shard-1"] = time.Now() // as when it is opened
	write(10)
	if _, kept, err := u.takeAway(t.Context(), nil, before, false); err != nil || !strings.Contains(kept, "since it was looked at") {
		t.Errorf("taken away by what was known before: %q, %v", kept, err)
	}
	after, err := u.note("shard-1")
	if err != nil {
		t.Fatal(err)
	}
	if !after.Since.After(before.Since.Add(time.Hour - time.Minute)) {
		t.Errorf("unused since %s", after.Since)
	}
	if why := u.uncovered(t.Context(), v, after); !strings.Contains(why, "ends at seq 20") {
		t.Errorf("its newest entries are nowhere else: %q", why)
	}
}
