// Package controller is the one decider of a cluster: a function from what is known to what should be done.
//
//	World{the map, what probes say, what is under way} ── Step(world, now, config) ──► []Action
//
// The caller probes, keeps the World, carries the actions out in their order and tells nobody else. Every action is safe to
// repeat and safe to lose: it becomes a control-plane transaction that compares the record it was decided on, and the next
// Step decides again from what is then true. At most one action in a step changes a given shard.
//
// What is decided:
//
//	DeclareFailed, ClearFailed   which nodes are gone: after 3 probes without an answer and at least 1 s, after 3 s at the
//	                             latest, after 1 s where connections are refused; one answer clears
//	Rehouse                      a node's copies are on another disk than the record says
//	Elect                        a shard has no primary that can go on
//	Join, Enlist                 a lost or missing copy, or one that stopped for good, is made anew on a free node, or by a spare
//	                             that follows already; so is one on a full disk that writes wait for, where that leaves room
//	Drop, StandDown              such a copy is no longer needed, or its node is gone
//	NotDone                      what would have been done, and which rule forbids it
//
// A controller that reaches no other machine decides nothing: it can't tell whether they or it are cut off. Nothing is
// declared before this controller has looked for the failure time itself, counted anew when its loop stood still.
//
// Step is pure: it reads no clock, and the same input gives the same actions in the same order.
package controller

