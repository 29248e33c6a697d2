package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const docs = "/api/v1/collections/people/documents"

// onBoth runs a test over plain HTTP on loopback and over TLS.
func onBoth(t *testing.T, test func(t *testing.T, f *face, c *http.Client, base string)) {
	t.Run("plain", func(t *testing.T) {
		f := startFace(t, nil)
		test(t, f, plainClient(t), f.plain())
	})
	t.Run("tls", func(t *testing.T) {
		f := startFace(t, nil)
		test(t, f, f.client(t, pki.Read, pki.Write), f.tls())
	})
	t.Run("http2", func(t *testing.T) {
		f := startFace(t, nil)
		c := f.client(t, pki.Read, pki.Write)
		c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
		if got := ask(t, c, "GET", f.tls()+"/healthz", ""); got.proto != "HTTP/2.0" {
			t.Fatalf("spoke %s", got.proto)
		}
		test(t, f, c, f.tls())
	})
}

// One document's life, as the contract tells it.
func TestDocumentRows(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		at := base + docs + "/ada"
		ask(t, c, "GET", at, "").problem(t, themis.NotFound, `no document "ada"`)

		const ada = `{ "name": "Ada",  "born": 1815, "big": 12345678901234567890 }`
		got := ask(t, c, "PUT", at, ada, "If-None-Match: *", "Content-Type: text/plain")
		first := answerOf(t, got)
		shard := string(f.twin.shardOf(placed("", "ada").token))
		if got.status != 200 || first.Collection != "people" || first.Key != "ada" || first.Shard != shard || first.Seq != 1 || first.HLC != first.Version ||
			first.SessionToken == "" || first.WriteConcern != "quorum" || got.header.Get("ETag") != `"`+first.Version+`"` {
			t.Fatalf("PUT: %d %s %v", got.status, got.body, got.header)
		}
		ask(t, c, "PUT", at, "{}", "If-None-Match: *").problem(t, themis.VersionMismatch, "exists")

		got = ask(t, c, "GET", at, "")
		got.want(t, 200, ada)
		for name, want := range map[string]string{
			"Content-Type": "application/json", "ETag": `"` + first.Version + `"`, "X-Themis-Shard": shard, "X-Themis-Session": first.SessionToken,
			"X-Content-Type-Options": "nosniff", "Content-Length": fmt.Sprint(len(ada)),
		} {
			if got.header.Get(name) != want {
				t.Errorf("%s: %q, want %q", name, got.header.Get(name), want)
			}
		}
		head := ask(t, c, "HEAD", at, "")
		if head.status != 200 || head.body != "" || head.header.Get("ETag") != got.header.Get("ETag") {
			t.Errorf("HEAD: %+v", head)
		}

		second := answerOf(t, ask(t, c, "PUT", at, `[1]`, `If-Match: "`+first.Version+`"`))
		if second.Version <= first.Version || second.Seq != 2 {
			t.Errorf("versions %s, then %s", first.Version, second.Version)
		}
		p := ask(t, c, "PUT", at, `[2]`, `If-Match: "`+first.Version+`"`).problem(t, themis.VersionMismatch, second.Version)
		if p.Shard != themis.ShardID(shard) || p.Retryable {
			t.Errorf("problem %+v", p)
		}
		ask(t, c, "DELETE", at, "", `If-Match: "`+first.Version+`"`).problem(t, themis.VersionMismatch, "")
		ask(t, c, "PUT", at, `[2]`, `If-Match: "not one of ours"`).problem(t, themis.VersionMismatch, "") // versions are opaque
		ask(t, c, "GET", at, "").want(t, 200, `[1]`)

		got = ask(t, c, "DELETE", at, "", `If-Match: "`+second.Version+`"`)
		if third := answerOf(t, got); third.Version <= second.Version || third.Key != "ada" || got.header.Get("ETag") != "" || got.header.Get("X-Themis-Shard") != shard {
			t.Errorf("DELETE: %s %v", got.body, got.header)
		}
		ask(t, c, "DELETE", at, "").problem(t, themis.NotFound, "")
	})
}

