package replication

import (
	"testing"

	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/wal"
)

// Frames in memory count for nothing: what was cut from the log and written anew under a later epoch is never applied from them.
func TestRecentEntriesAreThoseOfTheLog(t *testing.T) {
	var q recent
	l, _, err := wal.Open(t.TempDir(), wal.Options{
		Cluster: "demo", Shard: "shard-1", Storage: "disk",
		Tap: func(b wal.Batch) { q.offer(run{b.Frames, b.First, b.Last}) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	write := func(epoch themis.Epoch, n int) {
		if err := l.SetEpoch(epoch); err != nil {
			t.Fatal(err)
		}
		for range n {
			a, err := l.Begin(themis.KindBarrier, themis.Tags{}, nil, 1)
			if err == nil {
				err = a.Wait()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	seqs := func(next, upTo themis.Seq) (out []themis.Seq) {
		for _, e := range q.take(l, next, upTo, 1<<20) {
			out = append(out, e.Seq)
		}
		return out
	}
	write(1, 4)
	if got := seqs(2, 3); len(got) != 2 || got[0] != 2 {
		t.Fatalf("entries %v", got)
	}
	if got := seqs(1, 4); got != nil {
		t.Fatalf("entry 1 was taken before: %v", got)
	}
	if err := l.TruncateBack(3); err != nil {
		t.Fatal(err)
	}
	stale := append([]run{}, q.runs...)
	write(2, 2)
	q.runs = stale // as if the new ones had come by another way
	if got := seqs(3, 5); len(got) != 1 || got[0] != 3 {
		t.Fatalf("entry 4 of epoch 1 was cut, entry 4 is of epoch 2 now: %v", got)
	}
	q.offer(run{first: 9, last: 9})
	if len(q.runs) != 1 {
		t.Fatalf("%d runs with a gap between them", len(q.runs))
	}
}
