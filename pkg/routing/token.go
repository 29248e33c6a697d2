// Package routing says which shard a document belongs to. A shard key hashes to a token (MurmurHash3 x86_32, seed 0),
// a Table maps every token 0…4294967295 to exactly one shard, and a Ring of virtual nodes computes the first table.
//
//	shard key ── TokenOf ──► token ── Table.Shard ──► shard-3
//	                                     ▲
//	Ring (150 virtual nodes a shard) ── Place: levelled once to within 2 % ──► Table version 1 ── Move, With, Split ──► 2, 3 …
//
// Ranges are inclusive at both ends. A Table never changes: every edit returns a new one with the next version, so readers
// keep theirs without a lock and swap it whole. A Ring is changed in place and belongs to one caller at a time. Nothing
// here depends on the order of maps, on time or on chance: the same shards give the same table on every machine.
package routing

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/twmb/murmur3"

	"github.com/themisdb/themis/pkg/themis"
)

// MaxToken is the last token.
const MaxToken themis.Token = 1<<32 - 1

// Space is the number of tokens, 2³².
const Space uint64 = 1 << 32

// TokenOf is the token of a shard key: murmur3 x86_32 of its bytes with seed 0.
func TokenOf(shardKey string) themis.Token { return themis.Token(murmur3.StringSum32(shardKey)) }

// TokenFromWire narrows a token field of the wire contract, which has 64 bits for 32-bit values (C-62).
func TokenFromWire(v uint64) (themis.Token, error) {
	if v > uint64(MaxToken) {
		return 0, themis.Errorf(themis.InvalidArgument, "token %d: larger than %d", v, MaxToken)
	}
	return themis.Token(v), nil
}

// CompositeKey makes one shard key of several fields. Each field is written as its length in bytes, a colon and its
// bytes, so no two different lists of fields give the same key: ("ab", "c") is "2:ab1:c", ("a", "bc") is "1:a2:bc".
func CompositeKey(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(strconv.Itoa(len(p)))
		b.WriteByte(':')
		b.WriteString(p)
	}
	return b.String()
}

// ShardAt names the shard with that index, counted from 0: index i is shard-(i+1) (C-04).
func ShardAt(i int) themis.ShardID { return themis.ShardID("shard-" + strconv.Itoa(i+1)) }

// compareShards orders canonical ids by number: shard-2 before shard-10.
func compareShards(a, b themis.ShardID) int {
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return cmp.Compare(a, b)
}

// checkShard says why id is not the canonical name of a shard, or nil.
func checkShard(id themis.ShardID) error {
	c, err := themis.ParseShardID(string(id))
	if err != nil {
		return err
	}
	if c != id {
		return themis.Errorf(themis.InvalidArgument, "shard %q: the canonical form is %q", id, c)
	}
	return nil
}

// Strategy finds the shard for a token.
type Strategy func(themis.Token) themis.ShardID

// StrategyByName makes the named strategy over n shards: "ring" is the levelled ring that clusters use, "modulo" is
// token mod n, kept for comparison (C-01).
func StrategyByName(name string, n int) (Strategy, error) {
	switch name {
	case "ring":
		t, err := First(n, DefaultVirtualNodes)
		if err != nil {
			return nil, err
		}
		return t.Shard, nil
	case "modulo":
		return Modulo(n)
	}
	return nil, themis.Errorf(themis.InvalidArgument, "placement strategy %q: want ring or modulo", name)
}

// Modulo places by token mod n. It moves almost every document when n changes, which is why clusters don't use it.
func Modulo(n int) (Strategy, error) {
	if err := checkCount(n); err != nil {
		return nil, err
	}
	shards := make([]themis.ShardID, n)
	for i := range shards {
		shards[i] = ShardAt(i)
	}
	return func(t themis.Token) themis.ShardID { return shards[uint64(t)%uint64(n)] }, nil
}

func checkCount(n int) error {
	if n < 1 || n > MaxShards {
		return themis.Errorf(themis.InvalidArgument, "%d shards: want 1 to %d", n, MaxShards)
	}
	return nil
}

// Range is a span of tokens, inclusive at both ends, and the shard that owns it.
type Range struct {
	From  themis.Token   `json:"from"`
	To    themis.Token   `json:"to"`
	Shard themis.ShardID `json:"shard"`
}

// Tokens is how many tokens the range holds, 1 to 2³²; 0 when From is behind To.
func (r Range) Tokens() uint64 {
	if r.From > r.To {
		return 0
	}
	return uint64(r.To) - uint64(r.From) + 1
}

// Contains says whether t lies in the range.
func (r Range) Contains(t themis.Token) bool { return r.From <= t && t <= r.To }

// Overlaps says whether the two ranges share a token.
func (r Range) Overlaps(o Range) bool { return r.From <= o.To && o.From <= r.To }

func (r Range) String() string { return fmt.Sprintf("[%d, %d] %s", r.From, r.To, r.Shard) }
