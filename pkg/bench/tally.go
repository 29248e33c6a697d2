package bench

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

// LatencyRow is the latency of operations of one kind, in ms. Those that failed are not in it.
type LatencyRow struct {
	Op        string  `json:"op"`     // read, write, all
	Shards    string  `json:"shards"` // one, two, any
	Count     int64   `json:"count"`
	PerSecond float64 `json:"per_second"`
	P50       float64 `json:"p50_ms"`
	P95       float64 `json:"p95_ms"`
	P99       float64 `json:"p99_ms"`
	P999      float64 `json:"p999_ms"`
	Max       float64 `json:"max_ms"`
}

// tally counts operations. It may be used by any number of goroutines.
type tally struct {
	started atomic.Int64 // of those that count, where a rate was asked for

	mu     sync.Mutex
	kinds  [4]*hdrhistogram.Histogram // µs, by kindOf
	failed int64
	wrong  int64
	errs   map[themis.Code]*WorkloadError
}

const (
	latencyMost   = int64(10 * time.Minute / time.Microsecond) // longer ones count as this
	latencyDigits = 3
)

func newTally() *tally {
	t := &tally{errs: map[themis.Code]*WorkloadError{}}
	for i := range t.kinds {
		t.kinds[i] = newLatencies()
	}
	return t
}

func newLatencies() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, latencyMost, latencyDigits)
}

func kindOf(op workload.Op) int {
	kind := 0
	if op.Write {
		kind += 2
	}
	if op.Cross {
		kind++
	}
	return kind
}

func (t *tally) add(op workload.Op, took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		_ = t.kinds[kindOf(op)].RecordValue(min(max(took.Microseconds(), 1), latencyMost)) //nolint:errcheck // within its range
		return
	}
	t.failed++
	if errors.Is(err, errWrong) {
		t.wrong++
	}
	code := themis.CodeOf(err)
	if t.errs[code] == nil {
		t.errs[code] = &WorkloadError{Code: code, First: err.Error()}
	}
	t.errs[code].Count++
}

func (t *tally) counts() (done, failed int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, h := range t.kinds {
		done += h.TotalCount()
	}
	return done, t.failed
}

// report fills in what was counted in that time.
func (t *tally) report(out *WorkloadResult, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := newLatencies()
	for kind, h := range t.kinds {
		all.Merge(h)
		if h.TotalCount() == 0 {
			continue
		}
		op, shards := "read", "one"
		if kind >= 2 {
			op = "write"
		}
		if kind%2 == 1 {
			shards = "two"
			out.Cross += float64(h.TotalCount())
		}
		out.Latency = append(out.Latency, latencyRow(op, shards, h, took))
	}
	out.Latency = append(out.Latency, latencyRow("all", "any", all, took))
	out.Operations, out.Failed, out.Wrong = all.TotalCount(), t.failed, t.wrong
	out.PerSecond = float64(out.Operations) / took.Seconds()
	out.Cross /= float64(max(1, out.Operations))
	out.Errors = []WorkloadError{}
	for _, code := range slices.Sorted(maps.Keys(t.errs)) {
		out.Errors = append(out.Errors, *t.errs[code])
	}
}

func latencyRow(op, shards string, h *hdrhistogram.Histogram, took time.Duration) LatencyRow {
	at := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return LatencyRow{
		Op: op, Shards: shards, Count: h.TotalCount(), PerSecond: float64(h.TotalCount()) / took.Seconds(),
		P50: at(50), P95: at(95), P99: at(99), P999: at(99.9), Max: float64(h.Max()) / 1000,
	}
}
