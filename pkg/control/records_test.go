package control

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// TestTwoControllers: of many that take the next term, one wins.
func TestTwoControllers(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, seen := start(t, kv, 1)
		var won atomic.Int64
		var racing sync.WaitGroup
		for i := range 8 {
			racing.Go(func() {
				_, err := m.TakeController(t.Context(), seen, member(i).Node, "b")
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, ErrStale):
					t.Error(err)
				}
			})
		}
		racing.Wait()
		if v := view(t, m); won.Load() != 1 || v.Controller.Term != 2 {
			t.Errorf("%d won term %d", won.Load(), v.Controller.Term)
		}
	})
}

func TestNodes(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, _ := start(t, kv, 1)
		n, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node-4", Storage: "disk-4", Role: cluster.RoleActive})
		if err != nil || n.Revision == 0 {
			t.Fatal(n, err)
		}
		if again, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node-4", Storage: "disk-4"}); err != nil || again.Revision != n.Revision || again.Role != n.Role {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node-4", Storage: "other"}); themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Errorf("another disk: %v", err)
		}
		if _, err := m.RegisterNode(t.Context(), cluster.Node{Format: 1, ID: "node/4", Storage: "other"}); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("another key: %v", err)
		}
		n.Draining = true
		updated, err := m.UpdateNode(t.Context(), n)
		if err != nil || !view(t, m).Nodes["node-4"].Draining {
			t.Fatal(err)
		}
		if _, err := m.UpdateNode(t.Context(), n); !errors.Is(err, ErrStale) {
			t.Errorf("stale update: %v", err)
		}
		if updated.Revision == n.Revision {
			t.Error("the old revision was returned")
		}
		if err := m.RemoveNode(t.Context(), "node-1"); themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Errorf("removed with copies: %v", err)
		}
		if err := errors.Join(m.RemoveNode(t.Context(), "node-4"), m.RemoveNode(t.Context(), "node-4")); err != nil {
			t.Error(err)
		}
	})
}

func TestVerdicts(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, c := start(t, kv, 1)
		f := cluster.Failed{Format: 1, Node: "node-2", Boot: "boot-2", Why: "refused the connection", Since: time.Unix(1, 0)}
		later := f
		later.Since = time.Unix(2, 0)
		if err := errors.Join(m.DeclareFailed(t.Context(), c, f), m.DeclareFailed(t.Context(), c, later)); err != nil {
			t.Fatal(err)
		}
		v := view(t, m)
		if got := v.Failed["node-2"]; got.Term != c.Term || !got.Since.Equal(f.Since) {
			t.Errorf("verdict: %+v", got)
		}
		if s, _ := v.NodeState("node-2"); s != cluster.FailedState {
			t.Errorf("state %s", s)
		}
		if err := errors.Join(m.ClearFailed(t.Context(), c, "node-2"), m.ClearFailed(t.Context(), c, "node-2")); err != nil {
			t.Fatal(err)
		}
		if v := view(t, m); len(v.Failed) != 0 {
			t.Errorf("still failed: %v", v.Failed)
		}
		before := view(t, m).Revision
		if err := errors.Join(m.Confirm(t.Context(), c), m.Confirm(t.Context(), c)); err != nil {
			t.Fatal(err)
		}
		if now := view(t, m).Revision; now != before {
			t.Errorf("a confirmation changed something: revision %d, then %d", before, now)
		}
		if _, err := m.TakeController(t.Context(), c, "node-2", "boot-2"); err != nil {
			t.Fatal(err)
		}
		if err := m.Confirm(t.Context(), c); !errors.Is(err, ErrDeposed) {
			t.Errorf("confirmed after another took over: %v", err)
		}
		if err := m.DeclareFailed(t.Context(), c, f); !errors.Is(err, ErrDeposed) {
			t.Errorf("by a deposed controller: %v", err)
		}
	})
}

