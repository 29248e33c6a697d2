package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

func loadOf(t testing.TB, r reply) (l loaded) {
	t.Helper()
	if r.status != 200 || r.header.Get("Content-Type") != "application/json" {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	if err := json.Unmarshal([]byte(r.body), &l); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLoad(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		lines := []string{
			`{"_key":"a",  "n":1}`, `{"n":2,"_key":"b/ü \n"}`, "", ` { "x": {"_key": "inner"}, "_key" : "c" } `, "  \t", `{"_key":-17}`, `{"_key":"crlf"}` + "\r",
			`{"_key":"d","n":[1,2,3]}`,
		}
		got := ask(t, c, "POST", base+docs, strings.Join(lines, "\n"))
		got.want(t, 200, `{"written":6,"failed":0,"errors":[]}`+"\n")
		for key, line := range map[string]string{"a": lines[0], "b%2F%C3%BC%20%0A": lines[1], "c": lines[3], "-17": lines[5], "crlf": lines[6], "d": lines[7]} {
			ask(t, c, "GET", base+docs+"/"+key, "").want(t, 200, line)
		}
		ask(t, c, "POST", base+docs+"?key_field=id&write_concern=all", `{"id":"x","_key":7}`+"\n").want(t, 200, `{"written":1,"failed":0,"errors":[]}`+"\n")
		if w := last[*nodev1.WriteRequest](f.twin); w.GetWriteConcern() != "all" || w.GetOperations()[0].GetShardKey() != "" || w.GetRequestId() != "" {
			t.Errorf("write %v", w)
		}
		if got := ask(t, c, "POST", base+docs+"?shard_key=t", `{"_key":"s"}`+"\n"); got.status != 400 || !strings.Contains(got.body, `parameter \"shard_key\": not known here`) {
			t.Errorf("one shard key for all lines: %d %s", got.status, got.body)
		}
		ask(t, c, "POST", base+docs, "").want(t, 200, `{"written":0,"failed":0,"errors":[]}`+"\n")
	})
}

func TestLoadTellsWhatFailed(t *testing.T) {
	f := startFace(t, nil)
	f.twin.before = func(_ context.Context, what, key string) error {
		switch key {
		case "down":
			return themis.Errorf(themis.NoPrimary, "shard-1 has no primary")
		case "gone":
			return themis.Errorf(themis.Unreachable, "node-2 refused the connection")
		case "who knows":
			return context.DeadlineExceeded
		}
		return nil
	}
	long := strings.Repeat("k", 1025)
	body := strings.Join([]string{
		`{"_key":"fine"}`, `{"_key":"half"`, `[1]`, `{"n":1}`, `{"_key":null}`, `{"_key":1.5}`, `{"_key":"a","_key":"b"}`, `{"_key":""}`, `{"_key":"` + long + `"}`,
		`{"_key":"down"}`, `{"_key":"gone"}`, `{"_key":"who knows"}`, "{\"_key\":\"\xff\"}", `{"_key":` + strings.Repeat("9", 2000) + `}`, `{"_key":"also fine"}`,
	}, "\n")
	got := loadOf(t, ask(t, plainClient(t), "POST", f.plain()+docs, body))
	type short struct {
		line   int
		key    string
		code   themis.Code
		detail string
	}
	want := []short{
		{2, "", themis.InvalidArgument, "byte 13 of the line: not valid JSON"}, {3, "", themis.InvalidArgument, `object with the member "_key"`}, {4, "", themis.InvalidArgument, `"_key": missing`},
		{5, "", themis.InvalidArgument, "neither a string nor"}, {6, "", themis.InvalidArgument, "1.5"}, {7, "", themis.InvalidArgument, "there twice"},
		{8, "", themis.InvalidArgument, "key: empty"}, {9, long, themis.InvalidArgument, "1025 bytes"},
		{10, "down", themis.NoPrimary, "no primary"}, {11, "gone", themis.NoPrimary, "refused"}, {12, "who knows", themis.OutcomeUnknown, "without an answer"},
		{13, "", themis.InvalidArgument, "UTF-8"}, {14, strings.Repeat("9", 2000), themis.InvalidArgument, "2000 bytes"},
	}
	if got.Written != 2 || got.Failed != len(want) || len(got.Errors) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, w := range want {
		if e := got.Errors[i]; e.Line != w.line || e.Key != w.key || e.Code != w.code || !strings.Contains(e.Detail, w.detail) {
			t.Errorf("error %+v, want %+v", e, w)
		}
	}
}

func TestLoadListsTheFirstHundred(t *testing.T) {
	f := startFace(t, nil)
	f.twin.before = func(context.Context, string, string) error { return themis.Errorf(themis.ReadOnly, "disk full") }
	var body strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&body, "{\"_key\":\"%d\"}\n", i)
	}
	got := loadOf(t, ask(t, plainClient(t), "POST", f.plain()+docs, body.String()))
	if got.Written != 0 || got.Failed != 1000 || len(got.Errors) != 100 {
		t.Fatalf("written %d, failed %d, %d errors", got.Written, got.Failed, len(got.Errors))
	}
	for i, e := range got.Errors {
		if e.Line != i+1 || e.Key != fmt.Sprint(i) || e.Code != themis.ReadOnly {
			t.Fatalf("error %d: %+v", i, e)
		}
	}
}

