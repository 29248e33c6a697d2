package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/themisdb/themis/pkg/themis"
)

const (
	segmentNameLen = 20
	maxPrefixBytes = 4 // of tidwall's uvarint before a frame: frames stay below 2^28
)

// segment is one file of frames.
type segment struct {
	first themis.Seq // its name
	lsn   themis.LSN // where its first frame begins
	size  int64      // of the file, once the next segment exists
}

func segmentName(first themis.Seq) string { return fmt.Sprintf("%020d", uint64(first)) }

func segmentPath(dir string, first themis.Seq) string { return filepath.Join(dir, segmentName(first)) }

// listSegments finds the segments of dir in order, and the leftovers of interrupted work: copies (.START, .END) that tidwall/wal
// would act on when it opens, and half-written files (.TEMP). This log makes neither copy, so they are never needed.
func listSegments(dir string) (firsts []themis.Seq, leftovers []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name := e.Name()
		if name == logName+tempName {
			leftovers = append(leftovers, name)
			continue
		}
		if e.IsDir() || len(name) < segmentNameLen {
			continue
		}
		first, err := strconv.ParseUint(name[:segmentNameLen], 10, 64)
		if err != nil || first == 0 {
			continue
		}
		switch ending := name[segmentNameLen:]; {
		case ending == "":
			firsts = append(firsts, themis.Seq(first))
		case ending == ".START" || ending == ".END" || strings.HasSuffix(ending, tempName):
			leftovers = append(leftovers, name)
		}
	}
	return firsts, leftovers, nil
}

// appendRecords writes a run of checked frames behind b as records, each frame behind its uvarint size: the format of tidwall/wal.
func appendRecords(b, frames []byte) []byte {
	eachFrame(frames, func(frame []byte) {
		b = binary.AppendUvarint(b, uint64(len(frame)))
		b = append(b, frame...)
	})
	return b
}

// recordBytes is what a frame of n bytes takes in a segment.
func recordBytes(n int) int64 {
	var b [binary.MaxVarintLen64]byte
	return int64(binary.PutUvarint(b[:], uint64(n)) + n) //nolint:gosec // n is a frame's size
}

// recordSize reads tidwall's size prefix: its own length and the frame's. Both come from the bytes: compare them with what is there.
func recordSize(b []byte) (prefix, frame int, err error) {
	size, n := binary.Uvarint(b[:min(len(b), maxPrefixBytes)])
	switch {
	case n <= 0 && len(b) >= maxPrefixBytes:
		return 0, 0, fmt.Errorf("%w: size prefix too long", ErrFrameSize)
	case n <= 0:
		return 0, 0, fmt.Errorf("%w: in the size prefix", ErrFrameShort)
	case size < minFrameBytes || size > MaxFrameBytes:
		return 0, 0, fmt.Errorf("%w: a record of %d bytes", ErrFrameSize, size)
	}
	if int64(n)+int64(size) != recordBytes(int(size)) {
		return 0, 0, fmt.Errorf("%w: size prefix longer than it needs to be", ErrFrameSize)
	}
	return n, int(size), nil
}

// readRecord decodes the record at the front of b, and checks that it stands behind prev. n is the size of the whole record.
// The entry is valid also when the error is an *OrderError.
func readRecord(b []byte, prev themis.Position) (e themis.Entry, end themis.Position, n int, err error) {
	prefix, size, err := recordSize(b)
	if err != nil {
		return e, prev, 0, err
	}
	if size > len(b)-prefix {
		return e, prev, 0, fmt.Errorf("%w: %d of %d bytes", ErrFrameShort, len(b)-prefix, size)
	}
	e, got, err := DecodeFrame(b[prefix : prefix+size])
	if err != nil {
		return e, prev, 0, err
	}
	if got != size {
		return e, prev, 0, fmt.Errorf("%w: a frame of %d bytes in a record of %d", ErrFrameSize, got, size)
	}
	return e, behind(&e, size), prefix + size, follows(prev, &e)
}

