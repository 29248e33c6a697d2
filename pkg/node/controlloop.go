package node

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/controller"
	"github.com/themisdb/themis/pkg/election"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/rpc"
	"github.com/themisdb/themis/pkg/rpc/proto/themis/sharding"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	stepEvery     = 100 * time.Millisecond // at most so long between two steps
	ballotTimeout = time.Second
	askTimeout    = 300 * time.Millisecond // what other control nodes have heard
)

// controllerHeard is when the controller's heartbeat, its probe, last came.
type controllerHeard struct {
	mu   sync.Mutex
	term themis.Term
	at   time.Time
}

func (h *controllerHeard) from(t themis.Term, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t >= h.term {
		h.term, h.at = t, now
	}
}

func (h *controllerHeard) last() (themis.Term, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.term, h.at
}

// controlLoop runs on every control node; on one of them it is the controller.
type controlLoop struct {
	n *Node
	m *control.Map

	as     cluster.Controller // the record that makes this one the controller
	mu     sync.Mutex
	before controller.Probe // of the controller before; zero: nothing is known of it
	probes map[themis.NodeID]controller.Probe
	began  time.Time
	since  time.Time // began, or when this process last stood still
	last   time.Time
	done   time.Time // when the newest transaction of its own that was confirmed began
	gone   map[themis.NodeID]time.Time
	full   map[themis.NodeID]time.Time
	failed map[themis.NodeID]time.Time
	copies map[themis.NodeID]int // when that was looked at
	tries  map[themis.ShardID]controller.Attempt
	told   map[string]bool   // refusals that were recorded
	stuck  map[string]string // by shard: why the newest election led to nothing
	nudge  chan struct{}
	wg     *errgroup.Group
}

