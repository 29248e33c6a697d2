package controller

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// TestStepAlways draws worlds and checks what must hold in each of them.
func TestStepAlways(t *testing.T) {
	reached := map[string]int{}
	for seed := range uint64(5000) {
		w := drawWorld(rand.New(rand.NewPCG(seed, 1)))
		t := seeded{t, seed}
		actions := Step(w, noon, Default())
		if again := Step(w, noon, Default()); !reflect.DeepEqual(actions, again) {
			t.Fatalf("the same world gave %v, then %v", actions, again)
		}
		perShard := map[themis.ShardID]int{}
		for _, a := range actions {
			reached[fmt.Sprintf("%T", a)]++
			if id, changed := apply(t, &w, a); id != "" {
				if perShard[id]++; perShard[id] > 1 {
					t.Fatalf("%s is changed twice: %v", id, actions)
				}
				if changed != nil {
					w.View.Shards[id] = *changed
				}
			}
		}
		for _, fault := range w.View.Check() {
			if !strings.HasPrefix(fault.Error(), "routing") && !strings.Contains(fault.Error(), "which is no member") {
				t.Fatalf("after %v: %v", actions, fault)
			}
		}
	}
	for _, want := range []string{"DeclareFailed", "ClearFailed", "Rehouse", "Elect", "Join", "Enlist", "Drop", "StandDown", "NotDone"} {
		if reached["controller."+want] == 0 {
			t.Errorf("no drawn world led to %s: %v", want, reached)
		}
	}
}

// seeded names the seed with every failure.
type seeded struct {
	*testing.T
	seed uint64
}

func (s seeded) Fatalf(format string, args ...any) {
	s.Helper()
	s.T.Fatalf("seed %d: "+format, append([]any{s.seed}, args...)...)
}

// apply makes the record that the action leads to, with the functions that the control plane uses, and checks the action's right
// to be.
func apply(t seeded, w *World, a Action) (themis.ShardID, *cluster.Shard) {
	must := func(s cluster.Shard, err error) *cluster.Shard {
		if err != nil {
			t.Fatalf("%s: %v", a, err)
		}
		return &s
	}
	switch a := a.(type) {
	case DeclareFailed:
		p := w.Probes[a.Node]
		unwatched := p.Watched.IsZero() || noon.Sub(p.Watched) < time.Second
		if p.FailingSince.IsZero() || noon.Sub(p.LastOK) < time.Second || noon.Sub(w.Since) < time.Second && unwatched {
			t.Fatalf("%s too early: %+v", a, p)
		}
	case Elect:
		s := w.View.Shards[a.Shard]
		if reigns(*w, s) {
			t.Fatalf("%s, though %s reigns: %+v", a, s.Primary, w.Probes[s.Primary.Node])
		}
		if w.Paused != "" || a.Epoch != s.Epoch+1 {
			t.Fatalf("%s: paused %q, epoch %d", a, w.Paused, s.Epoch)
		}
		return a.Shard, nil
	case Rehouse:
		return a.Shard, must(w.View.Shards[a.Shard].Rehouse(a.Node, a.Storage))
	case Join:
		return a.Shard, must(w.View.Shards[a.Shard].Join(a.Replica))
	case Enlist:
		return a.Shard, must(w.View.Shards[a.Shard].Enlist(a.Member, a.Replaces))
	case Drop:
		return a.Shard, must(w.View.Shards[a.Shard].Drop(a.Member))
	case StandDown:
		return a.Shard, must(w.View.Shards[a.Shard].StandDown(a.Member))
	}
	return "", nil
}

// reigns is a second opinion on whether the shard has a primary that is well.
func reigns(w World, s cluster.Shard) bool {
	n, member := w.View.Nodes[s.Primary.Node]
	_, failed := w.View.Failed[s.Primary.Node]
	a, alive := w.View.Alive[s.Primary.Node]
	p := w.Probes[s.Primary.Node]
	return s.Epoch > 0 && member && !failed && alive && n.Storage == s.Primary.Storage &&
		p.Boot == s.Boot && p.FailingSince.IsZero() && len(p.Unfit) == 0 && len(p.Resigned) == 0 && !a.DiskFull
}

