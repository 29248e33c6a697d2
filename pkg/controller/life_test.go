package controller

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/themis"
)

// life is a cluster on virtual time: nodes that die in one of three ways and come back, a prober that keeps to the Config, and
// the actions carried out at once with the functions that the control plane uses.
type life struct {
	t      *testing.T
	c      Config
	tick   time.Duration
	now    time.Time
	w      World
	sick   map[themis.NodeID]sickness
	boots  int
	next   map[themis.NodeID]time.Time // of the probe
	ends   map[themis.NodeID]time.Time // of the probe that gets no answer
	log    []Action
	states map[themis.NodeID]cluster.State
	seen   map[cluster.State]bool
	joined map[themis.ShardID]time.Time
}

type sickness string

const (
	well    sickness = ""
	refuses sickness = "refuses"
	silent  sickness = "silent"
)

func newLife(t *testing.T, text string) *life {
	w := parse(t, text)
	w.Since = noon
	for id := range w.View.Nodes { // nothing is known yet
		w.Probes[id] = Probe{Node: id}
	}
	return &life{
		t: t, c: Default(), tick: 20 * time.Millisecond, now: noon, w: w, sick: map[themis.NodeID]sickness{}, next: map[themis.NodeID]time.Time{}, ends: map[themis.NodeID]time.Time{},
		states: map[themis.NodeID]cluster.State{}, seen: map[cluster.State]bool{}, joined: map[themis.ShardID]time.Time{},
	}
}

// run lets time pass, a tick at a time.
func (l *life) run(d time.Duration) {
	for end := l.now.Add(d); l.now.Before(end); l.now = l.now.Add(l.tick) {
		for _, id := range l.w.View.NodeIDs() {
			l.probe(id)
		}
		l.watch() // a first failure may be the last that is needed: then the node is SUSPECT for this moment only
		for _, a := range Step(l.w, l.now, l.c) {
			l.do(a)
		}
		l.copies()
		l.watch()
	}
}

func (l *life) probe(id themis.NodeID) {
	if end, asked := l.ends[id]; asked { // a question is out that gets no answer
		if l.now.Before(end) {
			return
		}
		delete(l.ends, id)
		l.failed(id, false)
		return
	}
	if l.now.Before(l.next[id]) || id == l.w.Self {
		return
	}
	switch l.sick[id] {
	case refuses:
		l.failed(id, true)
		return
	case silent:
		l.ends[id] = l.now.Add(l.c.ProbeTimeout)
		return
	}
	a := l.w.View.Alive[id]
	p := Probe{Node: id, Boot: a.Boot, Storage: a.Storage, LastOK: l.now, Unfit: a.Broken}
	l.w.Probes[id], l.next[id] = p, l.c.NextProbe(p, l.now)
}

func (l *life) failed(id themis.NodeID, refused bool) {
	p := l.w.Probes[id]
	if p.FailingSince.IsZero() {
		p.FailingSince = l.now
	}
	p.Failures, p.Refused = p.Failures+1, refused
	l.w.Probes[id], l.next[id] = p, l.c.NextProbe(p, l.now)
}

func (l *life) do(a Action) {
	must := func(s cluster.Shard, err error) {
		if err != nil {
			l.t.Fatalf("%s: %v", a, err)
		}
		l.w.View.Shards[s.ID] = s
	}
	switch a := a.(type) {
	case NotDone:
		return
	case DeclareFailed:
		l.w.View.Failed[a.Node] = cluster.Failed{Node: a.Node, Boot: a.Boot, Since: a.Since, Why: a.Why}
		l.w.FailedSince[a.Node] = l.now
	case ClearFailed:
		delete(l.w.View.Failed, a.Node)
	case Elect:
		l.elect(a)
	case Join:
		l.joined[a.Shard] = l.now
		must(l.w.View.Shards[a.Shard].Join(a.Replica))
	case Enlist:
		l.joined[a.Shard] = l.now
		must(l.w.View.Shards[a.Shard].Enlist(a.Member, a.Replaces))
	case Drop:
		must(l.w.View.Shards[a.Shard].Drop(a.Member))
	case StandDown:
		must(l.w.View.Shards[a.Shard].StandDown(a.Member))
	case Rehouse:
		must(l.w.View.Shards[a.Shard].Rehouse(a.Node, a.Storage))
	}
	l.log = append(l.log, a)
}

