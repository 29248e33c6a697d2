package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/themis"
)

// The roles besides primary that a node can be asked to have when it is killed.
const (
	RoleEtcdLeader = "etcd-leader"
	RoleController = "controller"
)

// FailoverOptions of a series of kills. Zero values take the defaults.
type FailoverOptions struct {
	Dir       string // the cluster's directory is made below it, and removed
	RF        int    // copies of each shard; default 3
	Nodes     int    // default 3
	Shards    int    // default 4
	Kills     int    // of nodes that lead a shard and have all of With; default 30
	With      []string
	Documents int           // of 1 KB, loaded first: what a rebuild has to copy; default 4000, negative: none
	Every     time.Duration // spacing of the probes; default 10 ms
	Seed      uint64        // which nodes are killed, and when
	Step      func(string)
}

func (o FailoverOptions) complete() (FailoverOptions, error) {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&o.RF, 3)
	set(&o.Nodes, 3)
	set(&o.Shards, 4)
	set(&o.Kills, 30)
	set(&o.Documents, 4000)
	if o.Every == 0 {
		o.Every = 10 * time.Millisecond
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	for _, w := range o.With {
		if w != RoleEtcdLeader && w != RoleController {
			return o, themis.Errorf(themis.InvalidArgument, "with %q: want %s or %s", w, RoleEtcdLeader, RoleController)
		}
	}
	if o.RF < 2 || o.Kills < 1 || o.Kills > 10000 || o.Every < time.Millisecond || o.Documents > 1<<24 {
		return o, themis.Errorf(themis.InvalidArgument, "replication factor %d, %d kills, probes every %s, %d documents: want at least 2 copies, 1 to 10000 kills, 1ms or more, at most %d documents",
			o.RF, o.Kills, o.Every, o.Documents, 1<<24)
	}
	p := playground.Default()
	p.Nodes, p.Shards, p.RF = o.Nodes, o.Shards, o.RF
	return o, p.Validate()
}

// Was is what a shard had on the node that was killed.
type Was string

// The three.
const (
	WasPrimary  Was = "primary"
	WasFollower Was = "follower"
	WasNone     Was = "none"
)

// ShardPause is what a client saw of one shard during one kill.
type ShardPause struct {
	Shard       themis.ShardID `json:"shard"`
	Was         Was            `json:"was"` // on the killed node
	ReadMs      float64        `json:"read_pause_ms"`
	WriteMs     float64        `json:"write_pause_ms"`
	CopiedBytes themis.Bytes   `json:"copied_bytes"` // to a new copy, before all was well again
}

// KillEvent is one line of the audit trail after a kill.
type KillEvent struct {
	AfterMs float64 `json:"after_ms"`
	Action  string  `json:"action"`
	Subject string  `json:"subject"`
	Outcome string  `json:"outcome"`
	Reason  string  `json:"reason"`
}

// Kill is one kill -9 of a node.
type Kill struct {
	N          int           `json:"n"`
	At         time.Time     `json:"at"`
	Node       themis.NodeID `json:"node"`
	Led        int           `json:"led"` // shards
	EtcdLeader bool          `json:"etcd_leader"`
	Controller bool          `json:"controller"`
	Counts     bool          `json:"counts"`   // it was of the kind that was asked for
	QuietMs    float64       `json:"quiet_ms"` // the longest pause in the second before it: what the machine does by itself
	DiskMs     float64       `json:"disk_ms"`  // the longest pause, from the kill on, of a lone writer that syncs a block beside the nodes, which share one disk here
	ReturnMs   float64       `json:"return_ms"`
	Shards     []ShardPause  `json:"shards"`
	Events     []KillEvent   `json:"events"`
}

// All answers whether the node was primary, etcd leader and controller at once.
func (k Kill) All() bool { return k.Led > 0 && k.EtcdLeader && k.Controller }

// FailoverResult is a whole series.
type FailoverResult struct {
	Benchmark string         `json:"benchmark"`
	Seed      uint64         `json:"seed"`
	RF        int            `json:"replication_factor"`
	Nodes     int            `json:"nodes"`
	Documents int            `json:"documents"`
	With      []string       `json:"with"`
	Began     time.Time      `json:"began"`
	Kills     []Kill         `json:"kills"`
	Groups    []Group        `json:"groups"`
	Bounds    []Bound        `json:"bounds"`
	Errors    map[string]int `json:"errors"` // that clients got, by request and code
}

// Met answers whether every bound holds.
func (r FailoverResult) Met() bool {
	return !slices.ContainsFunc(r.Bounds, func(b Bound) bool { return !b.Met })
}