func drawWorld(rng *rand.Rand) World {
	dice := func(n int) bool { return rng.IntN(n) == 0 }
	ago := func(most int) time.Time { return noon.Add(-time.Duration(rng.IntN(most)) * time.Millisecond) }
	between := func(a, b int) int { return a + rng.IntN(b-a+1) }
	w := World{
		Self: "node-1", Since: ago(20000), Probes: map[themis.NodeID]Probe{}, AliveGone: map[themis.NodeID]time.Time{}, FailedSince: map[themis.NodeID]time.Time{}, Elections: map[themis.ShardID]Attempt{},
		View: cluster.View{
			Meta: cluster.Meta{ID: "c"}, Nodes: map[themis.NodeID]cluster.Node{}, Alive: map[themis.NodeID]cluster.Alive{},
			Failed: map[themis.NodeID]cluster.Failed{}, Shards: map[themis.ShardID]cluster.Shard{},
		},
	}
	if dice(20) {
		w.Paused = "by hand"
	}
	var names []string
	for i := range between(2, 6) {
		name := fmt.Sprintf("node-%d", i+1)
		id := themis.NodeID(name)
		names = append(names, name)
		n := cluster.Node{ID: id, Storage: storage(name), Role: cluster.RoleActive, Rack: []string{"", "a", "b"}[rng.IntN(3)], Draining: dice(8)}
		if dice(4) {
			n.Role = cluster.RoleHotSpare
		}
		if dice(10) {
			n.Storage = "new"
		}
		p := Probe{Node: id, Boot: boot(name), Storage: n.Storage, LastOK: ago(3000)}
		if dice(3) {
			p.LastOK, p.FailingSince, p.Failures, p.Refused = ago(9000), ago(3000), between(1, 5), dice(2)
			if dice(4) {
				p.Watched = p.LastOK
			}
		}
		if dice(10) {
			p.Boot = "other"
		}
		p.ControlCut = dice(10)
		w.Probes[id] = p
		if dice(10) {
			w.AliveGone[id] = ago(9000)
		} else {
			w.View.Alive[id] = cluster.Alive{Node: id, Storage: n.Storage, Boot: p.Boot, DiskFull: dice(6)}
			if a := w.View.Alive[id]; dice(6) {
				a.Broken = map[themis.ShardID]string{"shard-1": "fsync failed"}
				w.View.Alive[id] = a
			}
		}
		if dice(4) {
			w.View.Failed[id] = cluster.Failed{Node: id, Since: ago(9000), Why: "silent"}
			w.FailedSince[id] = ago(9000)
		}
		if dice(15) {
			delete(w.View.Alive, id)
			continue // it left
		}
		w.View.Nodes[id] = n
	}
	for i := range between(1, 4) {
		s := drawShard(rng, themis.ShardID(fmt.Sprintf("shard-%d", i+1)), slices.Clone(names))
		w.View.Shards[s.ID] = s
		if dice(5) {
			w.Elections[s.ID] = Attempt{Running: dice(5), Failed: between(0, 4), Ended: ago(3000)}
		}
	}
	return w
}

