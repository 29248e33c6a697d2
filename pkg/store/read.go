package store

import (
	"bytes"
	"errors"
	"iter"

	"github.com/cockroachdb/pebble/v2"

	"github.com/themisdb/themis/pkg/themis"
)

// Document is a document as it is stored, or its tombstone.
type Document struct {
	Collection themis.CollectionID
	Placement  []byte
	Key        string
	Type       themis.ValueType
	Value      []byte     // as it was sent; nil in a tombstone
	Version    themis.HLC // of the last write
	Created    themis.HLC // version of the first write since it was last absent; 0 in a tombstone
	Seq        themis.Seq // of the entry of the last write; differs between shards
	RequestID  string     // of the last write; empty when it had none
	Origin     *themis.Origin
	Deleted    bool // a tombstone
}

// Get returns the document; false when it is absent or deleted. Of a deleted one whose tombstone is still kept, Deleted is set
// and Version, Seq and Origin are those of the delete. The caller owns what is returned.
func (s *Store) Get(c themis.CollectionID, placement []byte, key string) (Document, bool, error) {
	if err := s.users.enter(); err != nil {
		return Document{}, false, err
	}
	defer s.users.leave()
	return s.get(s.db, c, placement, key)
}

// Version is the version of the document; false when it is absent or deleted.
func (s *Store) Version(c themis.CollectionID, placement []byte, key string) (themis.HLC, bool, error) {
	if err := s.users.enter(); err != nil {
		return 0, false, err
	}
	defer s.users.leave()
	k := documentKey(make([]byte, 0, 64), c, placement, key)
	if s.absent.surely(k) {
		return 0, false, nil
	}
	v, closer, err := s.db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, s.failed("look up", err)
	}
	defer func() { _ = closer.Close() }()
	r, _, err := decodeRecord(k, v)
	if err != nil {
		return 0, false, s.damaged("look up", err)
	}
	return r.version, !r.tombstone, nil
}

func (s *Store) get(from pebble.Reader, c themis.CollectionID, placement []byte, key string) (Document, bool, error) {
	k := documentKey(make([]byte, 0, 64), c, placement, key)
	v, closer, err := from.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return Document{}, false, nil
	}
	if err != nil {
		return Document{}, false, s.failed("get", err)
	}
	defer func() { _ = closer.Close() }()
	d, err := s.document(k, v)
	if err != nil {
		return Document{}, false, err
	}
	d.Collection, d.Placement, d.Key = c, bytes.Clone(placement), key
	return d, !d.Deleted, nil
}

// document decodes and checks all but the fields of the key, and copies what it keeps.
func (s *Store) document(key, v []byte) (Document, error) {
	r, body, err := decodeRecord(key, v)
	if err == nil {
		err = checkBody(v, body)
	}
	if err != nil {
		return Document{}, s.damaged("read a document", err)
	}
	d := Document{Type: r.typ, Version: r.version, Created: r.created, Seq: r.seq, RequestID: r.request, Origin: r.origin, Deleted: r.tombstone}
	if !r.tombstone {
		d.Value = append(make([]byte, 0, len(body)), body...)
	}
	return d, nil
}

// Request returns what the write with that request id did; false when the window doesn't hold the id (any more).
func (s *Store) Request(id string) (RequestRecord, bool, error) {
	if err := s.users.enter(); err != nil {
		return RequestRecord{}, false, err
	}
	defer s.users.leave()
	k := requestKey(nil, id)
	if s.absentRequests.surely(k) {
		return RequestRecord{}, false, nil
	}
	v, closer, err := s.db.Get(k)
	if errors.Is(err, pebble.ErrNotFound) {
		return RequestRecord{}, false, nil
	}
	if err != nil {
		return RequestRecord{}, false, s.failed("get request", err)
	}
	defer func() { _ = closer.Close() }()
	r, err := decodeRequest(k, v)
	if err != nil {
		return RequestRecord{}, false, s.damaged("request "+id, err)
	}
	return r, true, nil
}

// Cursor is a place in a scan: behind the document with that placement and key.
type Cursor struct {
	Placement []byte
	Key       string
}

