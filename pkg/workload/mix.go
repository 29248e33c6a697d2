package workload

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

// Mix is what a benchmark asks, in percent of its operations.
type Mix struct {
	Name  string `json:"name"`                // A, B, C; empty: one of the user's own
	Reads int    `json:"reads_percent"`       // the others are writes
	Cross int    `json:"cross_shard_percent"` // two documents of two shards at once, of reads and writes alike
}

// Mixes are those with a name: B is half and half; A and C are the same with the weights at either end.
var Mixes = []Mix{{"A", 95, 10}, {"B", 50, 10}, {"C", 5, 10}}

// ParseMix reads a name, or reads=PERCENT,cross=PERCENT, where cross may be left out and is 0 then.
func ParseMix(s string) (Mix, error) {
	for _, m := range Mixes {
		if strings.EqualFold(m.Name, s) {
			return m, nil
		}
	}
	m := Mix{Reads: -1}
	for part := range strings.SplitSeq(s, ",") {
		name, value, _ := strings.Cut(part, "=")
		n, err := strconv.Atoi(value)
		switch {
		case err != nil || n < 0 || n > 100:
			return Mix{}, noMix(s)
		case name == "reads":
			m.Reads = n
		case name == "cross":
			m.Cross = n
		default:
			return Mix{}, noMix(s)
		}
	}
	if m.Reads < 0 {
		return Mix{}, noMix(s)
	}
	return m, nil
}

func noMix(s string) error {
	return themis.Errorf(themis.InvalidArgument, "mix %q: want A, B, C, or percents such as reads=80,cross=20", s)
}

func (m Mix) String() string {
	out := fmt.Sprintf("%d %% reads, %d %% writes, %d %% cross-shard", m.Reads, 100-m.Reads, m.Cross)
	if m.Name != "" {
		out = m.Name + " (" + out + ")"
	}
	return out
}

// Op is one operation: the row, or both rows, are read or written.
type Op struct {
	Write bool
	Rows  [2]int64 // the second one only where Cross
	Cross bool     // two rows of two shards
}

// Generator draws operations.
type Generator struct {
	Mix   Mix
	Seed  uint64
	Rows  int64                          // to choose from, each as likely as any other
	Shard func(row int64) themis.ShardID // where a row lies; pure
}

const secondTries = 64 // for a row of another shard; with two equal shards all fail once in 2^64

// Op is the n-th operation. It does not depend on those before, so it is the same however many threads share them. Where no row of
// another shard is found, as in a cluster of one shard, an operation that should be cross-shard is not.
func (g Generator) Op(n int64) Op {
	r := draw(g.Seed, n)
	op := Op{Write: r.IntN(100) >= g.Mix.Reads, Cross: r.IntN(100) < g.Mix.Cross}
	op.Rows[0] = r.Int64N(g.Rows)
	if !op.Cross {
		return op
	}
	at := g.Shard(op.Rows[0])
	for range secondTries {
		if op.Rows[1] = r.Int64N(g.Rows); g.Shard(op.Rows[1]) != at {
			return op
		}
	}
	return Op{Write: op.Write, Rows: [2]int64{op.Rows[0]}}
}