// run takes the controllership when nobody else has it, and gives it up when somebody does.
func (c *controlLoop) run(ctx context.Context) error {
	started := time.Now()
	last := started
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	for {
		if now := time.Now(); now.Sub(last) > time.Second { // this process stood still, so it could not hear anybody
			started = now
		}
		last = time.Now()
		v, ok := c.n.latest()
		if ok {
			c.missing(v, last)
		}
		if ok && c.shouldTake(ctx, v, started) {
			as, err := c.m.TakeController(ctx, v.Controller, c.n.id.Node, c.n.boot)
			if err == nil {
				c.n.event(cluster.Event{Actor: cluster.Actor{Kind: "controller", ID: string(c.n.id.Node)}, Action: "take_controller", Subject: string(c.n.id.Node), Outcome: "done", Reason: fmt.Sprintf("term %d", as.Term)})
				err = c.reign(ctx, as, c.predecessor(v, started))
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err != nil {
				c.n.log.Debug("not the controller", "err", err)
			}
			started = time.Now()
			last = started
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// shouldTake says whether this node should become the controller now. The others are asked only when its own ear says so.
func (c *controlLoop) shouldTake(ctx context.Context, v cluster.View, started time.Time) bool {
	now := time.Now()
	_, heard := c.n.heard.last()
	if started.After(heard) {
		heard = started
	}
	_, announced := v.Alive[v.Controller.Node]
	b := controller.Bid{
		Stopping: c.n.stopping.Load() != nil, Gone: !announced,
		Self: c.n.id.Node, Rank: slices.Index(c.candidates(v), c.n.id.Node), Record: v.Controller, Confirmed: c.n.reigns(now), Silent: now.Sub(heard),
	}
	if !b.Due() {
		return false
	}
	if v.Controller.Term > 0 && v.Controller.Node != c.n.id.Node && !b.Unheard(c.heardElsewhere(ctx, v)) {
		return false
	}
	return c.confirmed(ctx, v.Controller) == nil
}

// candidates are the nodes that may become the controller.
func (c *controlLoop) candidates(v cluster.View) []themis.NodeID {
	if c.n.embedded() {
		return v.ControlNodes()
	}
	return v.NodeIDs()
}

// heardElsewhere asks the other control nodes, but the controller, when they last heard it. Who does not answer says nothing.
func (c *controlLoop) heardElsewhere(ctx context.Context, v cluster.View) (out []controller.Heard) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var mu sync.Mutex
	var g errgroup.Group
	for _, id := range c.candidates(v) {
		if id == c.n.id.Node || id == v.Controller.Node {
			continue
		}
		g.Go(func() error {
			st, err := c.n.gather.one(ctx, id, v.Nodes[id])
			if err == nil && st.Controller != nil {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, controller.Heard{Node: id, Term: st.Controller.Term, Age: time.Duration(st.Controller.AgeMs) * time.Millisecond})
			}
			return nil
		})
	}
	_ = g.Wait()
	return out
}

// missing remembers since when which nodes' heartbeats are missing in the control plane, which disks are full and no copy has left
// them, and which verdicts stand; also while another is the controller, so that a new one need not wait for what has happened long ago.
func (c *controlLoop) missing(v cluster.View, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone == nil {
		c.gone, c.full, c.failed = map[themis.NodeID]time.Time{}, map[themis.NodeID]time.Time{}, map[themis.NodeID]time.Time{}
	}
	copies := map[themis.NodeID]int{}
	for _, s := range v.Shards {
		for _, r := range s.Replicas {
			copies[r.Node]++
		}
	}
	for id := range v.Nodes {
		_, alive := v.Alive[id]
		_, failed := v.Failed[id]
		since(c.gone, id, !alive, now)
		if copies[id] < c.copies[id] { // what it took there is freed in a moment
			delete(c.full, id)
		}
		since(c.full, id, v.Alive[id].DiskFull, now)
		since(c.failed, id, failed, now)
	}
	c.copies = copies
}

// since keeps when it was first so for the node.
func since(first map[themis.NodeID]time.Time, id themis.NodeID, so bool, now time.Time) {
	if _, known := first[id]; !so {
		delete(first, id)
	} else if !known {
		first[id] = now
	}
}

// predecessor is the controller that falls silent, as this node knows it without having probed it: its heartbeats are as good as
// answers. Only those that came, and only while this process has not stood still since.
func (c *controlLoop) predecessor(v cluster.View, started time.Time) controller.Probe {
	term, heard := c.n.heard.last()
	if term == 0 || term != v.Controller.Term || v.Controller.Node == c.n.id.Node || heard.Before(started) {
		return controller.Probe{}
	}
	return controller.Probe{Node: v.Controller.Node, Boot: v.Controller.Boot, LastOK: heard, Watched: heard}
}

// reign decides and carries out until another takes over. before is what is known of the controller before.
func (c *controlLoop) reign(ctx context.Context, as cluster.Controller, before controller.Probe) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	g, ctx := errgroup.WithContext(ctx)
	now := time.Now()
	*c = controlLoop{
		n: c.n, m: c.m, as: as, before: before, probes: map[themis.NodeID]controller.Probe{}, began: now, since: now, last: now, done: now,
		gone: c.gone, full: c.full, failed: c.failed, copies: c.copies, tries: map[themis.ShardID]controller.Attempt{}, told: map[string]bool{}, stuck: map[string]string{}, nudge: make(chan struct{}, 1), wg: g,
	}
	c.n.log.Info("controller", "term", as.Term)
	g.Go(func() error { return c.steps(ctx) })
	g.Go(func() error { return c.look(ctx) })
	g.Go(func() error { return c.confirm(ctx) })
	err := g.Wait()
	c.n.holding.Store(nil)
	c.n.log.Info("no longer controller", "term", as.Term, "err", err)
	return err
}

// config are the numbers in force now.
func (c *controlLoop) config() controller.Config { return failover(*c.n.conf()) }

func (c *controlLoop) steps(ctx context.Context) error {
	tick := time.NewTicker(stepEvery)
	defer tick.Stop()
	probing, recordsTried := map[themis.NodeID]context.CancelFunc{}, map[themis.NodeID]time.Time{}
	for {
		v, ok := c.n.latest()
		if ok && v.Controller.Term > c.as.Term {
			return fmt.Errorf("%s took over in term %d", v.Controller.Node, v.Controller.Term)
		}
		if ok && v.Controller.Term == c.as.Term {
			c.staff(ctx, v, probing)
			c.keepRecords(ctx, v, recordsTried)
			if err := c.step(ctx, v); err != nil {
				return err
			}
		}
		changed := c.n.changed.next()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		case <-c.nudge:
		case <-changed:
		}
	}
}