func answerOf(t testing.TB, r reply) (w written) {
	t.Helper()
	if r.status != 200 || r.header.Get("Content-Type") != "application/json" {
		t.Fatalf("status %d: %s", r.status, r.body)
	}
	var fields map[string]any
	if err := errors.Join(json.Unmarshal([]byte(r.body), &w), json.Unmarshal([]byte(r.body), &fields)); err != nil || len(fields) != 8 {
		t.Fatalf("%s: %v", r.body, err)
	}
	return w
}

func TestIdempotencyKey(t *testing.T) {
	onBoth(t, func(t *testing.T, _ *face, c *http.Client, base string) {
		at := base + docs + "/ada"
		first := ask(t, c, "PUT", at, "1", "Idempotency-Key: order-7")
		again := ask(t, c, "PUT", at, "1", "Idempotency-Key: order-7")
		if answerOf(t, first) != answerOf(t, again) {
			t.Errorf("%s, then %s", first.body, again.body)
		}
		ask(t, c, "PUT", at, "2", "Idempotency-Key: order-7").problem(t, themis.RequestIDReused, "order-7")
	})
}

// What a request says reaches the node word for word.
func TestParametersArrive(t *testing.T) {
	f := startFace(t, nil)
	c := plainClient(t)
	var until []string
	f.twin.before = func(ctx context.Context, what, _ string) error {
		if d, ok := ctx.Deadline(); ok {
			until = append(until, what+" "+fmt.Sprint(d.Round(1).Unix() > 0))
		}
		return nil
	}
	ask(t, c, "PUT", f.plain()+docs+"/a?write_concern=all&timeout_ms=5000&shard_key=tenant%2F7", "1", "Idempotency-Key: k", `If-Match: "0190f3c2a4b10000"`)
	w := last[*nodev1.WriteRequest](f.twin)
	if o := w.GetOperations()[0]; w.GetCollection() != "people" || w.GetWriteConcern() != "all" || w.GetRequestId() != "k" || w.GetForwarded() ||
		o.GetKey() != "a" || o.GetShardKey() != "tenant/7" || string(o.GetValue()) != "1" || o.GetIfMatch() != "0190f3c2a4b10000" || o.GetIfNoneMatch() || o.GetDelete() {
		t.Errorf("write %v", w)
	}
	for query, want := range map[string]*nodev1.ReadRequest{
		"":                                       {Consistency: "strong"},
		"?consistency=bounded_staleness":         {Consistency: "bounded_staleness"},
		"?consistency=session&session_token=abc": {Consistency: "session", SessionToken: "abc"},
		"?shard_key=x&timeout_ms=600000":         {ShardKey: "x", Consistency: "strong"},
	} {
		ask(t, c, "GET", f.plain()+docs+"/a"+query, "")
		r := last[*nodev1.ReadRequest](f.twin)
		if r.GetConsistency() != want.GetConsistency() || r.GetSessionToken() != want.GetSessionToken() || r.GetShardKey() != want.GetShardKey() {
			t.Errorf("%s: %v", query, r)
		}
	}
	ask(t, c, "GET", f.plain()+docs+"/a?consistency=session", "", "X-Themis-Session: tok")
	if r := last[*nodev1.ReadRequest](f.twin); r.GetSessionToken() != "tok" {
		t.Errorf("session %v", r)
	}
	if len(until) != 6 {
		t.Errorf("requests with a deadline: %v", until)
	}
}

var oddKeys = []string{
	"a/b", "a%2Fb", "%", "%25", "a b", "a+b", ".", "..", "../x", "a?b", "a#b", "ключ", "日本", "a\tb", "\x00", "//", "/", "*", "{key}", `"`, "a;b", "a&b=c", "A%41",
	strings.Repeat("k", themis.MaxKeyBytes),
}

