package workload

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

// TestRowsStayAsTheyAre: a load is gone on with, and verified, by later versions too.
func TestRowsStayAsTheyAre(t *testing.T) {
	for d, want := range map[Dataset]string{OLTP: goldenOLTP, Vectors: goldenVectors} {
		h := sha256.New()
		for row := range int64(1000) {
			h.Write(d.Row(7, row))
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			t.Errorf("%s: the first 1000 rows of seed 7 have digest %s; want %s. Row 0: %.300s", d, got, want, d.Row(7, 0))
		}
	}
}

const (
	goldenOLTP    = "12ce3fbff7a0d28e0c616d3563b3a8599bc1735fad986df3ddcbf2bd49311e95"
	goldenVectors = "199d4ea2e3db2635896a7c05af6897efe4650bae4b51700479c841c72c66767e"
)

func TestRowsAreWhatTheySay(t *testing.T) {
	type order struct {
		Key      string `json:"_key"`
		Customer string `json:"customer_id"`
		Status   string
		Lines    []struct {
			Product  string `json:"product_id"`
			Quantity int
			Cents    int `json:"price_cents"`
		}
		Total int `json:"total_cents"`
	}
	states, prices, bodies := map[string]int{}, map[string]int{}, map[string]bool{}
	const rows = 6000
	for row := range int64(rows) {
		b := OLTP.Row(1, row)
		var o order
		if err := json.Unmarshal(b, &o); err != nil {
			t.Fatalf("row %d: %v\n%s", row, err, b)
		}
		if o.Key != OLTP.Key(row) || themis.CheckKey(o.Key) != nil {
			t.Fatalf("row %d has key %q", row, o.Key)
		}
		sum := 0
		for _, l := range o.Lines {
			sum += l.Quantity * l.Cents
			if p, ok := prices[l.Product]; ok && p != l.Cents {
				t.Errorf("%s costs %d and %d", l.Product, p, l.Cents)
			}
			prices[l.Product] = l.Cents
		}
		if sum != o.Total || sum == 0 {
			t.Errorf("row %d: %d in all, its lines are %d", row, o.Total, sum)
		}
		states[o.Status]++
		bodies[o.Customer+o.Status+fmt.Sprint(o.Total)] = true
	}
	for s, n := range states {
		if n < rows/6*8/10 || n > rows/6*12/10 {
			t.Errorf("%s: %d of %d", s, n, rows)
		}
	}
	if len(states) != 6 || len(bodies) < rows*999/1000 {
		t.Errorf("%d states, %d different rows", len(states), len(bodies))
	}
}

func TestVectorsHaveLengthOne(t *testing.T) {
	for row := range int64(20) {
		var v struct{ Embedding []float64 }
		b := Vectors.Row(1, row)
		if err := json.Unmarshal(b, &v); err != nil || len(v.Embedding) != 768 {
			t.Fatalf("%d numbers, %v", len(v.Embedding), err)
		}
		square := 0.0
		for _, x := range v.Embedding {
			square += x * x
		}
		if math.Abs(square-1) > 1e-3 {
			t.Errorf("row %d: length %f", row, math.Sqrt(square))
		}
		if size := Vectors.RowBytes(1); math.Abs(float64(len(b))-float64(size)) > 200 {
			t.Errorf("%d bytes, the mean is %d", len(b), size)
		}
	}
	if string(Vectors.Row(1, 3)) == string(Vectors.Row(2, 3)) || string(OLTP.Row(1, 3)) == string(OLTP.Row(2, 3)) {
		t.Error("another seed, the same row")
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]Mix{
		"A": {"A", 95, 10}, "b": {"B", 50, 10}, "C": {"C", 5, 10}, "reads=80": {"", 80, 0}, "cross=20,reads=0": {"", 0, 20},
	} {
		if got, err := ParseMix(text); got != want || err != nil {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "D", "reads=", "reads=101", "reads=-1", "cross=10", "reads=10,writes=90", "reads"} {
		if m, err := ParseMix(text); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%q: %+v, %v", text, m, err)
		}
	}
	for _, d := range Datasets {
		if got, err := ParseDataset(string(d)); got != d || err != nil {
			t.Errorf("%s: %s, %v", d, got, err)
		}
	}
	if _, err := ParseDataset("olap"); themis.CodeOf(err) != themis.InvalidArgument {
		t.Error(err)
	}
}

// fourths lays rows on four shards.
func fourths(row int64) themis.ShardID { return themis.ShardID(fmt.Sprint("shard-", 1+row%4)) }

