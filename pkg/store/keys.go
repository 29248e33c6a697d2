package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/themisdb/themis/pkg/themis"
)

// The spaces: the first byte of every key.
const (
	spaceMeta       = 0
	spaceDocuments  = 1
	spaceRequests   = 2
	spaceAges       = 3
	spaceTombstones = 4
)

// The kinds of keys in the meta space.
const (
	metaApplied = 1
	metaFormat  = 2
	metaCount   = 3
)

var (
	keyApplied = []byte{spaceMeta, metaApplied}
	keyFormat  = []byte{spaceMeta, metaFormat}
)

// A placement may have any length and any bytes. A zero byte in it is written as 00 FF and its end as 00 01, so that keys
// sort as placements do, and no placement's keys lie inside the range of another's.
const (
	escape       = 0x00
	escapedZero  = 0xff
	placementEnd = 0x01
)

// documentPrefix is space and collection.
func documentPrefix(b []byte, c themis.CollectionID) []byte {
	return binary.BigEndian.AppendUint32(append(b, spaceDocuments), uint32(c))
}

func appendPlacement(b, placement []byte) []byte {
	b = appendPlacementOpen(b, placement)
	return append(b, escape, placementEnd)
}

// appendPlacementOpen writes a placement without its end: the lower bound of all placements at or above it.
func appendPlacementOpen(b, placement []byte) []byte {
	for {
		i := bytes.IndexByte(placement, 0)
		if i < 0 {
			return append(b, placement...)
		}
		b = append(b, placement[:i]...)
		b = append(b, escape, escapedZero)
		placement = placement[i+1:]
	}
}

// documentKey is a document's key in Pebble.
func documentKey(b []byte, c themis.CollectionID, placement []byte, key string) []byte {
	return append(appendPlacement(documentPrefix(b, c), placement), key...)
}

var errKey = fmt.Errorf("%w key", themis.ErrMalformed)

// decodeDocumentKey reads what documentKey wrote. Nothing it returns aliases b.
func decodeDocumentKey(b []byte) (c themis.CollectionID, placement []byte, key string, err error) {
	if len(b) < 5 || b[0] != spaceDocuments {
		return 0, nil, "", fmt.Errorf("%w: %d bytes, space %x", errKey, len(b), b[:min(1, len(b))])
	}
	c = themis.CollectionID(binary.BigEndian.Uint32(b[1:]))
	rest := b[5:]
	placement = []byte{}
	for {
		i := bytes.IndexByte(rest, escape)
		if i < 0 || i+1 == len(rest) {
			return 0, nil, "", fmt.Errorf("%w: placement has no end", errKey)
		}
		placement = append(placement, rest[:i]...)
		mark := rest[i+1]
		rest = rest[i+2:]
		switch mark {
		case placementEnd:
			return c, placement, string(rest), nil
		case escapedZero:
			placement = append(placement, 0)
		default:
			return 0, nil, "", fmt.Errorf("%w: byte %02x after a zero in the placement", errKey, mark)
		}
	}
}

func requestKey(b []byte, id string) []byte { return append(append(b, spaceRequests), id...) }

func ageKey(b []byte, seq themis.Seq) []byte {
	return binary.BigEndian.AppendUint64(append(b, spaceAges), uint64(seq))
}

func tombstoneKey(b []byte, seq themis.Seq, document []byte) []byte {
	return append(binary.BigEndian.AppendUint64(append(b, spaceTombstones), uint64(seq)), document...)
}

// decodeTombstoneKey returns the seq of the delete and the document's key, which aliases b.
func decodeTombstoneKey(b []byte) (themis.Seq, []byte, error) {
	if len(b) < 9+5 || b[0] != spaceTombstones || b[9] != spaceDocuments {
		return 0, nil, fmt.Errorf("%w: tombstone index, %d bytes", errKey, len(b))
	}
	return themis.Seq(binary.BigEndian.Uint64(b[1:])), b[9:], nil
}

func countKey(c themis.CollectionID) []byte {
	return binary.BigEndian.AppendUint32([]byte{spaceMeta, metaCount}, uint32(c))
}

// after is the least key greater than k.
func after(k []byte) []byte { return append(bytes.Clone(k), 0) }