// Failover kills nodes of a cluster of real processes, one at a time, and measures from outside how long a client that keeps on
// reading and writing gets no answer. Every node is brought back, and the cluster HEALTHY again, before the next kill. Host runs
// nodes, not Work.
func Failover(ctx context.Context, h playground.Host, o FailoverOptions) (r FailoverResult, err error) {
	r = FailoverResult{Benchmark: "failover", Began: time.Now(), Kills: []Kill{}, Errors: map[string]int{}}
	if o, err = o.complete(); err != nil {
		return r, err
	}
	r.Seed, r.RF, r.Nodes, r.Documents, r.With = o.Seed, o.RF, o.Nodes, max(o.Documents, 0), append([]string{}, o.With...)
	dir, err := os.MkdirTemp(o.Dir, "failover-bench-")
	if err != nil {
		return r, fmt.Errorf("bench failover: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := newSeries(ctx, h, o, filepath.Join(dir, "cluster"))
	if s != nil {
		defer func() { err = errors.Join(err, s.close(context.WithoutCancel(ctx))) }()
	}
	if err != nil {
		return r, err
	}
	for counted, n := 0, 1; counted < o.Kills; n++ {
		if n > 4*o.Kills+4 {
			return r, themis.Errorf(themis.NotFound, "only %d of %d kills met a node with all of %v", counted, n-1, o.With)
		}
		k, err := s.kill(ctx, n)
		if err != nil {
			return r, fmt.Errorf("kill %d, %s (seed %d): %w", n, k.Node, o.Seed, err)
		}
		if k.Counts {
			counted++
		}
		r.Kills = append(r.Kills, k)
		o.Step(fmt.Sprintf("kill %d of %d: %s", counted, o.Kills, k.line()))
	}
	r.Errors = s.probes.errors()
	r.Groups, r.Bounds = groups(r.Kills), bounds(o.RF, r.Kills)
	return r, nil
}

// series is a cluster whose nodes are killed.
type series struct {
	o      FailoverOptions
	rng    *rand.Rand
	p      *playground.Playground
	c      *client.Client
	probes *prober
}

func newSeries(ctx context.Context, h playground.Host, o FailoverOptions, dir string) (*series, error) {
	s := &series{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0))} //nolint:gosec // repeatable on purpose
	options := playground.Default()
	options.Nodes, options.Shards, options.RF = o.Nodes, o.Shards, o.RF
	p, err := playground.Found(ctx, dir, options, h)
	if p == nil {
		return nil, err
	}
	s.p = p
	if err != nil {
		return s, err
	}
	if s.c, err = p.Client(ctx); err != nil {
		return s, err
	}
	if err := fill(ctx, s.c, o.Documents); err != nil {
		return s, err
	}
	s.probes, err = newProber(ctx, s.c, o.Every, filepath.Join(filepath.Dir(dir), "disk"))
	return s, err
}

// fill stores documents of 1 KB.
func fill(ctx context.Context, c *client.Client, n int) error {
	w := c.NewWriter(client.WriterOptions{})
	defer w.Close()
	failed := make(chan error, 1)
	for i := range n {
		err := w.Send(ctx, "filling", fmt.Sprint("document-", i), document(i, i/variants, 1024), func(_ client.Written, err error) {
			if err != nil {
				select {
				case failed <- err:
				default: // one is enough
				}
			}
		})
		if err != nil {
			return err
		}
	}
	if err := w.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

func (s *series) close(ctx context.Context) (err error) {
	if s.probes != nil {
		err = s.probes.close()
	}
	if s.c != nil {
		err = errors.Join(err, s.c.Close())
	}
	_, stopped := s.p.Stop(ctx)
	return errors.Join(err, stopped)
}

const (
	killWithin = 3 * time.Minute // until a killed node's shards serve again
	watchFor   = 5 * time.Second // at least so long after a kill: what comes late belongs to it
)

// kill takes one node away and brings it back.
func (s *series) kill(ctx context.Context, n int) (k Kill, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*killWithin)
	defer cancel()
	report, err := s.whole(ctx)
	if err != nil {
		return k, err
	}
	if k, report, err = s.aim(ctx, report); err != nil {
		return k, err
	}
	k.N = n
	if err := pause(ctx, time.Second+time.Duration(s.rng.Int64N(int64(time.Second)))); err != nil { // anywhere in the rhythm of probes and leases
		return k, err
	}
	s.probes.take()
	if err := pause(ctx, time.Second); err != nil {
		return k, err
	}
	_, quiet := s.probes.take()
	s.probes.disk.take()
	k.QuietMs, k.At = ms(quiet), time.Now()
	if _, err := s.p.Kill(ctx, k.Node); err != nil {
		return k, err
	}
	gone := time.Now()
	settled, done := context.WithTimeout(ctx, killWithin)
	err = s.probes.await(settled, gone)
	done()
	if err != nil {
		return k, errors.Join(err, s.explain(ctx, k.At))
	}
	if err := pause(ctx, time.Until(gone.Add(watchFor))); err != nil {
		return k, err
	}
	by, _ := s.probes.take()
	k.DiskMs = ms(s.probes.disk.take())
	if err := s.note(ctx, &k, report, by); err != nil {
		return k, err
	}
	if _, err := s.p.StartNode(ctx, k.Node); err != nil {
		return k, err
	}
	if _, err := s.whole(ctx); err != nil {
		return k, err
	}
	_, back := s.probes.take()
	k.ReturnMs = ms(back)
	return k, nil
}