// staff has one prober for every other member.
func (c *controlLoop) staff(ctx context.Context, v cluster.View, probing map[themis.NodeID]context.CancelFunc) {
	for id := range v.Nodes {
		if id == c.n.id.Node || probing[id] != nil {
			continue
		}
		pctx, stop := context.WithCancel(ctx)
		probing[id] = stop
		c.wg.Go(func() error { return c.probe(pctx, id) })
	}
	for id, stop := range probing {
		if _, ok := v.Nodes[id]; !ok {
			stop()
			delete(probing, id)
			c.mu.Lock()
			delete(c.probes, id)
			c.mu.Unlock()
		}
	}
}

// probe asks one node again and again; each question is this controller's heartbeat.
func (c *controlLoop) probe(ctx context.Context, id themis.NodeID) error {
	p := controller.Probe{Node: id}
	if c.before.Node == id {
		p = c.before
	}
	for {
		v, _ := c.n.latest()
		try, cancel := context.WithTimeout(ctx, c.config().ProbeTimeout)
		resp, err := c.ask(try, v.Nodes[id])
		cancel()
		now := time.Now()
		if err == nil {
			p.Boot, p.Storage = themis.BootID(resp.GetBootId()), themis.StorageID(resp.GetStorageId())
			p.LastOK, p.FailingSince, p.Failures, p.Refused, p.Why = now, time.Time{}, 0, false, ""
			p.ControlCut, p.Unfit, p.Resigned = resp.GetState() == stateCut, map[themis.ShardID]string{}, map[themis.ShardID]themis.Epoch{}
			for id, why := range resp.GetUnfitShards() {
				p.Unfit[themis.ShardID(id)] = why
			}
			for id, e := range resp.GetResignedEpochs() {
				p.Resigned[themis.ShardID(id)] = themis.Epoch(e)
			}
		} else {
			if p.FailingSince.IsZero() {
				p.FailingSince = now
			}
			p.Failures++
			p.Refused, p.Why = rpc.IsRefused(err), err.Error()
		}
		c.mu.Lock()
		c.probes[id] = p
		c.mu.Unlock()
		if err != nil {
			c.poke()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Until(c.config().NextProbe(p, now))):
		}
	}
}

// ownProbe is what the controller's own node would answer. It waits for no disk, so that one that hangs does not hold up the steps.
func (c *controlLoop) ownProbe(now time.Time) controller.Probe {
	p := controller.Probe{Node: c.n.id.Node, Boot: c.n.boot, Storage: c.n.id.Storage, LastOK: now, ControlCut: !c.n.reigns(now)}
	p.Unfit, p.Resigned = c.n.shards.fitness((*replication.Replica).LastFitness)
	return p
}

func (c *controlLoop) poke() {
	select {
	case c.nudge <- struct{}{}:
	default:
	}
}

func (c *controlLoop) ask(ctx context.Context, node cluster.Node) (*sharding.HealthResponse, error) {
	client, err := c.n.pool.Shards(ctx, node.GRPC, node.ID, rpc.Lane("probe"))
	if err != nil {
		return nil, err
	}
	return client.HealthCheck(ctx, &sharding.HealthRequest{ControllerTerm: uint64(c.as.Term), ControllerId: string(c.n.id.Node)})
}

