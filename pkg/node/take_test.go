package node

import (
	"context"
	"errors"
	"maps"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/config"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/controller"
	"github.com/themisdb/themis/pkg/themis"
)

// A node whose lease holds, but whose transactions are not done, does not take the controllership: nothing it decided would be.
func TestWhoCanDoNothingTakesNothing(t *testing.T) {
	done := true
	kv := &control.Faulty{KV: control.NewMemory(nil), Before: func(_ context.Context, c control.Call) error {
		if c == control.CallTxn && !done {
			return errors.New("the disk hangs")
		}
		return nil
	}}
	m, err := control.NewMap(kv, "c1", control.Options{TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = kv.Close() })
	n := &Node{id: identity{Node: "node-1", Storage: "disk-1"}, boot: "boot-1"}
	lease, err := m.Heartbeat(t.Context(), cluster.Alive{Node: "node-1", Storage: "disk-1", Boot: "boot-1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	n.lease.Store(lease)
	v := cluster.View{Nodes: map[themis.NodeID]cluster.Node{"node-1": {ID: "node-1", Control: &cluster.ControlMember{}}}}
	c := &controlLoop{n: n, m: m}
	long := time.Now().Add(-time.Minute)
	if !c.shouldTake(t.Context(), v, long) {
		t.Fatal("nobody ever was the controller, and this node does not become it")
	}
	done = false
	if c.shouldTake(t.Context(), v, long) {
		t.Fatal("a node that can do nothing would become the controller")
	}
}

// What a node heard of the controller before it counts from when it has listened without a gap, and of that controller alone.
func TestWhatIsKnownOfTheControllerBefore(t *testing.T) {
	v := cluster.View{Controller: cluster.Controller{Term: 3, Node: "node-2", Boot: "boot-2"}}
	now := time.Now()
	for name, c := range map[string]struct {
		term    themis.Term
		started time.Time
		self    themis.NodeID
		want    bool
	}{
		"heard all the time":             {3, now.Add(-time.Minute), "node-1", true},
		"this process stood still since": {3, now.Add(time.Second), "node-1", false},
		"another controller was heard":   {2, now.Add(-time.Minute), "node-1", false},
		"it was this node":               {3, now.Add(-time.Minute), "node-2", false},
		"none was ever heard":            {0, now.Add(-time.Minute), "node-1", false},
	} {
		n := &Node{id: identity{Node: c.self}}
		n.heard.from(c.term, now)
		p := (&controlLoop{n: n}).predecessor(v, c.started)
		if got := p.Node == "node-2" && p.Boot == "boot-2" && p.Watched.Equal(now) && p.LastOK.Equal(now); got != c.want || !c.want && !p.LastOK.IsZero() {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// SIGTERM tells a node to hand over and end, SIGINT to end without; a second signal cuts the first short, a third ends it at once.
func TestSignals(t *testing.T) {
	for name, c := range map[string]struct {
		sent              []os.Signal
		stop, hurry, over bool
	}{
		"one SIGTERM": {[]os.Signal{syscall.SIGTERM}, true, false, false},
		"one SIGINT":  {[]os.Signal{os.Interrupt}, false, true, false},
		"two":         {[]os.Signal{syscall.SIGTERM, syscall.SIGTERM}, true, true, false},
		"three":       {[]os.Signal{syscall.SIGTERM, os.Interrupt, syscall.SIGTERM}, true, true, true},
	} {
		ctx, stop, hurry, release := signals(t.Context())
		came := []<-chan struct{}{stop, hurry, ctx.Done()}
		want := []bool{c.stop, c.hurry, c.over}
		for i, s := range c.sent {
			if err := syscall.Kill(os.Getpid(), s.(syscall.Signal)); err != nil {
				t.Fatal(err)
			}
			step := i // what this signal does is awaited before the next: one signal that waits hides another of its kind
			if s == os.Interrupt && i == 0 {
				step = 1
			}
			select {
			case <-came[step]:
			case <-time.After(5 * time.Second):
				t.Fatalf("%s: signal %d did nothing", name, i+1)
			}
		}
		for i, ch := range came {
			select {
			case <-ch:
				if !want[i] {
					t.Errorf("%s: %d was told", name, i)
				}
			default:
				if want[i] {
					t.Errorf("%s: %d was not told", name, i)
				}
			}
		}
		release()
	}
}

// A controller that was stopped with a probe under way gives no verdict by that probe when it goes on, even where its steps go on before
// the loop that notices the stand-still.
func TestAControllerThatStoodStillDeclaresNobody(t *testing.T) {
	now := time.Now()
	stopped := now.Add(-20 * time.Second)
	v := cluster.View{Nodes: map[themis.NodeID]cluster.Node{"node-1": {ID: "node-1"}, "node-2": {ID: "node-2"}, "node-3": {ID: "node-3"}}}
	cfg, err := config.Load(nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := &Node{id: identity{Node: "node-1", Storage: "disk-1"}, boot: "boot-1", cfg: cfg}
	n.shards = newShards(n)
	c := &controlLoop{
		n: n, began: stopped.Add(-time.Minute), since: stopped.Add(-time.Minute), last: stopped,
		probes: map[themis.NodeID]controller.Probe{
			"node-2": {Node: "node-2", Boot: "boot-2", LastOK: stopped.Add(-500 * time.Millisecond), FailingSince: now, Failures: 1, Why: "deadline exceeded"},
			"node-3": {Node: "node-3", Boot: "boot-3", LastOK: now},
		},
	}
	for _, a := range controller.Step(c.world(v, now), now, c.config()) {
		t.Error(a)
	}
	later := now.Add(time.Second)
	c.last = now.Add(900 * time.Millisecond)
	c.since = now
	p := c.probes["node-2"]
	p.Failures = 3
	c.probes["node-2"] = p
	if got := controller.Step(c.world(v, later), later, c.config()); len(got) != 1 {
		t.Errorf("a second after it went on, with three failures: %v", got)
	}
}

// How long a verdict stands is counted from when it was first seen here, not by the clock of the node that gave it.
func TestAVerdictAgesByTheClockHere(t *testing.T) {
	now := time.Now()
	c := &controlLoop{}
	nodes := map[themis.NodeID]cluster.Node{"node-2": {ID: "node-2"}}
	failed := map[themis.NodeID]cluster.Failed{"node-2": {Node: "node-2", Since: now.Add(time.Hour)}}
	c.missing(cluster.View{Nodes: nodes, Failed: failed}, now)
	c.missing(cluster.View{Nodes: nodes, Failed: failed}, now.Add(time.Minute))
	if got := c.failed["node-2"]; !got.Equal(now) {
		t.Errorf("first seen at %s, want %s", got, now)
	}
	c.missing(cluster.View{Nodes: nodes}, now.Add(2*time.Minute))
	c.missing(cluster.View{Nodes: nodes, Failed: failed}, now.Add(3*time.Minute))
	if got := c.failed["node-2"]; !got.Equal(now.Add(3 * time.Minute)) {
		t.Errorf("the second verdict was first seen at %s", got)
	}
}

// A disk that is full still when a copy has left it counts as full from then on: what the copy took there is freed in a moment.
func TestAFullDiskIsGivenTimeWhenACopyHasLeft(t *testing.T) {
	now := time.Now()
	c := &controlLoop{}
	v := cluster.View{
		Nodes: map[themis.NodeID]cluster.Node{"node-2": {ID: "node-2"}}, Alive: map[themis.NodeID]cluster.Alive{"node-2": {DiskFull: true}},
		Shards: map[themis.ShardID]cluster.Shard{"shard-1": {Replicas: []cluster.Replica{{Member: cluster.Member{Node: "node-2"}}}}},
	}
	c.missing(v, now)
	c.missing(v, now.Add(time.Minute))
	if got := c.full["node-2"]; !got.Equal(now) {
		t.Errorf("full since %s, want %s", got, now)
	}
	v.Shards = map[themis.ShardID]cluster.Shard{"shard-1": {}}
	c.missing(v, now.Add(2*time.Minute))
	c.missing(v, now.Add(3*time.Minute))
	if got := c.full["node-2"]; !got.Equal(now.Add(2 * time.Minute)) {
		t.Errorf("a copy left at %s, and it counts as full since %s", now.Add(2*time.Minute), got)
	}
}

// When a node answered stays true when another takes over as the controller, until it answers again or is no member any more.
func TestAnswersOutliveATerm(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	before := map[themis.NodeID]time.Time{"node-2": at, "node-3": at, "node-4": at}
	got := *answered(&before, controller.World{
		Self: "node-1", View: cluster.View{Nodes: map[themis.NodeID]cluster.Node{"node-1": {}, "node-2": {}, "node-3": {}, "node-5": {}}},
		Probes: map[themis.NodeID]controller.Probe{"node-1": {LastOK: at}, "node-2": {LastOK: at.Add(time.Second)}, "node-3": {Why: "no answer"}},
	})
	if want := map[themis.NodeID]time.Time{"node-2": at.Add(time.Second), "node-3": at}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
