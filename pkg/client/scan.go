package client

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"strings"
	"time"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// ScanOptions of one scan.
type ScanOptions struct {
	Limit       int    // documents at most; 0: all
	After       string // go on behind the document whose Cursor this is
	Consistency themis.Consistency
}

// Cursor is the document's place in a scan, for ScanOptions.After. It is opaque.
func (d Doc) Cursor() string { return position{d.Token, d.Key}.cursor() }

// position is a place in the order of a scan: by token, then by key.
type position struct {
	token themis.Token
	key   string // empty: before the first document of the token
}

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.token, q.token), strings.Compare(p.key, q.key))
}

func (p position) cursor() string {
	return base64.RawURLEncoding.EncodeToString(append(binary.BigEndian.AppendUint32(nil, uint32(p.token)), p.key...))
}

// parseCursor reads what Cursor wrote. A cursor always names a document.
func parseCursor(s string) (position, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err == nil && len(b) > 4 && themis.CheckKey(string(b[4:])) == nil {
		p := position{themis.Token(binary.BigEndian.Uint32(b)), string(b[4:])}
		if p.cursor() == s { // the decoder passes over line breaks
			return p, nil
		}
	}
	return position{}, themis.Errorf(themis.InvalidArgument, "after %.80q: not a cursor that a scan gave", s)
}

// Scan yields the documents of a collection in order of token and key, those of all shards merged. Each shard is read from one
// snapshot, taken when the scan begins or is taken up again after an interruption; the shards' snapshots are not of one moment. An
// error ends it. The context's time is that of the whole scan; without a deadline it lasts as long as it makes progress, each
// standstill for at most Options.Timeout.
func (c *Client) Scan(ctx context.Context, collection string, o ScanOptions) iter.Seq2[Doc, error] {
	return func(yield func(Doc, error) bool) {
		if err := c.scan(ctx, collection, o, func(d Doc) bool { return yield(d, nil) }); err != nil && !errors.Is(err, errEnough) {
			yield(Doc{}, err)
		}
	}
}

var errEnough = errors.New("the caller has enough")

// scan merges the shards, and begins again behind the last document whenever a shard's stream breaks.
func (c *Client) scan(ctx context.Context, collection string, o ScanOptions, yield func(Doc) bool) error {
	if err := themis.CheckCollection(collection); err != nil {
		return err
	}
	if o.Limit < 0 {
		return themis.Errorf(themis.InvalidArgument, "limit %d: want 0 or more", o.Limit)
	}
	var at position
	if o.After != "" {
		var err error
		if at, err = parseCursor(o.After); err != nil {
			return err
		}
	}
	first, cancel := c.limited(ctx)
	m, err := c.firstMap(first)
	cancel()
	if err != nil {
		return err
	}
	stuck := time.Now()
	a := &attempt{}
	for sum := 0; ; {
		got, left := 0, 0 // 0: no limit
		if o.Limit > 0 {
			left = o.Limit - sum
		}
		err := c.merge(ctx, a, m, collection, o.Consistency, at, left, func(d Doc) bool {
			at, got = position{d.Token, d.Key}, got+1
			return yield(d)
		})
		if got > 0 {
			a.tries, stuck = 0, time.Now()
		}
		if sum += got; err == nil || !a.again(err) || ctx.Err() != nil {
			return err
		}
		if o.Limit > 0 && sum >= o.Limit {
			return nil
		}
		if _, limited := ctx.Deadline(); !limited && time.Since(stuck) > c.o.Timeout {
			return err
		}
		if m, _ = c.newer(ctx, m, a.pause()); ctx.Err() != nil {
			return err
		}
	}
}

// merge reads every shard from at on and yields in order. It ends at the first error of any shard: what another one holds behind that
// place must not come before.
func (c *Client) merge(ctx context.Context, a *attempt, m *Map, collection string, level themis.Consistency, at position, limit int, yield func(Doc) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var heads []*shardScan
	for _, shard := range m.Routing.Shards() {
		s, err := c.openScan(ctx, a, m, shard, &nodev1.ScanRequest{
			Collection: collection, ShardId: string(shard), FromToken: uint32(at.token), AfterKey: at.key, Limit: uint64(max(0, limit)), //nolint:gosec // not negative
			Consistency: string(level),
		})
		if err != nil {
			return err
		}
		defer s.stop()
		heads = append(heads, s)
	}
	for _, s := range heads { // all have been asked: now wait for each
		if err := s.next(a); err != nil {
			return err
		}
	}
	for n := 0; limit == 0 || n < limit; n++ {
		var first *shardScan
		for _, s := range heads {
			if s.doc != nil && (first == nil || s.at().compare(first.at()) < 0) {
				first = s
			}
		}
		if first == nil {
			return nil
		}
		d := first.doc
		if !yield(Doc{Collection: collection, Key: d.GetKey(), Value: d.GetValue(), Version: d.GetVersion(), Shard: first.route.shard, Token: themis.Token(d.GetToken())}) {
			return errEnough
		}
		if err := first.next(a); err != nil {
			return err
		}
	}
	return nil
}

// shardScan is one shard's stream and the document in front of it.
type shardScan struct {
	route  route
	stream interface {
		Recv() (*nodev1.ScanResponse, error)
	}
	batch []*nodev1.ScannedDocument
	doc   *nodev1.ScannedDocument // nil: at the end
	stop  func()
}

func (s *shardScan) at() position { return position{themis.Token(s.doc.GetToken()), s.doc.GetKey()} }

func (c *Client) openScan(ctx context.Context, a *attempt, m *Map, shard themis.ShardID, req *nodev1.ScanRequest) (*shardScan, error) {
	r, err := c.route(m, shard, a.avoid)
	if err != nil {
		a.tries++
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	undo := context.AfterFunc(r.reign, cancel)
	stop := func() { undo(); cancel() }
	conn, err := c.pool.Documents(ctx, r.to.addr, r.to.node)
	if err != nil {
		stop()
		return nil, err
	}
	req.RoutingVersion = r.version()
	stream, err := conn.Scan(ctx, req)
	if err != nil {
		stop()
		a.failed(r, err)
		return nil, err
	}
	return &shardScan{route: r, stream: stream, stop: stop}, nil
}

// next brings the next document to the front.
func (s *shardScan) next(a *attempt) error {
	for len(s.batch) == 0 {
		m, err := s.stream.Recv()
		if errors.Is(err, io.EOF) {
			s.doc = nil
			return nil
		}
		if err != nil {
			a.failed(s.route, err)
			return err
		}
		s.batch = m.GetDocuments()
	}
	s.doc, s.batch = s.batch[0], s.batch[1:]
	return nil
}
