package routing

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func table(t testing.TB, version uint64, ranges ...Range) *Table {
	t.Helper()
	tab, err := NewTable(version, ranges)
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

const half = themis.Token(1 << 31)

func halves(t testing.TB) *Table {
	t.Helper()
	return table(t, 1, Range{0, half - 1, "shard-1"}, Range{half, MaxToken, "shard-2"})
}

func TestValidateNamesEveryFault(t *testing.T) { // SHD-17
	for name, c := range map[string]struct {
		ranges []Range
		want   []string
	}{
		"nothing":  {nil, []string{"gap: no shard owns [0, 4294967295]"}},
		"whole":    {[]Range{{0, MaxToken, "shard-1"}}, nil},
		"unsorted": {[]Range{{half, MaxToken, "shard-2"}, {0, half - 1, "shard-1"}}, nil},
		"gaps": {[]Range{{10, 19, "shard-1"}, {30, 39, "shard-2"}}, []string{
			"gap: no shard owns [0, 9]", "gap: no shard owns [20, 29]", "gap: no shard owns [40, 4294967295]"}},
		"overlap": {[]Range{{0, 100, "shard-1"}, {50, MaxToken, "shard-2"}}, []string{"overlap: shard-1 and shard-2 both own [50, 100]"}},
		"inside": {[]Range{{0, MaxToken, "shard-1"}, {7, 8, "shard-2"}, {9, 9, "shard-3"}}, []string{
			"overlap: shard-1 and shard-2 both own [7, 8]", "overlap: shard-1 and shard-3 both own [9, 9]"}},
		"inverted":   {[]Range{{0, MaxToken, "shard-1"}, {9, 8, "shard-2"}}, []string{"inverted range [9, 8] of shard-2"}},
		"names":      {[]Range{{0, 5, "shard_001"}, {6, MaxToken, "shard-0"}}, []string{`"shard_001": the canonical form is "shard-1"`, `"shard-0"`}},
		"last token": {[]Range{{0, MaxToken - 1, "shard-1"}}, []string{"gap: no shard owns [4294967295, 4294967295]"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := Validate(c.ranges)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("missing %q in:\n%v", w, err)
				}
			}
			if n := len(Faults(c.ranges)); n != len(c.want) {
				t.Errorf("%d faults, want %d", n, len(c.want))
			}
			if _, err2 := NewTable(1, c.ranges); (err2 == nil) != (err == nil) {
				t.Errorf("NewTable %v, Validate %v", err2, err)
			}
		})
	}
	if _, err := NewTable(0, []Range{{0, MaxToken, "shard-1"}}); err == nil {
		t.Error("version 0 was taken")
	}
}

func TestValidateKeepsTheListShort(t *testing.T) {
	var ranges []Range
	for i := range 100 {
		ranges = append(ranges, Range{themis.Token(10 * i), themis.Token(10*i + 5), "shard-1"})
	}
	if msg := Validate(ranges).Error(); strings.Count(msg, "gap") != 20 || !strings.Contains(msg, "and 80 more") {
		t.Errorf("%s", msg)
	}
}

// TestShardAgainstScan compares the compiled lookup with a plain scan, also where many ranges crowd into one prefix.
func TestShardAgainstScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, n := range []int{1, 2, 3, 15, 16, 17, 700, 20000} {
		tab := randomTable(t, rng, n)
		ranges := tab.Ranges()
		for range 300 {
			tok := themis.Token(rng.Uint32())
			if rng.IntN(2) == 0 { // at a bound
				tok = ranges[rng.IntN(len(ranges))].To + themis.Token(rng.IntN(3)) - 1
			}
			i := slices.IndexFunc(ranges, func(r Range) bool { return r.Contains(tok) })
			if got := tab.Find(tok); got != ranges[i] || tab.Shard(tok) != ranges[i].Shard {
				t.Fatalf("%d ranges, token %d: %s, a scan finds %s", n, tok, got, ranges[i])
			}
		}
	}
}

