package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sort"
	"time"

	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

// The targets of routing: how much faster a token's shard is found than by a binary search over the same ranges; and what is left of the speed
// of the hash, without which there is no routing of keys.
var (
	tokenTarget = Target{2, 3}
	keyTarget   = Target{0.5, 0.6}
)

var routedShards = []int{1, 4, 8, 64}

// Routing measures how fast one goroutine finds the shard of a token and of a key, for tables of several numbers of shards as a new
// cluster has them. One shard has one range, which needs no search, so it is not judged.
func Routing(ctx context.Context, o Options) (Comparison, error) {
	c := Comparison{
		Benchmark: "routing", Ours: "routing.Table: the shard of a token, and of a key of 22 bytes",
		Base: "of a token: a binary search over the same ranges; of a key: its hash alone",
	}
	o.Writers = []int{1}
	o, err := o.complete()
	if err != nil {
		return c, err
	}
	c.Began, c.EachMs = time.Now(), o.Each.Milliseconds()
	r := newRouted()
	for _, shards := range routedShards {
		table, err := routing.First(shards, 0)
		if err != nil {
			return c, fmt.Errorf("bench routing: %w", err)
		}
		search := newSearched(table)
		byToken, byKey := &tokenTarget, &keyTarget
		if shards == 1 {
			byToken, byKey = nil, nil
		}
		cases := []struct {
			op         string
			t          *Target
			ours, base func(i int) int
		}{
			{"token", byToken, func(i int) int { return len(table.Shard(r.tokens[i])) }, func(i int) int { return len(search.shard(r.tokens[i])) }},
			{"key", byKey, func(i int) int { return len(table.ShardOfKey(r.keys[i])) }, func(i int) int { return int(routing.TokenOf(r.keys[i])) }},
		}
		for _, k := range cases {
			var rounds []Round
			for range o.Rounds {
				if err := ctx.Err(); err != nil {
					return c, err
				}
				rounds = append(rounds, Round{Base: r.perSecond(o.Each, k.base), Ours: r.perSecond(o.Each, k.ours)})
			}
			o.told(&c, newRow(fmt.Sprintf("%s,%d-shards", k.op, shards), 1, rounds, k.t))
		}
	}
	return c, nil
}

// routed are what is asked for: as many as the processor's nearest caches hold, in no order.
type routed struct {
	tokens []themis.Token
	keys   []string
	sink   int // keeps the answers from being left out
}

const routedKeys = 1 << 10

func newRouted() *routed {
	rng, r := rand.New(rand.NewPCG(1, 2)), &routed{} //nolint:gosec // to be repeated
	for range routedKeys {
		r.tokens = append(r.tokens, themis.Token(rng.Uint32()))
		r.keys = append(r.keys, fmt.Sprintf("customer-%013d", rng.Uint32()))
	}
	return r
}

// perSecond calls f for so long.
func (r *routed) perSecond(each time.Duration, f func(i int) int) float64 {
	start, n := time.Now(), 0
	for time.Since(start) < each {
		for range 16 {
			for i := range routedKeys {
				r.sink += f(i)
			}
		}
		n += 16 * routedKeys
	}
	return float64(n) / time.Since(start).Seconds()
}

// searched is the table as one writes it in five lines.
type searched struct{ ranges []routing.Range }

func newSearched(t *routing.Table) searched { return searched{t.Ranges()} }

func (s searched) shard(tok themis.Token) themis.ShardID {
	return s.ranges[sort.Search(len(s.ranges), func(i int) bool { return s.ranges[i].To >= tok })].Shard
}
