package cluster

import (
	"slices"
	"testing"
	"time"
)

func TestKeysOfANode(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	n := Node{ID: "node-1", Keys: [][]byte{[]byte("a")}}
	names := func(n Node) (out []string) {
		for _, k := range n.Keys {
			out = append(out, string(k))
		}
		return out
	}
	step := func(what string, next Node, changed, want bool, keys ...string) {
		t.Helper()
		if changed != want || !slices.Equal(names(next), keys) {
			t.Errorf("%s: %v, %v; want %v, %v", what, names(next), changed, keys, want)
		}
		n = next
	}
	next, changed := n.WithKey([]byte("a"), t0)
	step("the same key", next, changed, false, "a")
	next, changed = n.WithKey([]byte("b"), t0)
	step("a new one", next, changed, true, "a", "b")
	next, changed = n.WithoutOldKey(t0.Add(KeyOverlap - 1))
	step("before the overlap ends", next, changed, false, "a", "b")
	kept, _ := n.WithKey([]byte("a"), t0) // back to the old files
	if got := names(kept); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("back to the old files: %v", got)
	}
	next, changed = n.WithKey([]byte("c"), t0.Add(time.Minute))
	step("another one soon after", next, changed, true, "b", "c")
	next, changed = n.WithoutOldKey(t0.Add(KeyOverlap))
	step("the overlap counts from the last change", next, changed, false, "b", "c")
	next, changed = n.WithoutOldKey(t0.Add(time.Minute + KeyOverlap))
	step("when the overlap has ended", next, changed, true, "c")
	next, changed = Node{}.WithKey([]byte("a"), t0)
	step("a record without a key", next, changed, true, "a")
}