func TestKeysTravelEncoded(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		for i, key := range oddKeys {
			body := fmt.Sprint(i)
			at := base + docs + "/" + escapeAll(key)
			if got := answerOf(t, ask(t, c, "PUT", at, body)); got.Key != key {
				t.Errorf("key %q came as %q", key, got.Key)
			}
			ask(t, c, "GET", at, "").want(t, 200, body)
			if escaped := url.PathEscape(key); escaped != "." && escaped != ".." {
				ask(t, c, "GET", base+docs+"/"+escaped, "").want(t, 200, body)
			}
		}
		if n := len(f.twin.sorted("people")); n != len(oddKeys) {
			t.Errorf("%d documents of %d keys", n, len(oddKeys))
		}
	})
}

// escapeAll encodes every byte, needed or not.
func escapeAll(key string) string {
	var b strings.Builder
	for i := range len(key) {
		fmt.Fprintf(&b, "%%%02x", key[i])
	}
	return b.String()
}

func TestRefusedRequests(t *testing.T) {
	long := strings.Repeat("k", themis.MaxKeyBytes+1)
	rows := []struct {
		what, method, path, body string
		headers                  []string
		code                     themis.Code
		detail                   string
	}{
		{"a system's collection", "PUT", "/api/v1/collections/_sys/documents/a", "1", nil, themis.PermissionDenied, "belong to the system"},
		{"a bad collection", "GET", "/api/v1/collections/1st/documents/a", "", nil, themis.InvalidArgument, `collection "1st"`},
		{"a slash in the collection", "GET", "/api/v1/collections/a%2Fb/documents/a", "", nil, themis.InvalidArgument, `collection "a/b"`},
		{"no key", "PUT", docs + "/", "1", nil, themis.InvalidArgument, "key: empty"},
		{"a long key", "PUT", docs + "/" + long, "1", nil, themis.InvalidArgument, "key: 1025 bytes"},
		{"a key that is not UTF-8", "PUT", docs + "/%ff", "1", nil, themis.InvalidArgument, "not valid UTF-8"},
		{"a bare slash in the key", "PUT", docs + "/a/b", "1", nil, themis.InvalidArgument, "written %2F"},
		{"no body", "PUT", docs + "/a", "", nil, themis.InvalidArgument, "body: empty"},
		{"blanks", "PUT", docs + "/a", " \n\t", nil, themis.InvalidArgument, "body: empty"},
		{"broken JSON", "PUT", docs + "/a", "{\n  \"a\": 1,\n  \"b\" 2\n}", nil, themis.InvalidArgument, "body: byte 18 (line 3, column 7): not valid JSON: invalid character '2'"},
		{"half a document", "PUT", docs + "/a", `{"a":`, nil, themis.InvalidArgument, "unexpected end"},
		{"two documents", "PUT", docs + "/a", "{}\n{}", nil, themis.InvalidArgument, "byte 3 (line 2, column 1)"},
		{"not UTF-8", "PUT", docs + "/a", "{\"a\":\n\"é\xff\"}", nil, themis.InvalidArgument, "body: byte 9 (line 2, column 4): not valid UTF-8"},
		{"an unknown parameter", "PUT", docs + "/a?write_concen=all", "1", nil, themis.InvalidArgument, `parameter "write_concen"`},
		{"a parameter twice", "PUT", docs + "/a?write_concern=all&write_concern=all", "1", nil, themis.InvalidArgument, "given 2 times"},
		{"a parameter that is not UTF-8", "PUT", docs + "/a?shard_key=%ff", "1", nil, themis.InvalidArgument, "not valid UTF-8"},
		{"a broken query", "GET", docs + "/a?x=%zz", "", nil, themis.InvalidArgument, "query"},
		{"a semicolon", "GET", docs + "/a?timeout_ms=1;consistency=strong", "", nil, themis.InvalidArgument, "query"},
		{"an unknown concern", "PUT", docs + "/a?write_concern=most", "1", nil, themis.InvalidArgument, `write_concern "most"`},
		{"an empty concern", "PUT", docs + "/a?write_concern=", "1", nil, themis.InvalidArgument, "write_concern: empty"},
		{"an unknown level", "GET", docs + "/a?consistency=total", "", nil, themis.InvalidArgument, `consistency "total"`},
		{"an empty level", "GET", docs + "/a?consistency=", "", nil, themis.InvalidArgument, "consistency: empty"},
		{"no time", "GET", docs + "/a?timeout_ms=0", "", nil, themis.InvalidArgument, "timeout_ms"},
		{"too much time", "GET", docs + "/a?timeout_ms=600001", "", nil, themis.InvalidArgument, "between 1 and 600000"},
		{"time in words", "DELETE", docs + "/a?timeout_ms=5s", "", nil, themis.InvalidArgument, `timeout_ms "5s"`},
		{"negative time", "GET", docs + "/a?timeout_ms=-1", "", nil, themis.InvalidArgument, "timeout_ms"},
		{"an empty shard key", "PUT", docs + "/a?shard_key=", "1", nil, themis.InvalidArgument, "shard_key: 0 bytes"},
		{"a long shard key", "GET", docs + "/a?shard_key=" + long, "", nil, themis.InvalidArgument, "shard_key: 1025 bytes"},
		{"a version without quotes", "PUT", docs + "/a", "1", []string{"If-Match: 0190f3c2a4b10000"}, themis.InvalidArgument, "want one version in quotes"},
		{"a weak version", "PUT", docs + "/a", "1", []string{`If-Match: W/"0190f3c2a4b10000"`}, themis.InvalidArgument, "no W/"},
		{"a list of versions", "PUT", docs + "/a", "1", []string{`If-Match: "0190f3c2a4b10000", "0190f3c2a4b10001"`}, themis.InvalidArgument, "no list"},
		{"versions in two lines", "PUT", docs + "/a", "1", []string{`If-Match: "0190f3c2a4b10000"`, `If-Match: "0190f3c2a4b10001"`}, themis.InvalidArgument, "one condition at most"},
		{"any version", "DELETE", docs + "/a", "", []string{"If-Match: *"}, themis.InvalidArgument, "no *"},
		{"a lone quote", "PUT", docs + "/a", "1", []string{`If-Match: "`}, themis.InvalidArgument, "in quotes"},
		{"an empty version", "PUT", docs + "/a", "1", []string{`If-Match: ""`}, themis.InvalidArgument, `want one version in quotes`},
		{"both conditions", "PUT", docs + "/a", "1", []string{`If-Match: "0190f3c2a4b10000"`, "If-None-Match: *"}, themis.InvalidArgument, "one condition"},
		{"none of a version", "PUT", docs + "/a", "1", []string{`If-None-Match: "0190f3c2a4b10000"`}, themis.InvalidArgument, "only * with PUT"},
		{"delete what is not there", "DELETE", docs + "/a", "", []string{"If-None-Match: *"}, themis.InvalidArgument, "only * with PUT"},
		{"a condition on a read", "GET", docs + "/a", "", []string{`If-Match: "0190f3c2a4b10000"`}, themis.InvalidArgument, "If-Match"},
		{"a condition on a load", "POST", docs, "{}", []string{"If-None-Match: *"}, themis.InvalidArgument, "If-None-Match"},
		{"an empty id", "PUT", docs + "/a", "1", []string{"Idempotency-Key: "}, themis.InvalidArgument, "Idempotency-Key"},
		{"a long id", "PUT", docs + "/a", "1", []string{"Idempotency-Key: " + long[:65]}, themis.InvalidArgument, "1 to 64 bytes"},
		{"a strange id", "PUT", docs + "/a", "1", []string{"Idempotency-Key: a\xffb"}, themis.InvalidArgument, "printable ASCII"},
		{"two ids", "DELETE", docs + "/a", "", []string{"Idempotency-Key: a", "Idempotency-Key: b"}, themis.InvalidArgument, "given 2 times"},
		{"two sessions", "GET", docs + "/a?session_token=a", "", []string{"X-Themis-Session: b"}, themis.InvalidArgument, "session_token"},
		{"a strange session", "GET", docs + "/a?session_token=a%20b", "", nil, themis.InvalidArgument, "session_token"},
		{"a huge session", "GET", docs + "/a", "", []string{"X-Themis-Session: " + strings.Repeat("s", 4097)}, themis.InvalidArgument, "session_token"},
		{"no limit", "GET", docs + "?limit=0", "", nil, themis.InvalidArgument, "limit"},
		{"a high limit", "GET", docs + "?limit=100001", "", nil, themis.InvalidArgument, "between 1 and 100000"},
		{"a made-up cursor", "GET", docs + "?after=ada", "", nil, themis.InvalidArgument, "after:"},
		{"an empty cursor", "GET", docs + "?after=", "", nil, themis.InvalidArgument, "after:"},
		{"a session for a listing", "GET", docs + "?consistency=session", "", nil, themis.InvalidArgument, "consistency session"},
		{"a listing of a bad name", "GET", "/api/v1/collections/a%20b/documents", "", nil, themis.InvalidArgument, "collection"},
		{"no key field", "POST", docs + "?key_field=", "{}", nil, themis.InvalidArgument, "key_field"},
		{"a load's unknown parameter", "POST", docs + "?limit=3", "{}", nil, themis.InvalidArgument, `"limit"`},
		{"no such path", "GET", "/api/v2/collections", "", nil, themis.NotFound, "/api/v2/collections"},
		{"a path with a slash too many", "GET", "/healthz/", "", nil, themis.NotFound, "/healthz/"},
	}
	f := startFace(t, nil)
	c := plainClient(t)
	for _, row := range rows {
		t.Run(row.what, func(t *testing.T) {
			ask(t, c, row.method, f.plain()+row.path, row.body, row.headers...).problem(t, row.code, row.detail)
		})
	}
	if len(f.twin.asked) != 0 {
		t.Errorf("the node was asked: %v", f.twin.asked)
	}
}