func TestEnsureCollection(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, _ := start(t, kv, 1)
		var asking sync.WaitGroup
		var mu sync.Mutex
		ids := map[string]map[themis.CollectionID]bool{}
		for i := range 9 {
			name := fmt.Sprintf("orders%d", i%3)
			asking.Go(func() {
				c, err := m.EnsureCollection(t.Context(), name)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if ids[name] == nil {
					ids[name] = map[themis.CollectionID]bool{}
				}
				ids[name][c.ID] = true
			})
		}
		asking.Wait()
		v := view(t, m)
		if len(v.Collections) != 3 {
			t.Errorf("%d collections", len(v.Collections))
		}
		for name, of := range ids {
			if c, ok := v.Collection(name); !ok || len(of) != 1 || !of[c.ID] {
				t.Errorf("%s has %v, the map says %d", name, of, c.ID)
			}
		}
		if _, err := m.EnsureCollection(t.Context(), "_system"); themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("a name of the system's: %v", err)
		}
	})
}

func TestApplySettings(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, v, _ := start(t, kv, 1)
		s := cluster.Settings{Values: map[string]string{"a": "2"}, Who: "ops"}
		got, err := m.ApplySettings(t.Context(), v.Settings.Version, s)
		if err != nil || got.Version != 2 {
			t.Fatal(got, err)
		}
		if again, err := m.ApplySettings(t.Context(), 2, s); err != nil || again.Version != 2 {
			t.Errorf("the same again: %+v, %v", again, err)
		}
		if _, err := m.ApplySettings(t.Context(), 1, cluster.Settings{Values: map[string]string{"a": "3"}}); !errors.Is(err, ErrStale) {
			t.Errorf("from a stale version: %v", err)
		}
		if now := view(t, m).Settings; now.Values["a"] != "2" || now.Who != "ops" {
			t.Errorf("in force: %+v", now)
		}
	})
}

func TestEvents(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, c := start(t, kv, 1)
		now := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
		for i := range 10 {
			e := cluster.Event{HLC: themis.HLCAt(now.Add(time.Duration(i-40) * 24 * time.Hour)), Action: fmt.Sprint(i)}
			if _, err := m.AppendEvent(t.Context(), "node-1", e); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 5 { // all at one timestamp
			if _, err := m.AppendEvent(t.Context(), "node-2", cluster.Event{HLC: themis.HLCAt(now), Action: fmt.Sprint("n", i), Before: []byte(`"` + strings.Repeat("x", evidenceMax) + `"`)}); err != nil {
				t.Fatal(err)
			}
		}
		for _, want := range []struct {
			from, to themis.HLC
			limit    int
			actions  string
		}{
			{0, 0, 0, "0 1 2 3 4 5 6 7 8 9 n0 n1 n2 n3 n4"},
			{0, 0, 2, "n3 n4"},
			{themis.HLCAt(now), 0, 0, "n0 n1 n2 n3 n4"},
			{0, themis.HLCAt(now), 1, "9"},
			{themis.HLCAt(now) + 1, 0, 0, ""},
		} {
			es, err := m.Events(t.Context(), want.from, want.to, want.limit)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range es {
				got = append(got, e.Action)
				if len(e.Before) > 100 {
					t.Errorf("%s: evidence of %d bytes", e.ID, len(e.Before))
				}
			}
			if g := strings.Join(got, " "); g != want.actions {
				t.Errorf("%v: %q", want, g)
			}
		}
		if n, err := m.TrimEvents(t.Context(), c, now.Add(-2*24*time.Hour)); err != nil || n != 8 {
			t.Errorf("trimmed %d by age, %v", n, err)
		}
		if n, err := m.trimEvents(t.Context(), c, now, 3); err != nil || n != 4 {
			t.Errorf("trimmed %d by number, %v", n, err)
		}
		if es, err := m.Events(t.Context(), 0, 0, 0); err != nil || len(es) != 3 || es[0].Action != "n2" {
			t.Errorf("left: %v, %v", es, err)
		}
		if _, err := m.TakeController(t.Context(), c, "node-2", "b"); err != nil {
			t.Fatal(err)
		}
		if _, err := m.trimEvents(t.Context(), c, now, 0); !errors.Is(err, ErrDeposed) {
			t.Errorf("trimmed by a deposed controller: %v", err)
		}
		if _, err := m.AppendEvent(t.Context(), "node-1", cluster.Event{}); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("without a timestamp: %v", err)
		}
	})
}

