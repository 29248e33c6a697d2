package store

import (
	"fmt"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

func TestAbsentNeverDeniesWhatIsHeld(t *testing.T) {
	docs := newAbsentDocuments()
	docs.filled()
	key := func(i int) []byte { return fmt.Appendf(nil, "key-%d", i) }
	const n = 3 * firstLayer
	wrong := 0
	for i := range n {
		if !docs.surely(key(i)) {
			wrong++
		}
		docs.add(key(i), true)
	}
	if wrong > n/20 {
		t.Fatalf("%d of %d new keys were looked up for nothing", wrong, n)
	}
	for i := range n {
		if docs.surely(key(i)) {
			t.Fatalf("key %d is denied", i)
		}
	}
	if len(docs.layers) != 2 {
		t.Fatalf("%d layers", len(docs.layers))
	}
	docs.total = docs.most
	if docs.add(key(n), true); docs.surely(key(n+1)) || docs.layers != nil {
		t.Fatal("it goes on although there is too much")
	}
}

func TestAbsentForgetsWhatLeftTheWindow(t *testing.T) {
	ids := newAbsentRequests(window{requests: 10})
	ids.filled()
	key := func(i int) []byte { return fmt.Appendf(nil, "id-%d", i) }
	for i := range 1000 {
		ids.add(key(i), true)
		for held := max(0, i-9); held <= i; held++ {
			if ids.surely(key(held)) {
				t.Fatalf("id %d of the window is denied after %d", held, i)
			}
		}
		ids.add(key(i), false) // again: it takes no room
	}
	if len(ids.layers) != layersOfRequest {
		t.Fatalf("%d layers", len(ids.layers))
	}
}

// New ids come while those that were there at Open are still being read.
func TestAbsentRequestsWhileLearning(t *testing.T) {
	for _, before := range []int{0, 50, 99, 150, 250} {
		ids := newAbsentRequests(window{requests: 100})
		key := func(i int) []byte { return fmt.Appendf(nil, "id-%d", i) }
		for i := 100; i < 100+before; i++ {
			ids.add(key(i), true)
		}
		for i := range 100 {
			ids.add(key(i), true)
		}
		ids.filled()
		for i := 100 + before; i <= 800; i++ {
			ids.add(key(i), true)
			for held := i - 99; held <= i; held++ {
				if ids.surely(key(held)) {
					t.Fatalf("%d came before: after id %d the id %d, %d requests old, is denied", before, i, held, i-held)
				}
			}
		}
	}
}

// A store that is opened again knows at once what it holds, and which keys it lacks once all have been read.
func TestAbsentAfterReopening(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	j := newJournal()
	for i := range 3000 {
		j.write(put(themis.Token(i), fmt.Sprint("k", i), "v"))
	}
	mustApply(t, s, j.entries...)
	if _, err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	absent := documentKey(nil, 7, themis.Token(1).Placement(), "nobody has it")
	deadline := time.Now().Add(10 * time.Second)
	for !s.absent.surely(absent) {
		if time.Now().After(deadline) {
			t.Fatal("the keys were not read")
		}
		if _, _, err := s.Get(7, themis.Token(1).Placement(), "nobody has it"); err != nil {
			t.Fatal(err)
		}
	}
	j.entries = nil
	j.write(put(themis.Token(1), "k1", "w"))
	r := mustApply(t, s, j.entries...)
	if !r[0].Ops[0].Existed {
		t.Fatal("a document from before is taken for new")
	}
}
