package store

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/cockroachdb/pebble/v2"

	"github.com/themisdb/themis/pkg/themis"
)

// DigestOptions say what is compared. The zero value takes all that the log decides: two replicas at the same position are
// equal in it, unless one has collected tombstones that the other hasn't; then both take the higher Stats().Floor as Floor.
type DigestOptions struct {
	From, To []byte // placements, From included, To not; nil: no bound. With a bound, request ids are left out
	Floor    themis.Seq
	// Portable compares across shards, as after a move: it leaves out seqs, request ids and tombstones, which differ there.
	Portable bool
}

// Digest is a fingerprint of content in key order.
type Digest struct {
	Sum        [32]byte // SHA-256
	Documents  int64
	Tombstones int64
	Requests   int64
	Position   themis.Position // where the store was
}

// Digest reads and checks everything that it covers, at one moment, and returns its fingerprint. Damage is CORRUPT.
func (s *Store) Digest(o DigestOptions) (Digest, error) {
	v, err := s.View()
	if err != nil {
		return Digest{}, err
	}
	defer v.Close()
	return v.Digest(o)
}

// Digest is Store.Digest at the view's position.
func (v *View) Digest(o DigestOptions) (Digest, error) {
	d := Digest{Position: v.state.position}
	h := sha256.New()
	if err := v.Each(o.From, o.To, func(doc Document) error { d.document(h, o, doc); return nil }); err != nil {
		return Digest{}, err
	}
	if o.From == nil && o.To == nil && !o.Portable {
		if err := v.digestRequests(h, &d); err != nil {
			return Digest{}, err
		}
	}
	h.Sum(d.Sum[:0])
	return d, nil
}

// Each goes through the documents of every collection from…to (ScanOptions), tombstones included, until do fails.
func (v *View) Each(from, to []byte, do func(Document) error) error {
	next := themis.CollectionID(0)
	for {
		c, ok, err := v.collectionFrom(next)
		if err != nil || !ok {
			return err
		}
		for doc, err := range v.Scan(c, ScanOptions{From: from, To: to, Tombstones: true}) {
			if err == nil {
				err = do(doc)
			}
			if err != nil {
				return err
			}
		}
		if next = c + 1; next == 0 {
			return nil
		}
	}
}

// collectionFrom finds the first collection at or above c that holds anything.
func (v *View) collectionFrom(c themis.CollectionID) (themis.CollectionID, bool, error) {
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: documentPrefix(nil, c), UpperBound: []byte{spaceDocuments + 1}})
	if err != nil {
		return 0, false, v.s.failed("scan", err)
	}
	defer func() { _ = it.Close() }()
	if !it.First() {
		if err := it.Error(); err != nil {
			return 0, false, v.s.failed("scan", err)
		}
		return 0, false, nil
	}
	found, _, _, err := decodeDocumentKey(it.Key())
	if err != nil {
		return 0, false, v.s.damaged("scan", err)
	}
	return found, true, nil
}

func (d *Digest) document(h hash.Hash, o DigestOptions, doc Document) {
	switch {
	case !doc.Deleted:
		d.Documents++
	case o.Portable || doc.Seq <= o.Floor:
		return
	default:
		d.Tombstones++
	}
	number := func(n uint64) { _, _ = h.Write(binary.LittleEndian.AppendUint64(nil, n)) }
	text := func(b []byte) { number(uint64(len(b))); _, _ = h.Write(b) }
	number(uint64(doc.Collection))
	text(doc.Placement)
	text([]byte(doc.Key))
	number(uint64(doc.Type))
	number(uint64(doc.Version))
	number(uint64(doc.Created))
	if doc.Deleted {
		number(1)
	} else {
		number(0)
	}
	if !o.Portable {
		number(uint64(doc.Seq))
		text([]byte(doc.RequestID))
	}
	if g := doc.Origin; g != nil {
		number(1)
		number(uint64(g.Seq))
		number(uint64(g.HLC))
		text([]byte(g.Node))
	} else {
		number(0)
	}
	text(doc.Value)
}

// digestRequests covers the records of request ids and their order of age.
func (v *View) digestRequests(h hash.Hash, d *Digest) error {
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceRequests}, UpperBound: []byte{spaceAges + 1}})
	if err != nil {
		return v.s.failed("digest requests", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return v.s.failed("digest requests", err)
		}
		if it.Key()[0] == spaceRequests {
			d.Requests++
			_, err = decodeRequest(it.Key(), value)
		} else {
			_, err = decodeAged(it.Key(), value)
		}
		if err != nil {
			return v.s.damaged("digest requests", err)
		}
		var size [16]byte
		binary.LittleEndian.PutUint64(size[:], uint64(len(it.Key())))
		binary.LittleEndian.PutUint64(size[8:], uint64(len(value)))
		for _, part := range [][]byte{size[:], it.Key(), value} {
			_, _ = h.Write(part)
		}
	}
	if err := it.Error(); err != nil {
		return v.s.failed("digest requests", err)
	}
	return nil
}