import (
	"errors"
	"fmt"
	"time"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// Probe is what the controller's own questions to a node have shown.
type Probe struct {
	Node         themis.NodeID
	Boot         themis.BootID    // of the last answer
	Storage      themis.StorageID // of the last answer
	LastOK       time.Time        // when the last answer came; zero: none yet
	FailingSince time.Time        // when the first probe of an unbroken row of failures ended; zero: the last one was answered
	Failures     int              // in that row
	Refused      bool             // the newest failure was a refused connection: the machine answers, the process doesn't
	ControlCut   bool             // its last answer said that it can't reach the control plane
	Why          string           // of the newest failure, in words
	// The node was the controller before this one, whose heartbeats this node heard and which is silent since then: to LastOK it
	// listened though it didn't probe. Zero: it did not, or has stood still since.
	Watched time.Time

	// Of the last answer, by shard: the epoch of a reign that the record gives to the node and that is over, or can't begin (it
	// or a follower promised a later one), and why a copy of its can't lead at all (blank, or stopped after a failed fsync).
	Resigned map[themis.ShardID]themis.Epoch
	Unfit    map[themis.ShardID]string
}

// Answered says whether the newest probe was answered.
func (p Probe) Answered() bool { return !p.LastOK.IsZero() && p.FailingSince.IsZero() }

// Attempt is what this controller has tried for one shard's primary.
type Attempt struct {
	Running bool
	Ended   time.Time // of the newest attempt; zero: none ended yet
	Failed  int       // attempts in a row that elected nobody
}

// World is all that Step decides from. It is read only.
type World struct {
	Self      themis.NodeID // the controller's own node; it is taken to be up
	View      cluster.View
	Probes    map[themis.NodeID]Probe
	Since     time.Time                   // since when this controller has probed without standing still; see Looking
	AliveGone map[themis.NodeID]time.Time // when a node's heartbeat was first missing in the control plane
	FullSince map[themis.NodeID]time.Time // since when its disk is full, by its word, and none of its copies has left it
	Elections map[themis.ShardID]Attempt

	// When the verdict on a node that is FAILED was first seen here, by this machine's clock that is never set: the record's Since is
	// another's, or of before it was set.
	FailedSince map[themis.NodeID]time.Time
	Caught      map[themis.ShardID]map[themis.NodeID]themis.Seq // how far spares have followed, where it is known
	Paused      string                                          // an operator's word, and whose: detection goes on, elections and rebuilds don't; empty: not paused
}

// Config is the numbers that Step goes by.
type Config struct {
	ProbeEvery   time.Duration // default 1 s
	RetryEvery   time.Duration // after a failure; default 200 ms
	ProbeTimeout time.Duration // a probe without an answer fails; default 500 ms
	FailAfterMin time.Duration // no node is declared FAILED earlier; default 1 s
	FailAfterMax time.Duration // nor later; default 3 s
	Threshold    int           // failures in a row that suffice in between; default 3
	CutAfter     time.Duration // a primary that is cut from the control plane is replaced this long after its heartbeat ended; default 5 s, one reign lease
	BackoffMin   time.Duration // after the first failed election of a shard; default 100 ms
	BackoffMax   time.Duration // it doubles up to this; default 2 s
	Grace        time.Duration // a node FAILED for less keeps its copies: it may be restarting; default 5 s
	GraceStalled time.Duration // the same where writes wait for another copy; default 1 s
	FullGrace    time.Duration // a disk that is full for less keeps its copies: somebody may be making room; default 10 s
	JoinsPerNode int           // copies that a node receives at once; default 8
	DiskMax      float64       // a node whose disk is used to more than this ratio receives none; default 0.95
}

// Default is the configuration in force unless another is given.
func Default() Config {
	return Config{
		ProbeEvery: time.Second, RetryEvery: 200 * time.Millisecond, ProbeTimeout: 500 * time.Millisecond,
		FailAfterMin: time.Second, FailAfterMax: 3 * time.Second, Threshold: 3,
		CutAfter: 5 * time.Second, BackoffMin: 100 * time.Millisecond, BackoffMax: 2 * time.Second,
		Grace: 5 * time.Second, GraceStalled: time.Second, FullGrace: 10 * time.Second, JoinsPerNode: 8, DiskMax: 0.95,
	}
}

// Validate names every fault.
func (c Config) Validate() error {
	var faults []error
	want := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, themis.Errorf(themis.InvalidArgument, format, args...))
		}
	}
	want(c.ProbeEvery > 0, "probe_every %s: want more than 0", c.ProbeEvery)
	want(c.RetryEvery > 0 && c.RetryEvery <= c.ProbeEvery, "retry_every %s: want more than 0 and at most probe_every %s", c.RetryEvery, c.ProbeEvery)
	want(c.ProbeTimeout > 0, "probe_timeout %s: want more than 0", c.ProbeTimeout)
	want(c.FailAfterMin > 0 && c.FailAfterMin <= c.FailAfterMax, "fail_after_min %s: want more than 0 and at most fail_after_max %s", c.FailAfterMin, c.FailAfterMax)
	want(c.FailAfterMax >= c.ProbeEvery+c.ProbeTimeout, "fail_after_max %s: want at least probe_every + probe_timeout, %s, so that one probe has failed by then", c.FailAfterMax, c.ProbeEvery+c.ProbeTimeout)
	want(c.Threshold >= 1, "threshold %d: want at least 1", c.Threshold)
	want(c.CutAfter > 0, "cut_after %s: want more than 0", c.CutAfter)
	want(c.BackoffMin > 0 && c.BackoffMin <= c.BackoffMax, "backoff_min %s: want more than 0 and at most backoff_max %s", c.BackoffMin, c.BackoffMax)
	want(c.Grace >= 0 && c.GraceStalled >= 0 && c.GraceStalled <= c.Grace, "grace_stalled %s: want 0 to grace %s", c.GraceStalled, c.Grace)
	want(c.FullGrace >= 0, "full_grace %s: want at least 0", c.FullGrace)
	want(c.JoinsPerNode >= 1, "joins_per_node %d: want at least 1", c.JoinsPerNode)
	want(c.DiskMax > 0 && c.DiskMax <= 1, "disk_max %v: want more than 0 and at most 1", c.DiskMax)
	return errors.Join(faults...)
}

// Backoff is how long to wait after that many failed elections in a row.
func (c Config) Backoff(failed int) time.Duration {
	if failed <= 0 {
		return 0
	}
	d := c.BackoffMin
	for range failed - 1 {
		if d *= 2; d >= c.BackoffMax {
			return c.BackoffMax
		}
	}
	return min(d, c.BackoffMax)
}

// NextProbe is when the node should be asked again after a probe that ended at that time.
func (c Config) NextProbe(p Probe, ended time.Time) time.Time {
	if p.FailingSince.IsZero() && !p.LastOK.IsZero() {
		return ended.Add(c.ProbeEvery)
	}
	return ended.Add(c.RetryEvery)
}