func drawShard(rng *rand.Rand, id themis.ShardID, names []string) cluster.Shard {
	coin := func() bool { return rng.IntN(2) == 0 }
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	rf := 1 + rng.IntN(min(3, len(names)))
	policy := cluster.Policy{Mode: []themis.Mode{themis.Sync, themis.SemiSync, themis.Async}[rng.IntN(3)], K: min(1, rf-1), RF: rf}
	if rf == 1 {
		policy.Mode = themis.Async
	}
	s := cluster.Shard{ID: id, Epoch: themis.Epoch(rng.Uint64N(5)), Have: policy, Want: policy}
	s.Want.RF = rf + rng.IntN(4-rf)
	for _, name := range names[:rf] {
		m := cluster.Member{Node: themis.NodeID(name), Storage: storage(name)}
		s.Replicas = append(s.Replicas, cluster.Replica{Member: m, Class: cluster.Voter})
		if s.Epoch > 0 && (len(s.ISR) == 0 || coin()) {
			s.ISR = append(s.ISR, m)
		}
	}
	if s.Epoch > 0 && rng.IntN(5) > 0 {
		s.Primary, s.Boot = s.ISR[0], boot(string(s.ISR[0].Node))
	}
	if rest := names[rf:]; len(rest) > 0 && coin() {
		r := cluster.Replica{Member: cluster.Member{Node: themis.NodeID(rest[0]), Storage: storage(rest[0])}, Class: cluster.Spare}
		if coin() {
			r.Class = cluster.Async
			if coin() {
				m := s.Replicas[len(s.Replicas)-1].Member
				r.Replaces = &m
			}
		}
		s.Replicas = append(s.Replicas, r)
	}
	return s
}

func TestConfig(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Fatalf("the defaults: %v", err)
	}
	err := Config{RetryEvery: time.Second, FailAfterMin: 2 * time.Second, FailAfterMax: time.Second, GraceStalled: 1, FullGrace: -1, DiskMax: 2}.Validate()
	if err == nil || themis.CodeOf(Config{}.Validate()) == "" {
		t.Fatal("a senseless configuration passes")
	}
	for _, field := range []string{"probe_every", "retry_every", "probe_timeout", "fail_after_min", "threshold", "cut_after", "backoff_min", "grace_stalled", "full_grace", "joins_per_node", "disk_max"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%s is not named in %v", field, err)
		}
	}
	short := Default()
	short.FailAfterMax = time.Second
	if err := short.Validate(); err == nil || !strings.Contains(err.Error(), "fail_after_max") {
		t.Errorf("a verdict before the first probe can fail: %v", err)
	}
}

func TestBackoff(t *testing.T) {
	c := Default()
	want := []time.Duration{0, 100, 200, 400, 800, 1600, 2000, 2000}
	for failed, d := range want {
		if got := c.Backoff(failed); got != d*time.Millisecond {
			t.Errorf("after %d failures: %s, want %s", failed, got, d*time.Millisecond)
		}
	}
	if got := c.Backoff(1 << 30); got != c.BackoffMax {
		t.Errorf("after very many: %s", got)
	}
}

func TestLooking(t *testing.T) {
	since := noon.Add(-time.Hour)
	for gap, anew := range map[time.Duration]bool{0: false, 900 * time.Millisecond: false, time.Second: true, time.Minute: true, -time.Second: true} {
		if got := Looking(since, noon.Add(-gap), noon, Default()); got.Equal(noon) != anew {
			t.Errorf("a gap of %s: looking since %s, anew %v", gap, got, anew)
		}
	}
}

func TestNotDoneKeyIsSteady(t *testing.T) {
	text := "self node-3\nnode node-1\nnode node-2\nnode node-3\nprobe node-1 ok=4s failing=3s failures=5 refused\nfailed node-1 for=7s\nshard shard-1 isr=node-1\n"
	w := parse(t, text)
	keys := func(now time.Time) []string {
		var out []string
		for _, a := range Step(w, now, Default()) {
			if n, ok := a.(NotDone); ok {
				out = append(out, n.Key())
			}
		}
		return out
	}
	first, later := keys(noon), keys(noon.Add(900*time.Millisecond))
	if len(first) == 0 || !slices.Equal(first, later) {
		t.Errorf("a reason that didn't change reads %q, then %q", first, later)
	}
}

func TestPhases(t *testing.T) {
	a := DeclareFailed{LastOK: noon, First: noon.Add(1500 * time.Millisecond), Since: noon.Add(3 * time.Second)}
	want := []cluster.Phase{{Name: "first_failure", Ms: 1500}, {Name: "declare", Ms: 1500}}
	if got := a.Phases(); !slices.Equal(got, want) {
		t.Errorf("phases %v, want %v", got, want)
	}
}
