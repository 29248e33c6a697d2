package faults

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
)

// A lost write is named, and only a lost one.
func TestLostWritesAreNamed(t *testing.T) {
	put := func(key string, value int, call, end int64) porcupine.Operation {
		return porcupine.Operation{Input: operation{key: key, write: true, value: value}, Call: call, Output: value, Return: end}
	}
	last := func(key string, value int) porcupine.Operation {
		return porcupine.Operation{ClientId: closing, Input: operation{key: key}, Call: 1000, Output: value, Return: 1001}
	}
	for _, c := range []struct {
		what    string
		history []porcupine.Operation
		want    string // of the value that is named; empty: none
	}{
		{"all is there", []porcupine.Operation{put("k", 1, 0, 10), put("k", 2, 20, 30), last("k", 2)}, ""},
		{"the newest is gone", []porcupine.Operation{put("k", 1, 0, 10), put("k", 2, 20, 30), last("k", 1)}, "write of 2 to k"},
		{"the only one is gone", []porcupine.Operation{put("k", 1, 0, 10), last("k", 0)}, "write of 1 to k"},
		{"written at the same time, either may be last", []porcupine.Operation{put("k", 1, 0, 10), put("k", 2, 5, 30), last("k", 1)}, ""},
		{"one that nobody confirmed may be gone", []porcupine.Operation{put("k", 1, 0, 10), put("k", 2, 20, open), last("k", 1)}, ""},
		{"one that nobody confirmed came last", []porcupine.Operation{put("k", 1, 0, open), put("k", 2, 20, 30), last("k", 1)}, ""},
		{"another key's", []porcupine.Operation{put("k", 1, 0, 10), put("j", 2, 20, 30), last("k", 1), last("j", 2)}, ""},
	} {
		w := &work{history: c.history}
		got := strings.Join(w.lost(), "; ")
		if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

// Whatever is settled is judged as it was before: over drawn histories, well ones and broken ones.
func TestSettledHistoriesAreJudgedAlike(t *testing.T) {
	verdicts := map[bool]int{}
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 3))
		var history []porcupine.Operation
		for i := range 3 + rng.IntN(6) {
			o := porcupine.Operation{ClientId: i, Call: rng.Int64N(40)}
			o.Return = o.Call + 1 + rng.Int64N(15)
			if rng.IntN(2) == 0 {
				o.Input, o.Output = operation{key: "k", write: true, value: i + 1}, i+1
				if rng.IntN(2) == 0 {
					o.Return = open
				}
			} else {
				o.Input, o.Output = operation{key: "k"}, rng.IntN(6)
			}
			history = append(history, o)
		}
		want, got := porcupine.CheckOperations(registers, history), porcupine.CheckOperations(registers, settled(history))
		if want != got {
			t.Fatalf("seed %d: %v before, %v after", seed, want, got)
		}
		verdicts[got]++
	}
	if verdicts[true] < 100 || verdicts[false] < 100 {
		t.Errorf("verdicts %v: hardly any of one kind", verdicts)
	}
}