func TestMethodsOfPaths(t *testing.T) {
	f := startFace(t, nil)
	c := plainClient(t)
	for _, row := range []struct{ method, path, allow string }{
		{"POST", docs + "/a", "GET, HEAD, PUT, DELETE"},
		{"PATCH", docs + "/a", "GET, HEAD, PUT, DELETE"},
		{"PUT", docs, "GET, POST"},
		{"DELETE", "/cluster/health", "GET, HEAD"},
		{"OPTIONS", docs + "/a%2Fb", "GET, HEAD, PUT, DELETE"},
		{"POST", "/", "GET, HEAD"},
	} {
		got := ask(t, c, row.method, f.plain()+row.path, "")
		got.problemWith(t, themis.InvalidArgument, 405, row.method)
		if got.header.Get("Allow") != row.allow {
			t.Errorf("%s %s: Allow %q, want %q", row.method, row.path, got.header.Get("Allow"), row.allow)
		}
	}
	ask(t, c, "BREW", f.plain()+docs, "").problemWith(t, themis.InvalidArgument, 405, "BREW")
}

// zeros is a JSON string of that many bytes in all.
func zeros(n int) io.Reader {
	return io.MultiReader(strings.NewReader(`"`), io.LimitReader(endless('0'), int64(n-2)), strings.NewReader(`"`))
}

