package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"

	"github.com/themisdb/themis/cmd/internal/usage"
	"github.com/themisdb/themis/pkg/bench"
	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

// workloadFlags are those of `bench --mix`.
type workloadFlags struct {
	o        bench.WorkloadOptions
	mix      string
	dataset  string
	baseline string
	shards   int
	keep     bool
}

// seconds is a flag that takes a number of seconds, or a time with its unit.
type seconds struct{ to *time.Duration }

func (s seconds) String() string {
	if s.to == nil {
		return ""
	}
	return s.to.String()
}

func (s seconds) Type() string { return "seconds" }

func (s seconds) Set(text string) error {
	if n, err := strconv.ParseInt(text, 10, 32); err == nil {
		*s.to = time.Duration(n) * time.Second
		return nil
	}
	d, err := time.ParseDuration(text)
	*s.to = d
	return err
}

func (f *workloadFlags) register(fs *pflag.FlagSet) {
	f.o.Duration, f.o.WarmUp = time.Minute, 5*time.Second
	fs.StringVar(&f.mix, "mix", "", "the operations: A, B or C, or percents such as reads=80,cross=20")
	fs.IntVar(&f.shards, "shards", 0, "the shards that the cluster must have; 0: any number")
	fs.Var(seconds{&f.o.Duration}, "duration", "measure so many `SECONDS`, or a time such as 10m")
	fs.IntVar(&f.o.Threads, "threads", 64, "operations at once")
	fs.Float64Var(&f.o.Rate, "rate", 0, "operations a second that are to begin; 0: as fast as the threads get answers")
	fs.Var(seconds{&f.o.WarmUp}, "warm-up", "run so many `SECONDS` first that do not count")
	fs.Uint64Var(&f.o.Seed, "seed", 1, "what the operations follow from")
	fs.StringVar(&f.dataset, "dataset", string(workload.OLTP), "the data set that is read and written: oltp or vectors")
	fs.Int64Var(&f.o.Rows, "rows", 10_000, "rows of it")
	fs.Uint64Var(&f.o.DataSeed, "data-seed", 1, "what the rows follow from: the --seed of load")
	fs.StringVar(&f.o.Collection, "collection", benchCollection, "the collection with the rows; those that are missing are loaded first and removed in the end")
	fs.BoolVar(&f.keep, "keep", false, "remove nothing")
	fs.StringVar(&f.baseline, "baseline", "", "`FILE` with the JSON of a run on fewer shards: the scaling efficiency is told")
}

// benchCollection holds rows only while a benchmark runs.
const benchCollection = "bench"

const workloadHelp = `

Without a benchmark's name, --mix asks the running cluster that is meant, as other commands find it, for a mix of operations: A is 95 %
reads, B 50 %, C 5 %, the others writes, and 10 % of each are cross-shard: two documents of two shards at once, which is no transaction.
Every write puts the bytes there that a row of the data set has, so every read is compared. With --rate, latencies count from the moment at
which an operation was to begin, so that a cluster that stands still is not asked less. Which operations, and of which rows, follows from --seed.

Exit code of --mix: 0 all answered, 7 some failed, 1 all did, or a read was wrong.`

// workload is `bench --mix …`; without a flag of it, bench only holds others.
func (a *app) workload(cmd *cobra.Command, f workloadFlags) error {
	if !cmd.Flags().Changed("mix") {
		given := ""
		own := cmd.LocalNonPersistentFlags()
		cmd.Flags().Visit(func(x *pflag.Flag) {
			if own.Lookup(x.Name) != nil {
				given = x.Name
			}
		})
		if given != "" {
			return usage.Wrong("--%s without --mix: want --mix A, B or C", given).Do("themis-cli bench --mix B")
		}
		return usage.Unknown(cmd, nil)
	}
	var err error
	if f.o.Mix, err = workload.ParseMix(f.mix); err != nil {
		return err
	}
	if f.o.Dataset, err = workload.ParseDataset(f.dataset); err != nil {
		return err
	}
	if f.shards < 0 || f.o.Rows > workload.MaxRows {
		return usage.Wrong("--shards %d --rows %d: want 0 or more shards, and at most %d rows", f.shards, f.o.Rows, int64(workload.MaxRows))
	}
	if err := errors.Join(f.o.Validate(), themis.CheckCollection(f.o.Collection)); err != nil {
		return err
	}
	base, err := readBaseline(cmd.Context(), f.baseline)
	if err != nil {
		return err
	}
	return a.withClient(cmd.Context(), 0, func(ctx context.Context, c *client.Client) error { return a.measure(ctx, c, f, base) })
}

// readBaseline reads an earlier answer; nil: none is named.
func readBaseline(ctx context.Context, path string) (*bench.WorkloadResult, error) {
	if path == "" {
		return nil, nil
	}
	b, err := readLimited(ctx, path, 1<<20)
	if err != nil {
		return nil, err
	}
	var r bench.WorkloadResult
	if err := json.Unmarshal(b, &r); err != nil || r.Shards < 1 || r.PerSecond <= 0 {
		return nil, usage.Wrong("--baseline %s: not the JSON of a bench --mix", path)
	}
	return &r, nil
}

