package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/themis"
)

// lossy loses the answers of the transactions that lose says, counted from 1; with done == false they don't reach the store.
func lossy(kv KV, done bool, lose func(n int64) bool) *Faulty {
	var n atomic.Int64
	fault := func(_ context.Context, c Call) error {
		if c == CallTxn && lose(n.Add(1)) {
			if done {
				return errFault
			}
			return fmt.Errorf("%w: %w", ErrUnknownOutcome, errFault)
		}
		return nil
	}
	if done {
		return &Faulty{KV: kv, After: fault}
	}
	return &Faulty{KV: kv, Before: fault}
}

// TestUnknownOutcome: the answer is lost, whether the transaction was done or not; the change happens once and is known.
func TestUnknownOutcome(t *testing.T) {
	for _, done := range []bool{true, false} {
		for _, lost := range []int64{1, 3} {
			t.Run(fmt.Sprintf("done %v, %d lost", done, lost), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					mem := memoryStore(t).KV
					_, v, c := start(t, mem, 1)
					m := newMap(t, lossy(mem, done, func(n int64) bool { return n <= lost }))
					seen := v.Shards["shard-1"]
					got, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(1), "boot-1"))
					if err != nil {
						t.Fatal(err)
					}
					if now := view(t, m).Shards["shard-1"]; now.Epoch != 1 || now.Revision != got.Revision {
						t.Errorf("in force: %+v, returned: %+v", now, got)
					}
				})
			})
		}
	}
}

// TestUnknownOutcomeOverwritten: our coronation was done, its answer was lost, and the new primary has already changed the
// record when it is read back. It still is known to be ours.
func TestUnknownOutcomeOverwritten(t *testing.T) {
	for _, history := range []bool{true, false} {
		t.Run(fmt.Sprintf("history %v", history), func(t *testing.T) {
			mem := NewMemory(nil)
			t.Cleanup(func() { _ = mem.Close() })
			m, v, c := start(t, mem, 1)
			if err := m.DeclareFailed(t.Context(), c, cluster.Failed{Format: 1, Node: member(2).Node}); err != nil {
				t.Fatal(err)
			}
			seen := v.Shards["shard-1"]
			next := crown(t, seen, member(1), "boot-1")
			var once sync.Once
			shaky := &Faulty{KV: mem, After: func(_ context.Context, call Call) (err error) {
				if call == CallTxn {
					once.Do(func() {
						now := view(t, m).Shards["shard-1"]
						without, _ := now.RemoveFromISR(member(2), true)
						if _, err := m.ChangeShard(t.Context(), now, without); err != nil {
							t.Error(err)
						}
						if !history {
							mem.Compact(1 << 40)
						}
						err = errFault
					})
				}
				return err
			}}
			_, err := newMap(t, shaky).Crown(t.Context(), seen, c, next)
			if history && err != nil {
				t.Errorf("it was done, the answer is %v", err)
			}
			if !history && (!errors.Is(err, ErrUnknownOutcome) || themis.CodeOf(err) != themis.OutcomeUnknown) {
				t.Errorf("nobody can know, the answer is %v", err)
			}
		})
	}
}

// TestUnknownOutcomeLandsLate: the answer was lost, the record is still as it was when it is read back, and the transaction
// lands just before the second try, which then fails its compare. The change is known to be ours.
func TestUnknownOutcomeLandsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		m, v, c := start(t, mem, 1)
		seen := v.Shards["shard-1"]
		next := crown(t, seen, member(1), "boot-1")
		tries := 0
		late := &Faulty{KV: mem, Before: func(_ context.Context, call Call) error {
			if call != CallTxn {
				return nil
			}
			if tries++; tries == 1 {
				return ErrUnknownOutcome
			}
			if _, err := m.Crown(t.Context(), seen, c, next); err != nil {
				t.Error(err)
			}
			return nil
		}}
		if got, err := newMap(t, late).Crown(t.Context(), seen, c, next); err != nil || got.Revision != view(t, m).Shards["shard-1"].Revision {
			t.Errorf("it was done, the answer is %v", err)
		}
	})
}

// TestUnknownOutcomeLost: the answer was lost, and another controller crowned someone else in between: ErrStale, not success.
func TestUnknownOutcomeLost(t *testing.T) {
	mem := memoryStore(t).KV
	m, v, c := start(t, mem, 1)
	seen := v.Shards["shard-1"]
	var once sync.Once
	shaky := &Faulty{KV: mem, Before: func(_ context.Context, call Call) (err error) {
		if call == CallTxn {
			once.Do(func() {
				if _, err := m.Crown(t.Context(), seen, c, crown(t, seen, member(2), "boot-2")); err != nil {
					t.Error(err)
				}
				err = ErrUnknownOutcome
			})
		}
		return err
	}}
	if _, err := newMap(t, shaky).Crown(t.Context(), seen, c, crown(t, seen, member(1), "boot-1")); !errors.Is(err, ErrStale) {
		t.Errorf("%v", err)
	}
	if s := view(t, m).Shards["shard-1"]; s.Primary != member(2) {
		t.Errorf("primary %s", s.Primary)
	}
}

// TestUnknownOutcomeEnds: when nothing answers any more the outcome is unknown, and never called a failure.
func TestUnknownOutcomeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := memoryStore(t).KV
		_, v, c := start(t, mem, 1)
		seen := v.Shards["shard-1"]
		for name, kv := range map[string]KV{
			"answers are always lost": lossy(mem, false, func(int64) bool { return true }),
			"reads fail too": &Faulty{KV: mem, Before: func(_ context.Context, call Call) error {
				if call == CallTxn {
					return ErrUnknownOutcome
				}
				return errFault
			}},
		} {
			_, err := newMap(t, kv).Crown(t.Context(), seen, c, crown(t, seen, member(1), "b"))
			if themis.CodeOf(err) != themis.OutcomeUnknown || !errors.Is(err, ErrUnknownOutcome) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}
