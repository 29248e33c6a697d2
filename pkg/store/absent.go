package store

import (
	"sync"

	"github.com/bits-and-blooms/bloom/v3"
	"github.com/cockroachdb/pebble/v2"
)

const (
	absentErrors    = 0.01    // of keys that are absent but must be looked up all the same
	firstLayer      = 1 << 16 // keys
	mostDocuments   = 4 << 20 // keys of documents that are kept in mind, about 5 MB; with more, every key is looked up
	checkEvery      = 1 << 10 // keys, between two looks at whether the store is being closed
	layersOfRequest = 3
)

// absent knows keys that the store surely does not hold: new documents and new request ids, which most writes bring, need no
// lookup. It is a Bloom filter in memory, in layers, and nothing but a help: until everything that was there at Open has been read, and
// when there is too much of it, every key is looked up.
//
// A key is added before the batch that writes it is committed, so it never claims absent what a reader could find.
type absent struct {
	mu     sync.RWMutex
	layers []*bloom.BloomFilter // keys are added to the last
	room   uint                 // keys that the last still takes
	size   uint                 // of the last
	total  uint                 // keys added
	whole  bool                 // all keys that the store holds are in it

	most  uint // give up beyond; 0: never
	keep  int  // layers; the oldest goes when a new one comes; 0: all
	grows bool // each layer is twice as large as the one before
}

func newAbsentDocuments() *absent { return &absent{size: firstLayer, most: mostDocuments, grows: true} }

// newAbsentRequests keeps three layers of a window's size. When the oldest goes, two more have been filled behind it, one of them at most
// with ids that were there at Open: so a whole window of newer ids has come, and what was in it has left the store.
func newAbsentRequests(w window) *absent {
	return &absent{size: uint(max(w.requests, 1)), keep: layersOfRequest} //nolint:gosec // positive
}

// surely says that the store does not hold key.
func (a *absent) surely(key []byte) bool {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if !a.whole {
		return false
	}
	for _, l := range a.layers {
		if l.Test(key) {
			return false
		}
	}
	return true
}

// add takes a key that the store is about to hold. fresh: it did not hold it before.
func (a *absent) add(key []byte, fresh bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.most > 0 && a.total >= a.most {
		a.whole, a.layers = false, nil
		return
	}
	if len(a.layers) == 0 || a.room == 0 {
		a.layer()
	}
	a.layers[len(a.layers)-1].Add(key)
	if fresh {
		a.room--
		a.total++
	}
}

// layer begins the next one; mu is held.
func (a *absent) layer() {
	if len(a.layers) > 0 && a.grows {
		a.size *= 2
	}
	a.layers = append(a.layers, bloom.NewWithEstimates(a.size, absentErrors))
	if a.keep > 0 && len(a.layers) > a.keep {
		a.layers = a.layers[1:]
	}
	a.room = a.size
}

// filled says that all that was there has been added.
func (a *absent) filled() {
	a.mu.Lock()
	a.whole = a.most == 0 || a.total < a.most
	a.mu.Unlock()
}

// learnKeys reads all keys of documents and request ids once, beside everything else, and ends early when the store is closed.
func (s *Store) learnKeys() {
	defer s.users.leave()
	if s.Stats().Documents+s.Stats().Tombstones < mostDocuments {
		s.learn(s.absent, spaceDocuments)
	}
	s.learn(s.absentRequests, spaceRequests)
}

func (s *Store) learn(a *absent, space byte) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{space}, UpperBound: []byte{space + 1}})
	if err != nil {
		_ = s.failed("read all keys", err) // Fault tells
		return
	}
	defer func() { _ = it.Close() }()
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		if n++; n%checkEvery == 0 && s.users.closing() {
			return
		}
		a.add(it.Key(), true)
	}
	if err := it.Error(); err != nil {
		_ = s.failed("read all keys", err)
		return
	}
	a.filled()
}
