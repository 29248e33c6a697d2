package themis

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestShardIDsInEveryForm(t *testing.T) {
	for _, s := range []string{"shard-1", "shard_001", "shard-001", "SHARD-1", "001", "1"} {
		if id, err := ParseShardID(s); err != nil || id != "shard-1" {
			t.Errorf("%q: %q, %v", s, id, err)
		}
	}
	for _, s := range []string{"", "shard-0", "0", "shard", "shard-x", "-1", "shard-1.5"} {
		if id, err := ParseShardID(s); err == nil {
			t.Errorf("%q was taken for %q", s, id)
		}
	}
}

func TestLSN(t *testing.T) {
	a, b := LSN(0x5A2F3C40), LSN(0x5A2F3C30)
	if a.String() != "0/5A2F3C40" || a.Since(b) != 16 {
		t.Fatalf("%s, %d", a, a.Since(b))
	}
	big := LSN(0x12_0000_0001)
	got, err := ParseLSN(big.String())
	if err != nil || got != big || big.String() != "12/00000001" {
		t.Fatalf("%s: %v, %v", big, got, err)
	}
	for _, s := range []string{"", "5A", "0/", "/1", "0/100000000", "x/1"} {
		if _, err := ParseLSN(s); err == nil {
			t.Errorf("%q was read", s)
		}
	}
}

func TestHLCNeverRunsBackwards(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := HLC(0)
		for _, ms := range rapid.SliceOfN(rapid.Int64Range(0, 1<<40), 1, 50).Draw(t, "clock") {
			next := h.After(time.UnixMilli(ms))
			if next <= h {
				t.Fatalf("%s after %s", next, h)
			}
			if next.Time().UnixMilli() < ms {
				t.Fatalf("%s is before the wall clock %d", next, ms)
			}
			h = next
		}
		if back, err := ParseHLC(h.String()); err != nil || back != h {
			t.Fatalf("%s: %v, %v", h, back, err)
		}
	})
}

func TestModesOfBothVocabularies(t *testing.T) {
	for s, want := range map[string]Mode{"SYNC": Sync, "synchronous": Sync, "semi-sync": SemiSync, "SEMI_SYNC": SemiSync, "asynchronous": Async, "hybrid": Hybrid} {
		if got, err := ParseMode(s); err != nil || got != want {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	if _, err := ParseMode("MIRROR"); CodeOf(err) != InvalidArgument {
		t.Errorf("a redundancy mode was taken for a replication mode: %v", err)
	}
}

func TestCodesAreWhole(t *testing.T) {
	seen := map[Code]bool{}
	for _, c := range Codes() {
		if seen[c.Code] || c.Status < 400 || c.Status > 599 || c.Title == "" || c.Code.Info() != c {
			t.Errorf("row %+v", c)
		}
		seen[c.Code] = true
	}
	err := fmt.Errorf("outer: %w", Errorf(StaleRoute, "inner: %w", errors.ErrUnsupported))
	if CodeOf(err) != StaleRoute || !errors.Is(err, errors.ErrUnsupported) || Exit(err) != ExitFailed {
		t.Errorf("%v: %s, exit %d", err, CodeOf(err), Exit(err))
	}
	if CodeOf(errors.New("plain")) != Internal || CodeOf(nil) != "" || Exit(nil) != ExitOK {
		t.Error("errors without a code")
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]Code{
		"orders": "", "Orders_2.x-y": "", "_nodes": PermissionDenied, "": InvalidArgument, "1st": InvalidArgument, "a/b": InvalidArgument, strings.Repeat("a", 129): InvalidArgument,
	} {
		if got := CodeOf(CheckCollection(name)); got != want {
			t.Errorf("collection %q: %q, want %q", name, got, want)
		}
	}
	for key, ok := range map[string]bool{"a": true, "a/b c": true, strings.Repeat("k", 1024): true, "": false, strings.Repeat("k", 1025): false, "\xff": false} {
		if got := CheckKey(key) == nil; got != ok {
			t.Errorf("key %.10q…: %v", key, got)
		}
	}
	for name, ok := range map[string]bool{"node-1": true, "n": true, "Node": false, "-a": false, "a-": false, "a.b": false, "": false} {
		if got := CheckNode(name) == nil; got != ok {
			t.Errorf("node %q: %v", name, got)
		}
	}
}

func exampleTags() Tags {
	return Tags{RequestID: "r-1", BodyDigest: 9, Origin: &Origin{Node: "n", Seq: 3, HLC: 4}, TxID: "t", Schema: 2, Clock: []byte{1}}
}

func TestTagsAndOpsComeBack(t *testing.T) {
	for _, tags := range []Tags{{}, {RequestID: "x"}, exampleTags()} {
		b := AppendTags([]byte("front"), tags)
		got, rest, err := DecodeTags(append(b[5:], "rest"...))
		if err != nil || !reflect.DeepEqual(got, tags) || string(rest) != "rest" {
			t.Errorf("%+v: %+v, %q, %v", tags, got, rest, err)
		}
	}
	ops := []Op{
		{Code: OpPut, Type: TypeDocument, Collection: 7, Placement: Token(1).Placement(), Key: "k", Value: []byte(`{"a":1}`)},
		{Code: OpDelete, Type: TypeDocument, Collection: 7, Placement: Token(2).Placement(), Key: "l", Value: []byte{}},
	}
	got, err := DecodeOps(AppendOps(nil, ops))
	if err != nil || !reflect.DeepEqual(got, ops) {
		t.Fatalf("%+v, %v", got, err)
	}
}

func FuzzDecodeTags(f *testing.F) {
	f.Add(AppendTags(nil, exampleTags()))
	f.Add(AppendTags(nil, Tags{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		tags, rest, err := DecodeTags(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error without ErrMalformed: %v", err)
			}
			return
		}
		if back := AppendTags(nil, tags); !bytes.Equal(back, b[:len(b)-len(rest)]) {
			t.Fatalf("tags changed on the way: %x, then %x", b[:len(b)-len(rest)], back)
		}
	})
}

func FuzzDecodeOps(f *testing.F) {
	f.Add(AppendOps(nil, []Op{{Code: OpPut, Type: TypeDocument, Collection: 1, Placement: Token(5).Placement(), Key: "k", Value: []byte("1")}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ops, err := DecodeOps(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("error without ErrMalformed: %v", err)
			}
			return
		}
		if back := AppendOps(nil, ops); !bytes.Equal(back, b) {
			t.Fatalf("operations changed on the way: %x, then %x", b, back)
		}
	})
}