// whole waits until the cluster is HEALTHY and every shard has all its copies in sync.
func (s *series) whole(ctx context.Context) (health.Report, error) {
	var r health.Report
	for {
		var err error
		r, err = s.c.Report(ctx)
		if err == nil && r.Status == health.Healthy && r.Control.Leader != "" && r.Control.Controller != "" &&
			!slices.ContainsFunc(r.Shards, func(x health.ShardReport) bool { return len(x.ISR) < s.o.RF || x.Primary == "" }) {
			return r, nil
		}
		if wait := pause(ctx, 50*time.Millisecond); wait != nil {
			return r, errors.Join(themis.Errorf(themis.Deadline, "the cluster is %s, not whole: %v", r.Status, findings(r)), err, wait)
		}
	}
}

func findings(r health.Report) (out []string) {
	for _, f := range r.Findings {
		out = append(out, string(f.Code)+" "+f.Subject)
	}
	return out
}

// aim chooses the node, among those that lead a shard, and gives it the etcd leadership where that is asked for.
func (s *series) aim(ctx context.Context, r health.Report) (Kill, health.Report, error) {
	var leads []themis.NodeID
	for _, n := range r.Nodes {
		if n.Primaries > 0 {
			leads = append(leads, n.ID)
		}
	}
	if len(leads) == 0 {
		return Kill{}, r, themis.Errorf(themis.NotFound, "no node leads a shard")
	}
	victim := leads[s.rng.IntN(len(leads))]
	if slices.Contains(s.o.With, RoleController) {
		victim = r.Control.Controller
	}
	if slices.Contains(s.o.With, RoleEtcdLeader) && r.Control.Leader != victim {
		if err := s.moveEtcd(ctx, victim); err != nil {
			return Kill{Node: victim}, r, err
		}
		for r.Control.Leader != victim {
			if err := pause(ctx, 100*time.Millisecond); err != nil {
				return Kill{Node: victim}, r, fmt.Errorf("give %s the leadership of etcd: %w", victim, err)
			}
			var err error
			if r, err = s.whole(ctx); err != nil {
				return Kill{Node: victim}, r, err
			}
		}
	}
	k := Kill{Node: victim, EtcdLeader: r.Control.Leader == victim, Controller: r.Control.Controller == victim}
	if n, ok := r.Node(victim); ok {
		k.Led = n.Primaries
	}
	k.Counts = k.Led > 0 && (k.EtcdLeader || !slices.Contains(s.o.With, RoleEtcdLeader)) && (k.Controller || !slices.Contains(s.o.With, RoleController))
	return k, r, nil
}

// note writes down what the kill did.
func (s *series) note(ctx context.Context, k *Kill, before health.Report, by map[*probe]time.Duration) error {
	events, err := s.c.Events(ctx, themis.HLCAt(k.At), 0, 0)
	if err != nil {
		return err
	}
	copied := map[themis.ShardID]themis.Bytes{}
	k.Events = []KillEvent{}
	for _, e := range events {
		if e.Time.Before(k.At) {
			continue
		}
		k.Events = append(k.Events, KillEvent{AfterMs: ms(e.Time.Sub(k.At)), Action: e.Action, Subject: e.Subject, Outcome: e.Outcome, Reason: e.Reason})
		if in, err := replication.ParseInstalled(e.Reason); e.Action == "install" && err == nil {
			copied[themis.ShardID(e.Subject)] += in.Bytes
		}
	}
	for _, sh := range before.Shards {
		p := ShardPause{Shard: sh.ID, Was: wasOn(sh, k.Node), CopiedBytes: copied[sh.ID]}
		for x, d := range by {
			switch {
			case x.shard != sh.ID:
			case x.write:
				p.WriteMs = ms(d)
			default:
				p.ReadMs = ms(d)
			}
		}
		k.Shards = append(k.Shards, p)
	}
	return nil
}

func wasOn(s health.ShardReport, node themis.NodeID) Was {
	_, has := s.Replica(node)
	switch {
	case s.Primary == node:
		return WasPrimary
	case has:
		return WasFollower
	}
	return WasNone
}

// explain is what the audit trail says since then, for an error.
func (s *series) explain(ctx context.Context, since time.Time) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	events, err := s.c.Events(ctx, themis.HLCAt(since), 0, 50)
	if err != nil {
		return fmt.Errorf("the audit trail can't be had: %w", err)
	}
	var errs []error
	for _, e := range events {
		errs = append(errs, fmt.Errorf("%s %s %s %s: %s", e.Time.Sub(since).Round(time.Millisecond), e.Action, e.Subject, e.Outcome, e.Reason))
	}
	return errors.Join(errs...)
}
