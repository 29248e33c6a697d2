package wal

import (
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
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
