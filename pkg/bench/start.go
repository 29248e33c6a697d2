package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
)

// StartOptions of a series of starts. Zero values take the defaults.
type StartOptions struct {
	Dir    string
	Rounds int // of each case, in turn; default 5
	Step   func(string)
}

// startLimit is for three processes that become a cluster by one command.
const startLimit = 5 * time.Second

// Start is one case.
type Start struct {
	Case     string    `json:"case"`
	MedianMs float64   `json:"median_ms"`
	WorstMs  float64   `json:"worst_ms"`
	LimitMs  float64   `json:"limit_ms,omitempty"`
	Met      bool      `json:"met"` // the worst is within the limit; true where there is none
	Rounds   []float64 `json:"rounds_ms"`
}

// StartResult is a whole run.
type StartResult struct {
	Benchmark string    `json:"benchmark"`
	Began     time.Time `json:"began"`
	Rows      []Start   `json:"rows"`
}

// Met answers whether every limit holds.
func (r StartResult) Met() bool {
	return !slices.ContainsFunc(r.Rows, func(x Start) bool { return !x.Met })
}

// Starts makes a cluster of three processes out of nothing and takes the time until it is HEALTHY; ends all of them with kill -9
// and takes the time until they are HEALTHY again; and, beside both, the time that an etcd cluster of three processes takes from
// nothing until it has a leader, with mutual TLS too. Certificates are made within that time. Host runs nodes, not Work.
func Starts(ctx context.Context, nodes playground.Host, h Host, o StartOptions) (r StartResult, err error) {
	r = StartResult{Benchmark: "start", Began: time.Now()}
	if o.Rounds == 0 {
		o.Rounds = 5
	}
	if o.Step == nil {
		o.Step = func(string) {}
	}
	if o.Rounds < 1 || o.Rounds > 1000 {
		return r, themis.Errorf(themis.InvalidArgument, "%d rounds: want 1 to 1000", o.Rounds)
	}
	dir, err := os.MkdirTemp(o.Dir, "start-bench-")
	if err != nil {
		return r, fmt.Errorf("bench start: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rows := []Start{{Case: "founded", LimitMs: ms(startLimit)}, {Case: "again after all were killed"}, {Case: "etcd"}}
	for n := range o.Rounds {
		within, again, err := startCluster(ctx, nodes, filepath.Join(dir, fmt.Sprint("cluster-", n)))
		if err != nil {
			return r, err
		}
		began := time.Now()
		t, err := startEtcd(ctx, h, filepath.Join(dir, fmt.Sprint("etcd-", n)))
		etcd := time.Since(began)
		if err == nil {
			err = t.stop()
		}
		if err != nil {
			return r, err
		}
		for i, took := range []time.Duration{within, again, etcd} {
			rows[i].Rounds = append(rows[i].Rounds, ms(took))
		}
		o.Step(fmt.Sprintf("start %d of %d: founded in %.0f ms, again in %.0f ms, etcd in %.0f ms", n+1, o.Rounds, ms(within), ms(again), ms(etcd)))
	}
	for i := range rows {
		rows[i].sum()
	}
	r.Rows = rows
	return r, nil
}

func (x *Start) sum() {
	s := spread(slices.Clone(x.Rounds))
	x.MedianMs, x.WorstMs = s.P50, s.Max
	x.Met = x.LimitMs == 0 || x.WorstMs <= x.LimitMs
}

// startCluster times one cluster: from nothing, and after all of its processes were killed.
func startCluster(ctx context.Context, nodes playground.Host, dir string) (founded, again time.Duration, err error) {
	began := time.Now()
	p, err := playground.Found(ctx, dir, playground.Default(), nodes)
	founded = time.Since(began)
	if p == nil {
		return 0, 0, err
	}
	defer func() {
		_, stopped := p.Stop(context.WithoutCancel(ctx))
		err = errors.Join(err, stopped)
	}()
	if err != nil {
		return 0, 0, err
	}
	info, err := p.Info()
	if err != nil {
		return 0, 0, err
	}
	for _, n := range info.Nodes {
		if _, err := p.Kill(ctx, n.ID); err != nil {
			return 0, 0, err
		}
	}
	began = time.Now()
	_, err = p.Start(ctx)
	return founded, time.Since(began), err
}
