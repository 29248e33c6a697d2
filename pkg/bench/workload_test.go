package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

// slow are documents that take a millisecond, except where stall says otherwise.
type slow struct {
	began time.Time
	stall func(since time.Duration) time.Duration
	fail  func(row int64) error

	reads, writes atomic.Int64
}

func (s *slow) read(ctx context.Context, row int64) error  { s.reads.Add(1); return s.wait(ctx, row) }
func (s *slow) write(ctx context.Context, row int64) error { s.writes.Add(1); return s.wait(ctx, row) }

func (s *slow) wait(ctx context.Context, row int64) error {
	took := time.Millisecond
	if s.stall != nil {
		took = max(took, s.stall(time.Since(s.began)))
	}
	if err := pause(ctx, took); err != nil || s.fail == nil {
		return err
	}
	return s.fail(row)
}

func fourShards(row int64) themis.ShardID { return themis.ShardID(fmt.Sprint("shard-", row%4)) }

func options() WorkloadOptions {
	return WorkloadOptions{Dataset: workload.OLTP, Rows: 1000, Mix: workload.Mixes[1], Seed: 3, Threads: 4, WarmUp: 2 * time.Second, Duration: 10 * time.Second}
}

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within*want {
		t.Errorf("%s: %g; want %g", what, got, want)
	}
}

func TestWorkloadCountsAfterTheWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slow{began: time.Now(), stall: func(since time.Duration) time.Duration {
			if since < 1900*time.Millisecond {
				return 100 * time.Millisecond // cold
			}
			return 0
		}}
		r, err := drill(t.Context(), d, fourShards, options(), nil)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "operations", float64(r.Operations), 40_000, 0.001)
		near(t, "a second", r.PerSecond, 4000, 0.001)
		near(t, "cross-shard", r.Cross, 0.1, 0.05)
		near(t, "duration", float64(r.DurationMs), 10_000, 0.001)
		if r.Failed != 0 || r.Unstarted != 0 || len(r.Latency) != 5 {
			t.Errorf("%+v", r)
		}
		sum := int64(0)
		for _, l := range r.Latency {
			if l.Max > 1.01 || l.P50 < 0.99 {
				t.Errorf("%s of %s: %+v; the warm-up counts", l.Op, l.Shards, l)
			}
			sum += l.Count
		}
		if sum != 2*r.Operations {
			t.Errorf("%d in the rows, %d in all", sum, r.Operations)
		}
		near(t, "reads beside writes", float64(d.reads.Load()), float64(d.writes.Load()), 0.05)
	})
}

// TestWorkloadOmitsNothing: the cluster stands still for a second. At a rate, every operation that was to begin in it counts its wait.
func TestWorkloadOmitsNothing(t *testing.T) {
	stall := func(since time.Duration) time.Duration {
		if since >= 5*time.Second && since < 6*time.Second {
			return 6*time.Second - since
		}
		return 0
	}
	measure := func(rate float64) (out WorkloadResult) {
		synctest.Test(t, func(t *testing.T) {
			o := options()
			o.Rate = rate
			var err error
			if out, err = drill(t.Context(), &slow{began: time.Now(), stall: stall}, fourShards, o, nil); err != nil {
				t.Fatal(err)
			}
		})
		return out
	}
	all := func(r WorkloadResult) LatencyRow { return r.Latency[len(r.Latency)-1] }
	at := measure(1000)
	near(t, "operations at 1000 a second", float64(at.Operations), 10_000, 0.001)
	if at.Unstarted != 0 {
		t.Errorf("%d were not begun", at.Unstarted)
	}
	// A tenth of the time: latencies of it fall from 1 s to 0, and what had waited is worked off at 4000 a second for a third of a second.
	near(t, "p95 at a rate", all(at).P95, 620, 0.1)
	near(t, "p99 at a rate", all(at).P99, 920, 0.1)
	// Threads that wait for their answers see four slow operations and no more.
	if free := measure(0); all(free).P99 > 1.01 || all(free).Max < 900 {
		t.Errorf("each thread at its own pace: %+v", all(free))
	}
	late := measure(8000) // twice what four threads can
	near(t, "operations not begun", float64(late.Unstarted), 80_000-float64(late.Operations), 0.001)
	near(t, "operations of a rate that can't be", float64(late.Operations), 27_000, 0.1)
}

func TestWorkloadCountsErrorsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &slow{began: time.Now(), fail: func(row int64) error {
			switch {
			case row == 7:
				return themis.Errorf(themis.Corrupt, "row 7: %w", errWrong)
			case row < 100:
				return themis.Errorf(themis.NoPrimary, "none for row %d", row)
			}
			return nil
		}}
		o := options()
		o.Mix = workload.Mix{Reads: 100}
		r, err := drill(t.Context(), d, fourShards, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "failed", float64(r.Failed), 4000, 0.1)
		near(t, "wrong", float64(r.Wrong), 40, 0.5)
		if r.Operations+r.Failed < 39_990 || len(r.Errors) != 2 || r.Errors[1].Code != themis.NoPrimary || r.Errors[1].First == "" || r.Errors[0].Count != r.Wrong {
			t.Errorf("%+v", r)
		}
	})
}

func TestWorkloadEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		var look func(time.Time) WorkloadProgress
		_, err := drill(ctx, &slow{began: time.Now()}, fourShards, options(), func(l func(time.Time) WorkloadProgress) { look = l })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if p := look(time.Now()); p.Left != 9*time.Second || p.Operations < 3900 || p.PerSecond < 3900 || p.WarmingUp {
			t.Errorf("%+v", p)
		}
	})
	for what, change := range map[string]func(*WorkloadOptions){
		"threads": func(o *WorkloadOptions) { o.Threads = 0 }, "duration": func(o *WorkloadOptions) { o.Duration = 0 }, "rate": func(o *WorkloadOptions) { o.Rate = -1 },
		"warm-up": func(o *WorkloadOptions) { o.WarmUp = -1 }, "rows": func(o *WorkloadOptions) { o.Rows = 0 },
	} {
		o := options()
		change(&o)
		if _, err := drill(t.Context(), &slow{}, fourShards, o, nil); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
}
