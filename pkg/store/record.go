package store

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/themisdb/themis/pkg/themis"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	recordFormat = 1

	flagTombstone = 1 << 0
	flagRequest   = 1 << 1
	flagOrigin    = 1 << 2
	flagsKnown    = flagTombstone | flagRequest | flagOrigin

	recordFixed = 1 + 1 + 1 + 8 + 8 + 8 + 4 // format … body crc
)

// record is the header of a stored document or tombstone:
//
//	| format u8 | flags u8 | type u8 | version u64 | seq u64 | created u64 | crc32c of the document u32
//	| request id: len u16, bytes | origin: seq u64, hlc u64, len u16, node | crc32c of key and header u32 | document … |
//
// Request id and origin are there when their flags are set.
type record struct {
	typ       themis.ValueType
	tombstone bool
	version   themis.HLC // of the last write
	seq       themis.Seq // of the entry that held it
	created   themis.HLC // version of the first write since the document was last absent; 0 in a tombstone
	request   string     // id of the request that wrote it, if it had one
	origin    *themis.Origin
}

func appendRecord(b, key []byte, r record, document []byte) []byte {
	start := len(b)
	flags := uint8(0)
	if r.tombstone {
		flags |= flagTombstone
	}
	if r.request != "" {
		flags |= flagRequest
	}
	if r.origin != nil {
		flags |= flagOrigin
	}
	b = append(b, recordFormat, flags, byte(r.typ))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.version))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.seq))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.created))
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(document, castagnoli))
	if r.request != "" {
		b = appendText(b, r.request)
	}
	if o := r.origin; o != nil {
		b = binary.LittleEndian.AppendUint64(b, uint64(o.Seq))
		b = binary.LittleEndian.AppendUint64(b, uint64(o.HLC))
		b = appendText(b, string(o.Node))
	}
	b = binary.LittleEndian.AppendUint32(b, checksum(key, b[start:]))
	return append(b, document...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint16(b, uint16(len(s))), s...) //nolint:gosec // tags are below 64 KiB
}

func takeText(v []byte, at int) (string, int, bool) {
	if len(v)-at < 2 {
		return "", at, false
	}
	n := int(binary.LittleEndian.Uint16(v[at:]))
	if at += 2; n > len(v)-at {
		return "", at, false
	}
	return string(v[at : at+n]), at + n, true
}

// checksum covers the key too, so that a value can't pass under another key.
func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// decodeRecord reads the header of v and returns the document behind it, which aliases v and is not checked yet; see checkBody.
func decodeRecord(key, v []byte) (r record, document []byte, err error) {
	bad := func(what string) (record, []byte, error) {
		return record{}, nil, fmt.Errorf("%w: record header: %s", themis.ErrMalformed, what)
	}
	if len(v) < recordFixed+4 {
		return bad(fmt.Sprintf("%d bytes", len(v)))
	}
	flags := v[1]
	if v[0] != recordFormat || flags&^flagsKnown != 0 {
		return bad(fmt.Sprintf("format %d, flags %02x", v[0], flags))
	}
	r.typ = themis.ValueType(v[2])
	r.tombstone = flags&flagTombstone != 0
	r.version = themis.HLC(binary.LittleEndian.Uint64(v[3:]))
	r.seq = themis.Seq(binary.LittleEndian.Uint64(v[11:]))
	r.created = themis.HLC(binary.LittleEndian.Uint64(v[19:]))
	at := recordFixed
	ok := true
	if flags&flagRequest != 0 {
		if r.request, at, ok = takeText(v, at); !ok || r.request == "" {
			return bad("request id cut short")
		}
	}
	if flags&flagOrigin != 0 {
		if len(v)-at < 16 {
			return bad("origin cut short")
		}
		o := &themis.Origin{Seq: themis.Seq(binary.LittleEndian.Uint64(v[at:])), HLC: themis.HLC(binary.LittleEndian.Uint64(v[at+8:]))}
		at += 16
		var node string
		if node, at, ok = takeText(v, at); !ok {
			return bad("origin cut short")
		}
		o.Node = themis.NodeID(node)
		r.origin = o
	}
	if len(v)-at < 4 || binary.LittleEndian.Uint32(v[at:]) != checksum(key, v[:at]) {
		return bad("checksum")
	}
	return r, v[at+4:], nil
}

// checkBody compares the document with the checksum in its header.
func checkBody(v, document []byte) error {
	if binary.LittleEndian.Uint32(v[recordFixed-4:]) != crc32.Checksum(document, castagnoli) {
		return fmt.Errorf("%w: document checksum", themis.ErrMalformed)
	}
	return nil
}
