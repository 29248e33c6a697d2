package web

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

const (
	laneDocuments = 512      // of a shard, read ahead at most
	laneBytes     = 1 << 20  // of them, but at least one document
	mergeBytes    = 16 << 20 // of all shards, but at least one document of each
	maxFills      = 16       // scans of one listing at once
)

// position is a place in a listing: behind the document with that token and key. The zero value is the beginning.
type position struct {
	token themis.Token
	key   string
}

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.token, q.token), cmp.Compare(p.key, q.key))
}

const cursorVersion = 1

// cursor is the position as clients see it, in base64: | version 1 u8 | token u32 | key |.
func (p position) cursor() string {
	b := binary.BigEndian.AppendUint32([]byte{cursorVersion}, uint32(p.token))
	return base64.RawURLEncoding.EncodeToString(append(b, p.key...))
}

// parseCursor reads what cursor wrote.
func parseCursor(text string) (position, error) {
	bad := themis.Errorf(themis.InvalidArgument, "after: not an %s that this cluster gave", nextHeader)
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 5 || b[0] != cursorVersion || themis.CheckKey(string(b[5:])) != nil {
		return position{}, bad
	}
	return position{themis.Token(binary.BigEndian.Uint32(b[1:])), string(b[5:])}, nil
}

// lane is one shard's part of a merge: a page that was read ahead.
type lane struct {
	shard themis.ShardID
	at    position // of the last document that was read
	page  []*nodev1.ScannedDocument
	done  bool // the shard has no more behind at
}

func placeOf(d *nodev1.ScannedDocument) position {
	return position{themis.Token(d.GetToken()), d.GetKey()}
}

// merge yields the documents of all shards in order of (token, key), each once. It reads a page of each shard, and the next
// page of a shard when that one is used up. Pages are of different moments: a listing is no snapshot.
type merge struct {
	ctx       context.Context
	documents Documents
	scan      *nodev1.ScanRequest // without the shard and the place
	timeout   time.Duration       // of one page
	lanes     []*lane
	perPage   int
	pageBytes int
	last      position // of what next gave last
}

func newMerge(ctx context.Context, documents Documents, scan *nodev1.ScanRequest, shards []themis.ShardID, from position, perPage int, timeout time.Duration) *merge {
	m := &merge{
		ctx: ctx, documents: documents, scan: scan, timeout: timeout, last: from,
		perPage: perPage, pageBytes: min(laneBytes, mergeBytes/len(shards)),
	}
	for _, shard := range shards {
		m.lanes = append(m.lanes, &lane{shard: shard, at: from})
	}
	return m
}

// next is the next document; nil at the end.
func (m *merge) next() (*nodev1.ScannedDocument, error) {
	d, err := m.peek()
	if d != nil {
		m.last = placeOf(d)
	}
	return d, err
}

// peek is the document that next will give. While a range moves, two shards may show the same document: the newer one counts.
func (m *merge) peek() (*nodev1.ScannedDocument, error) {
	for _, l := range m.lanes {
		for len(l.page) > 0 && placeOf(l.page[0]).compare(m.last) <= 0 {
			l.page = l.page[1:]
		}
	}
	if err := m.fill(); err != nil {
		return nil, err
	}
	var best *nodev1.ScannedDocument
	for _, l := range m.lanes {
		if len(l.page) == 0 {
			continue
		}
		d := l.page[0]
		if best == nil {
			best = d
			continue
		}
		if c := placeOf(d).compare(placeOf(best)); c < 0 || c == 0 && d.GetVersion() > best.GetVersion() {
			best = d
		}
	}
	return best, nil
}

// fill reads a page of every lane that has none.
func (m *merge) fill() error {
	var empty []*lane
	for _, l := range m.lanes {
		if len(l.page) == 0 && !l.done {
			empty = append(empty, l)
		}
	}
	if len(empty) == 0 {
		return nil
	}
	errs := make([]error, len(empty))
	var fills sync.WaitGroup
	slots := make(chan struct{}, maxFills)
	for i, l := range empty {
		slots <- struct{}{}
		fills.Go(func() {
			defer func() { <-slots }()
			defer caught(&errs[i])
			errs[i] = m.read(l)
		})
	}
	fills.Wait()
	for _, err := range errs { // the first shard's that has one, whoever was quicker
		if err != nil {
			return err
		}
	}
	return nil
}

var errPageFull = errors.New("page is full")

// read reads the next page of a lane. The request's limit is not used: a shard may count documents that it doesn't show.
func (m *merge) read(l *lane) error {
	ctx, cancel := context.WithTimeout(m.ctx, m.timeout)
	defer cancel()
	size, full := 0, false
	var fault error // whatever Scan makes of it
	err := m.documents.Scan(ctx, &nodev1.ScanRequest{
		Collection: m.scan.GetCollection(), Consistency: m.scan.GetConsistency(), ShardId: string(l.shard),
		FromToken: uint32(l.at.token), AfterKey: l.at.key,
	}, func(d *nodev1.ScannedDocument) error {
		switch {
		case full:
			return errPageFull
		case placeOf(d).compare(l.at) <= 0:
			fault = themis.Errorf(themis.Internal, "the scan of %s showed %q out of order", l.shard, d.GetKey()).In(l.shard)
			return fault
		}
		l.at, l.page = placeOf(d), append(l.page, d)
		size += len(d.GetValue()) + len(d.GetKey())
		if full = len(l.page) >= m.perPage || size >= m.pageBytes; full {
			return errPageFull
		}
		return nil
	})
	switch {
	case fault != nil:
		return fault
	case full:
		return nil
	case err == nil:
		l.done = true
		return nil
	case len(l.page) > 0 && themis.CodeOf(err).Info().Retryable:
		return nil // what came is good; the next page goes on behind it
	}
	return err
}