// Looking is the World's Since after a step at last and before one at now: it begins anew when the loop stood still for so long
// (a paused process, a suspended machine) that the age of an answer says nothing about the node that gave it.
func Looking(since, last, now time.Time, c Config) time.Time {
	if gap := now.Sub(last); gap < 0 || gap >= c.FailAfterMin {
		return now
	}
	return since
}

// Action is one thing that should be done.
type Action interface {
	fmt.Stringer
	action()
}

// DeclareFailed gives the verdict that a node is gone.
type DeclareFailed struct {
	Node   themis.NodeID
	Boot   themis.BootID // that was last heard
	LastOK time.Time     // of its last answer; zero: this controller never had one
	First  time.Time     // when the first failed probe ended
	Since  time.Time     // of the verdict: now
	Why    string
}

// ClearFailed takes the verdict back.
type ClearFailed struct {
	Node themis.NodeID
	Why  string
}

// Rehouse records that a node's copy of a shard is on another disk: blank.
type Rehouse struct {
	Shard   themis.ShardID
	Node    themis.NodeID
	Old     themis.StorageID
	Storage themis.StorageID
}

// Elect asks for ballots, counts them and crowns the winner.
type Elect struct {
	Shard themis.ShardID
	Epoch themis.Epoch // the next
	Rule  string       // why an election is needed: first-reign, no-primary, member, failed, boot, resigned, unfit, full, stopping, cut
	Why   string
	Skip  map[themis.NodeID]string // who isn't asked, since it could not reign, and why
	Load  map[themis.NodeID]int    // for election.Request: primaries by node, those decided in this step included

	Stopping map[themis.NodeID]bool // for election.Request: nodes on their way out
}

// Join begins a copy on a node that has none.
type Join struct {
	Shard   themis.ShardID
	Replica cluster.Replica // class async; Replaces names the voter whose place it takes
	Why     string
}

// Enlist makes a spare that follows the shard its next voter.
type Enlist struct {
	Shard    themis.ShardID
	Member   cluster.Member
	Replaces *cluster.Member
	Why      string
}

// Drop ends a joining copy.
type Drop struct {
	Shard  themis.ShardID
	Member cluster.Member
	Why    string
}

// StandDown makes a joining copy on a hot spare a spare again.
type StandDown struct {
	Shard  themis.ShardID
	Member cluster.Member
	Why    string
}

// NotDone is what would have been done, were it not for a rule. It is said in every step; callers record it when its Key is
// new, and may forget the key when a step no longer says it.
type NotDone struct {
	Subject string
	Action  string // what is not done: elect, join, declare-failed, rehouse
	Rule    string
	Reason  string
}

// Key tells repetitions apart from news.
func (n NotDone) Key() string { return n.Subject + "|" + n.Action + "|" + n.Rule + "|" + n.Reason }

func (a DeclareFailed) String() string { return fmt.Sprintf("declare %s FAILED: %s", a.Node, a.Why) }
func (a ClearFailed) String() string   { return fmt.Sprintf("clear %s: %s", a.Node, a.Why) }
func (a Rehouse) String() string {
	return fmt.Sprintf("rehouse %s on %s: storage %s, the record has %s", a.Shard, a.Node, a.Storage, a.Old)
}
func (a Elect) String() string {
	return fmt.Sprintf("elect %s epoch %d: %s [%s]", a.Shard, a.Epoch, a.Why, a.Rule)
}
func (a Join) String() string {
	return fmt.Sprintf("join %s on %s: %s", a.Shard, a.Replica.Node, a.Why)
}
func (a Enlist) String() string {
	return fmt.Sprintf("enlist %s on %s: %s", a.Shard, a.Member, a.Why)
}
func (a Drop) String() string { return fmt.Sprintf("drop %s on %s: %s", a.Shard, a.Member, a.Why) }
func (a StandDown) String() string {
	return fmt.Sprintf("stand down %s on %s: %s", a.Shard, a.Member, a.Why)
}
func (a NotDone) String() string {
	return fmt.Sprintf("not done: %s %s: %s [%s]", a.Action, a.Subject, a.Reason, a.Rule)
}

func (DeclareFailed) action() {}
func (ClearFailed) action()   {}
func (Rehouse) action()       {}
func (Elect) action()         {}
func (Join) action()          {}
func (Enlist) action()        {}
func (Drop) action()          {}
func (StandDown) action()     {}
func (NotDone) action()       {}
