package routing

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/themis"
)

const goodRecord = `{"format":1,"version":7,"shards":["shard-1","shard-2"],"classes":[{"class":"hash","ranges":[[2147483647,0],[4294967295,1]]}]}`

func TestRecordForm(t *testing.T) {
	tab := table(t, 7, Range{0, half - 1, "shard-1"}, Range{half, MaxToken, "shard-2"})
	b, err := tab.Encode()
	if err != nil || string(b) != goodRecord {
		t.Errorf("%s, %v", b, err)
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, b, "", "  "); err != nil {
		t.Fatal(err)
	}
	for _, in := range [][]byte{b, pretty.Bytes()} {
		back, err := Decode(in)
		if err != nil || back.Version() != 7 || !slices.Equal(back.Ranges(), tab.Ranges()) {
			t.Errorf("read back %v, %v", back, err)
		}
	}
}

func TestRecordRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	for _, n := range []int{1, 2, 50, 5000} {
		tab := randomTable(t, rng, n)
		b, err := tab.Encode()
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(b)
		if err != nil || back.Version() != tab.Version() || !slices.Equal(back.Ranges(), tab.Ranges()) {
			t.Fatalf("%d ranges: %v", n, err)
		}
	}
	largest, err := First(64, 0)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := largest.Encode(); err != nil || len(b) > 256<<10 {
		t.Errorf("the record of 64 shards takes %d bytes; a value of the control plane should stay well below 1 MiB", len(b))
	}
}

func TestDecodeIsStrict(t *testing.T) {
	sub := func(old, with string) string { return strings.Replace(goodRecord, old, with, 1) }
	for name, c := range map[string]struct {
		in   string
		code themis.Code
		want string
	}{
		"empty":            {"", themis.InvalidArgument, "decode"},
		"newer format":     {sub(`"format":1`, `"format":2`), themis.Unimplemented, "format 2, this version knows 1"},
		"ordered class":    {sub(`"hash"`, `"`+ClassOrdered+`"`), themis.Unimplemented, `placement class "ordered"`},
		"ordered, fields":  {`{"format":1,"version":7,"shards":[],"classes":[{"class":"ordered","keys":[]}]}`, themis.Unimplemented, `placement class "ordered"`},
		"hash and ordered": {sub(`]]}]`, `]]},{"class":"ordered"}]`), themis.Unimplemented, `placement class "ordered"`},
		"two hash classes": {sub(`"classes":[`, `"classes":[{"class":"hash","ranges":[]},`), themis.InvalidArgument, "2 placement classes"},
		"no class":         {`{"format":1,"version":7,"shards":[],"classes":[]}`, themis.InvalidArgument, "0 placement classes"},
		"unknown field":    {sub(`"version"`, `"extra":1,"version"`), themis.InvalidArgument, "extra"},
		"unknown inside":   {sub(`"ranges"`, `"extra":1,"ranges"`), themis.InvalidArgument, "extra"},
		"trailing bytes":   {goodRecord + "{}", themis.InvalidArgument, "after"},
		"version 0":        {sub(`"version":7`, `"version":0`), themis.InvalidArgument, "version 0"},
		"repeated field":   {sub(`"version":7`, `"version":6,"version":7`), themis.InvalidArgument, "form"},
		"other case":       {sub(`"version"`, `"Version"`), themis.InvalidArgument, "form"},
		"unused shard":     {sub(`"shard-2"]`, `"shard-2","shard-3"]`), themis.InvalidArgument, "form"},
		"shards unsorted":  {sub(`"shard-1","shard-2"`, `"shard-2","shard-1"`), themis.InvalidArgument, "form"},
		"owner too high":   {sub(`295,1]`, `295,2]`), themis.InvalidArgument, "index below 2"},
		"not growing":      {sub(`[4294967295,1]`, `[5,1]`), themis.InvalidArgument, "want at least 2147483648"},
		"short":            {sub(`,[4294967295,1]`, ``), themis.InvalidArgument, "gap: no shard owns [2147483648, 4294967295]"},
		"too large":        {sub(`4294967295`, `4294967296`), themis.InvalidArgument, "4294967296"},
		"bad name":         {sub(`"shard-1"`, `"shard-01"`), themis.InvalidArgument, "canonical"},
		"three in a pair":  {sub(`[2147483647,0]`, `[2147483647,0,0]`), themis.InvalidArgument, "form"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode([]byte(c.in))
			if themis.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v\nwant %s and %q", themis.CodeOf(err), err, c.code, c.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(goodRecord))
	f.Add([]byte(`{"format":1,"version":1,"shards":["shard-1"],"classes":[{"class":"hash","ranges":[[4294967295,0]]}]}`))
	f.Add([]byte(`{"format":1,"version":18446744073709551615,"shards":["shard-1"],"classes":[{"class":"hash","ranges":[[5,0],[4294967295,0]]}]}`))
	f.Add([]byte(`{"format":1,"classes":[{"class":"ordered"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tab, err := Decode(b)
		if err != nil {
			return
		}
		again, err := tab.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var plain bytes.Buffer
		if err := json.Compact(&plain, b); err != nil || !bytes.Equal(plain.Bytes(), again) {
			t.Fatalf("changed on the way:\n%s\n%s", b, again)
		}
		if err := Validate(tab.Ranges()); err != nil {
			t.Fatal(err)
		}
		if _, err := tab.Compact(); err != nil && tab.Version()+1 != 0 {
			t.Fatal(err)
		}
	})
}
