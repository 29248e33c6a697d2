package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/themisdb/themis/pkg/themis"
)

// state is what is true of the store as a whole after a batch.
type state struct {
	position     themis.Position
	hlc          themis.HLC   // the highest applied
	requests     int64        // in the window
	requestBytes themis.Bytes // of their records
	floor        themis.Seq   // tombstones of entries up to here have been collected
}

const stateBytes = 1 + 7*8 + 4

func encodeState(st state) []byte {
	b := append(make([]byte, 0, stateBytes), recordFormat)
	for _, n := range []uint64{
		uint64(st.position.Seq), uint64(st.position.Epoch), uint64(st.position.LSN), uint64(st.hlc),
		uint64(st.requests), uint64(st.requestBytes), uint64(st.floor), //nolint:gosec // never negative
	} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return binary.LittleEndian.AppendUint32(b, checksum(keyApplied, b))
}

func decodeState(b []byte) (state, error) {
	if len(b) != stateBytes || b[0] != recordFormat || binary.LittleEndian.Uint32(b[stateBytes-4:]) != checksum(keyApplied, b[:stateBytes-4]) {
		return state{}, fmt.Errorf("%w: store state of %d bytes", themis.ErrMalformed, len(b))
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(b[1+8*i:]) }
	return state{
		position: themis.Position{Seq: themis.Seq(at(0)), Epoch: themis.Epoch(at(1)), LSN: themis.LSN(at(2))},
		hlc:      themis.HLC(at(3)), requests: int64(at(4)), requestBytes: themis.Bytes(at(5)), floor: themis.Seq(at(6)), //nolint:gosec // written from the same types
	}, nil
}

// Count is how much there is of one collection, or of all.
type Count struct {
	Documents  int64        `json:"documents"`
	Bytes      themis.Bytes `json:"bytes"` // of the documents as they were sent, keys and headers not counted
	Tombstones int64        `json:"tombstones"`
}

func (c Count) plus(d Count) Count {
	return Count{c.Documents + d.Documents, c.Bytes + d.Bytes, c.Tombstones + d.Tombstones}
}

// Stats are exact counts at the applied position, and what Pebble says about its files.
type Stats struct {
	Count                                      // of all collections
	Requests     int64                         `json:"requests"`      // ids in the window
	ByCollection map[themis.CollectionID]Count `json:"by_collection"` // those that hold a document or a tombstone
	DiskBytes    themis.Bytes                  `json:"disk_bytes"`
	Floor        themis.Seq                    `json:"tombstone_floor"` // tombstones of entries up to here have been collected
}

const countBytes = 1 + 3*8 + 4

func encodeCount(key []byte, c Count) []byte {
	b := append(make([]byte, 0, countBytes), recordFormat)
	for _, n := range []int64{c.Documents, int64(c.Bytes), c.Tombstones} {
		b = binary.LittleEndian.AppendUint64(b, uint64(n)) //nolint:gosec // never negative
	}
	return binary.LittleEndian.AppendUint32(b, checksum(key, b))
}

func decodeCount(key, b []byte) (Count, error) {
	if len(b) != countBytes || b[0] != recordFormat || binary.LittleEndian.Uint32(b[countBytes-4:]) != checksum(key, b[:countBytes-4]) {
		return Count{}, fmt.Errorf("%w: counts of %d bytes", themis.ErrMalformed, len(b))
	}
	at := func(i int) int64 { return int64(binary.LittleEndian.Uint64(b[1+8*i:])) } //nolint:gosec // written from int64
	return Count{at(0), themis.Bytes(at(1)), at(2)}, nil
}

// counts are the collections' counts in memory, as the last batch left them.
type counts struct {
	mu    sync.Mutex
	of    map[themis.CollectionID]Count
	total Count
}

func (c *counts) get(id themis.CollectionID) Count {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of[id]
}

// change adds the differences that a batch made.
func (c *counts) change(by map[themis.CollectionID]Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, d := range by {
		now := c.of[id].plus(d)
		if c.total = c.total.plus(d); now == (Count{}) {
			delete(c.of, id)
			continue
		}
		c.of[id] = now
	}
}

// Stats returns the counts. It reads nothing from disk.
func (s *Store) Stats() Stats {
	st := s.state.Load()
	s.counts.mu.Lock()
	out := Stats{Count: s.counts.total, ByCollection: maps.Clone(s.counts.of), Requests: st.requests, Floor: st.floor}
	s.counts.mu.Unlock()
	if s.users.enter() == nil {
		defer s.users.leave()
		out.DiskBytes = themis.Bytes(s.db.Metrics().DiskSpaceUsage()) //nolint:gosec // far below 2^63
	}
	return out
}

// load reads format, state and counts, and marks an empty store with the format.
func (s *Store) load(readOnly bool) error {
	s.state.Store(&state{})
	s.counts.of = map[themis.CollectionID]Count{}
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: []byte{spaceMeta}, UpperBound: []byte{spaceDocuments}})
	if err != nil {
		return s.failed("read the state", err)
	}
	defer func() { _ = it.Close() }()
	format := uint32(0)
	for ok := it.First(); ok; ok = it.Next() {
		if err := s.loadMeta(it.Key(), it.Value(), &format); err != nil {
			return s.damaged("read the state", err)
		}
	}
	if err := it.Error(); err != nil {
		return s.failed("read the state", err)
	}
	switch {
	case format == FormatVersion:
		return nil
	case format > FormatVersion:
		return themis.Errorf(themis.Unimplemented, "UPGRADE_NEEDED: store %s has format %d, this version knows %d", s.dir, format, FormatVersion)
	case readOnly || s.state.Load().position.Seq > 0:
		return s.damaged("read the state", errors.New("no format number"))
	}
	return s.markFormat()
}

func (s *Store) loadMeta(key, value []byte, format *uint32) error {
	switch {
	case len(key) == 2 && key[1] == metaApplied:
		st, err := decodeState(value)
		if err != nil {
			return err
		}
		s.state.Store(&st)
	case len(key) == 2 && key[1] == metaFormat && len(value) == 8:
		if binary.LittleEndian.Uint32(value[4:]) != crc32.Checksum(value[:4], castagnoli) {
			return fmt.Errorf("%w: format number", themis.ErrMalformed)
		}
		*format = binary.LittleEndian.Uint32(value)
	case len(key) == 6 && key[1] == metaCount:
		c, err := decodeCount(key, value)
		if err != nil {
			return err
		}
		s.counts.change(map[themis.CollectionID]Count{themis.CollectionID(binary.BigEndian.Uint32(key[2:])): c})
	default:
		return fmt.Errorf("%w: key %x in the meta space", errKey, key)
	}
	return nil
}

func (s *Store) markFormat() error {
	b := binary.LittleEndian.AppendUint32(nil, FormatVersion)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if err := s.db.Set(keyFormat, b, pebble.NoSync); err != nil {
		return s.failed("write the format", err)
	}
	return s.flush()
}

// foreignFormat says whether the directory's marker names a Pebble format that this code doesn't know.
func foreignFormat(fs vfs.FS, dir string) (bool, string) {
	names, err := fs.List(dir)
	if err != nil {
		return false, ""
	}
	for _, n := range names {
		if !strings.HasPrefix(n, "marker.format-version.") {
			continue
		}
		parts := strings.Split(n, ".")
		var v uint64
		if _, err := fmt.Sscanf(parts[len(parts)-1], "%d", &v); err == nil && v > uint64(pebble.FormatNewest) {
			return true, n
		}
	}
	return false, ""
}
