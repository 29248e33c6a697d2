package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

// WorkloadOptions of a Workload.
type WorkloadOptions struct {
	Collection string           // holds the rows
	Dataset    workload.Dataset // what they are
	DataSeed   uint64           // what they follow from
	Rows       int64            // of the data set that are there, from 0 on
	Mix        workload.Mix
	Seed       uint64        // what the operations follow from
	Threads    int           // operations at once, at most
	Rate       float64       // operations a second that are to begin, at even times; 0: each thread begins the next when the last has ended
	WarmUp     time.Duration // before what is counted begins
	Duration   time.Duration // of what is counted
}

// Validate says what can't be.
func (o WorkloadOptions) Validate() error {
	switch {
	case o.Threads < 1 || o.Threads > 4096:
		return themis.Errorf(themis.InvalidArgument, "%d threads: want 1 to 4096", o.Threads)
	case o.Duration < 100*time.Millisecond || o.Duration > 30*24*time.Hour:
		return themis.Errorf(themis.InvalidArgument, "a duration of %s: want 100ms to 30 days", o.Duration)
	case o.WarmUp < 0 || o.WarmUp > time.Hour:
		return themis.Errorf(themis.InvalidArgument, "a warm-up of %s: want 0 to 1h", o.WarmUp)
	case o.Rate < 0 || o.Rate > 1e6:
		return themis.Errorf(themis.InvalidArgument, "a rate of %g: want 0 to 1000000", o.Rate)
	case o.Rows < 1:
		return themis.Errorf(themis.InvalidArgument, "%d rows: want at least 1", o.Rows)
	}
	return nil
}

// WorkloadResult is what a Workload came to. Only operations that began in its time count, not those of the warm-up.
type WorkloadResult struct {
	Cluster    string          `json:"cluster"`
	Shards     int             `json:"shards"`
	Mix        workload.Mix    `json:"mix"`
	Dataset    string          `json:"dataset"`
	Rows       int64           `json:"rows"`
	Seed       uint64          `json:"seed"`
	Threads    int             `json:"threads"`
	Rate       float64         `json:"rate_per_second"` // that was asked for; 0: as fast as it goes
	WarmUpMs   int64           `json:"warm_up_ms"`
	DurationMs int64           `json:"duration_ms"` // until the last operation had ended
	Began      time.Time       `json:"began"`
	Operations int64           `json:"operations"` // that succeeded
	PerSecond  float64         `json:"ops_per_second"`
	Cross      float64         `json:"cross_shard_ratio"` // of the operations that succeeded
	Failed     int64           `json:"failed"`
	Wrong      int64           `json:"wrong"`     // of them: reads that brought another document than the one that is stored
	Unstarted  int64           `json:"unstarted"` // operations whose time had come, and that had not begun at the end: the rate was not reached
	Latency    []LatencyRow    `json:"latency"`
	Errors     []WorkloadError `json:"errors"`
	ClientCPU  float64         `json:"client_cpu_ratio"` // of one core, used by this process
	Efficiency *float64        `json:"scaling_efficiency,omitempty"`
}

// WorkloadError counts failures of one kind.
type WorkloadError struct {
	Code  themis.Code `json:"code"`
	Count int64       `json:"count"`
	First string      `json:"first"` // in words
}

// documents are the rows that a workload asks for.
type documents interface {
	read(ctx context.Context, row int64) error
	write(ctx context.Context, row int64) error
}

// errWrong is a read that brought what was never stored.
var errWrong = errors.New("wrong document")

// stored is a collection of a cluster. Every write puts the very bytes of the row there, so every read can be judged.
type stored struct {
	c *client.Client
	w *client.Writer
	o WorkloadOptions
}

func (s *stored) write(ctx context.Context, row int64) error {
	_, err := s.w.Put(ctx, s.o.Collection, s.o.Dataset.Key(row), s.o.Dataset.Row(s.o.DataSeed, row))
	return err
}

func (s *stored) read(ctx context.Context, row int64) error {
	d, err := s.c.Get(ctx, s.o.Collection, s.o.Dataset.Key(row))
	if err == nil && !bytes.Equal(d.Value, s.o.Dataset.Row(s.o.DataSeed, row)) {
		err = themis.Errorf(themis.Corrupt, "%s/%s: %w: %d bytes", s.o.Collection, s.o.Dataset.Key(row), errWrong, len(d.Value))
	}
	return err
}

// WorkloadProgress is where a Workload stands.
type WorkloadProgress struct {
	Left       time.Duration // of the warm-up and what is counted
	WarmingUp  bool
	Operations int64 // that succeeded so far
	Failed     int64
	PerSecond  float64
}

// Workload asks a running cluster for operations of a mix and measures them. A cross-shard operation reads or writes two documents of two
// shards at once and ends with the later one; it is no transaction. With a rate, latency counts from the moment at which the
// operation was to begin, so an operation that had to wait for a thread counts its wait: no omission is coordinated. The look that started
// is given answers at any time where it stands.
func Workload(ctx context.Context, c *client.Client, o WorkloadOptions, started func(look func(now time.Time) WorkloadProgress)) (WorkloadResult, error) {
	m, err := c.Map(ctx)
	if err != nil {
		return WorkloadResult{}, err
	}
	w := c.NewWriter(client.WriterOptions{InFlight: 2 * max(o.Threads, 1)})
	defer w.Close()
	place := func(row int64) themis.ShardID { return m.ShardOf(o.Dataset.Key(row)) }
	out, err := drill(ctx, &stored{c, w, o}, place, o, started)
	out.Cluster, out.Shards = m.Cluster, len(m.Shards)
	return out, err
}

