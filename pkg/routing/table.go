package routing

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"github.com/themisdb/themis/pkg/themis"
)

// Table maps every token to one shard. It never changes; any number of goroutines may use it at once.
type Table struct {
	version uint64
	shards  []themis.ShardID // the owners, by number
	ends    []uint32         // last token of each range; grows; the last is MaxToken
	owners  []uint16         // index into shards, beside ends
	first   []uint32         // first[p]: the range that holds the first token with prefix p; one more entry closes the list
	shift   uint             // token >> shift = prefix
}

// NewTable makes a table of ranges in any order. They must cover all tokens once; the error names every gap and overlap.
func NewTable(version uint64, ranges []Range) (*Table, error) {
	if version == 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "routing table version 0: the first is 1")
	}
	if err := Validate(ranges); err != nil {
		return nil, err
	}
	ranges = sorted(ranges)
	t := &Table{version: version}
	index := map[themis.ShardID]uint16{}
	for _, r := range ranges {
		index[r.Shard] = 0
	}
	if err := checkCount(len(index)); err != nil {
		return nil, err
	}
	t.shards = slices.SortedFunc(maps.Keys(index), compareShards)
	for i, s := range t.shards {
		index[s] = uint16(i) //nolint:gosec // at most MaxShards
	}
	t.ends, t.owners = make([]uint32, len(ranges)), make([]uint16, len(ranges))
	for i, r := range ranges {
		t.ends[i], t.owners[i] = uint32(r.To), index[r.Shard]
	}
	t.compile()
	return t, nil
}

// compile builds the index by the leading bits of a token: about four prefixes for each range, at most 2¹⁶.
func (t *Table) compile() {
	width := min(uint(bits.Len(uint(len(t.ends))))+2, 16) //nolint:gosec // Len is at most 64
	t.shift = 32 - width
	t.first = make([]uint32, 1<<width+1)
	i := uint32(0)
	for p := range uint32(1) << width {
		for t.ends[i] < p<<t.shift {
			i++
		}
		t.first[p] = i
	}
	t.first[1<<width] = uint32(len(t.ends) - 1) //nolint:gosec // one range has at least one token
}

// Shard is the owner of a token.
func (t *Table) Shard(tok themis.Token) themis.ShardID { return t.shards[t.owners[t.find(tok)]] }

// ShardOfKey is the owner of a shard key.
func (t *Table) ShardOfKey(shardKey string) themis.ShardID { return t.Shard(TokenOf(shardKey)) }

// Find is the range that holds a token.
func (t *Table) Find(tok themis.Token) Range { return t.rangeAt(int(t.find(tok))) }

