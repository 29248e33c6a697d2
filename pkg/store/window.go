package store

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/themisdb/themis/pkg/themis"
)

// window bounds the remembered request ids. All replicas must use the same numbers: they decide what a store holds.
type window struct {
	age      time.Duration // by the clock of the log: the HLC of the newest applied entry
	requests int64
	bytes    themis.Bytes // of the records
}

// theWindow is the one window of format 1. Ten minutes are promised; the other two bound the memory of a shard that is
// flooded with ids.
var theWindow = window{age: 10 * time.Minute, requests: 1_000_000, bytes: 256 << 20}

// full says whether the request at HLC oldest must go.
func (w window) full(st state, oldest themis.HLC) bool {
	return st.requests > w.requests || st.requestBytes > w.bytes || oldest <= st.hlc && st.hlc.Time().Sub(oldest.Time()) >= w.age
}

// RequestRecord is what the write with a request id did.
type RequestRecord struct {
	Digest uint64     // of the request's body
	Seq    themis.Seq // of its entry
	HLC    themis.HLC // of its entry
	Ops    []OpResult // in the order of the request
}

// OpResult is what one operation did.
type OpResult struct {
	Collection themis.CollectionID
	Placement  []byte     // tells which range the operation belongs to
	Version    themis.HLC // of the document after it: HLC of the entry + index of the operation
	Existed    bool       // there was a document (not only a tombstone) before it
}

const requestFormat = 1

// appendRequest writes | format u8 | digest u64 | seq u64 | hlc u64 | n u32 | { existed u8 | collection u32 | placement u16+ } … | crc32c u32 |;
// the checksum covers the key too.
func appendRequest(b, key []byte, r RequestRecord) []byte {
	start := len(b)
	b = append(b, requestFormat)
	b = binary.LittleEndian.AppendUint64(b, r.Digest)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Seq))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.HLC))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(r.Ops))) //nolint:gosec // bounded by the entry
	for _, o := range r.Ops {
		existed := byte(0)
		if o.Existed {
			existed = 1
		}
		b = append(b, existed)
		b = binary.LittleEndian.AppendUint32(b, uint32(o.Collection))
		b = appendText(b, string(o.Placement))
	}
	return binary.LittleEndian.AppendUint32(b, checksum(key, b[start:]))
}

func decodeRequest(key, b []byte) (RequestRecord, error) {
	bad := func(what string) (RequestRecord, error) {
		return RequestRecord{}, fmt.Errorf("%w: request record: %s", themis.ErrMalformed, what)
	}
	const fixed, smallest = 1 + 8 + 8 + 8 + 4, 1 + 4 + 2
	if len(b) < fixed+4 || b[0] != requestFormat {
		return bad(fmt.Sprintf("%d bytes", len(b)))
	}
	end := len(b) - 4
	if binary.LittleEndian.Uint32(b[end:]) != checksum(key, b[:end]) {
		return bad("checksum")
	}
	b = b[:end]
	r := RequestRecord{
		Digest: binary.LittleEndian.Uint64(b[1:]), Seq: themis.Seq(binary.LittleEndian.Uint64(b[9:])), HLC: themis.HLC(binary.LittleEndian.Uint64(b[17:])),
	}
	n, at := int(binary.LittleEndian.Uint32(b[25:])), fixed
	if n > (len(b)-at)/smallest {
		return bad(fmt.Sprintf("%d operations claimed in %d bytes", n, len(b)))
	}
	for i := range n {
		if len(b)-at < smallest || b[at] > 1 {
			return bad("operation cut short")
		}
		o := OpResult{Existed: b[at] == 1, Collection: themis.CollectionID(binary.LittleEndian.Uint32(b[at+1:])), Version: r.HLC + themis.HLC(i)} //nolint:gosec // i is small
		placement, next, ok := takeText(b, at+5)
		if !ok {
			return bad("placement cut short")
		}
		o.Placement = []byte(placement)
		r.Ops = append(r.Ops, o)
		at = next
	}
	if at != len(b) {
		return bad("bytes behind the last operation")
	}
	return r, nil
}

// aged is one entry of the index by age: | hlc u64 | record size u32 | request id | crc32c u32 | under the entry's seq.
type aged struct {
	seq  themis.Seq
	hlc  themis.HLC
	size themis.Bytes // of the request's record
	id   string
}

func (a aged) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(a.hlc))
	b = binary.LittleEndian.AppendUint32(b, uint32(a.size)) //nolint:gosec // bounded by the entry
	b = append(b, a.id...)
	return binary.LittleEndian.AppendUint32(b, checksum(ageKey(nil, a.seq), b))
}

func decodeAged(key, b []byte) (aged, error) {
	if len(key) != 9 || len(b) < 8+4+4 || binary.LittleEndian.Uint32(b[len(b)-4:]) != checksum(key, b[:len(b)-4]) {
		return aged{}, fmt.Errorf("%w: age of a request, %d bytes", themis.ErrMalformed, len(b))
	}
	return aged{
		seq: themis.Seq(binary.BigEndian.Uint64(key[1:])), hlc: themis.HLC(binary.LittleEndian.Uint64(b)),
		size: themis.Bytes(binary.LittleEndian.Uint32(b[8:])), id: string(b[12 : len(b)-4]),
	}, nil
}

// aging is the old end of the window: a stretch of the index read ahead, so that dropping the oldest costs no seek each time.
type aging struct {
	ahead []aged              // oldest first
	next  themis.Seq          // where to read on
	gone  map[themis.Seq]bool // not read yet, and removed by the present batch
}

const readAhead = 256

// fill reads on from next. What the present batch adds isn't in Pebble yet; the writer keeps that.
func (a *aging) fill(s *Store) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: ageKey(nil, a.next), UpperBound: []byte{spaceAges + 1}})
	if err != nil {
		return s.failed("read the ages of requests", err)
	}
	defer func() { _ = it.Close() }()
	for ok := it.First(); ok && len(a.ahead) < readAhead; ok = it.Next() {
		g, err := decodeAged(it.Key(), it.Value())
		if err != nil {
			return s.damaged("ages of requests", err)
		}
		if a.next = g.seq + 1; !a.gone[g.seq] {
			a.ahead = append(a.ahead, g)
		}
	}
	if err := it.Error(); err != nil {
		return s.failed("read the ages of requests", err)
	}
	return nil
}

// remove takes the entry with that seq out of what was read ahead; false when it isn't there.
func (a *aging) remove(seq themis.Seq) bool {
	for i, g := range a.ahead {
		if g.seq == seq {
			a.ahead = append(a.ahead[:i], a.ahead[i+1:]...)
			return true
		}
	}
	return false
}

// drop takes the entry with that seq out, whether it was read ahead or not.
func (a *aging) drop(seq themis.Seq) {
	if a.remove(seq) || seq < a.next {
		return
	}
	if a.gone == nil {
		a.gone = map[themis.Seq]bool{}
	}
	a.gone[seq] = true
}