// world is what Step decides from.
func (c *controlLoop) world(v cluster.View, now time.Time) controller.World {
	c.missing(v, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	w := controller.World{
		Self: c.n.id.Node, View: v, Since: controller.Looking(c.since, c.last, now, c.config()), // look may not have run yet since this process went on
		Probes: maps.Clone(c.probes), Elections: maps.Clone(c.tries),
		AliveGone: maps.Clone(c.gone), FullSince: maps.Clone(c.full), FailedSince: maps.Clone(c.failed),
	}
	if w.Since != c.began {
		for k, x := range w.Probes {
			x.Watched = time.Time{}
			w.Probes[k] = x
		}
	}
	w.Probes[c.n.id.Node] = c.ownProbe(now)
	return w
}

// answered is when each other member answered last: in this term, or in one before, of which times stay true.
func answered(before *map[themis.NodeID]time.Time, w controller.World) *map[themis.NodeID]time.Time {
	out := map[themis.NodeID]time.Time{}
	for id := range w.View.Nodes {
		if at := w.Probes[id].LastOK; id != w.Self && !at.IsZero() {
			out[id] = at
		} else if before != nil && !(*before)[id].IsZero() {
			out[id] = (*before)[id]
		}
	}
	return &out
}

func (c *controlLoop) step(ctx context.Context, v cluster.View) error {
	now := time.Now()
	w := c.world(v, now)
	c.n.probed.Store(answered(c.n.probed.Load(), w))
	holding, told := map[string]string{}, map[string]bool{}
	for _, a := range controller.Step(w, now, c.config()) {
		if nd, ok := a.(controller.NotDone); ok {
			holding[nd.Subject] = nd.Reason + " [" + nd.Rule + "]"
			told[nd.Key()] = true
			if !c.told[nd.Key()] {
				c.event(cluster.Event{Action: nd.Action, Subject: nd.Subject, Outcome: "not_done", Rule: nd.Rule, Reason: nd.Reason})
			}
			continue
		}
		if err := c.do(ctx, v, a); err != nil {
			if errors.Is(err, control.ErrDeposed) {
				return err
			}
			c.n.log.Warn("action not done", "action", a.String(), "err", err)
		}
	}
	c.told = told
	c.n.holding.Store(&holding)
	return ctx.Err()
}

func (c *controlLoop) event(e cluster.Event) {
	e.Actor = cluster.Actor{Kind: "controller", ID: string(c.n.id.Node)}
	c.n.event(e)
}

// do carries one action out. Each is one transaction that compares what it was decided on.
func (c *controlLoop) do(ctx context.Context, v cluster.View, a controller.Action) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	change := func(action string, shard themis.ShardID, why string, next cluster.Shard, err error) error {
		if err == nil {
			_, err = c.m.ChangeShardAs(ctx, c.as, v.Shards[shard], next)
		}
		if err == nil {
			c.event(cluster.Event{Action: action, Subject: string(shard), Outcome: "done", Reason: why, Epoch: next.Epoch, Before: asJSON(v.Shards[shard].Replicas), After: asJSON(next.Replicas)})
		}
		return err
	}
	switch a := a.(type) {
	case controller.DeclareFailed:
		err := c.m.DeclareFailed(ctx, c.as, cluster.Failed{Format: cluster.Format, Node: a.Node, Boot: a.Boot, Since: a.Since.UTC(), Why: a.Why, Term: c.as.Term})
		if err == nil {
			c.event(cluster.Event{Action: "declare_failed", Subject: string(a.Node), Outcome: "done", Rule: "detection", Reason: a.Why, Phases: a.Phases()})
		}
		return err
	case controller.ClearFailed:
		err := c.m.ClearFailed(ctx, c.as, a.Node)
		if err == nil {
			c.event(cluster.Event{Action: "clear_failed", Subject: string(a.Node), Outcome: "done", Reason: a.Why})
		}
		return err
	case controller.Elect:
		c.elect(v, a)
		return nil
	case controller.Rehouse:
		next, err := v.Shards[a.Shard].Rehouse(a.Node, a.Storage)
		return change("rehouse", a.Shard, fmt.Sprintf("on %s: storage %s, the record has %s", a.Node, a.Storage, a.Old), next, err)
	case controller.Join:
		next, err := v.Shards[a.Shard].Join(a.Replica)
		return change("join", a.Shard, fmt.Sprintf("on %s: %s", a.Replica.Node, a.Why), next, err)
	case controller.Drop:
		next, err := v.Shards[a.Shard].Drop(a.Member)
		return change("drop", a.Shard, fmt.Sprintf("on %s: %s", a.Member, a.Why), next, err)
	case controller.Enlist:
		next, err := v.Shards[a.Shard].Enlist(a.Member, a.Replaces)
		return change("enlist", a.Shard, fmt.Sprintf("on %s: %s", a.Member, a.Why), next, err)
	case controller.StandDown:
		next, err := v.Shards[a.Shard].StandDown(a.Member)
		return change("stand_down", a.Shard, fmt.Sprintf("on %s: %s", a.Member, a.Why), next, err)
	}
	return themis.Errorf(themis.Internal, "%s: no way to do it", a)
}

func asJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return nil
	}
	return b
}

// elect runs one election beside the steps.
func (c *controlLoop) elect(v cluster.View, a controller.Elect) {
	c.mu.Lock()
	t := c.tries[a.Shard]
	t.Running = true
	c.tries[a.Shard] = t
	c.mu.Unlock()
	c.wg.Go(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err := c.ballot(ctx, v, a)
		c.mu.Lock()
		t := controller.Attempt{Ended: time.Now(), Failed: c.tries[a.Shard].Failed}
		if err != nil {
			t.Failed++
		} else {
			t.Failed = 0
		}
		c.tries[a.Shard] = t
		c.mu.Unlock()
		c.poke()
		return nil
	})
}

// ballot collects ballots, counts them, and crowns the winner by one transaction over the record that was counted.
func (c *controlLoop) ballot(ctx context.Context, v cluster.View, a controller.Elect) error {
	began := time.Now()
	seen := v.Shards[a.Shard]
	e := cluster.Event{Action: "elect", Subject: string(a.Shard), Epoch: a.Epoch, Rule: a.Rule}
	ballots, silent := c.collect(ctx, v, seen, a)
	counted := time.Now()
	res := election.Count(election.Request{Shard: seen, Epoch: a.Epoch, Ballots: ballots, Silent: silent, Load: a.Load, Stopping: a.Stopping})
	e.Phases = append(e.Phases, cluster.Phase{Name: "ballots", Ms: ms(counted.Sub(began))})
	if res.Winner == nil {
		e.Outcome, e.Reason = "not_done", a.Why+"; "+res.Why+others(res.Others)
		c.eventOnce(e)
		return errors.New(res.Why)
	}
	next, err := seen.Crown(res.Winner.Voter, res.Winner.Boot, res.Wait, false)
	if err == nil {
		_, err = c.m.Crown(ctx, seen, c.as, next)
	}
	e.Phases = append(e.Phases, cluster.Phase{Name: "crown", Ms: ms(time.Since(counted))}, cluster.Phase{Name: "lease_wait", Ms: ms(res.Wait)})
	e.DurationMs = ms(time.Since(began))
	if err != nil {
		e.Outcome, e.Reason = "failed", err.Error()
		c.eventOnce(e)
		return err
	}
	e.Outcome = "done"
	e.Reason = fmt.Sprintf("%s: %s leads with last epoch %d, seq %d, by %s%s", a.Why, res.Winner.Voter.Node, res.Winner.Last.Epoch, res.Winner.Last.Seq, ballotWords(res.Got, res.Need), others(res.Others))
	if res.MayLose {
		e.Reason += "; writes that the old primary had acknowledged under async may be missing, see rescued/ when it returns"
	}
	c.event(e)
	c.mu.Lock()
	delete(c.stuck, e.Subject)
	c.mu.Unlock()
	if err := c.seen(ctx, a); err != nil || !a.Stopping[res.Winner.Voter.Node] {
		return err
	}
	return fmt.Errorf("%s stops, and leads %s again: no other copy was as advanced and gave its ballot", res.Winner.Voter, a.Shard) // tried again, but not at once
}