func (l *life) elect(a Elect) {
	s := l.w.View.Shards[a.Shard]
	r := election.Request{Shard: s, Epoch: a.Epoch, Load: a.Load}
	for _, m := range s.Voters() {
		if _, skipped := a.Skip[m.Node]; !skipped && l.sick[m.Node] == well {
			r.Ballots = append(r.Ballots, election.Ballot{Shard: s.ID, Voter: m, Epoch: a.Epoch, Boot: l.w.View.Alive[m.Node].Boot})
		}
	}
	res := election.Count(r)
	if res.Winner == nil {
		l.w.Elections[a.Shard] = Attempt{Failed: l.w.Elections[a.Shard].Failed + 1, Ended: l.now}
		return
	}
	next, err := s.Crown(res.Winner.Voter, res.Winner.Boot, res.Wait, false)
	if err != nil {
		l.t.Fatalf("%s: %v", a, err)
	}
	l.w.View.Shards[a.Shard], l.w.Elections[a.Shard] = next, Attempt{Ended: l.now}
}

// copies is what primaries do: followers that are well come into the in-sync set, joining ones after 2 s; FAILED ones leave it.
func (l *life) copies() {
	for _, id := range l.w.View.ShardIDs() {
		s := l.w.View.Shards[id]
		if s.Primary.IsZero() || l.sick[s.Primary.Node] != well || l.w.View.Alive[s.Primary.Node].Boot != s.Boot {
			continue
		}
		for _, r := range s.Replicas {
			next, err := s, error(nil)
			_, failed := l.w.View.Failed[r.Node]
			broken := l.w.View.Broken(id, r.Member) != ""
			full := l.w.View.Alive[r.Node].DiskFull
			switch {
			case broken && s.InSync(r.Member):
				next, err = s.RemoveFromISR(r.Member, true)
			case full && s.InSync(r.Member) && r.Member != s.Primary:
				if next, err = s.RemoveFromISR(r.Member, false); err != nil {
					next, err = s, nil // the floor holds
				}
			case broken, full:
			case failed && s.InSync(r.Member):
				next, err = s.RemoveFromISR(r.Member, true)
			case r.Replaces != nil && *r.Replaces == s.Primary:
			case l.sick[r.Node] == well && r.Class != cluster.Spare && (r.Class == cluster.Voter || l.now.Sub(l.joined[id]) > 2*time.Second):
				next, err = s.AddToISR(r.Member)
			}
			if err != nil {
				l.t.Fatalf("%s on %s: %v", id, r.Node, err)
			}
			s = next
		}
		l.w.View.Shards[id] = s
	}
}

// watch checks that node states change only as the table permits.
func (l *life) watch() {
	for _, id := range l.w.View.NodeIDs() {
		if id == l.w.Self || l.w.Probes[id].LastOK.IsZero() {
			continue
		}
		_, failed := l.w.View.Failed[id]
		state := NodeState(l.w.Probes[id], failed, l.w.View.Nodes[id], l.now, l.c)
		if old, known := l.states[id]; known && old != state && !cluster.May(cluster.NodeTransitions(), old, state) {
			l.t.Errorf("%s went from %s to %s, which the table does not know", id, old, state)
		}
		l.states[id], l.seen[state] = state, true
	}
	for _, fault := range l.w.View.Check() {
		if fault.Error() != "routing: no routing table" {
			l.t.Fatalf("at %s: %v", l.now.Sub(noon), fault)
		}
	}
}

func (l *life) kill(id themis.NodeID, how sickness) { l.sick[id] = how }

