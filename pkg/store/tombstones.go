package store

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/themisdb/themis/pkg/themis"
)

// CollectTombstones removes the tombstones of deletes in entries up to upTo and returns how many it removed. Its caller knows
// that every slot, move and peer has passed upTo. It isn't part of the log: replicas may collect at different times, so
// Digest leaves tombstones up to DigestOptions.Floor out.
func (s *Store) CollectTombstones(upTo themis.Seq) (removed int64, err error) {
	if err := s.users.enter(); err != nil {
		return 0, err
	}
	defer s.users.leave()
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.Fault(); err != nil {
		return 0, err
	}
	if applied := s.Applied().Seq; upTo > applied {
		return 0, themis.Errorf(themis.InvalidArgument, "collect tombstones up to %d: only %d is applied", upTo, applied)
	}
	for {
		n, more, err := s.collectSome(upTo)
		removed += n
		if err != nil || !more {
			return removed, err
		}
	}
}

// collectSome removes one batch of tombstones, and says whether there may be more.
func (s *Store) collectSome(upTo themis.Seq) (n int64, more bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: tombstoneKey(nil, 0, nil), UpperBound: tombstoneKey(nil, upTo+1, nil)})
	if err != nil {
		return 0, false, s.failed("collect tombstones", err)
	}
	defer func() { _ = it.Close() }()
	w := s.newWriter()
	defer w.close()
	for ok := it.First(); ok; ok = it.Next() {
		if w.batch.Len() >= s.batch {
			more = true
			break
		}
		c, err := w.collect(it.Key())
		if err != nil {
			return 0, false, err
		}
		w.counts[c] = w.counts[c].plus(Count{Tombstones: -1})
		n++
	}
	if err := it.Error(); err != nil {
		return 0, false, s.failed("collect tombstones", err)
	}
	if !more {
		w.state.floor = max(w.state.floor, upTo)
	}
	w.entries = 1
	return n, more, w.commit()
}

// collect removes a tombstone and its place in the index, and nothing but a tombstone.
func (w *writer) collect(index []byte) (themis.CollectionID, error) {
	seq, key, err := decodeTombstoneKey(index)
	if err != nil {
		return 0, w.s.damaged("collect tombstones", err)
	}
	c, _, _, err := decodeDocumentKey(key)
	if err != nil {
		return 0, w.s.damaged("collect tombstones", err)
	}
	h, err := w.held(key)
	if err != nil {
		return 0, err
	}
	if !h.tombstone || h.seq != seq {
		return 0, w.s.damaged("collect tombstones", fmt.Errorf("seq %d: %w", seq, errTombstone))
	}
	if err := errors.Join(w.batch.Delete(key, nil), w.batch.Delete(index, nil)); err != nil {
		return 0, w.s.failed("collect tombstones", err)
	}
	return c, nil
}

var errTombstone = errors.New("the index by age names a tombstone that isn't there")
