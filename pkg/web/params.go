package web

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

	"github.com/themisdb/themis/pkg/themis"
)

const (
	defaultTimeout  = 10 * time.Second
	maxTimeoutMs    = 600_000
	maxSessionBytes = 4096
)

// params are the query of a request, each name at most once.
type params map[string]string

// query reads the parameters of r. One that isn't among names is an error: a misspelt condition must not be passed over.
func query(r *http.Request, names ...string) (params, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, themis.Errorf(themis.InvalidArgument, "query: %w", err)
	}
	p := params{}
	for name, v := range values {
		switch {
		case !slices.Contains(names, name):
			return nil, themis.Errorf(themis.InvalidArgument, "parameter %.80q: not known here; want some of %s", name, strings.Join(names, ", "))
		case len(v) > 1:
			return nil, themis.Errorf(themis.InvalidArgument, "parameter %s: given %d times", name, len(v))
		case !utf8.ValidString(v[0]):
			return nil, themis.Errorf(themis.InvalidArgument, "parameter %s: not valid UTF-8", name)
		}
		p[name] = v[0]
	}
	return p, nil
}

// number reads a whole number between 1 and most.
func (p params) number(name string, most, otherwise uint64) (uint64, error) {
	text, ok := p[name]
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < 1 || n > most {
		return 0, themis.Errorf(themis.InvalidArgument, "%s %.40q: want a whole number between 1 and %d", name, text, most)
	}
	return n, nil
}

func (p params) timeout() (time.Duration, error) {
	ms, err := p.number("timeout_ms", maxTimeoutMs, uint64(defaultTimeout/time.Millisecond))
	return time.Duration(min(ms, math.MaxInt32)) * time.Millisecond, err //nolint:gosec // bounded
}

func (p params) concern() (string, error) {
	if text, given := p["write_concern"]; given && text == "" {
		return "", themis.Errorf(themis.InvalidArgument, "write_concern: empty; want immediate, quorum, all or local_quorum")
	}
	c, err := themis.ParseWriteConcern(p["write_concern"])
	return string(c), err
}

func (p params) consistency() (themis.Consistency, error) {
	if text, given := p["consistency"]; given && text == "" {
		return "", themis.Errorf(themis.InvalidArgument, "consistency: empty; want strong, bounded_staleness, session or eventual")
	}
	return themis.ParseConsistency(p["consistency"])
}

func (p params) shardKey() (string, error) {
	key, given := p["shard_key"]
	if given && (key == "" || len(key) > themis.MaxKeyBytes) {
		return "", themis.Errorf(themis.InvalidArgument, "shard_key: %d bytes; want 1 to %d", len(key), themis.MaxKeyBytes)
	}
	return key, nil
}

// session is the token of a session, from the header or the parameter.
func (p params) session(r *http.Request) (string, error) {
	token := p["session_token"]
	if header := r.Header.Get("X-Themis-Session"); header != "" {
		if token != "" && token != header {
			return "", themis.Errorf(themis.InvalidArgument, "session_token: differs from the header X-Themis-Session")
		}
		token = header
	}
	if len(token) > maxSessionBytes || !visible(token) {
		return "", themis.Errorf(themis.InvalidArgument, "session_token: not one that this cluster gave")
	}
	return token, nil
}

// visible answers whether s is printable ASCII without spaces.
func visible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// within bounds the rest of a request by its timeout_ms.
func (p params) within(r *http.Request) (context.Context, context.CancelFunc, error) {
	timeout, err := p.timeout()
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeout)
	return ctx, cancel, nil
}

func collectionOf(r *http.Request) (string, error) {
	name, err := url.PathUnescape(chi.URLParam(r, "collection"))
	if err != nil {
		return "", themis.Errorf(themis.InvalidArgument, "collection: %w", err)
	}
	return name, themis.CheckCollection(name)
}

// place is the collection and the key in the path.
func place(r *http.Request) (collection, key string, err error) {
	if collection, err = collectionOf(r); err != nil {
		return "", "", err
	}
	raw := chi.URLParam(r, "*")
	if strings.Contains(raw, "/") {
		return "", "", themis.Errorf(themis.InvalidArgument, "key %.80q: a slash in a key is written %%2F", raw)
	}
	if key, err = url.PathUnescape(raw); err != nil {
		return "", "", themis.Errorf(themis.InvalidArgument, "key: %w", err)
	}
	return collection, key, themis.CheckKey(key)
}

// condition reads If-Match and If-None-Match of a request that changes a document.
func condition(r *http.Request) (ifMatch string, ifNone bool, err error) {
	match, none := r.Header.Values("If-Match"), r.Header.Values("If-None-Match")
	switch {
	case len(match)+len(none) == 0:
		return "", false, nil
	case len(match)+len(none) > 1:
		return "", false, themis.Errorf(themis.InvalidArgument, "If-Match, If-None-Match: one condition at most")
	case len(none) == 1 && (r.Method != http.MethodPut || strings.TrimSpace(none[0]) != "*"):
		return "", false, themis.Errorf(themis.InvalidArgument, "If-None-Match %.80q: only * with PUT is served", none[0])
	case len(none) == 1:
		return "", true, nil
	}
	tag := strings.TrimSpace(match[0])
	version, ok := strings.CutPrefix(tag, `"`)
	version, ok2 := strings.CutSuffix(version, `"`)
	if !ok || !ok2 || version == "" || strings.ContainsAny(version, `",`) {
		return "", false, themis.Errorf(themis.InvalidArgument, `If-Match %.80q: want one version in quotes, as an ETag gave it: "0190f3c2a4b10000"; no list, no W/, no *`, tag)
	}
	return version, false, nil
}

// unconditional refuses a condition where none is looked at.
func unconditional(r *http.Request, names ...string) error {
	for _, name := range names {
		if r.Header.Get(name) != "" {
			return themis.Errorf(themis.InvalidArgument, "%s: not served for this request", name)
		}
	}
	return nil
}

func requestID(r *http.Request) (string, error) {
	ids := r.Header.Values("Idempotency-Key")
	switch {
	case len(ids) == 0:
		return "", nil
	case len(ids) > 1:
		return "", themis.Errorf(themis.InvalidArgument, "Idempotency-Key: given %d times", len(ids))
	case ids[0] == "" || len(ids[0]) > themis.MaxRequestIDBytes || !visible(ids[0]):
		return "", themis.Errorf(themis.InvalidArgument, "Idempotency-Key: want 1 to %d bytes of printable ASCII without spaces", themis.MaxRequestIDBytes)
	}
	return ids[0], nil
}