// Many writes are under way at once, never too many; those of one key never overtake each other.
func TestLoadRunsManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newTwin(3)
		gate := make(chan struct{})
		w.before = func(context.Context, string, string) error {
			<-gate
			return nil
		}
		var body strings.Builder
		for round := range 20 {
			for key := range 100 {
				fmt.Fprintf(&body, "{\"_key\":\"k%d\",\"round\":%d}\n", key, round)
			}
		}
		l := must(newServerLoader(w))(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(t.Context(), bufio.NewReader(strings.NewReader(body.String())))
		}()
		synctest.Wait()
		if w.now != maxWrites {
			t.Errorf("%d writes at once", w.now)
		}
		close(gate)
		<-done
		if l.result.Written != 2000 || w.most != maxWrites {
			t.Errorf("%+v, %d at once", l.result, w.most)
		}
		for _, d := range w.sorted("people") {
			if !strings.HasSuffix(string(d.GetValue()), `"round":19}`) {
				t.Errorf("%s ended as %s", d.GetKey(), d.GetValue())
			}
		}
	})
}

func TestLoadHoldsFewBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1000
		w := newTwin(1)
		gate := make(chan struct{})
		w.before = func(context.Context, string, string) error {
			<-gate
			return nil
		}
		var body bytes.Buffer
		for i := range 50 {
			fmt.Fprintf(&body, `{"_key":"%d","v":"%s"}`+"\n", i, strings.Repeat("x", size))
		}
		l := must(newServerLoader(w))(t)
		l.atOnce = 3*size + size/2
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(t.Context(), bufio.NewReader(&body))
		}()
		synctest.Wait()
		if w.now != 3 {
			t.Errorf("%d writes of %d bytes at once", w.now, size)
		}
		close(gate)
		<-done
		if l.result.Written != 50 || l.bytes != 0 || len(l.busy) != 0 {
			t.Errorf("%+v, %d bytes held", l.result, l.bytes)
		}
		// A single one may be larger.
		l.atOnce = 10
		l.run(t.Context(), bufio.NewReader(strings.NewReader("{\"_key\":\"a\",\"v\":1}\n{\"_key\":\"b\"}")))
		if l.result.Written != 52 {
			t.Errorf("%+v", l.result)
		}
	})
}

// Of a line that is too long nothing is kept.
func TestLongLineIsNotKept(t *testing.T) {
	r := bufio.NewReader(io.MultiReader(zeros(themis.MaxDocumentBytes+1), strings.NewReader("\nnext")))
	if line, size, err := readLine(r); line != nil || size != themis.MaxDocumentBytes+1 || err != nil {
		t.Errorf("%d bytes kept of %d, %v", len(line), size, err)
	}
	if line, size, err := readLine(r); string(line) != "next" || size != 4 || !errors.Is(err, io.EOF) {
		t.Errorf("then %q, %d, %v", line, size, err)
	}
}

func TestLoadPassesOverLongLines(t *testing.T) {
	f := startFace(t, nil)
	body := io.MultiReader(strings.NewReader(`{"_key":"a"}`+"\n"), zeros(themis.MaxDocumentBytes+1), strings.NewReader("\n"), zeros(40<<20), strings.NewReader("\n{\"_key\":\"b\"}\n"))
	got := loadOf(t, askBody(t, plainClient(t), "POST", f.plain()+docs, body))
	if got.Written != 2 || got.Failed != 2 || got.Errors[0].Line != 2 || got.Errors[1].Line != 3 || got.Errors[1].Code != themis.TooLarge {
		t.Errorf("%+v", got)
	}
	l := must(newServerLoader(f.twin))(t)
	var writes sync.WaitGroup
	l.line(t.Context(), &writes, 1, []byte(`{"_key":"c"}`), themis.MaxDocumentBytes)
	writes.Wait()
	if l.result.Written != 1 {
		t.Errorf("a line of just 16 MiB: %+v", l.result)
	}
}

// The same load with the same id is done once, also where it broke off in between.
func TestLoadAgain(t *testing.T) {
	f := startFace(t, nil)
	c := plainClient(t)
	const body = "{\"_key\":\"a\"}\n{\"_key\":\"b\"}\n"
	ask(t, c, "POST", f.plain()+docs, body[:13], "Idempotency-Key: nightly").want(t, 200, `{"written":1,"failed":0,"errors":[]}`+"\n")
	ask(t, c, "POST", f.plain()+docs, body, "Idempotency-Key: nightly").want(t, 200, `{"written":2,"failed":0,"errors":[]}`+"\n")
	ask(t, c, "POST", f.plain()+docs, body, "Idempotency-Key: nightly").want(t, 200, `{"written":2,"failed":0,"errors":[]}`+"\n")
	if n := f.twin.clock - newTwin(1).clock; n != 2 {
		t.Errorf("%d writes were done", n)
	}
	ids := map[string]bool{}
	for _, m := range f.twin.asked {
		ids[m.(*nodev1.WriteRequest).GetRequestId()] = true
	}
	for id := range ids {
		if len(id) == 0 || len(id) > themis.MaxRequestIDBytes {
			t.Errorf("request id %q", id)
		}
	}
	if len(ids) != 2 {
		t.Errorf("ids %v", ids)
	}
	got := loadOf(t, ask(t, c, "POST", f.plain()+docs, "{\"_key\":\"z\"}\n", "Idempotency-Key: nightly"))
	if got.Failed != 1 || got.Errors[0].Code != themis.RequestIDReused {
		t.Errorf("another load under the id: %+v", got)
	}
}

