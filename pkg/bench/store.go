package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	storeBatch  = 64 // documents that are applied together
	storeBurst  = themis.Bytes(64 << 20)
	storeCache  = themis.Bytes(256 << 20)
	storeMemory = 32 << 20 // a memtable of both; as many may wait
)

// The targets of the store, beside a bare Pebble that is given the same bytes and looks at nothing.
var (
	burstTarget     = Target{0.5, 0.65}
	sustainedTarget = Target{0.3, 0.6}
	getTarget       = Target{0.6, 0.9}
)

// Store measures a store of new documents with random tokens: applying the first 64 MiB, which memory takes (burst); applying for o.Each
// more, while tables are written and compacted (sustained), beside the burst of Pebble; and reading them (get). The work of making
// entries is not counted. Every round begins with empty directories.
func Store(ctx context.Context, o Options) (c Comparison, err error) {
	c = Comparison{
		Benchmark: "store", Ours: "store.Apply of 64 documents at once, which looks each up, counts, checks and stamps; store.Get",
		Base: "Pebble without a log: a batch of 64 sets of the same bytes, for as long as memory takes them; its Get",
	}
	o.Writers = []int{1}
	if o, err = o.complete(); err != nil {
		return c, err
	}
	c.Began, c.EntryBytes, c.EachMs = time.Now(), o.EntryBytes, o.Each.Milliseconds()
	rounds := map[string][]Round{}
	for range o.Rounds {
		theirs, err := storeRound(ctx, o, openBare)
		if err != nil {
			return c, fmt.Errorf("bench store, Pebble: %w", err)
		}
		mine, err := storeRound(ctx, o, openStore)
		if err != nil {
			return c, fmt.Errorf("bench store: %w", err)
		}
		rounds["burst"] = append(rounds["burst"], Round{Ours: mine.burst, Base: theirs.burst})
		rounds["sustained"] = append(rounds["sustained"], Round{Ours: mine.sustained, Base: theirs.burst})
		rounds["get"] = append(rounds["get"], Round{Ours: mine.get, Base: theirs.get})
	}
	o.told(&c, newRow("burst", 1, rounds["burst"], &burstTarget))
	o.told(&c, newRow("sustained", 1, rounds["sustained"], &sustainedTarget))
	o.told(&c, newRow("get", 1, rounds["get"], &getTarget))
	return c, nil
}

// kept is a place for documents.
type kept interface {
	apply(ops []themis.Op) (time.Duration, error) // how long it took, without the making of entries
	get(op *themis.Op) error
	Close() error
}

type storeFigures struct{ burst, sustained, get float64 } // a second

func storeRound(ctx context.Context, o Options, open func(dir string) (kept, error)) (f storeFigures, err error) {
	dir, err := os.MkdirTemp(o.Dir, "store-bench-")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	k, err := open(filepath.Join(dir, "s"))
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	p := &producer{rng: rand.New(rand.NewPCG(3, 4)), size: o.EntryBytes} //nolint:gosec // to be repeated
	burst := max(storeBatch, int(storeBurst)/o.EntryBytes)
	if f.burst, err = p.applies(ctx, k, func(n int, _ time.Duration) bool { return n < burst }); err != nil {
		return f, err
	}
	if f.sustained, err = p.applies(ctx, k, func(_ int, took time.Duration) bool { return took < o.Each }); err != nil {
		return f, err
	}
	f.get, err = p.gets(ctx, k, o.Each)
	return f, err
}

// producer makes documents.
type producer struct {
	rng  *rand.Rand
	size int
	made []themis.Op // without values; every eighth, to be read
}

func (p *producer) batch() []themis.Op {
	ops := make([]themis.Op, storeBatch)
	for i := range ops {
		tok, n := themis.Token(p.rng.Uint32()), p.rng.IntN(1<<30)
		ops[i] = themis.Op{
			Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: tok.Placement(),
			Key: fmt.Sprintf("document-%08x%08x", uint32(tok), n), Value: document(n%variants, 0, p.size),
		}
	}
	first := ops[0]
	first.Value = nil
	p.made = append(p.made, first)
	return ops
}

