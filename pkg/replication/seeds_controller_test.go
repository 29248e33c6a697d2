package replication

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/controller"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/themis"
)

// simController is the controller of the simulation: package controller decides, on a node of its own; asking and doing is imitated. It may
// stand still, begin anew, miss nodes that others reach, and see the record late.
type simController struct {
	w     *world
	c     controller.Config
	knows controller.World
	last  time.Time
	next  map[themis.NodeID]time.Time     // of the probe
	ends  map[themis.NodeID]time.Time     // of the probe that gets no answer
	cut   map[themis.NodeID]time.Duration // until then it and the node don't hear each other
	still time.Duration                   // until then it does nothing
	poll  *simPoll
	done  map[string]int // what it has done, by kind
}

// simPoll is an election under way.
type simPoll struct {
	req   election.Request
	left  []cluster.Member // to be asked
	count bool             // all were: the coronation is on its way
}

const theShard = themis.ShardID("shard-1")

func (w *world) controlled() {
	w.control = &simController{w: w, c: controller.Default(), done: map[string]int{}, cut: map[themis.NodeID]time.Duration{}}
	w.control.begin()
}

// begin is a controller that has just taken over.
func (c *simController) begin() {
	c.next, c.ends, c.poll = map[themis.NodeID]time.Time{}, map[themis.NodeID]time.Time{}, nil
	c.last = c.now()
	c.knows = controller.World{
		Self: "witness", Since: c.last, Probes: map[themis.NodeID]controller.Probe{}, AliveGone: map[themis.NodeID]time.Time{},
		Elections: map[themis.ShardID]controller.Attempt{}, FailedSince: map[themis.NodeID]time.Time{},
		View: cluster.View{Shards: map[themis.ShardID]cluster.Shard{theShard: c.w.record}},
	}
	for id, failed := range c.w.failed {
		if failed {
			c.knows.FailedSince[id] = c.last
		}
	}
}

func (c *simController) now() time.Time { return simStart.Add(c.w.now) }

// suffers is one random fault of the controller.
func (c *simController) suffers() {
	rng := c.w.rng
	switch rng.IntN(12) {
	case 0:
		c.w.logf("the controller begins anew")
		c.begin()
	case 1:
		c.still = c.w.now + time.Duration(rng.IntN(4000))*time.Millisecond
		c.w.logf("the controller stands still until %v", c.still)
	case 2, 3:
		n := c.w.nodes[rng.IntN(len(c.w.nodes))]
		c.cut[n.id] = c.w.now + time.Duration(rng.IntN(8000))*time.Millisecond
		c.w.logf("the controller does not hear %s until %v", n.id, c.cut[n.id])
	}
}

// forgets takes the ballot of a disk that is lost out of an election under way.
func (c *simController) forgets(id themis.NodeID) {
	if c.poll != nil {
		c.poll.req.Ballots = slices.DeleteFunc(c.poll.req.Ballots, func(b election.Ballot) bool { return b.Voter.Node == id })
	}
}

func (c *simController) hears(n *simNode) bool { return n.awake() && c.w.now >= c.cut[n.id] }

func (c *simController) step() {
	if c.w.now < c.still {
		return
	}
	now := c.now()
	c.knows.Since = controller.Looking(c.knows.Since, c.last, now, c.c)
	c.last = now
	for _, n := range c.w.nodes {
		c.probe(n, now)
	}
	c.look()
	c.ask()
	for _, a := range controller.Step(c.knows, now, c.c) {
		c.do(a)
	}
}

func (c *simController) probe(n *simNode, now time.Time) {
	if end, asked := c.ends[n.id]; asked {
		if now.Before(end) {
			return
		}
		delete(c.ends, n.id)
		c.missed(n.id, false, now)
		return
	}
	if now.Before(c.next[n.id]) {
		return
	}
	switch {
	case c.hears(n):
		p := controller.Probe{Node: n.id, Boot: n.bootID(), Storage: n.disk.storage, LastOK: now, Resigned: map[themis.ShardID]themis.Epoch{}, Unfit: map[themis.ShardID]string{}}
		if r := n.seenRecord; r.Primary == n.self() && r.Boot == n.bootID() && n.reign == nil {
			p.Resigned[theShard] = r.Epoch
		}
		if n.disk.blank != "" {
			p.Unfit[theShard] = n.disk.blank
		}
		c.knows.Probes[n.id], c.next[n.id] = p, c.c.NextProbe(p, now)
	case !n.up && c.w.now >= c.cut[n.id]:
		c.missed(n.id, true, now)
	default:
		c.ends[n.id] = now.Add(c.c.ProbeTimeout)
	}
}

func (c *simController) missed(id themis.NodeID, refused bool, now time.Time) {
	p := c.knows.Probes[id]
	if p.FailingSince.IsZero() {
		p.FailingSince = now
	}
	p.Node, p.Failures, p.Refused = id, p.Failures+1, refused
	c.knows.Probes[id], c.next[id] = p, c.c.NextProbe(p, now)
}

// look shows it the map: its own verdicts at once, the record sometimes later.
func (c *simController) look() {
	v := cluster.View{Nodes: map[themis.NodeID]cluster.Node{}, Alive: map[themis.NodeID]cluster.Alive{}, Failed: map[themis.NodeID]cluster.Failed{}, Shards: c.knows.View.Shards}
	v.Nodes["witness"] = cluster.Node{ID: "witness", Role: cluster.RoleController}
	for _, n := range c.w.nodes {
		v.Nodes[n.id] = cluster.Node{ID: n.id, Storage: n.disk.storage, Role: cluster.RoleActive}
		if n.up {
			a := cluster.Alive{Node: n.id, Storage: n.disk.storage, Boot: n.bootID()}
			if n.handing {
				a.Stopping = &cluster.Stopping{Ready: map[themis.ShardID]themis.Epoch{theShard: n.ready}}
			}
			v.Alive[n.id] = a
		}
		if c.w.failed[n.id] {
			v.Failed[n.id] = cluster.Failed{Node: n.id}
		}
	}
	if c.w.rng.IntN(3) > 0 {
		v.Shards = map[themis.ShardID]cluster.Shard{theShard: c.w.record}
	}
	c.knows.View = v
}