// ballotWords is how many ballots counted, and how many had to.
func ballotWords(got, need int) string {
	if got == 1 {
		return fmt.Sprintf("1 ballot, %d needed", need)
	}
	return fmt.Sprintf("%d ballots, %d needed", got, need)
}

// seen waits until the map here shows the crown, so that nobody decides on what was before.
func (c *controlLoop) seen(ctx context.Context, a controller.Elect) error {
	for {
		changed := c.n.changed.next()
		if v, ok := c.n.latest(); ok && v.Shards[a.Shard].Epoch >= a.Epoch {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// eventOnce records an election that led to nothing only when its reason is news.
func (c *controlLoop) eventOnce(e cluster.Event) {
	c.mu.Lock()
	news := c.stuck[e.Subject] != e.Reason
	c.stuck[e.Subject] = e.Reason
	c.mu.Unlock()
	if news {
		c.event(e)
	}
}

func others(rs []election.Rejected) string {
	s := ""
	for _, r := range rs {
		s += "; " + r.String()
	}
	return s
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// collect asks every voter for its ballot, and keeps those whose signature is by the node's registered key over this very
// question.
func (c *controlLoop) collect(ctx context.Context, v cluster.View, s cluster.Shard, a controller.Elect) ([]election.Ballot, map[themis.NodeID]string) {
	ctx, cancel := context.WithTimeout(ctx, ballotTimeout)
	defer cancel()
	var mu sync.Mutex
	var ballots []election.Ballot
	silent := maps.Clone(a.Skip) // before anybody is asked: from then on mu guards it
	if silent == nil {
		silent = map[themis.NodeID]string{}
	}
	var g errgroup.Group
	for _, voter := range s.Voters() {
		if a.Skip[voter.Node] != "" {
			continue
		}
		g.Go(func() error {
			b, err := c.oneBallot(ctx, v, s, voter, a.Epoch)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				silent[voter.Node] = err.Error()
			} else {
				ballots = append(ballots, b)
			}
			return nil
		})
	}
	_ = g.Wait()
	return ballots, silent
}

func (c *controlLoop) oneBallot(ctx context.Context, v cluster.View, s cluster.Shard, voter cluster.Member, e themis.Epoch) (election.Ballot, error) {
	nonce := make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails
	req := &sharding.VoteRequest{
		Term: uint64(e), CandidateId: string(c.n.id.Node), ShardId: string(s.ID), Nonce: nonce, TimestampNs: uint64(time.Now().UnixNano()), //nolint:gosec // positive
		ClusterId: string(v.Meta.ID), ControllerTerm: uint64(c.as.Term),
	}
	node := v.Nodes[voter.Node]
	client, err := c.n.pool.Shards(ctx, node.GRPC, node.ID, rpc.Lane("probe"))
	if err != nil {
		return election.Ballot{}, err
	}
	m, err := client.RequestVote(ctx, req)
	if err != nil {
		return election.Ballot{}, err
	}
	if !m.GetVoteGranted() {
		return election.Ballot{}, errors.New(m.GetReason())
	}
	b, r := readBallot(v, voter, req, m)
	if r != nil {
		c.n.metrics.votesRejected.WithLabelValues(r.reason).Inc()
		c.n.log.Warn("ballot not counted", "peer", node.ID, "shard", s.ID, "epoch", e, "reason", r.reason, "why", r.text)
		return b, errors.New(r.text)
	}
	return b, nil
}
