package client

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// fill stores n documents and answers their keys in the order of a scan.
func fill(t *testing.T, c *Client, n int) []string {
	t.Helper()
	var keys []string
	for i := range n {
		key := fmt.Sprint("doc", i)
		if _, err := c.Put(testContext(t), "things", key, fmt.Appendf(nil, "%d", i)); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b string) int { return position{token("", a), a}.compare(position{token("", b), b}) })
	return keys
}

func scanAll(t *testing.T, c *Client, o ScanOptions) (keys []string, last Doc) {
	t.Helper()
	for d, err := range c.Scan(testContext(t), "things", o) {
		if err != nil {
			t.Fatal(err)
		}
		keys, last = append(keys, d.Key), d
	}
	return keys, last
}

func TestScanMergesShardsInTokenOrder(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	want := fill(t, c, 60)
	if got, _ := scanAll(t, c, ScanOptions{}); !slices.Equal(got, want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
	if got, _ := scanAll(t, c, ScanOptions{Limit: 7}); !slices.Equal(got, want[:7]) {
		t.Fatalf("got %v\nwant %v", got, want[:7])
	}
	n := 0
	for range c.Scan(testContext(t), "things", ScanOptions{}) {
		if n++; n == 3 {
			break
		}
	}
}

func TestScanPages(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	want := fill(t, c, 25)
	var got []string
	after := ""
	for {
		page, last := scanAll(t, c, ScanOptions{Limit: 4, After: after})
		if len(page) == 0 {
			break
		}
		got, after = append(got, page...), last.Cursor()
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
}

// A scan that breaks goes on behind the last document: none twice, none left out.
func TestScanGoesOnAfterAnInterruption(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	want := fill(t, c, 60)
	for _, n := range w.nodes {
		n.set(func() { n.scanned = 3 })
	}
	if got, _ := scanAll(t, c, ScanOptions{}); !slices.Equal(got, want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
	if got, _ := scanAll(t, c, ScanOptions{Limit: 50}); !slices.Equal(got, want[:50]) {
		t.Fatalf("got %v\nwant %v", got, want[:50])
	}
}

func TestScanGoesOnAfterAFailover(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	want := fill(t, c, 60)
	var got []string
	for d, err := range c.Scan(testContext(t), "things", ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, d.Key); len(got) == 5 {
			w.nodes[1].kill()
			for id, s := range w.truth().shards {
				if s.Primary.Node == "node-2" {
					w.crown(id, 0)
				}
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v\nwant %v", got, want)
	}
}

func TestScanWithoutProgressEnds(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client(func(o *Options) { o.Timeout = 200 * time.Millisecond })
	fill(t, c, 3)
	w.dethrone("shard-2")
	var last error
	for _, err := range c.Scan(t.Context(), "things", ScanOptions{}) { // without a deadline
		last = err
	}
	wantCode(t, last, themis.NoPrimary)
}

func TestScanRefusesWhatIsNoCursor(t *testing.T) {
	w := newWorld(t)
	c, _ := w.client()
	for _, o := range []ScanOptions{{After: "!"}, {After: "AAAA"}, {After: "AAAAAA"}, {Limit: -1}} {
		var last error
		for _, err := range c.Scan(testContext(t), "things", o) {
			last = err
		}
		wantCode(t, last, themis.InvalidArgument)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add(Doc{Token: 7, Key: "a"}.Cursor())
	f.Add("AAAAAA")
	f.Add("")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseCursor(s)
		if err != nil {
			if themis.CodeOf(err) != themis.InvalidArgument {
				t.Fatalf("%v", err)
			}
			return
		}
		if again := p.cursor(); again != s {
			t.Fatalf("%q became %q", s, again)
		}
	})
}

func FuzzMap(f *testing.F) {
	f.Add([]byte(`{"revision":3,"cluster":"demo","shards":[{"id":"shard-1"}],"members":[{"id":"node-1"}],"routing":{"format":1,"version":1,"shards":["shard-1"],"classes":[{"class":"hash","ranges":[[4294967295,0]]}]}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMap(b)
		if err != nil {
			var e *themis.Error
			if !errors.As(err, &e) {
				t.Fatalf("%T %v", err, err)
			}
			return
		}
		for _, id := range m.Routing.Shards() {
			m.Shard(id)
		}
		m.ShardOf("a")
	})
}