func randomTable(t testing.TB, rng *rand.Rand, n int) *Table {
	t.Helper()
	ends := map[themis.Token]bool{MaxToken: true}
	for len(ends) < n {
		end := themis.Token(rng.Uint32())
		if rng.IntN(2) == 0 {
			end = 1<<20 + end%(1<<18) // a crowd
		}
		ends[end] = true
	}
	var ranges []Range
	from := uint64(0)
	var all []themis.Token
	for e := range ends {
		all = append(all, e)
	}
	slices.Sort(all)
	for _, e := range all {
		ranges = append(ranges, Range{themis.Token(from), e, ShardAt(rng.IntN(5))})
		from = uint64(e) + 1
	}
	return table(t, 1+rng.Uint64N(1000), ranges...)
}

func TestSharesAndRanges(t *testing.T) {
	tab := table(t, 3, Range{0, half - 1, "shard-10"}, Range{half, half + 9, "shard-2"}, Range{half + 10, half + 19, "shard-2"}, Range{half + 20, MaxToken, "shard-10"})
	if got := tab.Tokens(); got["shard-2"] != 20 || got["shard-10"] != Space-20 {
		t.Errorf("tokens %v", got)
	}
	sum := 0.0
	for _, s := range tab.Shares() {
		sum += s
	}
	if sum != 1 {
		t.Errorf("shares sum to %v", sum)
	}
	if got := tab.RangesOf("shard-2"); !slices.Equal(got, []Range{{half, half + 19, "shard-2"}}) {
		t.Errorf("RangesOf shard-2: %v", got)
	}
	if from, to, ok := tab.Span("shard-10"); !ok || from != 0 || to != MaxToken {
		t.Errorf("span of shard-10: %d %d %v", from, to, ok)
	}
	if _, _, ok := tab.Span("shard-1"); ok || tab.RangesOf("shard-1") != nil {
		t.Error("shard-1 owns nothing")
	}
	if got := tab.Shards(); !slices.Equal(got, []themis.ShardID{"shard-2", "shard-10"}) {
		t.Errorf("shards %v: by number, please", got)
	}
	tab.Shards()[0] = "shard-66"
	tab.Ranges()[0].Shard = "shard-66"
	if tab.Shard(0) != "shard-10" || tab.Shards()[0] != "shard-2" {
		t.Error("a caller changed the table")
	}
	if tab.ShardOfKey("test") != tab.Shard(0xba6bd213) {
		t.Error("ShardOfKey is not the shard of the key's token")
	}
}

func TestCheckOwner(t *testing.T) { // SHD-11
	tab, err := halves(t).Move(Move{0, 99, "shard-1", "shard-2"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		tok     themis.Token
		shard   themis.ShardID
		version uint64
		want    themis.Code
	}{
		"owner, same version":         {5, "shard-2", 2, ""},
		"owner, older version":        {half, "shard-2", 1, ""},
		"former owner, older version": {5, "shard-1", 1, themis.StaleRoute},
		"owner, newer version":        {5, "shard-2", 3, themis.StaleRoute},
	} {
		if err := tab.CheckOwner(c.tok, c.shard, c.version); themis.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func BenchmarkShard(b *testing.B) {
	for _, n := range []int{1, 4, 8, 64} {
		tab, err := First(n, 0)
		if err != nil {
			b.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(7, 8))
		toks := make([]themis.Token, 4096)
		for i := range toks {
			toks[i] = themis.Token(rng.Uint32())
		}
		b.Run(fmt.Sprintf("shards=%d/ranges=%d", n, tab.Len()), func(b *testing.B) {
			var sink themis.ShardID
			for i := 0; b.Loop(); i++ {
				sink = tab.Shard(toks[i%len(toks)])
			}
			_ = sink
		})
	}
}

func BenchmarkTokenOf(b *testing.B) {
	for b.Loop() {
		TokenOf("user_12345")
	}
}