// walk reads the records of one segment's bytes in order. It returns where the last whole one ended and, if that is not the
// end of data, what was wrong there.
func walk(data []byte, prev themis.Position, visit func(off int64, n int, e *themis.Entry) error) (off int64, end themis.Position, err error) {
	for off < int64(len(data)) {
		e, end, n, err := readRecord(data[off:], prev)
		if err != nil {
			return off, prev, err
		}
		if visit != nil {
			if err := visit(off, n, &e); err != nil {
				return off, prev, err
			}
		}
		prev, off = end, off+int64(n)
	}
	return off, prev, nil
}

// withoutRoom is what stands behind the last whole record, without the zeros behind that.
func withoutRoom(b []byte) []byte { return bytes.TrimRight(b, "\x00") }

// onlyZeros says that b is room for entries that never came. A record begins with its size, which is not zero.
func onlyZeros(b []byte) bool { return len(b) > 0 && b[0] == 0 && len(withoutRoom(b)) == 0 }

// torn says whether err may come from a write that never finished. An unknown format, or a whole frame out of its order, is no tear.
func torn(err error) bool {
	var order *OrderError
	return err != nil && !errors.Is(err, ErrUpgrade) && !errors.As(err, &order)
}

// nextGoodFrame looks for a whole frame that begins a later batch of its primary, anywhere in data from the offset on. Its place in the
// file is not compared with its lsn: bytes may have been lost between. It proves damage only where MARK says that what is missing
// before it was on this disk: a follower writes many batches at once, and a loss of power may keep any part of what was not synced.
func nextGoodFrame(data []byte, from int64, prev themis.Position) (at int64, found bool) {
	window := uint64(len(data))/minFrameBytes + 1<<20
	for p := from; p+minFrameBytes <= int64(len(data)); p++ {
		b := data[p:]
		if seq := binary.LittleEndian.Uint64(b[seqAt:]); seq <= uint64(prev.Seq) || seq-uint64(prev.Seq) > window {
			continue
		}
		if binary.LittleEndian.Uint16(b[10:])&FlagBatch == 0 {
			continue
		}
		if _, err := checkFrame(b); err == nil {
			return p, true
		}
	}
	return 0, false
}

// headOf reads the fixed fields of a segment's first frame, unchecked.
func headOf(path string) (themis.Entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return themis.Entry{}, err
	}
	var b [maxPrefixBytes + prologueBytes]byte
	n, err := f.ReadAt(b[:], 0)
	_ = f.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return themis.Entry{}, err
	}
	prefix, _, err := recordSize(b[:n])
	if err != nil {
		return themis.Entry{}, err
	}
	if n < prefix+prologueBytes {
		return themis.Entry{}, fmt.Errorf("%w: %d bytes", ErrFrameShort, n)
	}
	return frameHeader(b[prefix:]), nil
}

// lastOf finds the frame of entry seq at the very end of a segment that is no longer written, without reading all of it:
// it looks for the seq from the end backwards, in growing windows.
func lastOf(path string, seq themis.Seq) (e themis.Entry, end themis.Position, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return e, end, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return e, end, 0, err
	}
	size = st.Size()
	want := binary.LittleEndian.AppendUint64(nil, uint64(seq))
	for window := int64(64 << 10); ; window *= 16 {
		from := max(0, size-window)
		data := make([]byte, size-from)
		if _, err := f.ReadAt(data, from); err != nil {
			return e, end, size, err
		}
		for hit := bytes.LastIndex(data, want); hit >= 0; hit = bytes.LastIndex(data[:hit+len(want)-1], want) {
			if hit < seqAt {
				continue
			}
			e, n, err := DecodeFrame(data[hit-seqAt:])
			if err == nil && hit-seqAt+n == len(data) && e.Seq == seq {
				return e, behind(&e, n), size, nil
			}
		}
		if from == 0 {
			return e, end, size, fmt.Errorf("%w: it does not end with entry %d", themis.ErrMalformed, seq)
		}
	}
}
