package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// The floors of the ratio append/raw are 0.95, 0.75, 0.60 and 0.28 for 1, 16, 64 and 256 writers; CompareWithRaw measures it.
var benchWriters = []int{1, 16, 64, 256}

func BenchmarkAppend(b *testing.B) {
	for _, writers := range benchWriters {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l, _, err := Open(b.TempDir(), opts())
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			if err := l.SetEpoch(1); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(1024)
			b.ReportAllocs()
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			if _, err := appendAll(l, writers, 1024, func() bool { return left.Add(-1) >= 0 }); err != nil {
				b.Fatal(err)
			}
			st := l.Stats()
			b.ReportMetric(float64(st.Entries)/float64(st.Syncs), "entries/sync")
		})
	}
}

func BenchmarkRaw(b *testing.B) {
	for _, writers := range benchWriters {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			r, err := newRawLoop(filepath.Join(b.TempDir(), "raw"), writers, 1024)
			if err != nil {
				b.Fatal(err)
			}
			defer r.f.Close()
			b.SetBytes(1024)
			b.ResetTimer()
			for done := 0; done < b.N; done += writers {
				if err := r.once(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkScan reads a log of 64 MiB as a shipper does; BenchmarkScanRaw reads the same files and sums them. Both from the page cache.
func BenchmarkScan(b *testing.B) {
	l := scanLog(b)
	defer l.Close()
	b.SetBytes(int64(l.Size()))
	var buf []byte
	for b.Loop() {
		s, err := l.Scan(1)
		if err != nil {
			b.Fatal(err)
		}
		for err == nil {
			var batch Batch
			if batch, err = s.NextFrames(buf, 1<<20); err == nil {
				buf = batch.Frames
			}
		}
		if !errors.Is(err, io.EOF) || s.Close() != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkScanRaw(b *testing.B) {
	l := scanLog(b)
	defer l.Close()
	b.SetBytes(int64(l.Size()))
	buf := make([]byte, 1<<20)
	sum := uint32(0)
	for b.Loop() {
		for _, segment := range l.view.Load().segments {
			f, err := os.Open(segmentPath(l.dir, segment.first))
			if err != nil {
				b.Fatal(err)
			}
			n := 1
			for n > 0 {
				n, _ = f.Read(buf)
				sum = crc32.Update(sum, castagnoli, buf[:n])
			}
			if err := f.Close(); err != nil {
				b.Fatal(err)
			}
		}
	}
	_ = sum
}

func scanLog(b *testing.B) *Log {
	l, _, err := Open(b.TempDir(), opts())
	if err != nil {
		b.Fatal(err)
	}
	var all []byte
	end := l.Last()
	for l.Size() < 64<<20 {
		for all = all[:0]; len(all) < 1<<20; {
			at := len(all)
			all = AppendFrame(all, &themis.Entry{Kind: themis.KindWrite, Seq: end.Seq + 1, LSN: end.LSN, Epoch: 1, Payload: make([]byte, 1024)})
			end.Seq, end.LSN = end.Seq+1, end.LSN+themis.LSN(len(all)-at)
		}
		if _, err := l.AppendFrames(all); err != nil {
			b.Fatal(err)
		}
	}
	return l
}

// BenchmarkRatio is durable appends against the raw loop, rounds of both alternating, the best of five of each: the figure
// that the floors are about. One run of it measures once, whatever b.N is.
func BenchmarkRatio(b *testing.B) {
	for _, writers := range benchWriters {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			c, err := CompareWithRaw(b.TempDir(), writers, 5, 1024, 500*time.Millisecond)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(c.Ratio, "log/raw")
			b.ReportMetric(c.Log, "log/s")
			b.ReportMetric(c.Raw, "raw/s")
		})
	}
}