// start brings the node back as another process.
func (l *life) start(id themis.NodeID) {
	l.sick[id] = well
	l.boots++
	a := l.w.View.Alive[id]
	a.Boot, a.Broken = themis.BootID(fmt.Sprintf("boot-%d", l.boots)), nil
	l.w.View.Alive[id] = a
}

func (l *life) whole() error {
	if len(l.w.View.Failed) > 0 {
		return fmt.Errorf("FAILED: %v", l.w.View.Failed)
	}
	for _, id := range l.w.View.ShardIDs() {
		s := l.w.View.Shards[id]
		if s.Primary.IsZero() || len(s.ISR) != s.Want.RF || len(s.Voters()) != s.Want.RF || slices.ContainsFunc(s.Replicas, isJoining) {
			return fmt.Errorf("%s: primary %q, in sync %v, replicas %v", id, s.Primary, s.ISR, s.Replicas)
		}
	}
	return nil
}

func count[A Action](l *life) int {
	n := 0
	for _, a := range l.log {
		if _, ok := a.(A); ok {
			n++
		}
	}
	return n
}

const four = `self node-4
node node-1
node node-2
node node-3
node node-4 role=controller
shard shard-1 epoch=0 voters=node-1,node-2
shard shard-2 epoch=0 voters=node-2,node-3
shard shard-3 epoch=0 voters=node-3,node-1
`

func TestFirstReignsAreSpread(t *testing.T) {
	l := newLife(t, four)
	l.run(2 * time.Second)
	if err := l.whole(); err != nil {
		t.Fatal(err)
	}
	for node, n := range Loads(l.w.View) {
		if want := map[bool]int{true: 0, false: 1}[node == "node-4"]; n != want {
			t.Errorf("%s leads %d shards, want %d", node, n, want)
		}
	}
}

// TestDetectionTime kills nodes at all moments between two probes, in each way.
func TestDetectionTime(t *testing.T) {
	for _, how := range []sickness{refuses, silent} {
		for phase := time.Duration(0); phase < time.Second; phase += 80 * time.Millisecond {
			l := newLife(t, four)
			l.run(3*time.Second + phase)
			l.kill("node-2", how)
			ok := l.w.Probes["node-2"].LastOK
			l.run(4 * time.Second)
			f, failed := l.w.View.Failed["node-2"]
			if !failed {
				t.Fatalf("%s, %s after the last probe: not declared within 4 s", how, phase)
			}
			if took := f.Since.Sub(ok); took < time.Second || took > 3*time.Second {
				t.Errorf("%s, %s after the last probe: declared after %s", how, phase, took)
			}
			if how == refuses && f.Since.Sub(ok) > time.Second+l.c.RetryEvery {
				t.Errorf("refused: declared only after %s", f.Since.Sub(ok))
			}
		}
	}
}

func TestANodeDiesAndItsCopiesAreMadeAnew(t *testing.T) {
	l := newLife(t, four)
	l.run(3 * time.Second)
	l.kill("node-2", refuses)
	l.run(20 * time.Second)
	for _, id := range l.w.View.ShardIDs() {
		s := l.w.View.Shards[id]
		if _, there := s.Replica("node-2"); there || len(s.ISR) != 2 {
			t.Errorf("%s: replicas %v, in sync %v", id, s.Replicas, s.ISR)
		}
	}
	l.start("node-2")
	l.run(5 * time.Second)
	if err := l.whole(); err != nil {
		t.Error(err)
	}
	if d, c, j := count[DeclareFailed](l), count[ClearFailed](l), count[Join](l); d != 1 || c != 1 || j != 2 {
		t.Errorf("%d verdicts, %d taken back, %d copies made: %v", d, c, j, l.log)
	}
}

