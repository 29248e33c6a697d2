package store

import (
	"bytes"
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/themisdb/themis/pkg/themis"
)

func TestKeysSortAsPlacementsDo(t *testing.T) {
	type doc struct {
		c         themis.CollectionID
		placement []byte
		key       string
	}
	part := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 0, 1, 2, 0xfe, 0xff}), 0, 6)
	one := func(t *rapid.T, name string) doc {
		return doc{
			themis.CollectionID(rapid.SampledFrom([]uint32{0, 1, 0xff, 0xffffffff}).Draw(t, name+" collection")),
			part.Draw(t, name+" placement"), string(part.Draw(t, name+" key")),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := one(t, "a"), one(t, "b")
		ka, kb := documentKey(nil, a.c, a.placement, a.key), documentKey(nil, b.c, b.placement, b.key)
		want := cmp.Or(cmp.Compare(a.c, b.c), bytes.Compare(a.placement, b.placement), cmp.Compare(a.key, b.key))
		if got := bytes.Compare(ka, kb); got != want {
			t.Fatalf("%+v and %+v: %d, want %d", a, b, got, want)
		}
		c, placement, key, err := decodeDocumentKey(ka)
		if err != nil || c != a.c || !bytes.Equal(placement, a.placement) || key != a.key {
			t.Fatalf("%+v came back as %d %x %q: %v", a, c, placement, key, err)
		}
		// the bound of a scan from placement a lies at or below all keys of a and of what follows, above all before
		bound := appendPlacementOpen(documentPrefix(nil, a.c), a.placement)
		if b.c = a.c; (bytes.Compare(documentKey(nil, b.c, b.placement, b.key), bound) >= 0) != (bytes.Compare(b.placement, a.placement) >= 0) {
			t.Fatalf("bound of %x against %x", a.placement, b.placement)
		}
	})
}

func FuzzDocumentKey(f *testing.F) {
	f.Add(documentKey(nil, 7, themis.Token(256).Placement(), "a\x00b"))
	f.Add(documentKey(nil, 0, nil, ""))
	f.Add([]byte{spaceDocuments, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, placement, key, err := decodeDocumentKey(b)
		if err == nil && !bytes.Equal(documentKey(nil, c, placement, key), b) {
			t.Fatalf("%x came back otherwise", b)
		}
	})
}

var someRecords = []record{
	{typ: themis.TypeDocument, version: 1 << 40, seq: 9, created: 5},
	{typ: themis.TypeDocument, version: 2, seq: 1, created: 2, request: "id"},
	{typ: themis.TypeDocument, tombstone: true, version: 3, seq: 2, origin: &themis.Origin{Node: "n", Seq: 4, HLC: 5}},
	{typ: themis.TypeVector, version: 3, seq: 2, request: "id", origin: &themis.Origin{}},
}

