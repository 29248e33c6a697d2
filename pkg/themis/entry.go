package themis

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// Kind says what an entry does. Numbers are part of the log format and never reused.
type Kind uint8

// The kinds. A replica that meets a kind it doesn't serve stops with UPGRADE_NEEDED; it never skips.
const (
	KindWrite     Kind = 1 // a list of puts and deletes, atomic in its shard
	KindBarrier   Kind = 3 // the first entry of a reign
	KindFreeze    Kind = 4
	KindIngest    Kind = 5
	KindConfig    Kind = 6
	KindSlot      Kind = 7
	KindDDL       Kind = 8
	KindTxPrepare Kind = 9
	KindTxCommit  Kind = 10
	KindTxAbort   Kind = 11
	KindBlob      Kind = 12
	KindPiece     Kind = 13
	KindCRDT      Kind = 14
)

var kindNames = map[Kind]string{
	KindWrite: "WRITE", KindBarrier: "BARRIER", KindFreeze: "FREEZE", KindIngest: "INGEST", KindConfig: "CONFIG", KindSlot: "SLOT",
	KindDDL: "DDL", KindTxPrepare: "TX_PREPARE", KindTxCommit: "TX_COMMIT", KindTxAbort: "TX_ABORT", KindBlob: "BLOB", KindPiece: "PIECE", KindCRDT: "CRDT",
}

func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("KIND_%d", uint8(k))
}

// Served says whether this version knows how to apply entries of the kind.
func (k Kind) Served() bool { return k == KindWrite || k == KindBarrier }

// EntryVersion is the format version that this code writes into every entry.
const EntryVersion = 1

// Entry is one record of a shard's log. Replicas' logs are equal bit by bit.
type Entry struct {
	Version uint8
	Kind    Kind
	Flags   uint16
	Seq     Seq
	LSN     LSN   // where its frame begins
	Epoch   Epoch // of the primary that wrote it; never falls from one entry to the next
	HLC     HLC   // of its first operation; operation i has HLC + i
	Commit  Seq   // the primary's commit seq when it was framed
	Tags    Tags
	Payload []byte // for KindWrite: AppendOps
}

// Tags are the optional fields of an entry, each with a number, so that later versions add without a new format.
type Tags struct {
	RequestID  string // makes the write idempotent; at most 64 bytes
	BodyDigest uint64 // of the request, to tell a repeat from another request under the same id
	Origin     *Origin
	TxID       string
	Schema     uint64
	Clock      []byte // an encoded vector clock
}

// Origin is where a change was first made, for active-active peers.
type Origin struct {
	Node NodeID
	Seq  Seq
	HLC  HLC
}

const (
	tagRequestID  = 1
	tagBodyDigest = 2
	tagOrigin     = 3
	tagTxID       = 4
	tagSchema     = 5
	tagClock      = 6

	maxTagBytes = 4096
)

// ErrMalformed is wrapped by every decoder of bytes when what it reads is not what was written.
var ErrMalformed = errors.New("malformed")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// AppendTags writes the tags that are set: | count u8 | { number u8 | len u16 | value } … |.
func AppendTags(b []byte, t Tags) []byte {
	at := len(b)
	b = append(b, 0)
	put := func(tag uint8, v []byte) {
		b[at]++
		b = append(b, tag)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(v))) //nolint:gosec // every tag is far below 64 KiB
		b = append(b, v...)
	}
	if t.RequestID != "" {
		put(tagRequestID, []byte(t.RequestID))
	}
	if t.BodyDigest != 0 {
		put(tagBodyDigest, binary.LittleEndian.AppendUint64(nil, t.BodyDigest))
	}
	if o := t.Origin; o != nil {
		v := binary.LittleEndian.AppendUint64(nil, uint64(o.Seq))
		v = binary.LittleEndian.AppendUint64(v, uint64(o.HLC))
		put(tagOrigin, append(v, o.Node...))
	}
	if t.TxID != "" {
		put(tagTxID, []byte(t.TxID))
	}
	if t.Schema != 0 {
		put(tagSchema, binary.LittleEndian.AppendUint64(nil, t.Schema))
	}
	if len(t.Clock) > 0 {
		put(tagClock, t.Clock)
	}
	return b
}

// DecodeTags reads what AppendTags wrote and returns the bytes behind it. Numbers must ascend; an unknown number is an error,
// since a tag this code doesn't know may change what the entry means.
func DecodeTags(b []byte) (t Tags, rest []byte, err error) {
	if len(b) < 1 {
		return t, nil, malformed("tags: empty")
	}
	n, b := int(b[0]), b[1:]
	last := uint8(0)
	for range n {
		if len(b) < 3 {
			return t, nil, malformed("tags: cut short")
		}
		tag, size := b[0], int(binary.LittleEndian.Uint16(b[1:]))
		if size > len(b)-3 || size > maxTagBytes {
			return t, nil, malformed("tag %d: %d bytes claimed, %d there", tag, size, len(b)-3)
		}
		v := b[3 : 3+size]
		b = b[3+size:]
		if tag <= last {
			return t, nil, malformed("tag %d after tag %d", tag, last)
		}
		last = tag
		if err := t.set(tag, v); err != nil {
			return t, nil, err
		}
	}
	return t, b, nil
}