type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestLargeDocuments(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		at := base + docs + "/big"
		for _, row := range []struct {
			what    string
			size    int
			chunked bool
			fine    bool
		}{
			{"16 MiB", 16 << 20, false, true},
			{"1 MiB in chunks", 1 << 20, true, true},
			{"one more", 16<<20 + 1, false, false},
			{"one more in chunks", 16<<20 + 1, true, false},
			{"17 MiB", 17 << 20, false, false},
		} {
			if row.fine && !row.chunked && strings.HasPrefix(base, "https") {
				continue // slow, and the same code
			}
			t.Run(row.what, func(t *testing.T) {
				req := must(http.NewRequestWithContext(t.Context(), "PUT", at, zeros(row.size)))(t)
				if !row.chunked {
					req.ContentLength = int64(row.size)
					req.Header.Set("Expect", "100-continue") // as curl does
				}
				res := must(c.Do(req))(t)
				defer res.Body.Close()
				b := must(io.ReadAll(res.Body))(t)
				got := reply{status: res.StatusCode, header: res.Header, body: string(b)}
				if !row.fine {
					got.problem(t, themis.TooLarge, "16 MiB")
					return
				}
				answerOf(t, got)
				if back := ask(t, c, "GET", at, ""); len(back.body) != row.size || back.body[0] != '"' {
					t.Errorf("%d bytes came back", len(back.body))
				}
			})
		}
		if held := len(f.twin.sorted("people")); held != 1 {
			t.Errorf("%d documents", held)
		}
	})
}