// applies applies batches as long as more says so, and counts documents a second of the time that applying took.
func (p *producer) applies(ctx context.Context, k kept, more func(n int, took time.Duration) bool) (float64, error) {
	bodies()
	n, took := 0, time.Duration(0)
	for more(n, took) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		t, err := k.apply(p.batch())
		if err != nil {
			return 0, err
		}
		n, took = n+storeBatch, took+t
	}
	return float64(n) / took.Seconds(), nil
}

func (p *producer) gets(ctx context.Context, k kept, each time.Duration) (float64, error) {
	n, start := 0, time.Now()
	for ; time.Since(start) < each; n++ {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if err := k.get(&p.made[p.rng.IntN(len(p.made))]); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}

// ours is a store, given entries as the log would.
type ours struct {
	*store.Store
	cache *store.Cache
	at    themis.Position
	hlc   themis.HLC
}

func openStore(dir string) (kept, error) {
	cache := store.NewCache(storeCache)
	s, err := store.Open(dir, store.Options{Cache: cache, MemTableBytes: storeMemory})
	if err != nil {
		cache.Close()
		return nil, err
	}
	return &ours{s, cache, themis.Position{Epoch: 1}, 1 << 40}, nil
}

func (s *ours) Close() error {
	defer s.cache.Close()
	return s.Store.Close()
}

func (s *ours) apply(ops []themis.Op) (time.Duration, error) {
	entries := make([]themis.Entry, len(ops))
	for i := range ops {
		e := themis.Entry{
			Version: themis.EntryVersion, Kind: themis.KindWrite, Seq: s.at.Seq + 1, LSN: s.at.LSN, Epoch: s.at.Epoch, HLC: s.hlc + 1,
			Payload: themis.AppendOps(nil, ops[i:i+1]),
		}
		s.hlc++
		s.at = themis.Position{Seq: e.Seq, Epoch: e.Epoch, LSN: e.LSN + themis.LSN(e.FrameBytes())} //nolint:gosec // positive
		entries[i] = e
	}
	start := time.Now()
	_, err := s.Apply(entries)
	return time.Since(start), err
}

func (s *ours) get(op *themis.Op) error {
	_, ok, err := s.Get(op.Collection, op.Placement, op.Key)
	if err == nil && !ok {
		err = fmt.Errorf("%s is not there", op.Key)
	}
	return err
}

// bare is Pebble by itself, with the store's memory.
type bare struct {
	*pebble.DB
	cache *pebble.Cache
}

func openBare(dir string) (kept, error) {
	cache := pebble.NewCache(int64(storeCache))
	o := &pebble.Options{
		Cache: cache, DisableWAL: true, FormatMajorVersion: pebble.FormatNewest, MemTableSize: storeMemory, MemTableStopWritesThreshold: 4,
		L0CompactionThreshold: 4, L0StopWritesThreshold: 24, Logger: silence{},
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(dir, o)
	if err != nil {
		cache.Unref()
		return nil, err
	}
	return &bare{db, cache}, nil
}

func (b *bare) Close() error {
	defer b.cache.Unref()
	return b.DB.Close()
}

func bareKey(op *themis.Op) []byte { return append(append([]byte{1}, op.Placement...), op.Key...) }

func (b *bare) apply(ops []themis.Op) (time.Duration, error) {
	start := time.Now()
	batch := b.NewBatch()
	for i := range ops {
		if err := batch.Set(bareKey(&ops[i]), ops[i].Value, nil); err != nil {
			return 0, err
		}
	}
	err := batch.Commit(pebble.NoSync)
	return time.Since(start), err
}

func (b *bare) get(op *themis.Op) error {
	v, done, err := b.DB.Get(bareKey(op))
	if err != nil {
		return fmt.Errorf("%s: %w", op.Key, err)
	}
	_ = append([]byte(nil), v...) // a reader keeps it
	return done.Close()
}

// silence takes Pebble's words.
type silence struct{}

func (silence) Infof(string, ...any)  {}
func (silence) Errorf(string, ...any) {}
func (silence) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...)) // Pebble must not go on; the benchmark's data is worth nothing
}
