package web

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// plant puts a document straight into the twin.
func (w *twin) plant(t testing.TB, collection, shardKey, key, value string) {
	t.Helper()
	must(w.Write(context.Background(), &nodev1.WriteRequest{Collection: collection, Operations: []*nodev1.Operation{{Key: key, ShardKey: shardKey, Value: []byte(value)}}}))(t)
}

type row struct {
	Key      string
	Version  string
	Document json.RawMessage
}

func rowsOf(t testing.TB, r reply) (rows []row) {
	t.Helper()
	if r.status != 200 || r.header.Get("Content-Type") != "application/x-ndjson" || r.err != nil {
		t.Fatalf("status %d, %v: %.300s", r.status, r.err, r.body)
	}
	lines := bufio.NewScanner(strings.NewReader(r.body))
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var x row
		if err := json.Unmarshal(lines.Bytes(), &x); err != nil {
			t.Fatalf("line %.300q: %v", lines.Text(), err)
		}
		rows = append(rows, x)
	}
	if strings.Count(r.body, "\n") != len(rows) {
		t.Fatalf("%d lines, %d newlines", len(rows), strings.Count(r.body, "\n"))
	}
	return rows
}

// next is the cursor, wherever it stands.
func (r reply) next() string {
	if h := r.header.Get(nextHeader); h != "" {
		return h
	}
	return r.trailer.Get(nextHeader)
}

func sameRows(t testing.TB, got []row, want []*nodev1.ScannedDocument) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i, w := range want {
		if got[i].Key != w.GetKey() || got[i].Version != w.GetVersion() || string(got[i].Document) != string(w.GetValue()) {
			t.Fatalf("row %d: %s, want %s", i, got[i].Key, w.GetKey())
		}
	}
}

// Over any number of shards and with any limit, the pages together are all documents in the order of their tokens.
func TestListPages(t *testing.T) {
	for _, shards := range []int{1, 3, 40} {
		twin := newTwin(shards)
		f := startFace(t, func(o *Options) { o.Documents, o.Shards = twin, twin.options().Shards })
		for i := range 1500 {
			twin.plant(t, "people", "", fmt.Sprint("k", i), fmt.Sprintf(`{"i":%d,"t":"<&>"}`, i))
		}
		for i := range 30 { // of one token
			twin.plant(t, "people", "tenant", fmt.Sprint("same", i), fmt.Sprint(i))
		}
		want := twin.sorted("people")
		for _, limit := range []int{1, 7, 509, 1529, 1530, 1531, maxLimit} {
			t.Run(fmt.Sprintf("%d shards, limit %d", shards, limit), func(t *testing.T) {
				c := plainClient(t)
				var got []row
				for after := ""; ; {
					r := ask(t, c, "GET", f.plain()+docs+fmt.Sprintf("?limit=%d%s", limit, after), "")
					rows := rowsOf(t, r)
					got = append(got, rows...)
					if r.next() == "" {
						break
					}
					if len(rows) != limit {
						t.Fatalf("a page of %d, and there is more", len(rows))
					}
					after = "&after=" + r.next()
					if limit == 1 && len(got) == 50 { // enough
						want = want[:50]
						break
					}
				}
				sameRows(t, got, want)
				want = twin.sorted("people")
			})
		}
	}
}

func TestListByDefault(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		got := ask(t, c, "GET", base+docs, "")
		got.want(t, 200, "")
		if got.next() != "" || got.header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("an empty collection: %v", got.header)
		}
		for i := range 1001 {
			f.twin.plant(t, "people", "", fmt.Sprint(i), "1")
		}
		got = ask(t, c, "GET", base+docs+"?consistency=eventual", "")
		if rows := rowsOf(t, got); len(rows) != 1000 || got.header.Get(nextHeader) == "" {
			t.Errorf("%d rows, %v", len(rows), got.header)
		}
		if s := last[*nodev1.ScanRequest](f.twin); s.GetConsistency() != "eventual" || s.GetCollection() != "people" {
			t.Errorf("scan %v", s)
		}
	})
}

// A document that was sent on several lines is listed on one, and nothing else about it changes.
func TestListKeepsDocuments(t *testing.T) {
	f := startFace(t, nil)
	c := plainClient(t)
	const odd = "{ \"a\": \"<b>&\\u2028\u2028\",\t\"n\": 1.50, \"n\": 2 }"
	f.twin.plant(t, "people", "", "one\n\"<&>", odd)
	ask(t, c, "GET", f.plain()+docs, "").want(t, 200, `{"key":"one\n\"\u003c\u0026\u003e","version":"`+f.twin.clock.String()+`","document":`+odd+"}\n")
	f.twin.plant(t, "other", "", "k", "{\r\n  \"a b\": \"c  <d>\",\n\n\"n\": 1.50\n}\n")
	ask(t, c, "GET", f.plain()+strings.Replace(docs, "people", "other", 1), "").want(t, 200,
		`{"key":"k","version":"`+f.twin.clock.String()+`","document":{"a b":"c  <d>","n":1.50}}`+"\n")
}