func TestOperationsAreMixedAsTheMixSays(t *testing.T) {
	const n, rows = 40_000, 200
	for _, m := range append([]Mix{{"", 80, 30}, {"", 100, 0}, {"", 0, 100}}, Mixes...) {
		g := Generator{Mix: m, Seed: 5, Rows: rows, Shard: fourths}
		writes, cross, crossWrites, hit := 0, 0, 0, [rows]int{}
		for i := range int64(n) {
			op := g.Op(i)
			hit[op.Rows[0]]++
			if op.Write {
				writes++
			}
			if op.Cross {
				cross++
				if op.Write {
					crossWrites++
				}
				if fourths(op.Rows[0]) == fourths(op.Rows[1]) {
					t.Fatalf("%s: op %d is of one shard: %+v", m, i, op)
				}
			}
		}
		near := func(what string, got int, want float64) {
			if sd := math.Sqrt(n * want * (1 - want)); math.Abs(float64(got)-n*want) > 5*sd {
				t.Errorf("%s: %s: %d of %d; want %.3f", m, what, got, n, want)
			}
		}
		w, c := float64(100-m.Reads)/100, float64(m.Cross)/100
		near("writes", writes, w)
		near("cross-shard", cross, c)
		near("cross-shard writes", crossWrites, w*c)
		for row, k := range hit {
			if math.Abs(float64(k)-n/rows) > 6*math.Sqrt(n/rows) {
				t.Errorf("%s: row %d came %d times; want about %d", m, row, k, n/rows)
			}
		}
	}
}

func TestOperationsFollowFromTheSeed(t *testing.T) {
	g := Generator{Mix: Mixes[1], Seed: 5, Rows: 1000, Shard: fourths}
	other := g
	other.Seed = 6
	same := 0
	for i := int64(9999); i >= 0; i-- { // whatever the order
		if once, twice := g.Op(i), g.Op(i); once != twice {
			t.Fatalf("op %d is never the same", i)
		}
		if g.Op(i) == other.Op(i) {
			same++
		}
	}
	if same > 100 {
		t.Errorf("another seed, and %d of 10000 are the same", same)
	}
	if got, want := fmt.Sprint(g.Op(0), g.Op(1), g.Op(2), g.Op(3)), goldenOps; got != want {
		t.Errorf("%s; want %s", got, want)
	}
	g.Shard = func(int64) themis.ShardID { return "shard-1" }
	for i := range int64(1000) {
		if op := g.Op(i); op.Cross || op.Rows[1] != 0 {
			t.Fatalf("one shard: %+v", op)
		}
	}
}

const goldenOps = "{false [207 0] false} {false [198 0] false} {false [802 0] false} {true [511 0] false}"

// TestFrontierAfterLoadsThatBrokeOff: loads that keep a bounded number of rows under way, which are stored in any order, broken off
// again and again: no row below the frontier may be missing.
func TestFrontierAfterLoadsThatBrokeOff(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		rows := 1 + rng.Int64N(40_000)
		stored := make([]bool, rows)
		has := func(row int64) (bool, error) { return stored[row], nil }
		for range 6 {
			from, seen, err := Frontier(rows, has)
			if err != nil {
				t.Fatal(err)
			}
			for row := range from {
				if !stored[row] {
					t.Fatalf("seed %d: of %d rows those below %d should be there, and %d is not", seed, rows, from, row)
				}
			}
			if seen < rows && stored[seen] || from > seen || seen-from > WindowRows {
				t.Fatalf("seed %d: from %d, seen %d of %d", seed, from, seen, rows)
			}
			brokenLoad(rng, stored, from)
		}
	}
}

// brokenLoad sends rows from there on until some moment. A straggler may stay under way for long.
func brokenLoad(rng *rand.Rand, stored []bool, from int64) {
	w, next, underWay := NewWindow(), from, []int64{}
	for range rng.IntN(30_000) {
		for len(underWay) < 300 && next < int64(len(stored)) && w.Room(next-from) {
			underWay = append(underWay, next)
			next++
		}
		if len(underWay) == 0 {
			return
		}
		i := rng.IntN(len(underWay))
		if i == 0 && rng.IntN(50) > 0 {
			continue // the straggler
		}
		row := underWay[i]
		underWay = append(underWay[:i], underWay[i+1:]...)
		stored[row] = true
		w.Done(row - from)
	}
	for _, row := range underWay { // done, and the answer was lost
		stored[row] = stored[row] || rng.IntN(2) == 0
	}
}

func TestFrontierAsksLittle(t *testing.T) {
	for _, there := range []int64{0, 1, 5000, 123_456_789, 500_000_000} {
		asked := 0
		from, seen, err := Frontier(500_000_000, func(row int64) (bool, error) { asked++; return row < there, nil })
		if err != nil || seen != there || from != max(0, there-WindowRows) || asked > 64 {
			t.Errorf("%d there: from %d, seen %d, %d questions, %v", there, from, seen, asked, err)
		}
	}
	if from, seen, err := Frontier(0, nil); from != 0 || seen != 0 || err != nil {
		t.Error(from, seen, err)
	}
	down := errors.New("down")
	if _, _, err := Frontier(9, func(int64) (bool, error) { return false, down }); !errors.Is(err, down) {
		t.Error(err)
	}
}