func TestRecordsComeBack(t *testing.T) {
	for _, r := range someRecords {
		for _, body := range [][]byte{nil, []byte("document")} {
			v := appendRecord(nil, []byte("key"), r, body)
			got, document, err := decodeRecord([]byte("key"), v)
			if err != nil || !reflect.DeepEqual(got, r) || !bytes.Equal(document, body) || checkBody(v, document) != nil {
				t.Fatalf("%+v came back as %+v %q: %v", r, got, document, err)
			}
			if _, _, err := decodeRecord([]byte("kez"), v); err == nil {
				t.Fatal("passes under another key")
			}
			for bit := range len(v) * 8 {
				bad := bytes.Clone(v)
				bad[bit/8] ^= 1 << (bit % 8)
				_, document, err := decodeRecord([]byte("key"), bad)
				if err == nil {
					err = checkBody(bad, document)
				}
				if err == nil {
					t.Fatalf("%+v: bit %d flipped unseen", r, bit)
				}
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	for _, r := range someRecords {
		f.Add(appendRecord(nil, []byte("key"), r, []byte("document")))
	}
	f.Fuzz(func(t *testing.T, v []byte) {
		for _, sealed := range [][]byte{v, seal(v)} {
			r, document, err := decodeRecord([]byte("key"), sealed)
			if err == nil && checkBody(sealed, document) == nil && !bytes.Equal(appendRecord(nil, []byte("key"), r, document), sealed) {
				t.Fatalf("%x came back otherwise", sealed)
			}
		}
	})
}

// seal puts the right checksum at the end of a header without a document, so that fuzzing gets past it.
func seal(v []byte) []byte {
	if len(v) < recordFixed+4 {
		return v
	}
	head := bytes.Clone(v[:len(v)-4])
	copy(head[recordFixed-4:], []byte{0, 0, 0, 0}) // of no document
	sum := checksum([]byte("key"), head)
	return append(head, byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
}

var someRequests = []RequestRecord{
	{Digest: 1, Seq: 2, HLC: 3},
	{Digest: 1, Seq: 2, HLC: 3, Ops: []OpResult{{Collection: 4, Placement: []byte{0, 1}, Version: 3, Existed: true}, {Placement: []byte{}, Version: 4}}},
}

func TestRequestRecordsComeBack(t *testing.T) {
	for _, r := range someRequests {
		b := appendRequest(nil, []byte("key"), r)
		got, err := decodeRequest([]byte("key"), b)
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Fatalf("%+v came back as %+v: %v", r, got, err)
		}
	}
}

func FuzzRequestRecord(f *testing.F) {
	for _, r := range someRequests {
		f.Add(appendRequest(nil, []byte("key"), r))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4 { // past the checksum
			sum := checksum([]byte("key"), b[:len(b)-4])
			b = append(bytes.Clone(b[:len(b)-4]), byte(sum), byte(sum>>8), byte(sum>>16), byte(sum>>24))
		}
		r, err := decodeRequest([]byte("key"), b)
		if err == nil && !bytes.Equal(appendRequest(nil, []byte("key"), r), b) {
			t.Fatalf("%x came back otherwise", b)
		}
	})
}

func FuzzSmallRecords(f *testing.F) {
	f.Add(encodeState(state{position: themis.Position{Seq: 1, Epoch: 2, LSN: 3}, requests: 4, floor: 1}), uint8(0))
	f.Add(encodeCount(countKey(7), Count{1, 2, 3}), uint8(1))
	f.Add(aged{seq: 5, hlc: 6, size: 7, id: "id"}.encode(), uint8(2))
	f.Add(tombstoneKey(nil, 5, documentKey(nil, 1, nil, "k")), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, which uint8) {
		var again []byte
		var err error
		switch which % 4 {
		case 0:
			var st state
			st, err = decodeState(b)
			again = encodeState(st)
		case 1:
			var c Count
			c, err = decodeCount(countKey(7), b)
			again = encodeCount(countKey(7), c)
		case 2:
			var g aged
			g, err = decodeAged(ageKey(nil, 5), b)
			again = g.encode()
		default:
			var seq themis.Seq
			var key []byte
			seq, key, err = decodeTombstoneKey(b)
			again = tombstoneKey(nil, seq, key)
		}
		if err == nil && !bytes.Equal(again, b) {
			t.Fatalf("%x came back as %x", b, again)
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{"\x01\x02": "\x01\x03", "\x01\xff": "\x02", "\xff\xff": "", "": ""} {
		if got := string(prefixEnd([]byte(in))); got != want {
			t.Errorf("%x: %x, want %x", in, got, want)
		}
	}
}

func TestFrameBytesIsTheNextPosition(t *testing.T) {
	j := newJournal()
	a := j.add(themis.KindWrite, themis.Tags{RequestID: "abc"}, put(1, "k", "v"))
	want := 52 + 1 + 3 + 3 + len(a.Payload) // fixed fields, count of tags, one tag of three bytes
	if got := int(a.FrameBytes()); got != want {
		t.Fatalf("%d, want %d", got, want)
	}
}

func keysOf(docs []Document) (keys []string) {
	for _, d := range docs {
		keys = append(keys, fmt.Sprintf("%x/%s", d.Placement, d.Key))
	}
	return slices.Clip(keys)
}
