package routing

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/themisdb/themis/pkg/themis"
)

// Format is the format version of the record.
const Format = 1

// Classes of placement. A table serves hash tokens; ranges of ordered key bytes have their name and their place in the
// record already.
const (
	ClassHash    = "hash"
	ClassOrdered = "ordered"
)

// record is the table as the control plane keeps it:
//
//	{"format":1,"version":7,"shards":["shard-1","shard-2"],"classes":[{"class":"hash","ranges":[[2147483647,0],[4294967295,1]]}]}
//
// A range is its last token and the index of its owner in shards; it begins behind the one before.
type record struct {
	Format  int               `json:"format"`
	Version uint64            `json:"version"`
	Shards  []themis.ShardID  `json:"shards"`
	Classes []json.RawMessage `json:"classes"`
}

type hashClass struct {
	Class  string      `json:"class"`
	Ranges [][2]uint32 `json:"ranges"`
}

// Encode writes the record. The same table always gives the same bytes.
func (t *Table) Encode() ([]byte, error) {
	c := hashClass{Class: ClassHash, Ranges: make([][2]uint32, len(t.ends))}
	for i, end := range t.ends {
		c.Ranges[i] = [2]uint32{end, uint32(t.owners[i])}
	}
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode routing table: %w", err)
	}
	b, err := json.Marshal(record{Format, t.version, t.shards, []json.RawMessage{raw}})
	if err != nil {
		return nil, fmt.Errorf("encode routing table: %w", err)
	}
	return b, nil
}

// Decode reads a record strictly: apart from white space the bytes must be those that Encode writes. Another format
// version and a placement class that this version doesn't serve are UNIMPLEMENTED, anything else is INVALID_ARGUMENT.
func Decode(b []byte) (*Table, error) {
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "decode routing table: %w", err)
	}
	if head.Format != Format {
		return nil, themis.Errorf(themis.Unimplemented, "decode routing table: format %d, this version knows %d", head.Format, Format).Do("upgrade this binary")
	}
	var r record
	if err := strict(b, &r); err != nil {
		return nil, err
	}
	c, err := decodeClasses(r.Classes)
	if err != nil {
		return nil, err
	}
	t, err := fromRecord(r, c)
	if err != nil {
		return nil, err
	}
	again, err := t.Encode()
	if err != nil {
		return nil, err
	}
	var plain bytes.Buffer
	if err := json.Compact(&plain, b); err != nil || !bytes.Equal(plain.Bytes(), again) {
		return nil, themis.Errorf(themis.InvalidArgument, "decode routing table: not in the form this version writes (order, spelling or repetition of fields)")
	}
	return t, nil
}

func decodeClasses(raw []json.RawMessage) (hashClass, error) {
	var c hashClass
	for _, part := range raw {
		var name struct {
			Class string `json:"class"`
		}
		if err := json.Unmarshal(part, &name); err != nil {
			return c, themis.Errorf(themis.InvalidArgument, "decode routing table: class: %w", err)
		}
		if name.Class != ClassHash {
			return c, themis.Errorf(themis.Unimplemented, "decode routing table: placement class %q; this version serves %q only", name.Class, ClassHash).Do("upgrade this binary")
		}
	}
	if len(raw) != 1 {
		return c, themis.Errorf(themis.InvalidArgument, "decode routing table: %d placement classes; want one, %q", len(raw), ClassHash)
	}
	return c, strict(raw[0], &c)
}

func fromRecord(r record, c hashClass) (*Table, error) {
	ranges := make([]Range, 0, len(c.Ranges))
	from := uint64(0)
	for i, pair := range c.Ranges {
		end, owner := pair[0], pair[1]
		if uint64(end) < from || int(owner) >= len(r.Shards) {
			return nil, themis.Errorf(themis.InvalidArgument, "decode routing table: range %d: ends at %d with owner %d; want at least %d and an index below %d",
				i, end, owner, from, len(r.Shards))
		}
		ranges = append(ranges, Range{themis.Token(from), themis.Token(end), r.Shards[owner]})
		from = uint64(end) + 1
	}
	t, err := NewTable(r.Version, ranges)
	if err != nil {
		return nil, fmt.Errorf("decode: %w", err)
	}
	return t, nil
}

func strict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return themis.Errorf(themis.InvalidArgument, "decode routing table: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return themis.Errorf(themis.InvalidArgument, "decode routing table: bytes behind the record")
	}
	return nil
}
