package recording

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	headBytes  = 4 + 8
	mostBytes  = 64 << 20 // of a frame, before and after compression
	dictionary = 1        // its number; 0 means none
)

// segment is a file of the ring.
type segment struct {
	path   string
	number uint64
	begins themis.HLC
	bytes  int64
}

func segmentPath(dir string, number uint64, begins themis.HLC) string {
	return filepath.Join(dir, fmt.Sprintf("%08d-%s.frames", number, begins))
}

// segments lists those of dir in the order of writing. Other files are left alone.
func segments(dir string) ([]segment, error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []segment
	for _, e := range list {
		s := segment{path: filepath.Join(dir, e.Name())}
		var digits string
		if n, err := fmt.Sscanf(e.Name(), "%d-%16s.frames", &s.number, &digits); n != 2 || err != nil {
			continue
		}
		if s.begins, err = themis.ParseHLC(digits); err != nil || s.path != segmentPath(dir, s.number, s.begins) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // its turn to go came meanwhile
		}
		if err != nil {
			return nil, err
		}
		s.bytes = info.Size()
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b segment) int { return cmp.Compare(a.number, b.number) })
	return out, nil
}

// encoder writes the records of one segment.
type encoder struct {
	z   *zstd.Encoder // nil: nothing was written yet
	raw []byte
}

// record appends m's record to b.
func (e *encoder) record(b []byte, m *nodev1.StateFrame) ([]byte, error) {
	hlc, err := themis.ParseHLC(m.GetHlc())
	if err != nil {
		return nil, err
	}
	if e.raw, err = (proto.MarshalOptions{Deterministic: true}).MarshalAppend(e.raw[:0], m); err != nil {
		return nil, err
	}
	if len(e.raw) > mostBytes {
		return nil, fmt.Errorf("a frame of %d bytes: %d are the most", len(e.raw), mostBytes)
	}
	first := e.z == nil
	if first {
		if e.z, err = newEncoder(nil); err != nil {
			return nil, err
		}
	}
	at := len(b)
	b = append(b, make([]byte, headBytes)...)
	b = e.z.EncodeAll(e.raw, b)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-headBytes)) //nolint:gosec // about mostBytes at most
	binary.LittleEndian.PutUint64(b[at+4:], uint64(hlc))
	if first {
		e.z, err = newEncoder(slices.Clone(e.raw))
	}
	return b, err
}

func newEncoder(dict []byte) (*zstd.Encoder, error) {
	o := []zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1 << 20)}
	if len(dict) > 0 {
		o = append(o, zstd.WithEncoderDictRaw(dictionary, dict))
	}
	return zstd.NewWriter(nil, o...)
}

// record is one frame in a segment, compressed.
type record struct {
	hlc  themis.HLC
	body []byte
}

// split finds the records of a segment, up to where it is whole; err says why it ends there.
func split(b []byte) (out []record, err error) {
	for len(b) > 0 {
		if len(b) < headBytes {
			return out, fmt.Errorf("%w: the last record is cut short", themis.ErrMalformed)
		}
		n := int(binary.LittleEndian.Uint32(b))
		if n == 0 || n > len(b)-headBytes {
			return out, fmt.Errorf("%w: a record of %d bytes where %d are left", themis.ErrMalformed, n, len(b)-headBytes)
		}
		out = append(out, record{themis.HLC(binary.LittleEndian.Uint64(b[4:])), b[headBytes : headBytes+n]})
		b = b[headBytes+n:]
	}
	return out, nil
}

// decoder reads the records of one segment.
type decoder struct {
	z *zstd.Decoder // nil: the next record is the first
}

// frame reads r. The first one must be the segment's first.
func (d *decoder) frame(r record) (*nodev1.StateFrame, error) {
	first := d.z == nil
	var err error
	if first {
		if d.z, err = newDecoder(nil); err != nil {
			return nil, err
		}
	}
	raw, err := d.z.DecodeAll(r.body, nil)
	if err == nil && first {
		d.close()
		d.z, err = newDecoder(raw)
	}
	m := &nodev1.StateFrame{}
	if err == nil {
		err = proto.Unmarshal(raw, m)
	}
	if err == nil && m.GetHlc() != r.hlc.String() {
		err = fmt.Errorf("the record of %s holds the frame of %q", r.hlc, m.GetHlc())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", themis.ErrMalformed, err)
	}
	return m, nil
}

func newDecoder(dict []byte) (*zstd.Decoder, error) {
	o := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(mostBytes), zstd.WithDecoderLowmem(true)}
	if len(dict) > 0 {
		o = append(o, zstd.WithDecoderDictRaw(dictionary, dict))
	}
	return zstd.NewReader(nil, o...)
}

func (d *decoder) close() {
	if d.z != nil {
		d.z.Close()
		d.z = nil
	}
}

// frames yields the whole frames of b, a segment, for whose time wanted says yes, and at last the error that ends it.
func frames(b []byte, wanted func(themis.HLC) bool) iter.Seq2[*nodev1.StateFrame, error] {
	return func(yield func(*nodev1.StateFrame, error) bool) {
		list, short := split(b)
		d := &decoder{}
		defer d.close()
		for i, r := range list {
			if i > 0 && !wanted(r.hlc) {
				continue
			}
			m, err := d.frame(r)
			switch {
			case err != nil:
				yield(nil, err)
				return
			case wanted(r.hlc) && !yield(m, nil):
				return
			}
		}
		if short != nil {
			yield(nil, short)
		}
	}
}
