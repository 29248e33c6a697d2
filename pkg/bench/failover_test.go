package bench

import (
	"context"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
)

func TestSpread(t *testing.T) {
	var list []float64
	for i := 100; i > 0; i-- {
		list = append(list, float64(i))
	}
	if got := spread(list); got != (Spread{50, 99, 100}) {
		t.Errorf("of 1…100: %+v", got)
	}
	if got := spread([]float64{7}); got != (Spread{7, 7, 7}) {
		t.Errorf("of one: %+v", got)
	}
	if got := spread(nil); got != (Spread{}) {
		t.Errorf("of none: %+v", got)
	}
}

// A pause is the whole time without a success, whether requests hung or were refused, and it belongs to the moment in which it ends.
func TestProbeMeasuresTheLongestPause(t *testing.T) {
	for name, fault := range map[string]func(ctx context.Context, until time.Time) error{
		"hangs": func(ctx context.Context, until time.Time) error { return pause(ctx, time.Until(until)) },
		"refused at once": func(context.Context, time.Time) error {
			return themis.Errorf(themis.NoPrimary, "not now")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				from, until := began.Add(500*time.Millisecond), began.Add(800*time.Millisecond)
				x := &probe{last: began, errs: map[themis.Code]int{}}
				x.call = func(ctx context.Context) error {
					if now := time.Now(); now.After(from) && now.Before(until) {
						return fault(ctx, until)
					}
					return pause(ctx, time.Millisecond)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { defer close(done); x.run(ctx, 10*time.Millisecond) }()
				time.Sleep(490 * time.Millisecond) // virtual
				if quiet := x.take(); quiet <= 0 || quiet > 12*time.Millisecond {
					t.Errorf("without a fault: %s; want about the spacing", quiet)
				}
				time.Sleep(200 * time.Millisecond) // virtual
				if x.since(from.Add(20 * time.Millisecond)) {
					t.Error("a success in the middle of the fault")
				}
				time.Sleep(300 * time.Millisecond) // virtual
				if got := x.take(); got < 290*time.Millisecond || got > 325*time.Millisecond {
					t.Errorf("pause %s; want 300 ms and some", got)
				}
				if !x.since(until) || x.take() > 12*time.Millisecond {
					t.Error("it goes on after the fault, and what was taken is gone")
				}
				cancel()
				<-done
			})
		})
	}
}

func report(primary, follower themis.NodeID) health.ShardReport {
	return health.ShardReport{ID: "shard-1", Primary: primary, Replicas: []health.ReplicaReport{{Node: primary}, {Node: follower}}}
}

func TestWasOn(t *testing.T) {
	s := report("node-1", "node-2")
	for node, want := range map[themis.NodeID]Was{"node-1": WasPrimary, "node-2": WasFollower, "node-3": WasNone} {
		if got := wasOn(s, node); got != want {
			t.Errorf("%s: %s; want %s", node, got, want)
		}
	}
}

func sampleKills() []Kill {
	return []Kill{
		{N: 1, Led: 1, Shards: []ShardPause{{"shard-1", WasPrimary, 1000, 4000, 0}, {"shard-2", WasNone, 20, 90, 0}}},
		{N: 2, Led: 2, Controller: true, EtcdLeader: true, Shards: []ShardPause{{"shard-1", WasPrimary, 3000, 5000, 77}, {"shard-2", WasPrimary, 2000, 6000, 99}, {"shard-3", WasNone, 400, 500, 0}}},
	}
}

func TestGroups(t *testing.T) {
	got := groups(sampleKills())
	want := []Group{
		{WasPrimary, anything, 2, 3, Spread{2000, 3000, 3000}, Spread{5000, 6000, 6000}, 99},
		{WasPrimary, "neither", 1, 1, Spread{1000, 1000, 1000}, Spread{4000, 4000, 4000}, 0},
		{WasPrimary, "etcd leader and controller", 1, 2, Spread{2000, 3000, 3000}, Spread{5000, 6000, 6000}, 99},
		{WasNone, anything, 2, 2, Spread{20, 400, 400}, Spread{90, 500, 500}, 0},
		{WasNone, "neither", 1, 1, Spread{20, 20, 20}, Spread{90, 90, 90}, 0},
		{WasNone, "etcd leader and controller", 1, 1, Spread{400, 400, 400}, Spread{500, 500, 500}, 0},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// With two copies the first write waits for a rebuild, which has no bound; a shard without a copy may notice that etcd elects.
func TestBounds(t *testing.T) {
	by := func(rf int, kills []Kill) (what []string, met bool) {
		r := FailoverResult{Bounds: bounds(rf, kills)}
		for _, b := range r.Bounds {
			what = append(what, b.What)
		}
		return what, r.Met()
	}
	if what, met := by(2, sampleKills()); len(what) != 3 || !met {
		t.Errorf("two copies: %v, met %v", what, met)
	}
	if what, met := by(3, sampleKills()); len(what) != 5 || met {
		t.Errorf("three copies, writes of 5 s at p50: %v, met %v", what, met)
	}
	slow := sampleKills()
	slow[0].Shards[1].WriteMs = 101
	if _, met := by(2, slow); met {
		t.Error("a shard without a copy waited 101 ms and nobody minded")
	}
}

func TestFailoverOptionsThatCantBe(t *testing.T) {
	for _, o := range []FailoverOptions{{RF: 1}, {Kills: -1}, {With: []string{"luck"}}, {Every: 1}, {RF: 5}} {
		if _, err := Failover(t.Context(), playground.Host{}, o); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// One kill of a real cluster: the node that is primary, etcd leader and controller at once. Clients see a pause and no failure.
func TestFailover(t *testing.T) {
	dir := t.TempDir()
	h := playground.Host{Environ: append(os.Environ(), beNode+"=1")}
	r, err := Failover(t.Context(), h, FailoverOptions{Dir: dir, Kills: 1, Shards: 2, Documents: 100, With: []string{RoleEtcdLeader, RoleController}, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	last := r.Kills[len(r.Kills)-1]
	if !last.Counts || !last.All() {
		t.Errorf("killed %+v", last)
	}
	for _, s := range last.Shards {
		if s.Was == WasPrimary && (s.ReadMs < 500 || s.WriteMs < 500) {
			t.Errorf("%s lost its primary and its clients saw pauses of %v and %v ms: that is no failover", s.Shard, s.ReadMs, s.WriteMs)
		}
	}
	if !slices.ContainsFunc(last.Events, func(e KillEvent) bool { return e.Action == "declare_failed" && e.Subject == string(last.Node) }) {
		t.Errorf("no verdict in the events: %+v", last.Events)
	}
	if len(r.Errors) > 0 {
		t.Errorf("requests failed: %v", r.Errors)
	}
	empty(t, dir)
}
