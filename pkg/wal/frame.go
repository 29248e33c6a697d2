package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/themis"
)

// The sizes of a frame. A decoder compares every claimed length with these and with the bytes that are there.
const (
	MaxPayloadBytes = 64 << 20
	MaxFrameBytes   = prologueBytes + maxTagsBytes + MaxPayloadBytes

	headBytes     = 8               // len, crc32c
	fixedBytes    = 1 + 1 + 2 + 5*8 // version … commit
	prologueBytes = headBytes + fixedBytes
	minFrameBytes = prologueBytes + 1 // with the count of no tags
	maxTagBytes   = 4096              // of one tag's value, as themis.DecodeTags reads it
	maxTagsBytes  = 1 + 6*(3+maxTagBytes)
	seqAt         = headBytes + 4 // where a frame's seq stands
)

// What DecodeFrame refuses. All but ErrUpgrade wrap themis.ErrMalformed.
var (
	ErrFrameShort = fmt.Errorf("%w: frame cut short", themis.ErrMalformed)
	ErrFrameSize  = fmt.Errorf("%w: frame length outside its limits", themis.ErrMalformed)
	ErrChecksum   = fmt.Errorf("%w: checksum does not match", themis.ErrMalformed)
	// ErrUpgrade means that the frame is whole, but written in a form this version does not know (UPGRADE_NEEDED).
	ErrUpgrade = errors.New("written by a newer version")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// FlagBatch is set in the first frame of every batch that a primary writes at once. A loss of power may keep any pages of an
// unfinished write: good frames of the same batch behind a bad one say nothing.
const FlagBatch uint16 = 1

// FrameBytes is the size of e's frame.
func FrameBytes(e *themis.Entry) int {
	var room [256]byte
	return prologueBytes + len(themis.AppendTags(room[:0], e.Tags)) + len(e.Payload)
}

// AppendFrame writes e's frame behind b. Version 0 is written as themis.EntryVersion. The caller keeps the payload within
// MaxPayloadBytes and every tag within 4096 bytes; Begin checks both.
func AppendFrame(b []byte, e *themis.Entry) []byte {
	var room [256]byte
	return appendFrame(b, e, themis.AppendTags(room[:0], e.Tags))
}

func appendFrame(b []byte, e *themis.Entry, tags []byte) []byte {
	version := e.Version
	if version == 0 {
		version = themis.EntryVersion
	}
	at := len(b)
	var p [prologueBytes]byte
	binary.LittleEndian.PutUint32(p[0:], uint32(fixedBytes+len(tags)+len(e.Payload))) //nolint:gosec // below MaxFrameBytes
	p[8], p[9] = version, byte(e.Kind)
	binary.LittleEndian.PutUint16(p[10:], e.Flags)
	binary.LittleEndian.PutUint64(p[seqAt:], uint64(e.Seq))
	binary.LittleEndian.PutUint64(p[20:], uint64(e.LSN))
	binary.LittleEndian.PutUint64(p[28:], uint64(e.Epoch))
	binary.LittleEndian.PutUint64(p[36:], uint64(e.HLC))
	binary.LittleEndian.PutUint64(p[44:], uint64(e.Commit))
	b = append(b, p[:]...)
	b = append(b, tags...)
	b = append(b, e.Payload...)
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+headBytes:], castagnoli))
	return b
}

// DecodeFrame reads one frame from the front of b and returns the entry and the frame's size. The payload aliases b.
// Errors: ErrFrameShort, ErrFrameSize, ErrChecksum, ErrUpgrade. What decodes encodes back to the same bytes.
func DecodeFrame(b []byte) (themis.Entry, int, error) {
	n, err := checkFrame(b)
	if err != nil {
		return themis.Entry{}, 0, err
	}
	e := frameHeader(b)
	if e.Version != themis.EntryVersion {
		return themis.Entry{}, 0, fmt.Errorf("%w: entry version %d", ErrUpgrade, e.Version)
	}
	tags, payload, err := themis.DecodeTags(b[prologueBytes:n])
	if err != nil {
		return themis.Entry{}, 0, fmt.Errorf("%w: %w", ErrUpgrade, err)
	}
	if len(payload) > MaxPayloadBytes {
		return themis.Entry{}, 0, fmt.Errorf("%w: payload of %d bytes", ErrFrameSize, len(payload))
	}
	e.Tags, e.Payload = tags, payload[:len(payload):len(payload)]
	return e, n, nil
}

// checkFrame finds the size of the frame at the front of b and checks its checksum.
func checkFrame(b []byte) (int, error) {
	n, err := frameSize(b)
	if err != nil {
		return 0, err
	}
	if n > len(b) {
		return 0, fmt.Errorf("%w: %d of %d bytes", ErrFrameShort, len(b), n)
	}
	if crc32.Checksum(b[headBytes:n], castagnoli) != binary.LittleEndian.Uint32(b[4:]) && guard.On(guard.FrameChecksum) {
		return 0, ErrChecksum
	}
	return n, nil
}

func frameSize(b []byte) (int, error) {
	if len(b) < headBytes {
		return 0, fmt.Errorf("%w: %d bytes", ErrFrameShort, len(b))
	}
	n := headBytes + int(binary.LittleEndian.Uint32(b))
	if n < minFrameBytes || n > MaxFrameBytes {
		return 0, fmt.Errorf("%w: %d bytes", ErrFrameSize, n)
	}
	return n, nil
}

// frameHeader reads the fixed fields; b holds at least prologueBytes.
func frameHeader(b []byte) themis.Entry {
	return themis.Entry{
		Version: b[8], Kind: themis.Kind(b[9]), Flags: binary.LittleEndian.Uint16(b[10:]),
		Seq:    themis.Seq(binary.LittleEndian.Uint64(b[seqAt:])),
		LSN:    themis.LSN(binary.LittleEndian.Uint64(b[20:])),
		Epoch:  themis.Epoch(binary.LittleEndian.Uint64(b[28:])),
		HLC:    themis.HLC(binary.LittleEndian.Uint64(b[36:])),
		Commit: themis.Seq(binary.LittleEndian.Uint64(b[44:])),
	}
}

// lastHLC is the timestamp of e's last operation: operation i has HLC + i.
func lastHLC(e *themis.Entry) themis.HLC {
	if e.Kind != themis.KindWrite || len(e.Payload) < 4 {
		return e.HLC
	}
	n := binary.LittleEndian.Uint32(e.Payload)
	if n == 0 || n > maxOps {
		return e.HLC
	}
	return e.HLC + themis.HLC(n-1)
}

// behind is the position behind e, whose frame has n bytes.
func behind(e *themis.Entry, n int) themis.Position {
	return themis.Position{Seq: e.Seq, Epoch: e.Epoch, LSN: e.LSN + themis.LSN(n)} //nolint:gosec // n is a frame's size
}

// follows says why e can't stand behind prev, as *OrderError, or nil.
func follows(prev themis.Position, e *themis.Entry) error {
	switch {
	case e.Seq != prev.Seq+1:
		return &OrderError{Field: "seq", Seq: e.Seq, Got: uint64(e.Seq), Want: uint64(prev.Seq + 1)}
	case e.LSN != prev.LSN:
		return &OrderError{Field: "lsn", Seq: e.Seq, Got: uint64(e.LSN), Want: uint64(prev.LSN)}
	case e.Epoch < prev.Epoch:
		return &OrderError{Field: "epoch", Seq: e.Seq, Got: uint64(e.Epoch), Want: uint64(prev.Epoch)}
	}
	return nil
}
