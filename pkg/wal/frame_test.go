package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

var fullEntry = themis.Entry{
	Version: 1, Kind: themis.KindWrite, Flags: 0x8001, Seq: 7, LSN: 900, Epoch: 3, HLC: 0x18C0FFEE0001, Commit: 5,
	Tags: themis.Tags{
		RequestID: "req-1", BodyDigest: 77, Origin: &themis.Origin{Node: "node-9", Seq: 4, HLC: 5}, TxID: "tx", Schema: 2, Clock: []byte{1, 2},
	},
	Payload: []byte("payload"),
}

func TestFrameLayout(t *testing.T) {
	e := themis.Entry{Kind: themis.KindBarrier, Flags: 0x0201, Seq: 0x11, LSN: 0x22, Epoch: 0x33, HLC: 0x44, Commit: 0x10, Payload: []byte("ab")}
	got := AppendFrame([]byte("before"), &e)[len("before"):]
	want := []byte{47, 0, 0, 0, 0, 0, 0, 0, 1, 3, 1, 2}
	for _, n := range []uint64{0x11, 0x22, 0x33, 0x44, 0x10} {
		want = binary.LittleEndian.AppendUint64(want, n)
	}
	want = append(want, 0, 'a', 'b')
	binary.LittleEndian.PutUint32(want[4:], crc32.Checksum(want[8:], crc32.MakeTable(crc32.Castagnoli)))
	if !bytes.Equal(got, want) {
		t.Fatalf("frame\n%x\nwant\n%x", got, want)
	}
	if FrameBytes(&e) != len(want) {
		t.Fatalf("FrameBytes %d, the frame has %d", FrameBytes(&e), len(want))
	}
}

func TestDecodeFrameRefuses(t *testing.T) {
	good := AppendFrame(nil, &fullEntry)
	recrc := func(b []byte) []byte {
		binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
		return b
	}
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"nothing", nil, ErrFrameShort},
		{"half a head", good[:5], ErrFrameShort},
		{"one byte missing", good[:len(good)-1], ErrFrameShort},
		{"zeros", make([]byte, 4096), ErrFrameSize},
		{"length of all ones", edit(func(b []byte) []byte { binary.LittleEndian.PutUint32(b, math.MaxUint32); return b }), ErrFrameSize},
		{"length just over the limit", edit(func(b []byte) []byte { binary.LittleEndian.PutUint32(b, MaxFrameBytes-headBytes+1); return b }), ErrFrameSize},
		{"claims more than is there", edit(func(b []byte) []byte { binary.LittleEndian.PutUint32(b, 1<<20); return b }), ErrFrameShort},
		{"flipped payload", edit(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), ErrChecksum},
		{"flipped checksum", edit(func(b []byte) []byte { b[4] ^= 1; return b }), ErrChecksum},
		{"version 2", edit(func(b []byte) []byte { b[8] = 2; return recrc(b) }), ErrUpgrade},
		{"unknown tag", edit(func(b []byte) []byte { b[prologueBytes+1] = 200; return recrc(b) }), ErrUpgrade},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, n, err := DecodeFrame(c.b)
			if !errors.Is(err, c.want) || n != 0 {
				t.Fatalf("n %d, error %v, want %v", n, err, c.want)
			}
			if malformed := errors.Is(err, themis.ErrMalformed); malformed == errors.Is(c.want, ErrUpgrade) && c.name != "unknown tag" {
				t.Fatalf("malformed: %v, for %v", malformed, err)
			}
		})
	}
}