func (c *simController) do(a controller.Action) {
	seen := c.knows.View.Shards[theShard]
	change := func(next cluster.Shard, err error) {
		if err != nil {
			c.w.fail("%s: %v", a, err)
		}
		if seen.Revision != c.w.record.Revision || err != nil {
			return
		}
		next.Revision = seen.Revision + 1
		c.w.record = next
		c.w.logf("record %d: replicas %v ISR %v", next.Revision, next.Replicas, next.ISR)
	}
	switch a := a.(type) {
	case controller.NotDone:
		return
	case controller.DeclareFailed:
		c.knows.FailedSince[a.Node] = a.Since
		c.w.setFailed(a.Node, true)
	case controller.ClearFailed:
		delete(c.knows.FailedSince, a.Node)
		c.w.setFailed(a.Node, false)
	case controller.Elect:
		c.poll = &simPoll{req: election.Request{Shard: seen, Epoch: a.Epoch, Stopping: a.Stopping, Load: a.Load}}
		for _, i := range c.w.rng.Perm(len(seen.Voters())) {
			if m := seen.Voters()[i]; a.Skip[m.Node] == "" {
				c.poll.left = append(c.poll.left, m)
			}
		}
		c.knows.Elections[theShard] = controller.Attempt{Running: true, Failed: c.knows.Elections[theShard].Failed}
	case controller.Rehouse:
		change(seen.Rehouse(a.Node, a.Storage))
	case controller.Join:
		change(seen.Join(a.Replica))
	case controller.Drop:
		change(seen.Drop(a.Member))
	default:
		c.w.fail("%T: nobody can do it here", a)
	}
	c.w.logf("%s", a)
	c.done[strings.TrimPrefix(fmt.Sprintf("%T", a), "controller.")]++
}

// ask goes on with an election under way: ballots come one after the other, and whatever happens in between.
func (c *simController) ask() {
	p := c.poll
	switch {
	case p == nil || c.w.rng.IntN(3) == 0:
	case len(p.left) > 0:
		m := p.left[0]
		p.left = p.left[1:]
		if !c.hears(c.w.node(m.Node)) {
			return
		}
		if b, given := c.w.ballot(m, p.req.Epoch); given && c.w.rng.IntN(16) > 0 { // else its answer is lost
			p.req.Ballots = append(p.req.Ballots, b)
		}
	case !p.count:
		res := election.Count(p.req)
		if res.Winner == nil {
			c.end(p, false)
			return
		}
		p.count = true
		c.w.crown(p.req, res, func(done bool) { c.end(p, done) })
	case c.w.rng.IntN(6) == 0: // no answer comes: it may take effect yet
		c.end(p, false)
	}
}

func (c *simController) end(p *simPoll, done bool) {
	if c.poll != p {
		return
	}
	t := controller.Attempt{Ended: c.now()}
	if !done {
		t.Failed = c.knows.Elections[theShard].Failed + 1
	}
	c.poll, c.knows.Elections[theShard] = nil, t
}

func (n *simNode) bootID() themis.BootID { return themis.BootID(strconv.Itoa(n.boot)) }

func simulateControlled(seed uint64, tracing bool) *world {
	w := newWorld(seed)
	w.controlled()
	w.tracing = tracing
	w.run(2000)
	if w.fault == "" {
		w.heal()
	}
	return w
}

// TestSeedsUnderTheController: the pure core of the controller decides on verdicts, elections and copies for the pure core of replication,
// both under one virtual clock, through random faults. Nothing acknowledged is lost, nobody but one acknowledges in an epoch, and once the
// faults end they come to rest by themselves. THEMIS_SEED=n repeats one.
func TestSeedsUnderTheController(t *testing.T) {
	if s := os.Getenv("THEMIS_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		w := simulateControlled(seed, true)
		t.Logf("%s", strings.Join(w.trace, "\n"))
		if w.fault != "" {
			t.Fatal(w.fault)
		}
		return
	}
	acked, epochs, handed, done := 0, 0, 0, map[string]int{}
	for seed := range uint64(seeds(t)) / 10 {
		w := simulateControlled(seed, false)
		acked += len(w.acked)
		epochs += int(w.record.Epoch)
		handed += w.handed
		for kind, n := range w.control.done {
			done[kind] += n
		}
		if w.fault != "" {
			w = simulateControlled(seed, true)
			t.Fatalf("seed %d: %s\n%s", seed, w.fault, strings.Join(w.trace, "\n"))
		}
	}
	if n := seeds(t) / 10; acked < n || epochs < 2*n || handed == 0 {
		t.Errorf("the simulation does too little to show anything: %d writes acknowledged, %d epochs, %d of them handed over, in %d runs", acked, epochs, handed, n)
	}
	for _, kind := range []string{"DeclareFailed", "ClearFailed", "Elect", "Rehouse", "Join", "Drop"} {
		if done[kind] == 0 {
			t.Errorf("the controller never had to: %s; %v", kind, done)
		}
	}
	t.Logf("%d writes acknowledged, %d epochs, %d handed over, %v", acked, epochs, handed, done)
}
