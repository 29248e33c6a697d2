package bench

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/themis"
)

func TestRouting(t *testing.T) {
	c, err := Routing(t.Context(), Options{Rounds: 2, Each: 2 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Rows) != 8 {
		t.Fatalf("%d rows", len(c.Rows))
	}
	for _, r := range c.Rows {
		if r.Ours <= 0 || r.Base <= 0 || len(r.Rounds) != 2 || (r.Target == nil) != (r.Op == "token,1-shards" || r.Op == "key,1-shards") {
			t.Errorf("%+v", r)
		}
	}
}

// TestSearchedIsTheTable: what stands beside the table does the same.
func TestSearchedIsTheTable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range routedShards {
		table, err := routing.First(n, 0)
		if err != nil {
			t.Fatal(err)
		}
		s := newSearched(table)
		for range 10_000 {
			if tok := themis.Token(rng.Uint32()); s.shard(tok) != table.Shard(tok) {
				t.Fatalf("%d shards: token %d: %s and %s", n, tok, s.shard(tok), table.Shard(tok))
			}
		}
	}
}

func TestStore(t *testing.T) {
	dir := t.TempDir()
	c, err := Store(t.Context(), Options{Dir: dir, Rounds: 1, Each: 5 * time.Millisecond, EntryBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Rows) != 3 || c.Rows[0].Op != "burst" || c.Rows[1].Op != "sustained" || c.Rows[2].Op != "get" || c.Rows[1].Base != c.Rows[0].Base {
		t.Errorf("%+v", c.Rows)
	}
	for _, r := range c.Rows {
		if r.Ours <= 0 || r.Base <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestKeptIsKept: both places have what was applied, and say so of nothing else.
func TestKeptIsKept(t *testing.T) {
	for name, open := range map[string]func(string) (kept, error){"ours": openStore, "Pebble": openBare} {
		k, err := open(t.TempDir() + "/s")
		if err != nil {
			t.Fatal(err)
		}
		p := &producer{rng: rand.New(rand.NewPCG(3, 4)), size: 100}
		for range 3 {
			if _, err := k.apply(p.batch()); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		for i := range p.made {
			if err := k.get(&p.made[i]); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		strange := p.made[0]
		strange.Key += "x"
		if k.get(&strange) == nil {
			t.Errorf("%s has %s", name, strange.Key)
		}
		if err := k.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