// TestARestartIsNoReplacement: a follower that is back within seconds keeps its copies; a primary that restarted is crowned anew.
func TestARestartIsNoReplacement(t *testing.T) {
	text := four + "shard shard-4 epoch=0 rf=3 voters=node-1,node-2,node-3\n"
	l := newLife(t, text)
	l.run(3 * time.Second)
	before := l.w.View.Shards["shard-1"].Epoch
	l.kill(l.w.View.Shards["shard-1"].Primary.Node, refuses)
	dead := l.w.View.Shards["shard-1"].Primary.Node
	l.run(500 * time.Millisecond)
	l.start(dead)
	l.run(5 * time.Second)
	if err := l.whole(); err != nil {
		t.Error(err)
	}
	if n := count[Join](l); n != 0 {
		t.Errorf("%d copies were begun for a node that was away for half a second", n)
	}
	if after := l.w.View.Shards["shard-1"].Epoch; after != before+1 {
		t.Errorf("epoch %d became %d: want one election for one restart", before, after)
	}
}

// breaks stops the node's copy of the shard for good.
func (l *life) breaks(id themis.NodeID, shard themis.ShardID) {
	a := l.w.View.Alive[id]
	a.Broken = map[themis.ShardID]string{shard: "fsync: input/output error"}
	l.w.View.Alive[id] = a
}

// TestABrokenCopyIsMadeAnewElsewhere: primary or follower, a copy that stopped for good is replaced while its node lives; without a
// free node it stays out until its process begins anew.
func TestABrokenCopyIsMadeAnewElsewhere(t *testing.T) {
	for _, primary := range []bool{true, false} {
		l := newLife(t, four)
		l.run(3 * time.Second)
		s := l.w.View.Shards["shard-1"]
		victim := s.Primary.Node
		if !primary {
			victim = s.ISR[slices.IndexFunc(s.ISR, func(m cluster.Member) bool { return m != s.Primary })].Node
		}
		l.breaks(victim, "shard-1")
		l.run(10 * time.Second)
		if err := l.whole(); err != nil {
			t.Errorf("primary %v: %v", primary, err)
		}
		if _, there := l.w.View.Shards["shard-1"].Replica(victim); there || count[DeclareFailed](l) > 0 || count[Join](l) != 1 {
			t.Errorf("primary %v: %v, by %v", primary, l.w.View.Shards["shard-1"].Replicas, l.log)
		}
	}
	l := newLife(t, four+"shard shard-4 epoch=0 rf=3 voters=node-1,node-2,node-3\n")
	l.run(3 * time.Second)
	victim := l.w.View.Shards["shard-4"].Primary.Node
	l.breaks(victim, "shard-4")
	l.run(10 * time.Second)
	if s := l.w.View.Shards["shard-4"]; s.Primary.Node == victim || len(s.ISR) != 2 || len(s.Voters()) != 3 {
		t.Errorf("no node is free: primary %s, in sync %v, replicas %v", s.Primary, s.ISR, s.Replicas)
	}
	l.start(victim)
	l.run(5 * time.Second)
	if err := l.whole(); err != nil {
		t.Errorf("its process began anew: %v", err)
	}
}

// TestAFullPrimaryGivesWay: where 1 + k others have room, and only there.
func TestAFullPrimaryGivesWay(t *testing.T) {
	l := newLife(t, four+"shard shard-4 epoch=0 rf=3 voters=node-1,node-2,node-3\nshard shard-5 epoch=0 mode=async k=0 rf=3 voters=node-1,node-2,node-3\n")
	l.run(3 * time.Second)
	full := func(id themis.NodeID, is bool) {
		a := l.w.View.Alive[id]
		a.DiskFull = is
		l.w.View.Alive[id] = a
	}
	victim, before := l.w.View.Shards["shard-4"].Primary.Node, maps.Clone(l.w.View.Shards)
	full(victim, true)
	l.run(10 * time.Second)
	for id, s := range l.w.View.Shards {
		if gives := s.Primary != before[id].Primary; gives != (id == "shard-4") {
			t.Errorf("%s went from %s to %s with the disk of %s full", id, before[id].Primary, s.Primary, victim)
		}
	}
	full("node-1", true)
	full("node-2", true)
	full("node-3", true)
	quiet := len(l.log)
	l.run(10 * time.Second)
	if len(l.log) != quiet {
		t.Errorf("with all disks full: %v", l.log[quiet:])
	}
	for _, id := range []themis.NodeID{"node-1", "node-2", "node-3"} {
		full(id, false)
	}
	l.run(10 * time.Second)
	if err := l.whole(); err != nil {
		t.Error(err)
	}
}