// TestEventsNeverOverwrite: another run of the process has used the same ids, and an answer is lost.
func TestEventsNeverOverwrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		start(t, mem, 1)
		for run, kv := range []KV{mem, mem, lossy(mem, true, func(n int64) bool { return n < 3 }), lossy(mem, false, func(n int64) bool { return n < 3 })} {
			e, err := newMap(t, kv).AppendEvent(t.Context(), "node-1", cluster.Event{HLC: 77, Action: fmt.Sprint(run)})
			if err != nil || e.ID == "" {
				t.Error(err)
			}
		}
		if es, err := newMap(t, mem).Events(t.Context(), 0, 0, 0); err != nil || len(es) != 4 {
			t.Errorf("%d events, %v", len(es), err)
		}
	})
}

func TestTokens(t *testing.T) {
	bothStores(t, func(t *testing.T, kv KV) {
		m, _, _ := start(t, kv, 1)
		now := time.Unix(1_800_000_000, 0)
		hash := strings.Repeat("ab", 32)
		if err := m.CreateToken(t.Context(), cluster.JoinToken{Hash: hash, Expires: now.Add(time.Hour)}, now); err != nil {
			t.Fatal(err)
		}
		if err := m.CreateToken(t.Context(), cluster.JoinToken{Hash: hash, Expires: now.Add(9 * time.Hour)}, now); err == nil {
			t.Error("a token was made anew")
		}
		if err := m.ConsumeToken(t.Context(), hash, "disk-9", now.Add(time.Hour)); themis.CodeOf(err) != themis.PermissionDenied {
			t.Errorf("expired: %v", err)
		}
		var won atomic.Int64
		var racing sync.WaitGroup
		for i := range 8 {
			racing.Go(func() {
				switch err := m.ConsumeToken(t.Context(), hash, fmt.Sprint("disk-", i), now); {
				case err == nil:
					won.Add(1)
				case themis.CodeOf(err) != themis.PermissionDenied:
					t.Error(err)
				}
			})
		}
		racing.Wait()
		if won.Load() != 1 {
			t.Errorf("used %d times", won.Load())
		}
		for _, h := range []string{strings.Repeat("cd", 32), "../meta", ""} {
			if err := m.ConsumeToken(t.Context(), h, "x", now); err == nil {
				t.Errorf("token %q was taken", h)
			}
		}
		later := now.Add(26 * time.Hour)
		if err := m.CreateToken(t.Context(), cluster.JoinToken{Hash: strings.Repeat("ef", 32), Expires: later}, later); err != nil {
			t.Fatal(err)
		}
		if left, _, err := kv.List(t.Context(), Prefix(m.keys.of(underTokens))); err != nil || len(left) != 1 {
			t.Errorf("%d tokens are left, %v", len(left), err)
		}
	})
}

// TestRoutingInParts: a table too large for one value comes back whole, and the parts of the one before go.
func TestRoutingInParts(t *testing.T) {
	kv := memoryStore(t).KV
	m, v, c := start(t, kv, 64)
	table := v.Routing
	var ranges []routing.Range
	const n = 60_000
	for i := range uint64(n) {
		from, to := i<<32/n, (i+1)<<32/n-1
		ranges = append(ranges, routing.Range{From: themis.Token(from), To: themis.Token(to), Shard: routing.ShardAt(int(i % 64))})
	}
	for range 2 {
		next, err := routing.NewTable(table.Version()+1, ranges)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.ChangeRouting(t.Context(), c, table); !errors.Is(err, ErrStale) {
			t.Errorf("the same version again: %v", err)
		}
		if err := m.ChangeRouting(t.Context(), c, next); err != nil {
			t.Fatal(err)
		}
		table = next
		if got := view(t, m).Routing; got.Version() != next.Version() || got.Len() != n {
			t.Errorf("version %d with %d ranges", got.Version(), got.Len())
		}
	}
	parts, _, err := kv.List(t.Context(), Prefix(m.keys.of(keyRouting+"/")))
	if err != nil || len(parts) < 2 {
		t.Fatalf("%d parts, %v", len(parts), err)
	}
	for _, p := range parts {
		if !strings.Contains(p.Key, fmt.Sprintf("/%020d/", table.Version())) {
			t.Errorf("left over: %s", p.Key)
		}
	}
	if _, err := m.TakeController(t.Context(), c, "node-2", "b"); err != nil {
		t.Fatal(err)
	}
	next, err := routing.NewTable(table.Version()+1, v.Routing.Ranges())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.ChangeRouting(t.Context(), c, next); !errors.Is(err, ErrDeposed) {
		t.Errorf("by a deposed controller: %v", err)
	}
}
