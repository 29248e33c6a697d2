package bench

import (
	"context"
	"time"

	"github.com/themisdb/themis/pkg/wal"
)

// WAL measures durable appends to the log against a loop that writes the same frames, as many at once as there are writers, and
// calls fdatasync.
func WAL(ctx context.Context, o Options) (Comparison, error) {
	c := Comparison{
		Benchmark: "wal", Ours: "wal.Log: writers that wait for their own entry",
		Base: "one loop: a write of as many frames as there are writers, fdatasync",
	}
	o, err := o.complete()
	if err != nil {
		return c, err
	}
	c.Began, c.EntryBytes, c.EachMs = time.Now(), o.EntryBytes, o.Each.Milliseconds()
	for _, writers := range o.Writers {
		var rounds []Round
		for range o.Rounds {
			if err := ctx.Err(); err != nil {
				return c, err
			}
			m, err := wal.CompareWithRaw(o.Dir, writers, 1, o.EntryBytes, o.Each)
			if err != nil {
				return c, err
			}
			rounds = append(rounds, Round{Ours: m.Log, Base: m.Raw})
		}
		o.told(&c, newRow("append", writers, rounds, targetOf(walTargets, writers)))
	}
	return c, nil
}
