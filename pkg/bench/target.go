package bench

import (
	"fmt"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Target is what a ratio is judged by.
type Target struct {
	Floor float64 `json:"floor"` // below it something is wrong
	Goal  float64 `json:"goal"`
}

// Verdict is what became of a target.
type Verdict string

// The verdicts.
const (
	Goal      Verdict = "goal"  // reached
	AtFloor   Verdict = "floor" // the floor holds, the goal is not reached
	Below     Verdict = "below" // under the floor
	NotJudged Verdict = "none"  // no target was set for this case
)

// Judge compares a ratio with its target.
func (t *Target) Judge(ratio float64) Verdict {
	switch {
	case t == nil:
		return NotJudged
	case ratio >= t.Goal:
		return Goal
	case ratio >= t.Floor:
		return AtFloor
	}
	return Below
}

// The targets by writers.
var (
	walTargets = map[int]Target{1: {0.95, 0.95}, 16: {0.75, 0.80}, 64: {0.60, 0.75}, 256: {0.28, 0.45}}
	// SYNC with two followers.
	replicationTargets = map[int]Target{1: {0.75, 0.85}, 16: {0.55, 0.70}, 64: {0.40, 0.55}, 256: {0.33, 0.50}}
)

func targetOf(table map[int]Target, n int) *Target {
	if t, ok := table[n]; ok {
		return &t
	}
	return nil
}

// Round is one measurement of each, one right after the other, in operations a second.
type Round struct {
	Ours float64 `json:"ours_per_second"`
	Base float64 `json:"base_per_second"`
}

// Row is one case: one kind of operation, by so many at once.
type Row struct {
	Op     string  `json:"op"`              // append, write, put, get
	AtOnce int     `json:"at_once"`         // writers or clients
	Ours   float64 `json:"ours_per_second"` // of the best round
	Base   float64 `json:"base_per_second"` // of the best round
	Ratio  float64 `json:"ratio"`           // of the two
	*Target
	Verdict Verdict `json:"verdict"`
	P50     float64 `json:"p50_ms,omitempty"` // of ours in its best round
	P99     float64 `json:"p99_ms,omitempty"`
	Rounds  []Round `json:"rounds"`
}

// newRow judges rounds.
func newRow(op string, atOnce int, rounds []Round, t *Target) Row {
	r := Row{Op: op, AtOnce: atOnce, Target: t, Rounds: rounds}
	for _, x := range rounds {
		r.Ours, r.Base = max(r.Ours, x.Ours), max(r.Base, x.Base)
	}
	if r.Base > 0 {
		r.Ratio = r.Ours / r.Base
	}
	r.Verdict = t.Judge(r.Ratio)
	return r
}

// Comparison is a whole run.
type Comparison struct {
	Benchmark  string    `json:"benchmark"`
	Ours       string    `json:"ours"` // what is measured, in words
	Base       string    `json:"base"` // what it is compared with
	EntryBytes int       `json:"entry_bytes"`
	EachMs     int64     `json:"each_ms"` // length of a round
	Began      time.Time `json:"began"`
	Rows       []Row     `json:"rows"`
}

// Met answers whether every floor holds.
func (c Comparison) Met() bool {
	for _, r := range c.Rows {
		if r.Verdict == Below {
			return false
		}
	}
	return true
}

// Options of a comparison. Zero values take the defaults.
type Options struct {
	Dir        string        // on the disk to be measured; what is written there is removed
	Writers    []int         // at once, a case each; default 1, 16, 64, 256
	Rounds     int           // of each case; default 5
	Each       time.Duration // length of a round; default 1 s
	EntryBytes int           // default 1024
	Shards     int           // of Client's cluster; default 4
	Profile    string        // an existing directory for processor profiles of Replication's processes, in the last round of each case; empty: none
	Step       func(string)  // told what was measured; nil: nobody is
}

func (o Options) complete() (Options, error) {
	if len(o.Writers) == 0 {
		o.Writers = []int{1, 16, 64, 256}
	}
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	if o.Each == 0 {
		o.Each = time.Second
	}
	if o.EntryBytes == 0 {
		o.EntryBytes = 1024
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	for _, w := range o.Writers {
		if w < 1 || w > 4096 {
			return o, themis.Errorf(themis.InvalidArgument, "%d writers: want 1 to 4096", w)
		}
	}
	if o.Rounds < 1 || o.Rounds > 1000 || o.Each < time.Millisecond || o.EntryBytes < 1 || o.EntryBytes > 1<<20 {
		return o, themis.Errorf(themis.InvalidArgument, "%d rounds of %s with entries of %d bytes: want 1 to 1000 rounds, at least 1ms, 1 to 1048576 bytes", o.Rounds, o.Each, o.EntryBytes)
	}
	return o, nil
}

func (o Options) told(c *Comparison, r Row) {
	c.Rows = append(c.Rows, r)
	o.Step(fmt.Sprintf("%s: %s, %d at once: %.0f/s of %.0f/s, ratio %.2f", c.Benchmark, r.Op, r.AtOnce, r.Ours, r.Base, r.Ratio))
}
