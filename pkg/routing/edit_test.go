package routing

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

func TestWith(t *testing.T) {
	for name, c := range map[string]struct {
		r    Range
		want []Range
	}{
		"inside":          {Range{10, 19, "shard-3"}, []Range{{0, 9, "shard-1"}, {10, 19, "shard-3"}, {20, half - 1, "shard-1"}, {half, MaxToken, "shard-2"}}},
		"across":          {Range{half - 5, half + 5, "shard-3"}, []Range{{0, half - 6, "shard-1"}, {half - 5, half + 5, "shard-3"}, {half + 6, MaxToken, "shard-2"}}},
		"joins the left":  {Range{half, half + 5, "shard-1"}, []Range{{0, half + 5, "shard-1"}, {half + 6, MaxToken, "shard-2"}}},
		"joins the right": {Range{half - 5, half - 1, "shard-2"}, []Range{{0, half - 6, "shard-1"}, {half - 5, MaxToken, "shard-2"}}},
		"everything":      {Range{0, MaxToken, "shard-9"}, []Range{{0, MaxToken, "shard-9"}}},
		"first token":     {Range{0, 0, "shard-2"}, []Range{{0, 0, "shard-2"}, {1, half - 1, "shard-1"}, {half, MaxToken, "shard-2"}}},
		"last token":      {Range{MaxToken, MaxToken, "shard-1"}, []Range{{0, half - 1, "shard-1"}, {half, MaxToken - 1, "shard-2"}, {MaxToken, MaxToken, "shard-1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			old := halves(t)
			tab, err := old.With(c.r)
			if err != nil {
				t.Fatal(err)
			}
			if got := tab.Ranges(); !slices.Equal(got, c.want) {
				t.Errorf("got  %v\nwant %v", got, c.want)
			}
			if tab.Version() != 2 || old.Version() != 1 || old.Len() != 2 {
				t.Errorf("versions %d and %d; the old table has %d ranges", tab.Version(), old.Version(), old.Len())
			}
		})
	}
	for _, r := range []Range{{9, 8, "shard-1"}, {0, 1, "shard_1"}, {0, 1, ""}} {
		if _, err := halves(t).With(r); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("With(%v): %v, want INVALID_ARGUMENT", r, err)
		}
	}
}

func TestMoveAsksForTheSource(t *testing.T) {
	for name, c := range map[string]struct {
		m    Move
		want themis.Code
	}{
		"owned":               {Move{0, 9, "shard-1", "shard-2"}, ""},
		"not owned":           {Move{half, half + 9, "shard-1", "shard-2"}, themis.StalePlan},
		"partly owned":        {Move{half - 1, half, "shard-1", "shard-3"}, themis.StalePlan},
		"to itself":           {Move{0, 9, "shard-1", "shard-1"}, themis.InvalidArgument},
		"inverted":            {Move{9, 0, "shard-1", "shard-2"}, themis.InvalidArgument},
		"inverted, not owned": {Move{half + 9, half + 1, "shard-1", "shard-2"}, themis.InvalidArgument},
		"unknown target":      {Move{0, 9, "shard-1", "shard-x"}, themis.InvalidArgument},
	} {
		tab, err := halves(t).Move(c.m)
		if themis.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err == nil && tab.Shard(9) != "shard-2" {
			t.Errorf("%s: token 9 belongs to %s", name, tab.Shard(9))
		}
	}
}

func TestSplitAndCompact(t *testing.T) {
	tab, err := halves(t).Split(99)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tab.Ranges()[:2], []Range{{0, 99, "shard-1"}, {100, half - 1, "shard-1"}}; !slices.Equal(got, want) || tab.Version() != 2 {
		t.Errorf("version %d: %v, want %v", tab.Version(), got, want)
	}
	for _, at := range []themis.Token{99, half - 1, MaxToken} {
		if _, err := tab.Split(at); themis.CodeOf(err) != themis.InvalidArgument || !strings.Contains(err.Error(), "ends there already") {
			t.Errorf("split at the bound %d: %v", at, err)
		}
	}
	back, err := tab.Compact()
	if err != nil || back.Version() != 3 || !slices.Equal(back.Ranges(), halves(t).Ranges()) {
		t.Errorf("compacted: %v %v", back.Ranges(), err)
	}
	if again, err := back.Compact(); err != nil || again != back {
		t.Errorf("nothing to merge, yet version %d, %v", again.Version(), err)
	}
}

// TestRandomEdits keeps a plain array of owners beside the table and compares them after every edit.
func TestRandomEdits(t *testing.T) {
	const cells = 64 // the token space in 64 equal parts
	const width = uint64(1) << 26
	rng := rand.New(rand.NewPCG(9, 10))
	tab, model := halves(t), [cells]themis.ShardID{}
	for i := range model {
		model[i] = tab.Shard(themis.Token(uint64(i) * width))
	}
	for step := range 500 {
		a, b := rng.IntN(cells), rng.IntN(cells)
		a, b = min(a, b), max(a, b)
		s := ShardAt(rng.IntN(6))
		before := tab
		next, err := tab.With(Range{themis.Token(uint64(a) * width), themis.Token(uint64(b+1)*width - 1), s})
		if err != nil {
			t.Fatal(err)
		}
		changed := uint64(0)
		for i := a; i <= b; i++ {
			if model[i] != s {
				changed += width
			}
			model[i] = s
		}
		if step%10 == 0 {
			if next, err = next.Compact(); err != nil {
				t.Fatal(err)
			}
		}
		tab = next
		for i, want := range model {
			lo, hi := themis.Token(uint64(i)*width), themis.Token(uint64(i+1)*width-1)
			if tab.Shard(lo) != want || tab.Shard(hi) != want {
				t.Fatalf("step %d: cell %d belongs to %s and %s, want %s", step, i, tab.Shard(lo), tab.Shard(hi), want)
			}
		}
		for _, m := range Changes(before, tab) {
			changed -= uint64(m.To) - uint64(m.From) + 1
			if m.Target != s || m.Source == s {
				t.Fatalf("step %d: change %+v, but only %s took over", step, m, s)
			}
		}
		if changed != 0 {
			t.Fatalf("step %d: Changes is off by %d tokens", step, int64(changed))
		}
	}
}