func (t *Tags) set(tag uint8, v []byte) error {
	number := func() (uint64, error) {
		if len(v) != 8 {
			return 0, malformed("tag %d: %d bytes, want 8", tag, len(v))
		}
		n := binary.LittleEndian.Uint64(v)
		if n == 0 {
			return 0, malformed("tag %d: zero is written by leaving it out", tag)
		}
		return n, nil
	}
	if len(v) == 0 {
		return malformed("tag %d: empty", tag)
	}
	var err error
	switch tag {
	case tagRequestID:
		t.RequestID = string(v)
	case tagBodyDigest:
		t.BodyDigest, err = number()
	case tagOrigin:
		if len(v) < 17 {
			return malformed("origin: %d bytes", len(v))
		}
		t.Origin = &Origin{Node: NodeID(v[16:]), Seq: Seq(binary.LittleEndian.Uint64(v)), HLC: HLC(binary.LittleEndian.Uint64(v[8:]))}
	case tagTxID:
		t.TxID = string(v)
	case tagSchema:
		t.Schema, err = number()
	case tagClock:
		t.Clock = slices.Clone(v)
	default:
		return malformed("tag %d is not known to this version", tag)
	}
	return err
}

// OpCode is what one operation does to its document.
type OpCode uint8

// The operations of a KindWrite entry.
const (
	OpPut    OpCode = 1
	OpDelete OpCode = 2
)

// ValueType says what a stored value is.
type ValueType uint8

// The types of values. Only documents are written so far; the number is in every record from the start.
const (
	TypeDocument ValueType = 1
	TypeBlob     ValueType = 2
	TypeVector   ValueType = 3
	TypePiece    ValueType = 4
	TypeCRDT     ValueType = 5
)

// CollectionID is a collection's number in the control plane; log and store use it in place of the name.
type CollectionID uint32

// Op is one change of one document.
type Op struct {
	Code       OpCode
	Type       ValueType
	Collection CollectionID
	Placement  []byte // what routing used: for hash placement the token, four bytes big endian
	Key        string
	Value      []byte // the document as it was sent; empty for a delete
}

// The limits of requests; a violation is INVALID_ARGUMENT or TOO_LARGE.
const (
	MaxKeyBytes       = 1024
	MaxDocumentBytes  = 16 << 20
	MaxRequestIDBytes = 64
	MaxPlacementBytes = 1024
	maxOpsPerEntry    = 1 << 16
)

// AppendOps writes a list of operations: | count u32 | { code u8 | type u8 | collection u32 | placement u16+ | key u16+ | value u32+ } … |.
func AppendOps(b []byte, ops []Op) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(ops))) //nolint:gosec // bounded by maxOpsPerEntry
	for _, o := range ops {
		b = append(b, byte(o.Code), byte(o.Type))
		b = binary.LittleEndian.AppendUint32(b, uint32(o.Collection))
		b = binary.LittleEndian.AppendUint16(b, uint16(len(o.Placement))) //nolint:gosec // ≤ MaxPlacementBytes
		b = append(b, o.Placement...)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(o.Key))) //nolint:gosec // ≤ MaxKeyBytes
		b = append(b, o.Key...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(o.Value))) //nolint:gosec // ≤ MaxDocumentBytes
		b = append(b, o.Value...)
	}
	return b
}

// DecodeOps reads what AppendOps wrote. Placement and Value alias b.
func DecodeOps(b []byte) ([]Op, error) {
	if len(b) < 4 {
		return nil, malformed("operations: %d bytes", len(b))
	}
	n := binary.LittleEndian.Uint32(b)
	b = b[4:]
	const smallest = 1 + 1 + 4 + 2 + 2 + 4
	if n == 0 || n > maxOpsPerEntry || int(n) > len(b)/smallest {
		return nil, malformed("%d operations claimed in %d bytes", n, len(b))
	}
	take := func(size int) (v []byte, ok bool) {
		if size > len(b) {
			return nil, false
		}
		v, b = b[:size:size], b[size:]
		return v, true
	}
	sized := func(width, limit int) ([]byte, bool) {
		head, ok := take(width)
		if !ok {
			return nil, false
		}
		size := int(binary.LittleEndian.Uint16(head))
		if width == 4 {
			size = int(binary.LittleEndian.Uint32(head))
		}
		if size > limit {
			return nil, false
		}
		return take(size)
	}
	ops := make([]Op, 0, n)
	for i := range n {
		head, ok := take(6)
		if !ok {
			return nil, malformed("operation %d: cut short", i)
		}
		o := Op{Code: OpCode(head[0]), Type: ValueType(head[1]), Collection: CollectionID(binary.LittleEndian.Uint32(head[2:]))}
		placement, ok1 := sized(2, MaxPlacementBytes)
		key, ok2 := sized(2, MaxKeyBytes)
		value, ok3 := sized(4, MaxDocumentBytes)
		if !ok1 || !ok2 || !ok3 {
			return nil, malformed("operation %d: cut short or over a limit", i)
		}
		if o.Code != OpPut && o.Code != OpDelete {
			return nil, malformed("operation %d: code %d is not known to this version", i, o.Code)
		}
		o.Placement, o.Key, o.Value = placement, string(key), value
		ops = append(ops, o)
	}
	if len(b) != 0 {
		return nil, malformed("%d bytes behind the last operation", len(b))
	}
	return ops, nil
}

// Placement is the placement key of hash placement: the token, four bytes big endian, so that stores scan in token order.
func (t Token) Placement() []byte { return binary.BigEndian.AppendUint32(nil, uint32(t)) }

// entryFixedBytes: len u32, crc32c u32, version u8, kind u8, flags u16, and seq, lsn, epoch, hlc and commit as u64.
const entryFixedBytes = 4 + 4 + 1 + 1 + 2 + 5*8

// FrameBytes is what e takes up in its log: LSN + FrameBytes is where the next entry begins.
func (e Entry) FrameBytes() Bytes {
	return Bytes(entryFixedBytes + len(AppendTags(nil, e.Tags)) + len(e.Payload))
}
