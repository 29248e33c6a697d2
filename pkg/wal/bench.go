package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Comparison is the log measured against the floor of the same disk, in the same minutes.
type Comparison struct {
	Writers int     `json:"writers"`
	Rounds  []Round `json:"rounds"`
	Log     float64 `json:"log_per_second"` // best round, durable entries a second
	Raw     float64 `json:"raw_per_second"`
	Ratio   float64 `json:"ratio"` // of the best rounds
}

// Round is one measurement of each, one right after the other.
type Round struct {
	Log float64 `json:"log_per_second"`
	Raw float64 `json:"raw_per_second"`
}

// CompareWithRaw measures durable entries of entryBytes a second with that many writers, each waiting for its own entry before
// it begins the next, against a single loop that writes as many frames at once and calls fdatasync. Rounds of both alternate,
// each lasts about as long as given; the best of each counts. dir must be on the disk that is to be measured; what is
// written there is removed.
func CompareWithRaw(dir string, writers, rounds, entryBytes int, each time.Duration) (c Comparison, err error) {
	if writers < 1 || rounds < 1 || entryBytes < 0 || entryBytes > MaxPayloadBytes || each <= 0 {
		return c, themis.Errorf(themis.InvalidArgument, "compare %d writers, %d rounds, %d bytes, %s: all must be above zero", writers, rounds, entryBytes, each)
	}
	dir, err = os.MkdirTemp(dir, "wal-bench-")
	if err != nil {
		return c, fmt.Errorf("compare with raw: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	c.Writers = writers
	for i := range rounds {
		raw, err := measureRaw(filepath.Join(dir, fmt.Sprint("raw-", i)), writers, entryBytes, each)
		if err != nil {
			return c, fmt.Errorf("compare with raw: %w", err)
		}
		log, err := measureLog(filepath.Join(dir, fmt.Sprint("log-", i)), writers, entryBytes, each)
		if err != nil {
			return c, fmt.Errorf("compare with raw: %w", err)
		}
		c.Rounds = append(c.Rounds, Round{Log: log, Raw: raw})
		c.Log, c.Raw = max(c.Log, log), max(c.Raw, raw)
	}
	c.Ratio = c.Log / c.Raw
	return c, nil
}

// rawLoop appends batches of n frames to a file: one write, one fdatasync.
type rawLoop struct {
	f    *os.File
	data []byte
}

func newRawLoop(path string, n, entryBytes int) (*rawLoop, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, filePerm)
	if err != nil {
		return nil, err
	}
	r := &rawLoop{f: f}
	e := themis.Entry{Kind: themis.KindWrite, Payload: make([]byte, entryBytes)}
	for range n {
		r.data = AppendFrame(r.data, &e)
	}
	return r, nil
}

func (r *rawLoop) once() error {
	if _, err := r.f.Write(r.data); err != nil {
		return err
	}
	return fdatasync(r.f)
}

func measureRaw(path string, n, entryBytes int, each time.Duration) (perSecond float64, err error) {
	r, err := newRawLoop(path, n, entryBytes)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, r.f.Close(), os.Remove(path)) }()
	done, start := 0, time.Now()
	for time.Since(start) < each {
		if err := r.once(); err != nil {
			return 0, err
		}
		done += n
	}
	return float64(done) / time.Since(start).Seconds(), nil
}

func measureLog(dir string, writers, entryBytes int, each time.Duration) (perSecond float64, err error) {
	l, _, err := Open(dir, Options{Cluster: "bench", Shard: "shard-1", Storage: "bench"})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, l.Close(), os.RemoveAll(dir)) }()
	if err := l.SetEpoch(1); err != nil {
		return 0, err
	}
	start := time.Now()
	done, err := appendAll(l, writers, entryBytes, func() bool { return time.Since(start) < each })
	return float64(done) / time.Since(start).Seconds(), err
}

// appendAll lets that many writers append, each one entry at a time, until more says no.
func appendAll(l *Log, writers, entryBytes int, more func() bool) (done int64, err error) {
	var all sync.WaitGroup
	var count atomic.Int64
	errs := make([]error, writers)
	for i := range writers {
		all.Go(func() {
			payload := make([]byte, entryBytes)
			for more() && errs[i] == nil {
				var a *Append
				if a, errs[i] = l.Begin(themis.KindWrite, themis.Tags{}, payload, 1); errs[i] == nil {
					errs[i] = a.Wait()
					count.Add(1)
				}
			}
		})
	}
	all.Wait()
	return count.Load(), errors.Join(errs...)
}