func (a *app) measure(ctx context.Context, c *client.Client, f workloadFlags, base *bench.WorkloadResult) (err error) {
	m, err := c.Map(ctx)
	if err != nil {
		return err
	}
	if have := len(m.Shards); f.shards > 0 && f.shards != have {
		return usage.Wrong("--shards %d: the cluster %s has %d", f.shards, m.Cluster, have).Do("themis-cli bench --mix %s --shards %d%s", f.mix, have, a.flags.where())
	}
	added, err := a.prepare(ctx, c, f)
	if f.o.Collection == benchCollection { // ours, also what a run that broke off has left
		added = &rowSource{rows: f.o.Rows}
	}
	removed := false
	defer func() {
		if ctx.Err() != nil && !removed {
			err = errors.Join(err, a.removeAfter(ctx, c, f, added))
		}
	}()
	if err != nil {
		return err
	}
	end := func() {}
	r, err := bench.Workload(ctx, c, f.o, func(look func(time.Time) bench.WorkloadProgress) {
		end = a.progress(func(now time.Time) progressed { return pace{look(now), f.o} })
	})
	end()
	if err != nil {
		return err
	}
	if base != nil {
		e := r.EfficiencyAgainst(*base)
		r.Efficiency = &e
	}
	switch {
	case r.Wrong > 0 || r.Operations == 0:
		a.answer(themis.ExitFailed)
	case r.Failed > 0:
		a.answer(themis.ExitPartly)
	}
	if err := a.print(r, func(w io.Writer, _ bool) { drawWorkload(w, r) }); err != nil {
		return err
	}
	if f.keep {
		return nil
	}
	_, err = remove(ctx, c, f.o, added)
	removed = err == nil
	return err
}

const removeTime = 20 * time.Second

// removeAfter removes the rows of a benchmark that was told to stop, and says which stay: a second Ctrl-C leaves them.
func (a *app) removeAfter(ctx context.Context, c *client.Client, f workloadFlags, added *rowSource) error {
	switch {
	case f.keep:
		return nil
	case added == nil: // it broke off while they were loaded
		a.say("# interrupted: rows that it had loaded are left in %s", f.o.Collection)
		return nil
	}
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	a.say("# interrupted: removing the rows from %s; Ctrl-C again leaves them", f.o.Collection)
	gone, err := remove(ctx, c, f.o, added)
	for gone > 0 && err == nil { // a write that was under way may have been stored behind its row's removal
		gone, err = remove(ctx, c, f.o, added)
	}
	if err != nil {
		a.say("# rows are left in %s: %v", f.o.Collection, err)
	}
	return err
}

// prepare loads the rows that are missing, and answers from which one on they are new.
func (a *app) prepare(ctx context.Context, c *client.Client, f workloadFlags) (added *rowSource, err error) {
	l := &loader{c: c, f: loadFlags{collection: f.o.Collection, workers: 256}, out: loadAnswer{Run: client.NewRequestID()[:8], Present: new(int64)}}
	src := &rowSource{set: f.o.Dataset, seed: f.o.DataSeed, rows: f.o.Rows}
	end := a.progress(l.step)
	defer end()
	return a.fill(ctx, l, src)
}

// remove deletes the rows that were added, and says how many were there.
func remove(ctx context.Context, c *client.Client, o bench.WorkloadOptions, added *rowSource) (int64, error) {
	var gone atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readers)
	err := added.numbers(func(n int64) error {
		g.Go(func() error {
			_, err := c.Delete(ctx, o.Collection, o.Dataset.Key(n))
			if themis.CodeOf(err) == themis.NotFound {
				return nil
			}
			if err == nil {
				gone.Add(1)
			}
			return err
		})
		return ctx.Err()
	})
	if waited := g.Wait(); waited != nil {
		err = waited
	}
	if err != nil {
		return gone.Load(), fmt.Errorf("remove the rows of the benchmark from %s: %w", o.Collection, err)
	}
	return gone.Load(), nil
}

// pace is how far a workload is.
type pace struct {
	bench.WorkloadProgress
	o bench.WorkloadOptions
}

func (p pace) text() string {
	if p.WarmingUp {
		return "warming up, " + clock(p.Left) + " left"
	}
	return fmt.Sprintf("%s %.0f operations a second, %d failed, %s left", bar(1-float64(p.Left)/float64(p.o.Duration)), p.PerSecond, p.Failed, clock(p.Left))
}

func (p pace) fields() string {
	return fmt.Sprintf("operations=%d failed=%d rate=%.0f warming_up=%t eta_ms=%d", p.Operations, p.Failed, p.PerSecond, p.WarmingUp, p.Left.Milliseconds())
}

func drawWorkload(w io.Writer, r bench.WorkloadResult) {
	_, _ = fmt.Fprintf(w, "%s, %d shards: %s, %.1f s\n", r.Cluster, r.Shards, r.Describe(), float64(r.DurationMs)/1000)
	var rows [][]string
	for _, l := range r.Latency {
		rows = append(rows, []string{l.Op, l.Shards, fmt.Sprint(l.Count), fmt.Sprintf("%.0f", l.PerSecond), millis(l.P50), millis(l.P95), millis(l.P99), millis(l.P999), millis(l.Max)})
	}
	columns(w, "OP SHARDS COUNT OPS/S P50 P95 P99 P99.9 MAX", rows)
	_, _ = fmt.Fprintf(w, "%.1f %% cross-shard, %d failed, %d of them wrong documents; this process used %.2f cores\n", r.Cross*100, r.Failed, r.Wrong, r.ClientCPU)
	if r.Unstarted > 0 {
		_, _ = fmt.Fprintf(w, "%d operations had not begun when their time had come: the rate was not reached\n", r.Unstarted)
	}
	if r.Efficiency != nil {
		_, _ = fmt.Fprintf(w, "scaling efficiency %.1f %%: operations a second and shard, beside the baseline's\n", *r.Efficiency*100)
	}
	for _, e := range r.Errors {
		_, _ = fmt.Fprintf(w, "%d times %s, the first: %s\n", e.Count, e.Code, e.First)
	}
}