// TestNodeStatesAreAllReached walks a node through its table of transitions, and every transition is taken.
func TestNodeStatesAreAllReached(t *testing.T) {
	l := newLife(t, four)
	drain := func(on bool) {
		n := l.w.View.Nodes["node-3"]
		n.Draining = on
		l.w.View.Nodes["node-3"] = n
	}
	l.run(2 * time.Second)
	l.kill("node-3", silent) // UP, SUSPECT, UP
	l.run(1700 * time.Millisecond)
	l.start("node-3")
	l.run(2 * time.Second)
	l.kill("node-3", silent) // SUSPECT, FAILED, UP
	l.run(5 * time.Second)
	l.start("node-3")
	l.run(2 * time.Second)
	drain(true) // DRAINING, SUSPECT, FAILED, DRAINING, UP
	l.run(2 * time.Second)
	l.kill("node-3", silent)
	l.run(5 * time.Second)
	l.start("node-3")
	l.run(2 * time.Second)
	drain(false)
	l.run(time.Second)
	for _, tr := range cluster.NodeTransitions() {
		if !l.seen[tr.From] || !l.seen[tr.To] {
			t.Errorf("%s → %s (%s): not both were reached: %v", tr.From, tr.To, tr.Cause, l.seen)
		}
	}
}

// TestTablesLeadEverywhere: from the first state every state of each table can be reached, and none is a trap.
func TestTablesLeadEverywhere(t *testing.T) {
	for name, c := range map[string]struct {
		first cluster.State
		table []cluster.Transition
	}{
		"replica": {cluster.Bootstrapping, cluster.ReplicaTransitions()},
		"node":    {cluster.Up, cluster.NodeTransitions()},
		"spare":   {cluster.Standby, cluster.SpareTransitions()},
	} {
		all, reached := map[cluster.State]bool{}, map[cluster.State]bool{c.first: true}
		for range c.table {
			for _, tr := range c.table {
				all[tr.From], all[tr.To] = true, true
				if reached[tr.From] {
					reached[tr.To] = true
				}
			}
		}
		if !maps.Equal(all, reached) {
			t.Errorf("%s: reached %v of %v", name, reached, all)
		}
		for state := range all {
			leaves := slices.ContainsFunc(c.table, func(tr cluster.Transition) bool { return tr.From == state })
			if !leaves && state != cluster.Active {
				t.Errorf("%s: nothing leads out of %s", name, state)
			}
		}
	}
}

// TestHealsAfterChaos kills, silences and restarts nodes at random, then lets them all live: within a minute the cluster is whole.
func TestHealsAfterChaos(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 7))
		l := newLife(t, four+"shard shard-4 epoch=0 mode=semi_sync rf=3 voters=node-1,node-2,node-3\nshard shard-5 epoch=0 mode=async k=0 voters=node-1,node-2\n")
		l.tick = 100 * time.Millisecond
		l.run(2 * time.Second)
		for range 25 {
			id := themis.NodeID(fmt.Sprintf("node-%d", 1+rng.IntN(3)))
			switch rng.IntN(3) {
			case 0:
				l.start(id)
			case 1:
				l.kill(id, refuses)
			case 2:
				l.kill(id, silent)
			}
			l.run(time.Duration(rng.IntN(6000)) * time.Millisecond)
		}
		for _, id := range []themis.NodeID{"node-1", "node-2", "node-3"} {
			if l.sick[id] != well {
				l.start(id)
			}
		}
		l.run(time.Minute)
		if err := l.whole(); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		quiet := len(l.log)
		l.run(10 * time.Second)
		if len(l.log) != quiet {
			t.Errorf("seed %d: a whole cluster is not left alone: %v", seed, l.log[quiet:])
		}
	}
}