// Where a page is large its end is not known at its beginning: the cursor is in the trailer.
func TestLargePageEndsInTrailer(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		for i := range 40 {
			f.twin.plant(t, "people", "", fmt.Sprint(i), `"`+strings.Repeat("x", 100_000)+`"`)
		}
		want := f.twin.sorted("people")
		got := ask(t, c, "GET", base+docs+"?limit=30", "")
		sameRows(t, rowsOf(t, got), want[:30])
		if got.header.Get(nextHeader) != "" || got.trailer.Get(nextHeader) == "" {
			t.Fatalf("header %v, trailer %v", got.header, got.trailer)
		}
		got = ask(t, c, "GET", base+docs+"?limit=30&after="+got.next(), "")
		sameRows(t, rowsOf(t, got), want[30:])
		if got.next() != "" {
			t.Errorf("there is no next: %v %v", got.header, got.trailer)
		}
	})
}

func TestListErrors(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		for i := range 60 {
			f.twin.plant(t, "people", "", fmt.Sprint(i), `"`+strings.Repeat("x", 100_000)+`"`)
		}
		lost := themis.Errorf(themis.NoPrimary, "shard-2 has no primary").In("shard-2")
		f.twin.before = func(_ context.Context, what, key string) error {
			if what == "scan" && key == "shard-2" {
				return lost
			}
			return nil
		}
		ask(t, c, "GET", base+docs, "").problem(t, themis.NoPrimary, "shard-2 has no primary")

		// Once rows are out the status can't change: the answer must break, and its last line says why.
		var scans atomic.Int32
		f.twin.before = func(_ context.Context, what, key string) error {
			if what == "scan" && key == "shard-2" && scans.Add(1) > 1 {
				return lost
			}
			return nil
		}
		got := ask(t, c, "GET", base+docs+"?limit=1000", "")
		lines := strings.Split(strings.TrimSpace(got.body), "\n")
		if got.status != 200 || got.err == nil || got.next() != "" || len(lines) < 2 || !strings.HasPrefix(lines[len(lines)-1], `{"problem":{"code":"NO_PRIMARY"`) {
			t.Fatalf("status %d, error %v, next %q, last line %.200q", got.status, got.err, got.next(), lines[len(lines)-1])
		}
	})
}

// A scan that breaks after some rows goes on behind them.
func TestInterruptedScanGoesOn(t *testing.T) {
	w := newTwin(1)
	f := startFace(t, func(o *Options) { o.Documents, o.Shards = w, w.options().Shards })
	for i := range 300 {
		w.plant(t, "people", "", fmt.Sprint(i), "1")
	}
	var n atomic.Int32
	w.before = func(_ context.Context, what, _ string) error {
		if what == "row" && n.Add(1)%23 == 0 {
			return themis.Errorf(themis.Overloaded, "the scan was interrupted")
		}
		return nil
	}
	sameRows(t, rowsOf(t, ask(t, plainClient(t), "GET", f.plain()+docs, "")), w.sorted("people"))
}

// listed is a Documents whose scans show what they are told.
type listed struct {
	*twin
	pages map[string][]*nodev1.ScannedDocument
}

func (l listed) Scan(_ context.Context, req *nodev1.ScanRequest, yield func(*nodev1.ScannedDocument) error) error {
	for _, d := range l.pages[req.GetShardId()] {
		if placeOf(d).compare(position{themis.Token(req.GetFromToken()), req.GetAfterKey()}) > 0 {
			_ = yield(d) // a scan that goes on although it was told to end
		}
	}
	return nil
}

func document(token uint32, key, version string) *nodev1.ScannedDocument {
	return &nodev1.ScannedDocument{Token: token, Key: key, Version: version, Value: []byte("1")}
}

func collect(t testing.TB, d Documents, shards []themis.ShardID, perPage int) (string, error) {
	t.Helper()
	m := newMerge(t.Context(), d, &nodev1.ScanRequest{Collection: "c"}, shards, position{}, perPage, time.Minute)
	var out []string
	for {
		d, err := m.next()
		if err != nil || d == nil {
			return strings.Join(out, " "), err
		}
		out = append(out, d.GetKey()+"@"+d.GetVersion())
	}
}