func TestFramesStayWithinTheirLimit(t *testing.T) {
	e := fullEntry
	long := bytes.Repeat([]byte("x"), maxTagBytes)
	e.Tags = themis.Tags{
		RequestID: string(long[:themis.MaxRequestIDBytes]), BodyDigest: 1, Schema: 1, TxID: string(long), Clock: long,
		Origin: &themis.Origin{Node: themis.NodeID(long[:maxTagBytes-16])},
	}
	e.Payload = make([]byte, MaxPayloadBytes)
	if err := checkAppend(&e.Tags, e.Payload, 1); err != nil {
		t.Fatal(err)
	}
	b := AppendFrame(nil, &e)
	if len(b) > MaxFrameBytes {
		t.Fatalf("%d bytes, limit %d", len(b), MaxFrameBytes)
	}
	if _, n, err := DecodeFrame(b); err != nil || n != len(b) {
		t.Fatalf("n %d of %d: %v", n, len(b), err)
	}
	for _, c := range []struct {
		name string
		tags themis.Tags
		size int
		ops  int
		want themis.Code
	}{
		{"payload", themis.Tags{}, MaxPayloadBytes + 1, 1, themis.TooLarge},
		{"no operation", themis.Tags{}, 0, 0, themis.InvalidArgument},
		{"too many operations", themis.Tags{}, 0, maxOps + 1, themis.InvalidArgument},
		{"request id", themis.Tags{RequestID: string(long[:65])}, 0, 1, themis.InvalidArgument},
		{"clock", themis.Tags{Clock: append(long, 1)}, 0, 1, themis.InvalidArgument},
		{"transaction", themis.Tags{TxID: string(long) + "x"}, 0, 1, themis.InvalidArgument},
		{"origin's node", themis.Tags{Origin: &themis.Origin{Node: themis.NodeID(long)}}, 0, 1, themis.InvalidArgument},
		{"origin without node", themis.Tags{Origin: &themis.Origin{}}, 0, 1, themis.InvalidArgument},
	} {
		if err := checkAppend(&c.tags, make([]byte, c.size), c.ops); themis.CodeOf(err) != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func FuzzDecodeFrame(f *testing.F) {
	f.Add(AppendFrame(nil, &fullEntry))
	f.Add(AppendFrame(nil, &themis.Entry{Kind: themis.KindBarrier, Seq: 1}))
	f.Add(append(AppendFrame(nil, &themis.Entry{Kind: 99, Seq: 1, Payload: []byte("p")}), "behind"...))
	f.Add(make([]byte, 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		// Most mutations only break the checksum: with it put right, what is behind it is tried too.
		if n, err := frameSize(b); err == nil && n <= len(b) {
			binary.LittleEndian.PutUint32(b[4:], crc32.Checksum(b[headBytes:n], castagnoli))
		}
		e, n, err := DecodeFrame(b)
		if err != nil {
			return
		}
		if again := AppendFrame(nil, &e); !bytes.Equal(again, b[:n]) {
			t.Fatalf("frame changed on the way:\n%x\n%x", b[:n], again)
		}
	})
}

func FuzzDecodeLogFile(f *testing.F) {
	l := logFile{
		Format: logFormat, Identity: Identity{"c-1", "shard-1", "disk-a"}, Base: themis.Position{Seq: 9, Epoch: 2, LSN: 77},
		Epochs: []themis.EpochStart{{Epoch: 2, Seq: 3}, {Epoch: 5, Seq: 12}},
	}
	f.Add(l.encode())
	f.Add(logFile{Format: logFormat, Resetting: true}.encode())
	f.Add([]byte("{}\ncrc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if line, _, ok := bytes.Cut(b, []byte("\n")); ok { // with the checksum put right
			b = append(line[:len(line):len(line)], '\n')
			b = append(b, sumLine(b)...)
		}
		l, err := decodeLogFile(b)
		if err != nil {
			return
		}
		if !bytes.Equal(l.encode(), b) {
			t.Fatalf("%q changed on the way to %q", b, l.encode())
		}
	})
}

func FuzzDecodeMark(f *testing.F) {
	b := make([]byte, markFileBytes)
	copy(b, appendMarkSlot(nil, 4, 40))
	copy(b[markSlotAt:], appendMarkSlot(nil, 5, 50))
	f.Add(b)
	f.Add(appendMarkSlot(nil, 2, 9))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		generation, seq, err := decodeMark(b)
		if err != nil {
			return
		}
		slot := appendMarkSlot(nil, generation, seq)
		if !bytes.Contains(b, slot) {
			t.Fatalf("generation %d seq %d stand in no slot of %x", generation, seq, b)
		}
	})
}

func TestMarkTakesTheNewerWholeSlot(t *testing.T) {
	file := func(a, b []byte) []byte {
		f := make([]byte, markFileBytes)
		copy(f, a)
		copy(f[markSlotAt:], b)
		return f
	}
	broken := appendMarkSlot(nil, 9, 90)
	broken[9] ^= 1
	for _, c := range []struct {
		name string
		b    []byte
		want themis.Seq
		bad  bool
	}{
		{"second is newer", file(appendMarkSlot(nil, 4, 40), appendMarkSlot(nil, 5, 30)), 30, false},
		{"first is newer", file(appendMarkSlot(nil, 6, 60), appendMarkSlot(nil, 5, 70)), 60, false},
		{"newer one torn", file(appendMarkSlot(nil, 8, 80), broken), 80, false},
		{"only the first", appendMarkSlot(nil, 2, 20), 20, false},
		{"both torn", file(broken, broken), 0, true},
		{"zeros", file(nil, nil), 0, true},
		{"nothing", nil, 0, true},
	} {
		_, seq, err := decodeMark(c.b)
		if seq != c.want || (err != nil) != c.bad {
			t.Errorf("%s: seq %d, error %v", c.name, seq, err)
		}
	}
}
