package web

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	defaultLimit = 1000
	maxLimit     = 100_000
	headerPage   = 1 << 20 // up to this size a page is known before its header is sent
	nextHeader   = "X-Themis-Next"
)

// list streams the documents of a collection in order of (token, key).
func (s *server) list(w http.ResponseWriter, r *http.Request) {
	m, limit, err := s.listingOf(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	if !s.listings.take(1) {
		s.fail(w, themis.Errorf(themis.Overloaded, "this node answers %d listings already", s.listings.max).Do("wait, or ask another node"))
		return
	}
	defer s.listings.give(1)
	out := &page{w: w}
	for range limit {
		d, err := m.next()
		if err == nil && d != nil {
			out.row(d)
			err = out.flush(headerPage)
		}
		if err != nil {
			s.failList(w, out, err)
			return
		}
		if d == nil {
			out.end("")
			return
		}
	}
	next := ""
	if d, err := m.peek(); err != nil {
		s.failList(w, out, err)
		return
	} else if d != nil {
		next = m.last.cursor()
	}
	out.end(next)
}

func (s *server) listingOf(r *http.Request) (*merge, uint64, error) {
	collection, err := collectionOf(r)
	if err != nil {
		return nil, 0, err
	}
	p, err := query(r, "limit", "after", "consistency", "timeout_ms")
	if err != nil {
		return nil, 0, err
	}
	limit, err := p.number("limit", maxLimit, defaultLimit)
	if err != nil {
		return nil, 0, err
	}
	var from position
	if text, given := p["after"]; given {
		if from, err = parseCursor(text); err != nil {
			return nil, 0, err
		}
	}
	level, err := p.consistency()
	if err != nil {
		return nil, 0, err
	}
	if level == themis.Session {
		return nil, 0, themis.Errorf(themis.InvalidArgument, "consistency session: is for single documents; a listing takes strong, bounded_staleness or eventual")
	}
	timeout, err := p.timeout()
	if err != nil {
		return nil, 0, err
	}
	shards := s.Shards()
	if len(shards) == 0 {
		if err := s.Source.Ready(); err != nil {
			return nil, 0, err
		}
		return nil, 0, themis.Errorf(themis.NoPrimary, "this node belongs to no cluster yet").Do("themis-cli cluster init --nodes HOST,HOST,HOST, or themis-cli node join HOST")
	}
	scan := &nodev1.ScanRequest{Collection: collection, Consistency: string(level)}
	if len(shards) > 1 && s.CrossShard != nil {
		s.CrossShard()
	}
	return newMerge(r.Context(), s.Documents, scan, shards, from, min(int(limit)+1, laneDocuments), timeout), limit, nil //nolint:gosec // at most maxLimit
}

// page is the answer to a listing: rows, one a line, and where the next page begins. Where the rows are few that stands in the
// header, else in the trailer, which the header announces.
type page struct {
	w    http.ResponseWriter
	rows bytes.Buffer
	sent bool // the header, and rows
}

// row is one line: the key, the version, and the document on that one line.
func (p *page) row(d *nodev1.ScannedDocument) {
	key, _ := json.Marshal(d.GetKey()) // a string always encodes
	p.rows.WriteString(`{"key":`)
	p.rows.Write(key)
	p.rows.WriteString(`,"version":` + strconv.Quote(d.GetVersion()) + `,"document":`)
	if before := p.rows.Len(); !bytes.ContainsAny(d.GetValue(), "\r\n") {
		p.rows.Write(d.GetValue())
	} else if json.Compact(&p.rows, d.GetValue()) != nil { // no node stores what is not JSON
		p.rows.Truncate(before)
		p.rows.WriteString("null")
	}
	p.rows.WriteString("}\n")
}

// flush sends the rows when they are more than that many bytes.
func (p *page) flush(above int) error {
	if p.rows.Len() <= above {
		return nil
	}
	if !p.sent {
		p.sent = true
		p.head()
		p.w.Header().Set("Trailer", nextHeader)
		p.w.WriteHeader(http.StatusOK)
	}
	_, err := p.w.Write(p.rows.Bytes())
	p.rows.Reset()
	return err
}

func (p *page) head() {
	p.w.Header().Set("Content-Type", "application/x-ndjson")
	p.w.Header().Set("Cache-Control", "no-store")
}

// end sends what is left. An error means that the client is gone.
func (p *page) end(next string) {
	if p.sent {
		_ = p.flush(0)
		if next != "" {
			p.w.Header().Set(nextHeader, next)
		}
		return
	}
	p.head()
	if next != "" {
		p.w.Header().Set(nextHeader, next)
	}
	writeBody(p.w, http.StatusOK, p.rows.Bytes())
}

// failList answers with err, or, where rows were sent, tells it in a last line and cuts the answer off: it can't be taken for whole.
func (s *server) failList(w http.ResponseWriter, out *page, err error) {
	if !out.sent {
		s.fail(w, err)
		return
	}
	out.rows.WriteString(`{"problem":`)
	out.rows.Write(rpc.ProblemOf(s.ours(err), s.Cluster()).JSON())
	out.rows.WriteString("}\n")
	if out.flush(0) == nil {
		_ = http.NewResponseController(w).Flush()
	}
	panic(http.ErrAbortHandler)
}