// ScanOptions narrow a scan. The zero value scans all documents of a collection.
type ScanOptions struct {
	From, To   []byte  // placements, From included, To not; nil: no bound
	After      *Cursor // go on behind this one
	Limit      int     // at most this many; 0: all
	Tombstones bool    // also those
}

// Scan yields the documents of a collection in order of placement, then of key, as they all were at one moment: when the
// loop began. An error ends it. The caller owns what is yielded; Close waits for the loop to end.
func (s *Store) Scan(c themis.CollectionID, o ScanOptions) iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) {
		if err := s.users.enter(); err != nil {
			yield(Document{}, err)
			return
		}
		defer s.users.leave()
		s.scan(s.db, c, o, yield)
	}
}

// bounds are the keys of a scan: from lower on, below upper.
func (o ScanOptions) bounds(c themis.CollectionID) (lower, upper []byte) {
	prefix := documentPrefix(nil, c)
	lower = appendPlacementOpen(bytes.Clone(prefix), o.From)
	upper = prefixEnd(prefix)
	if o.To != nil {
		upper = appendPlacementOpen(bytes.Clone(prefix), o.To)
	}
	if o.After != nil {
		if behind := after(documentKey(nil, c, o.After.Placement, o.After.Key)); bytes.Compare(behind, lower) > 0 {
			lower = behind
		}
	}
	return lower, upper
}

// prefixEnd is the least key above all that begin with p; nil when there is none.
func prefixEnd(p []byte) []byte {
	end := bytes.Clone(p)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

func (s *Store) scan(from pebble.Reader, c themis.CollectionID, o ScanOptions, yield func(Document, error) bool) {
	lower, upper := o.bounds(c)
	if bytes.Compare(lower, upper) >= 0 {
		return
	}
	it, err := from.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		yield(Document{}, s.failed("scan", err))
		return
	}
	defer func() { _ = it.Close() }()
	n := 0
	for ok := it.First(); ok && (o.Limit <= 0 || n < o.Limit); ok = it.Next() {
		d, err := s.documentAt(it)
		if err != nil {
			yield(Document{}, err)
			return
		}
		if d.Deleted && !o.Tombstones {
			continue
		}
		n++
		if !yield(d, nil) {
			return
		}
	}
	if err := it.Error(); err != nil {
		yield(Document{}, s.failed("scan", err))
	}
}

func (s *Store) documentAt(it *pebble.Iterator) (Document, error) {
	v, err := it.ValueAndErr()
	if err != nil {
		return Document{}, s.failed("scan", err)
	}
	d, err := s.document(it.Key(), v)
	if err != nil {
		return Document{}, err
	}
	if d.Collection, d.Placement, d.Key, err = decodeDocumentKey(it.Key()); err != nil {
		return Document{}, s.damaged("scan", err)
	}
	return d, nil
}

// View is the store as it was at one applied position. It holds back the removal of what it shows: close it soon.
type View struct {
	s     *Store
	snap  *pebble.Snapshot
	state state
}

// View returns the store as it is now.
func (s *Store) View() (*View, error) {
	if err := s.users.enter(); err != nil {
		return nil, err
	}
	v := &View{s: s, snap: s.db.NewSnapshot()}
	b, closer, err := v.snap.Get(keyApplied)
	if errors.Is(err, pebble.ErrNotFound) {
		return v, nil
	}
	if err == nil {
		v.state, err = decodeState(b)
		err = errors.Join(err, closer.Close())
	}
	if err != nil {
		err = s.failed("view", err)
		v.Close()
		return nil, err
	}
	return v, nil
}

// Position is the last entry that the view shows.
func (v *View) Position() themis.Position { return v.state.position }

// HLC is AppliedHLC at that position.
func (v *View) HLC() themis.HLC { return v.state.hlc }

// Get is Store.Get at the view's position.
func (v *View) Get(c themis.CollectionID, placement []byte, key string) (Document, bool, error) {
	return v.s.get(v.snap, c, placement, key)
}

// Scan is Store.Scan at the view's position.
func (v *View) Scan(c themis.CollectionID, o ScanOptions) iter.Seq2[Document, error] {
	return func(yield func(Document, error) bool) { v.s.scan(v.snap, c, o, yield) }
}

// Close gives the view up. It must not be used any more.
func (v *View) Close() {
	_ = v.snap.Close()
	v.s.users.leave()
}
