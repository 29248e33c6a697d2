package playground

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/themisdb/themis/pkg/themis"
)

// Source names what is loaded.
type Source struct {
	Collection string `json:"collection"`
	File       string `json:"file"` // absolute; empty: the documents that come with the program
}

// Loaded is what became of a load: the answer of the documents' API.
type Loaded struct {
	Collection string        `json:"collection"`
	Written    int           `json:"written"`
	Failed     int           `json:"failed"`
	Errors     []LoadError   `json:"errors"` // the first 100
	Took       time.Duration `json:"-"`
}

// LoadError is a line that was not written.
type LoadError struct {
	Line   int         `json:"line"` // from 1 on
	Key    string      `json:"key"`
	Code   themis.Code `json:"code"`
	Detail string      `json:"detail"`
}

// Load writes NDJSON, one document a line with its key in `_key`, into a collection, over plain HTTP as a script would. Lines that
// can't be written are told in the answer. Until it has come to its end Info tells what is to be loaded once more.
func (p *Playground) Load(ctx context.Context, from Source, docs io.Reader) (Loaded, error) {
	if err := themis.CheckCollection(from.Collection); err != nil {
		return Loaded{}, err
	}
	if err := p.change(ctx, func(s *state) error { s.Unloaded = &from; return nil }); err != nil {
		return Loaded{}, err
	}
	out, err := p.post(ctx, from.Collection, docs)
	if err != nil {
		return out, err
	}
	return out, p.change(context.WithoutCancel(ctx), func(s *state) error { s.Unloaded = nil; return nil })
}

func (p *Playground) post(ctx context.Context, collection string, docs io.Reader) (Loaded, error) {
	out := Loaded{Collection: collection}
	s, err := p.read()
	if err != nil {
		return out, err
	}
	if s == nil {
		return out, p.none()
	}
	addr := ""
	for _, m := range s.Nodes {
		if p.look(m) == Running {
			addr = m.HTTP
			break
		}
	}
	if addr == "" {
		return out, themis.Errorf(themis.Unreachable, "no node of the playground in %s runs", p.Dir).Do("themis-cli playground start --data-dir %s", p.Dir)
	}
	began := time.Now()
	to := "http://" + addr + "/api/v1/collections/" + url.PathEscape(collection) + "/documents?timeout_ms=30000"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, docs)
	if err != nil {
		return out, fmt.Errorf("load %s: %w", collection, err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	direct := &http.Transport{DisableKeepAlives: true} // no proxy: the node is on this machine
	resp, err := (&http.Client{Transport: direct}).Do(req)
	if err != nil {
		return out, p.halfLoaded(collection, err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read from
	const most = 1 << 20
	b, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return out, p.halfLoaded(collection, err)
	}
	if resp.StatusCode != http.StatusOK {
		return out, problem(collection, resp.StatusCode, b)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, themis.Errorf(themis.Internal, "load %s: answer: %w", collection, err)
	}
	out.Took = time.Since(began)
	return out, nil
}

func (p *Playground) halfLoaded(collection string, err error) error {
	return themis.Errorf(themis.OutcomeUnknown, "load %s: %w", collection, err).
		Do("themis-cli playground start --data-dir %s: it loads them again, and what was written is replaced by itself", p.Dir)
}

// problem is the error that a node answered with.
func problem(collection string, status int, b []byte) error {
	var p struct {
		Code   themis.Code `json:"code"`
		Detail string      `json:"detail"`
		Fix    string      `json:"fix"`
	}
	if err := json.Unmarshal(b, &p); err != nil || p.Code == "" {
		return themis.Errorf(themis.Internal, "load %s: HTTP %d: %.200s", collection, status, b)
	}
	return themis.Errorf(p.Code, "load %s: %s", collection, p.Detail).Do("%s", p.Fix)
}