func (t *Table) find(tok themis.Token) uint32 {
	p := uint32(tok) >> t.shift
	lo, hi := t.first[p], t.first[p+1]
	for lo < hi { // the first range whose end is not before tok
		mid := (lo + hi) / 2
		if t.ends[mid] < uint32(tok) {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

func (t *Table) rangeAt(i int) Range {
	from := uint32(0)
	if i > 0 {
		from = t.ends[i-1] + 1
	}
	return Range{themis.Token(from), themis.Token(t.ends[i]), t.shards[t.owners[i]]}
}

// Version grows by 1 with every edit; the first table has 1.
func (t *Table) Version() uint64 { return t.version }

// Len is the number of ranges.
func (t *Table) Len() int { return len(t.ends) }

// Shards are the shards that own at least one token, by number.
func (t *Table) Shards() []themis.ShardID { return slices.Clone(t.shards) }

// Ranges is a copy of all ranges, by token.
func (t *Table) Ranges() []Range {
	out := make([]Range, len(t.ends))
	for i := range out {
		out[i] = t.rangeAt(i)
	}
	return out
}

// RangesOf is a copy of one shard's ranges, by token, neighbours merged; empty when it owns nothing.
func (t *Table) RangesOf(shard themis.ShardID) []Range {
	var out []Range
	for i := range t.ends {
		if t.shards[t.owners[i]] == shard {
			out = append(out, t.rangeAt(i))
		}
	}
	return merge(out)
}

// Span is the first and the last token of a shard, as status and certificate show it (SHD-17). A shard that owns more
// than one range doesn't own all that lies between. false when it owns nothing.
func (t *Table) Span(shard themis.ShardID) (from, to themis.Token, ok bool) {
	ranges := t.RangesOf(shard)
	if len(ranges) == 0 {
		return 0, 0, false
	}
	return ranges[0].From, ranges[len(ranges)-1].To, true
}

// Tokens is how many tokens each owner has; the sum is 2³².
func (t *Table) Tokens() map[themis.ShardID]uint64 {
	out := map[themis.ShardID]uint64{}
	for _, r := range t.Ranges() {
		out[r.Shard] += r.Tokens()
	}
	return out
}

// Shares is each owner's part of the token space, 0 to 1; the sum is 1.
func (t *Table) Shares() map[themis.ShardID]float64 {
	out := map[themis.ShardID]float64{}
	for s, n := range t.Tokens() {
		out[s] = float64(n) / float64(Space)
	}
	return out
}

// CheckOwner is nil when shard owns tok and the sender's version isn't ahead of this table; otherwise STALE_ROUTE with
// who knows better. A sender with an older version that still names the right shard is served.
func (t *Table) CheckOwner(tok themis.Token, shard themis.ShardID, senderVersion uint64) error {
	if senderVersion > t.version {
		return themis.Errorf(themis.StaleRoute, "token %d: the sender's routing version is %d, this node's is %d", tok, senderVersion, t.version).In(shard)
	}
	if owner := t.Shard(tok); owner != shard {
		return themis.Errorf(themis.StaleRoute, "token %d: %s owns it since routing version %d or before, not %s (the sender's version is %d)",
			tok, owner, t.version, shard, senderVersion).In(owner)
	}
	return nil
}

// Fault is one way in which ranges fail to cover the token space exactly once.
type Fault struct {
	Kind   string // "gap", "overlap", "inverted" (From behind To), "shard" (not a canonical name)
	From   themis.Token
	To     themis.Token
	Shards []themis.ShardID // who claims it; none for a gap
	Err    error            // for Kind "shard"
}

func (f Fault) String() string {
	switch f.Kind {
	case "gap":
		return fmt.Sprintf("gap: no shard owns [%d, %d]", f.From, f.To)
	case "overlap":
		return fmt.Sprintf("overlap: %s and %s both own [%d, %d]", f.Shards[0], f.Shards[1], f.From, f.To)
	case "inverted":
		return fmt.Sprintf("inverted range [%d, %d] of %s: from is behind to", f.From, f.To, f.Shards[0])
	}
	return fmt.Sprintf("range [%d, %d]: %v", f.From, f.To, f.Err)
}

// Faults lists all that is wrong with ranges, which may come in any order and from different reporters; none means that
// every token has exactly one owner.
func Faults(ranges []Range) []Fault {
	var faults []Fault
	next, last := uint64(0), themis.ShardID("") // the first token without an owner so far, and who owns the one before it
	for _, r := range sorted(ranges) {
		if err := checkShard(r.Shard); err != nil {
			faults = append(faults, Fault{"shard", r.From, r.To, []themis.ShardID{r.Shard}, err})
		}
		if r.From > r.To {
			faults = append(faults, Fault{Kind: "inverted", From: r.From, To: r.To, Shards: []themis.ShardID{r.Shard}})
			continue
		}
		switch from := uint64(r.From); {
		case from > next:
			faults = append(faults, Fault{Kind: "gap", From: themis.Token(next), To: r.From - 1})
		case from < next:
			to := min(themis.Token(next-1), r.To)
			faults = append(faults, Fault{Kind: "overlap", From: r.From, To: to, Shards: []themis.ShardID{last, r.Shard}})
		}
		if uint64(r.To)+1 > next {
			next, last = uint64(r.To)+1, r.Shard
		}
	}
	if next < Space {
		faults = append(faults, Fault{Kind: "gap", From: themis.Token(next), To: MaxToken})
	}
	return faults
}

// Validate is nil when every token has exactly one owner; otherwise INVALID_ARGUMENT that names each fault, up to 20.
func Validate(ranges []Range) error {
	faults := Faults(ranges)
	if len(faults) == 0 {
		return nil
	}
	var errs []error
	for _, f := range faults[:min(len(faults), 20)] {
		errs = append(errs, errors.New(f.String()))
	}
	if n := len(faults) - len(errs); n > 0 {
		errs = append(errs, fmt.Errorf("and %d more", n))
	}
	return themis.Errorf(themis.InvalidArgument, "routing table: %w", errors.Join(errs...))
}

func sorted(ranges []Range) []Range {
	return slices.SortedFunc(slices.Values(ranges), func(a, b Range) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), compareShards(a.Shard, b.Shard))
	})
}