func TestMerge(t *testing.T) {
	two := []themis.ShardID{"shard-1", "shard-2"}
	for _, c := range []struct {
		what string
		a, b []*nodev1.ScannedDocument
		want string
	}{
		{"nothing", nil, nil, ""},
		{"one empty shard", []*nodev1.ScannedDocument{document(1, "a", "1")}, nil, "a@1"},
		{"by token before key", []*nodev1.ScannedDocument{document(1, "z", "1"), document(3, "b", "1")}, []*nodev1.ScannedDocument{document(2, "a", "1")}, "z@1 a@1 b@1"},
		{"by key at one token", []*nodev1.ScannedDocument{document(1, "a", "1"), document(1, "c", "1")}, []*nodev1.ScannedDocument{document(1, "b", "1")}, "a@1 b@1 c@1"},
		{"the last token", []*nodev1.ScannedDocument{document(1<<32-1, "a", "1")}, []*nodev1.ScannedDocument{document(0, "b", "1")}, "b@1 a@1"},
		{
			"a range on the move: once, and the newer one",
			[]*nodev1.ScannedDocument{document(1, "a", "1"), document(2, "b", "1"), document(3, "c", "2")},
			[]*nodev1.ScannedDocument{document(1, "a", "2"), document(2, "b", "1"), document(3, "c", "1")}, "a@2 b@1 c@2",
		},
	} {
		for perPage := 1; perPage <= 4; perPage++ {
			got, err := collect(t, listed{pages: map[string][]*nodev1.ScannedDocument{"shard-1": c.a, "shard-2": c.b}}, two, perPage)
			if got != c.want || err != nil {
				t.Errorf("%s, pages of %d: %q, %v, want %q", c.what, perPage, got, err, c.want)
			}
		}
	}
	_, err := collect(t, listed{pages: map[string][]*nodev1.ScannedDocument{"shard-1": {document(2, "a", "1"), document(1, "b", "1")}}}, two, 4)
	if themis.CodeOf(err) != themis.Internal {
		t.Errorf("a scan out of order: %v", err)
	}
}

// A merge holds no more than its pages, however large a collection is.
func TestMergeReadsPages(t *testing.T) {
	var docs []*nodev1.ScannedDocument
	for i := range uint32(100) {
		docs = append(docs, &nodev1.ScannedDocument{Token: i, Key: "k", Value: make([]byte, 300<<10)})
	}
	m := newMerge(t.Context(), listed{pages: map[string][]*nodev1.ScannedDocument{"shard-1": docs}}, &nodev1.ScanRequest{}, []themis.ShardID{"shard-1"}, position{}, laneDocuments, time.Minute)
	for range docs {
		if d, err := m.next(); d == nil || err != nil {
			t.Fatal(d, err)
		}
		if n := len(m.lanes[0].page); n > 4 {
			t.Fatalf("%d documents of 300 KiB are held", n)
		}
	}
}

func TestTooManyListings(t *testing.T) {
	f := startFace(t, nil)
	f.twin.plant(t, "people", "", "a", "1")
	in, out := make(chan struct{}, maxListings), make(chan struct{})
	f.twin.before = func(ctx context.Context, what, _ string) error {
		if what == "row" {
			in <- struct{}{}
			<-out
		}
		return nil
	}
	c := plainClient(t)
	done := make(chan reply, maxListings)
	for range maxListings {
		go func() { done <- ask(t, c, "GET", f.plain()+docs, "") }()
		<-in
	}
	ask(t, c, "GET", f.plain()+docs, "").problem(t, themis.Overloaded, "listings already")
	close(out)
	for range maxListings {
		rowsOf(t, <-done)
	}
	f.twin.before = nil
	rowsOf(t, ask(t, c, "GET", f.plain()+docs, ""))
}

func FuzzParseCursor(f *testing.F) {
	for _, p := range []position{{}, {1, "a"}, {1<<32 - 1, "日本"}} {
		f.Add(p.cursor())
	}
	f.Add("")
	f.Add("AQ")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte{2, 0, 0, 0, 0, 'a'}))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseCursor(text)
		if err != nil {
			if themis.CodeOf(err) != themis.InvalidArgument {
				t.Fatalf("error %v", err)
			}
			return
		}
		if p.cursor() != text || themis.CheckKey(p.key) != nil {
			t.Fatalf("%q became %+v and %q", text, p, p.cursor())
		}
	})
}
