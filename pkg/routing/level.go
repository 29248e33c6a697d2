package routing

import (
	"maps"
	"slices"

	"github.com/themisdb/themis/pkg/themis"
)

// LevelPercent is how far a shard may be off its fair share after levelling, in percent of that share.
const LevelPercent = 2

// level moves tokens from shards above their band to shards below it, and no more than that: the number of tokens moved
// is the larger of what stands above the bands and what is missing below them, which is a lower bound for any method.
func level(ranges []Range, weights map[themis.ShardID]int) []Range {
	give := surplus(ranges, weights)
	ranges = shiftBounds(ranges, give)
	return merge(cutOff(ranges, give))
}

// surplus says for each shard how many tokens it has to give away (positive) or to take (negative); the sum is 0.
func surplus(ranges []Range, weights map[themis.ShardID]int) map[themis.ShardID]int64 {
	have := map[themis.ShardID]int64{}
	for _, r := range ranges {
		have[r.Shard] += int64(r.Tokens()) //nolint:gosec // at most 2^32
	}
	total := int64(0)
	for _, w := range weights {
		total += int64(w)
	}
	shards := slices.SortedFunc(maps.Keys(weights), compareShards)
	give, rest := map[themis.ShardID]int64{}, int64(0) // rest > 0: tokens that still need a taker
	low, high := map[themis.ShardID]int64{}, map[themis.ShardID]int64{}
	for _, s := range shards {
		fair := int64(Space) * int64(weights[s]) // in units of 1/total tokens
		low[s] = ceilDiv(fair*(100-LevelPercent), 100*total)
		high[s] = max(fair*(100+LevelPercent)/(100*total), low[s])
		give[s] = have[s] - min(max(have[s], low[s]), high[s])
		rest += give[s]
	}
	for _, s := range shards { // whoever has room inside the band takes or gives the rest
		keeps := have[s] - give[s]
		d := min(max(rest, 0), high[s]-keeps) - min(max(-rest, 0), keeps-low[s])
		give[s] -= d
		rest -= d
	}
	return give
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }

// shiftBounds lets neighbours trade over their common bound first: that cuts no range.
func shiftBounds(ranges []Range, give map[themis.ShardID]int64) []Range {
	for i := 0; i+1 < len(ranges); i++ {
		l, r := &ranges[i], &ranges[i+1]
		switch {
		case give[l.Shard] > 0 && give[r.Shard] < 0:
			n := min(give[l.Shard], -give[r.Shard], int64(l.Tokens())-1) //nolint:gosec // at most 2^32
			l.To -= themis.Token(n)                                      //nolint:gosec // n < l.Tokens()
			r.From -= themis.Token(n)                                    //nolint:gosec // as above
			give[l.Shard], give[r.Shard] = give[l.Shard]-n, give[r.Shard]+n
		case give[l.Shard] < 0 && give[r.Shard] > 0:
			n := min(-give[l.Shard], give[r.Shard], int64(r.Tokens())-1) //nolint:gosec // at most 2^32
			l.To += themis.Token(n)                                      //nolint:gosec // n < r.Tokens()
			r.From += themis.Token(n)                                    //nolint:gosec // as above
			give[l.Shard], give[r.Shard] = give[l.Shard]+n, give[r.Shard]-n
		}
	}
	return ranges
}

// cutOff hands over what is left: whole ranges, and the front part of the last one.
func cutOff(ranges []Range, give map[themis.ShardID]int64) []Range {
	takers := slices.SortedFunc(maps.Keys(give), compareShards)
	takers = slices.DeleteFunc(takers, func(s themis.ShardID) bool { return give[s] >= 0 })
	out := make([]Range, 0, len(ranges)+len(takers))
	for _, r := range ranges {
		for len(takers) > 0 && give[r.Shard] > 0 {
			t := takers[0]
			n := min(give[r.Shard], -give[t], int64(r.Tokens())) //nolint:gosec // at most 2^32
			give[r.Shard], give[t] = give[r.Shard]-n, give[t]+n
			if give[t] == 0 {
				takers = takers[1:]
			}
			whole := n == int64(r.Tokens()) //nolint:gosec // at most 2^32
			to := themis.Token(int64(r.From) + n - 1)
			out = append(out, Range{r.From, to, t})
			if whole {
				r.From, r.To = 1, 0 // nothing left
				break
			}
			r.From = to + 1
		}
		if r.Tokens() > 0 {
			out = append(out, r)
		}
	}
	return out
}

// merge joins neighbours of one shard.
func merge(ranges []Range) []Range {
	out := ranges[:0:0]
	for _, r := range ranges {
		if n := len(out); n > 0 && out[n-1].Shard == r.Shard && uint64(out[n-1].To)+1 == uint64(r.From) {
			out[n-1].To = r.To
			continue
		}
		out = append(out, r)
	}
	return out
}
