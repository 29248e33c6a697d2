package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"

	"github.com/themisdb/themis/pkg/themis"
)

const (
	markSlotAt    = 512 // where the second slot begins: another sector, so that one torn write spares the other
	markSlotBytes = 8 + 8 + 4
	markFileBytes = markSlotAt + markSlotBytes

	// markUnknown is the mark of a replica that can't tell any more what it had: more than any log holds.
	markUnknown themis.Seq = math.MaxUint64
)

// A slot of MARK: | generation u64 | seq u64 | crc32c u32 |. The whole slot with the higher generation counts.
func appendMarkSlot(b []byte, generation uint64, seq themis.Seq) []byte {
	at := len(b)
	b = binary.LittleEndian.AppendUint64(b, generation)
	b = binary.LittleEndian.AppendUint64(b, uint64(seq))
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

func decodeMarkSlot(b []byte) (generation uint64, seq themis.Seq, ok bool) {
	if len(b) < markSlotBytes || crc32.Checksum(b[:16], castagnoli) != binary.LittleEndian.Uint32(b[16:]) {
		return 0, 0, false
	}
	generation = binary.LittleEndian.Uint64(b)
	return generation, themis.Seq(binary.LittleEndian.Uint64(b[8:])), generation > 0
}

// decodeMark reads MARK. An error says that neither slot is whole.
func decodeMark(b []byte) (generation uint64, seq themis.Seq, err error) {
	g0, s0, ok0 := decodeMarkSlot(b)
	var g1 uint64
	var s1 themis.Seq
	var ok1 bool
	if len(b) > markSlotAt {
		g1, s1, ok1 = decodeMarkSlot(b[markSlotAt:])
	}
	switch {
	case ok1 && (!ok0 || g1 > g0):
		return g1, s1, nil
	case ok0:
		return g0, s0, nil
	}
	return 0, 0, fmt.Errorf("%w: %s: no whole slot in %d bytes", themis.ErrMalformed, markName, len(b))
}

// markFile is MARK, open for writing.
type markFile struct {
	f          *os.File
	generation uint64
	seq        themis.Seq
}

// openMark opens MARK and goes on behind what decodeMark found there.
func openMark(path string, generation uint64, seq themis.Seq) (*markFile, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, filePerm)
	if err != nil {
		return nil, err
	}
	return &markFile{f: f, generation: generation, seq: seq}, nil
}

// set writes seq without an fsync: it survives the process at once, the machine from the next sync on.
func (m *markFile) set(seq themis.Seq) error {
	var slot [markSlotBytes]byte
	next := m.generation + 1
	if _, err := m.f.WriteAt(appendMarkSlot(slot[:0], next, seq), int64(next%2)*markSlotAt); err != nil {
		return fmt.Errorf("write %s: %w", m.f.Name(), err)
	}
	m.generation, m.seq = next, seq
	return nil
}

// setDurably writes seq into both slots, each synced before the next, so that no older slot can come back.
func (m *markFile) setDurably(seq themis.Seq) error {
	for range 2 {
		if err := m.set(seq); err != nil {
			return err
		}
		if err := m.f.Sync(); err != nil {
			return fmt.Errorf("sync %s: %w", m.f.Name(), err)
		}
	}
	return nil
}

// readMark reads MARK; a missing file is an error like an unreadable one.
func readMark(path string) (generation uint64, seq themis.Seq, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	var b [markFileBytes]byte
	n, err := f.ReadAt(b[:], 0)
	_ = f.Close()
	if n == 0 && err != nil {
		return 0, 0, errors.Join(themis.ErrMalformed, err)
	}
	return decodeMark(b[:n])
}
