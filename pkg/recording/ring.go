package recording

import (
	"errors"
	"os"
	"path/filepath"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Options are the sizes of a ring.
type Options struct {
	MaxBytes     themis.Bytes // of all segments; 0: 64 MiB, about a day of a cluster of three nodes
	SegmentBytes themis.Bytes // from which on a new segment begins; 0: a sixteenth of MaxBytes
}

func (o Options) withDefaults() Options {
	if o.MaxBytes <= 0 {
		o.MaxBytes = 64 << 20
	}
	if o.SegmentBytes <= 0 {
		o.SegmentBytes = o.MaxBytes / 16
	}
	return o
}

// Ring writes frames into a directory.
type Ring struct {
	dir    string
	o      Options
	number uint64 // of the newest segment

	file  *os.File // nil: the next frame begins a segment
	enc   *encoder
	bytes themis.Bytes // of that segment
	last  themis.HLC   // in that segment
	room  []byte
}

// OpenRing makes dir where it isn't there, readable by its owner alone. What earlier runs wrote stays as it is.
func OpenRing(dir string, o Options) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	list, err := segments(dir)
	if err != nil {
		return nil, err
	}
	r := &Ring{dir: dir, o: o.withDefaults()}
	if len(list) > 0 {
		r.number = list[len(list)-1].number
	}
	return r, nil
}

// Append writes a frame. After an error the segment has ended where it was whole, and the next frame begins another.
func (r *Ring) Append(m *nodev1.StateFrame) error {
	hlc, err := themis.ParseHLC(m.GetHlc())
	if err != nil {
		return err
	}
	if r.file != nil && (r.bytes >= r.o.SegmentBytes || hlc <= r.last) {
		if err := r.Close(); err != nil {
			return err
		}
	}
	enc := r.enc
	if r.file == nil {
		enc = &encoder{}
	}
	if r.room, err = enc.record(r.room[:0], m); err != nil {
		return errors.Join(err, r.Close())
	}
	if err := r.makeRoom(themis.Bytes(len(r.room))); err != nil {
		return errors.Join(err, r.Close())
	}
	if r.file == nil {
		r.number++
		if r.file, err = os.OpenFile(segmentPath(r.dir, r.number, hlc), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
		r.enc, r.bytes = enc, 0
	}
	if _, err := r.file.Write(r.room); err != nil {
		return errors.Join(err, r.Close())
	}
	r.bytes += themis.Bytes(len(r.room))
	r.last = hlc
	return nil
}

// makeRoom removes the oldest segments until n bytes more are within the limit, when a segment is to begin.
func (r *Ring) makeRoom(n themis.Bytes) error {
	if r.file != nil {
		return nil
	}
	list, err := segments(r.dir)
	if err != nil {
		return err
	}
	sum := max(n, r.o.SegmentBytes) + n // what the new one may grow to
	for _, s := range list {
		sum += themis.Bytes(s.bytes)
	}
	for _, s := range list {
		if sum <= r.o.MaxBytes {
			break
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		sum -= themis.Bytes(s.bytes)
	}
	return nil
}

// Close ends the segment. A frame that is appended later begins a new one.
func (r *Ring) Close() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file, r.enc = nil, nil
	return err
}

// Dir is where a node with that data directory keeps its recording.
func Dir(dataDir string) string { return filepath.Join(dataDir, "recording") }