// What the node answers reaches the client with its code; what it can't say does not become a promise.
func TestErrorsOfTheNode(t *testing.T) {
	f := startFace(t, nil)
	c := plainClient(t)
	shard := themis.ShardID("shard-2")
	type row struct {
		what string
		err  error
		code themis.Code
	}
	write := []row{
		{"time ran out, who knows", context.DeadlineExceeded, themis.OutcomeUnknown},
		{"given up, who knows", fmt.Errorf("append: %w", context.Canceled), themis.OutcomeUnknown},
		{"an error that says nothing", errElsewhere, themis.OutcomeUnknown},
		{"nobody answers", themis.Errorf(themis.Unreachable, "node-2 refused the connection").In(shard), themis.NoPrimary},
	}
	read := []row{
		{"time ran out", context.DeadlineExceeded, themis.Deadline},
		{"an error that says nothing", errElsewhere, themis.Internal},
		{"nobody answers", themis.Errorf(themis.Unreachable, "node-2 refused the connection").In(shard), themis.NoPrimary},
	}
	for _, info := range themis.Codes() {
		if info.Code != themis.Unreachable {
			r := row{string(info.Code), themis.Errorf(info.Code, "because of %s", info.Code).In(shard).Do("themis-cli do %s", info.Code), info.Code}
			write, read = append(write, r), append(read, r)
		}
	}
	for method, rows := range map[string][]row{"PUT": write, "DELETE": write, "GET": read} {
		for _, r := range rows {
			t.Run(method+" "+r.what, func(t *testing.T) {
				f.twin.before = func(context.Context, string, string) error { return r.err }
				body := ""
				if method == "PUT" {
					body = "1"
				}
				p := ask(t, c, method, f.plain()+docs+"/a", body).problem(t, r.code, "")
				if e, ok := errors.AsType[*themis.Error](r.err); ok && (p.Shard != shard || p.Detail != e.Detail || e.Fix != "" && p.Fix != e.Fix) {
					t.Errorf("problem %+v of %+v", p, e)
				}
				if p.Retryable != r.code.Info().Retryable {
					t.Errorf("retryable %v", p.Retryable)
				}
			})
		}
	}
}

// short is a Documents that forgets to tell what became of the operation.
type short struct{ *twin }

func (short) Write(context.Context, *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	return &nodev1.WriteResponse{Seq: 7}, nil
}

func TestAnswerWithoutResult(t *testing.T) {
	f := startFace(t, func(o *Options) { o.Documents = short{} })
	ask(t, plainClient(t), "PUT", f.plain()+docs+"/a", "1").problem(t, themis.OutcomeUnknown, "0 results")
}

// What a body held of the node's budget is given back, however the request ends.
func TestBodiesAreGivenBack(t *testing.T) {
	twin := newTwin(1)
	s := must(newServer(twin.options()))(t)
	h := s.routes()
	for _, body := range []string{"1", "{", strings.Repeat("1", 1<<20)} {
		r := must(http.NewRequestWithContext(withPeer(t.Context()), "PUT", "http://localhost"+docs+"/a", strings.NewReader(body)))(t)
		r.RemoteAddr = "127.0.0.1:1"
		h.ServeHTTP(deadlines{httptest.NewRecorder()}, r)
		if held := s.bodies.held.Load(); held != 0 {
			t.Errorf("a body of %d bytes: %d are held", len(body), held)
		}
	}
}

// deadlines is a ResponseWriter that takes any deadline.
type deadlines struct{ http.ResponseWriter }

func (deadlines) SetReadDeadline(time.Time) error  { return nil }
func (deadlines) SetWriteDeadline(time.Time) error { return nil }