// run is one Workload on its way.
type run struct {
	o     WorkloadOptions
	docs  documents
	gen   workload.Generator
	next  atomic.Int64
	begin time.Time // of what counts
	start time.Time // of the warm-up
	end   time.Time
	tally *tally
}

func drill(ctx context.Context, docs documents, place func(int64) themis.ShardID, o WorkloadOptions, started func(func(time.Time) WorkloadProgress)) (WorkloadResult, error) {
	if err := o.Validate(); err != nil {
		return WorkloadResult{}, err
	}
	r := &run{o: o, docs: docs, gen: workload.Generator{Mix: o.Mix, Seed: o.Seed, Rows: o.Rows, Shard: place}, tally: newTally()}
	r.start = time.Now()
	r.begin = r.start.Add(o.WarmUp)
	r.end = r.begin.Add(o.Duration)
	if started != nil {
		started(r.look)
	}
	used := busy()
	var all sync.WaitGroup
	for range o.Threads {
		all.Go(func() { r.thread(ctx) })
	}
	all.Wait()
	if err := ctx.Err(); err != nil {
		return WorkloadResult{}, err
	}
	return r.result(time.Now(), busy()-used), nil
}

// thread does one operation after the other.
func (r *run) thread(ctx context.Context) {
	for ctx.Err() == nil {
		n := r.next.Add(1) - 1
		at, ok := r.due(ctx, n)
		if !ok {
			return
		}
		op := r.gen.Op(n)
		err := r.do(ctx, op)
		if ctx.Err() != nil {
			return
		}
		if !at.Before(r.begin) {
			r.tally.add(op, time.Since(at), err)
		}
	}
}

// due waits until operation n is to begin, and answers when that was; false: not in this run.
func (r *run) due(ctx context.Context, n int64) (time.Time, bool) {
	now := time.Now()
	at := now
	if r.o.Rate > 0 {
		at = r.start.Add(time.Duration(float64(n) / r.o.Rate * float64(time.Second)))
	}
	if !at.Before(r.end) || !now.Before(r.end) {
		return at, false
	}
	if wait := at.Sub(now); wait > 0 && pause(ctx, wait) != nil {
		return at, false
	}
	if r.o.Rate > 0 && !at.Before(r.begin) {
		r.tally.started.Add(1)
	}
	return at, true
}

func (r *run) do(ctx context.Context, op workload.Op) error {
	one := r.docs.read
	if op.Write {
		one = r.docs.write
	}
	if !op.Cross {
		return one(ctx, op.Rows[0])
	}
	var g errgroup.Group
	g.Go(func() error { return one(ctx, op.Rows[1]) })
	return errors.Join(one(ctx, op.Rows[0]), g.Wait())
}

func (r *run) look(now time.Time) WorkloadProgress {
	p := WorkloadProgress{Left: max(0, r.end.Sub(now)), WarmingUp: now.Before(r.begin)}
	p.Operations, p.Failed = r.tally.counts()
	if took := now.Sub(r.begin); took > 0 {
		p.PerSecond = float64(p.Operations) / took.Seconds()
	}
	return p
}

func (r *run) result(ended time.Time, used time.Duration) WorkloadResult {
	took := ended.Sub(r.begin)
	out := WorkloadResult{
		Mix: r.o.Mix, Dataset: string(r.o.Dataset), Rows: r.o.Rows, Seed: r.o.Seed, Threads: r.o.Threads, Rate: r.o.Rate,
		WarmUpMs: r.o.WarmUp.Milliseconds(), DurationMs: took.Milliseconds(), Began: r.begin.UTC(),
		ClientCPU: float64(used) / float64(ended.Sub(r.start)),
	}
	r.tally.report(&out, took)
	if r.o.Rate > 0 {
		planned := int64(r.o.Rate*(r.o.WarmUp+r.o.Duration).Seconds()) - int64(r.o.Rate*r.o.WarmUp.Seconds())
		out.Unstarted = max(0, planned-r.tally.started.Load())
	}
	return out
}

// EfficiencyAgainst is how many operations a second each shard gives, beside those of a run on other shards of one machine.
func (r WorkloadResult) EfficiencyAgainst(base WorkloadResult) float64 {
	return r.PerSecond / float64(r.Shards) / (base.PerSecond / float64(base.Shards))
}

// Describe says in one line what was asked.
func (r WorkloadResult) Describe() string {
	pace := "as fast as it goes"
	if r.Rate > 0 {
		pace = fmt.Sprintf("%g operations a second", r.Rate)
	}
	return fmt.Sprintf("mix %s on %d rows of %s, %d threads, %s", r.Mix, r.Rows, r.Dataset, r.Threads, pace)
}