// A body that breaks off is told, with what was written before.
func TestLoadBreaksOff(t *testing.T) {
	f := startFace(t, nil)
	l := must(newServerLoader(f.twin))(t)
	l.run(t.Context(), bufio.NewReader(io.MultiReader(strings.NewReader("{\"_key\":\"a\"}\n{\"_key\":\"b\""), broke{})))
	if r := l.result; r.Written != 1 || r.Failed != 1 || r.Errors[0].Line != 2 || r.Errors[0].Code != themis.InvalidArgument || !strings.Contains(r.Errors[0].Detail, "what follows") {
		t.Errorf("%+v", r)
	}
}

type broke struct{}

func (broke) Read([]byte) (int, error) { return 0, errors.New("malformed chunked encoding") }

func newServerLoader(w *twin) (*loader, error) {
	s, err := newServer(w.options())
	if err != nil {
		return nil, err
	}
	l := &loader{s: s, field: "_key", timeout: patience, atOnce: maxWriteBytes, busy: map[string]bool{}, request: &nodev1.WriteRequest{Collection: "people"}}
	l.ended = sync.NewCond(&l.mu)
	return l, nil
}

func TestTooManyLoads(t *testing.T) {
	f := startFace(t, nil)
	in, out := make(chan struct{}, maxLoads), make(chan struct{})
	f.twin.before = func(context.Context, string, string) error {
		in <- struct{}{}
		<-out
		return nil
	}
	c := plainClient(t)
	done := make(chan reply, maxLoads)
	for range maxLoads {
		go func() { done <- ask(t, c, "POST", f.plain()+docs, `{"_key":"a"}`) }()
		<-in
	}
	ask(t, c, "POST", f.plain()+docs, `{"_key":"a"}`).problem(t, themis.Overloaded, "loads already")
	close(out)
	for range maxLoads {
		if got := loadOf(t, <-done); got.Written != 1 {
			t.Errorf("%+v", got)
		}
	}
	f.twin.before = nil
	if got := loadOf(t, ask(t, c, "POST", f.plain()+docs, `{"_key":"a"}`)); got.Written != 1 {
		t.Errorf("afterwards: %+v", got)
	}
}

func TestBodiesOfAllRequests(t *testing.T) {
	twin := newTwin(1)
	s := must(newServer(twin.options()))(t)
	s.bodies.max = 100 << 10
	read := func(n int) ([]byte, int64, error) { return s.readAll(zeros(n), "k", int64(n)) }
	small, held, err := read(40 << 10)
	if err != nil || len(small) != 40<<10 || held < 40<<10 || held > 100<<10 {
		t.Fatalf("%d bytes, %d held, %v", len(small), held, err)
	}
	if _, more, err := read(60 << 10); themis.CodeOf(err) != themis.Overloaded || more+held > s.bodies.max {
		t.Fatalf("%d held and %d more, %v", held, more, err)
	} else {
		s.bodies.give(more)
	}
	s.bodies.give(held)
	if _, held, err = read(40 << 10); err != nil || s.bodies.held.Load() != held {
		t.Fatalf("%d of %d held, %v", held, s.bodies.held.Load(), err)
	}
	// What was announced costs nothing until it comes.
	s.bodies.give(held)
	if _, held, _ = s.readAll(strings.NewReader("1"), "k", themis.MaxDocumentBytes); held > firstRead {
		t.Errorf("%d bytes are held for one byte", held)
	}
	s.bodies.give(held)
	if n := s.bodies.held.Load(); n != 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
}

// FuzzReadLine compares with cutting the whole text.
func FuzzReadLine(f *testing.F) {
	f.Add([]byte("a\n\nbc\n"), 16)
	f.Add([]byte("a\nlong line that does not fit"), 16)
	f.Add([]byte{}, 20)
	f.Fuzz(func(t *testing.T, text []byte, buffer int) {
		r := bufio.NewReaderSize(bytes.NewReader(text), min(max(buffer, 16), 1024))
		var got [][]byte
		for {
			line, size, err := readLine(r)
			if size != len(line) {
				t.Fatalf("size %d of %q", size, line)
			}
			got = append(got, slices.Clone(line))
			if err != nil {
				break
			}
		}
		if !bytes.Equal(bytes.Join(got, []byte("\n")), text) {
			t.Fatalf("%q became %q", text, got)
		}
	})
}
