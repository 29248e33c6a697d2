package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/themis"
)

type writeArgs struct {
	Writers int
	Bytes   int
	Round   int // keys of other rounds are others
	For     time.Duration
	Total   int64 // instead of For: so many writes, all writers together
}

// written is what one round of writers came to.
type written struct {
	PerSecond float64
	P50, P99  float64 // ms
	Last      themis.Seq
}

// write has that many writers write documents at the primary, each waiting for its own before it begins the next.
func (w *worker) write(ctx context.Context, a writeArgs) (any, error) {
	r, err := w.get(benchShard)
	if err != nil {
		return nil, err
	}
	more := lasting(a.For)
	if a.Total > 0 {
		more = counted(a.Total)
	}
	out, err := drive(ctx, a.Writers, more, func(ctx context.Context, writer, n int) error {
		_, err := r.Write(ctx, replication.Write{Changes: []replication.Change{{Op: operation(writer, a.Round, n, a.Bytes)}}})
		return err
	})
	out.Last = r.Status().Last.Seq
	return out, err
}

// operation is one document to write. Its payload as an entry is what the raw loop writes, too.
func operation(writer, round, n, size int) themis.Op {
	return themis.Op{
		Code: themis.OpPut, Type: themis.TypeDocument, Collection: 1, Placement: themis.Token(uint32(writer) << 20).Placement(), //nolint:gosec // small
		Key: fmt.Sprintf("w%04d-%04d-%08d", writer, round, n), Value: document(writer, n, size),
	}
}

const variants = 64

// bodies are texts that don't compress to nothing.
var bodies = sync.OnceValue(func() [][]byte {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ."
	r := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // not a secret
	out := make([][]byte, variants)
	for i := range out {
		out[i] = make([]byte, 1<<20)
		for j := range out[i] {
			out[i][j] = letters[r.IntN(len(letters))]
		}
	}
	return out
})

// readyMade are the documents of one size, made once: what it takes to make them is no part of what is measured.
var readyMade sync.Map // int, its size → [variants][]byte

// document is a JSON document of that many bytes, or a number where that is too few. It must not be changed.
func document(writer, n, size int) []byte {
	all, there := readyMade.Load(size)
	if !there {
		all, _ = readyMade.LoadOrStore(size, makeDocuments(size))
	}
	made := all.(*[variants][]byte) //nolint:forcetypeassert // nothing else is stored
	return made[(writer+n)%variants]
}

func makeDocuments(size int) *[variants][]byte {
	const around = len(`{"body":""}`)
	out := new([variants][]byte)
	for i := range out {
		if size < around {
			out[i] = []byte("1234567890"[:size])
			continue
		}
		out[i] = fmt.Appendf(make([]byte, 0, size), `{"body":"%s"}`, bodies()[i][:size-around])
	}
	return out
}

// lasting says yes for so long, from the first question on.
func lasting(d time.Duration) func() bool {
	start := sync.OnceValue(time.Now)
	return func() bool { return time.Since(start()) < d }
}

// counted says yes so many times.
func counted(n int64) func() bool {
	var asked atomic.Int64
	return func() bool { return asked.Add(1) <= n }
}

// drive lets n callers call as long as more says yes, each one call at a time, and counts. The first error ends it.
func drive(ctx context.Context, n int, more func() bool, call func(ctx context.Context, caller, i int) error) (written, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bodies()
	took := make([][]time.Duration, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	start := time.Now()
	for c := range n {
		all.Go(func() {
			took[c] = make([]time.Duration, 0, 1<<12)
			at := time.Now()
			for i := 0; ctx.Err() == nil && more(); i++ {
				if errs[c] = call(ctx, c, i); errs[c] != nil {
					cancel()
					return
				}
				now := time.Now()
				took[c] = append(took[c], now.Sub(at))
				at = now
			}
		})
	}
	all.Wait()
	whole := time.Since(start)
	if err := firstReal(errs); err != nil {
		return written{}, err
	}
	list := slices.Concat(took...)
	slices.Sort(list)
	return written{PerSecond: float64(len(list)) / whole.Seconds(), P50: ms(quantile(list, 0.5)), P99: ms(quantile(list, 0.99))}, nil
}

// firstReal is the error that ended the others.
func firstReal(errs []error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return errors.Join(errs...)
}

// quantile of a sorted list, by nearest rank; 0 of an empty one.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	at := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(at, 0), len(sorted)-1)]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
