package web

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/routing"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// twin is Documents and Source in memory, with the rules of the real ones: versions grow and are never used twice, conditions
// hold or nothing happens, a request id gives the first result again.
type twin struct {
	before func(ctx context.Context, what, key string) error // of every call, if set: may fail it, block it, or panic

	mu      sync.Mutex
	shards  []themis.ShardID
	clock   themis.HLC
	seqs    map[themis.ShardID]uint64
	docs    map[string]map[position]*nodev1.ScannedDocument // by collection
	ids     map[string]repeatable
	order   map[string][]*nodev1.ScannedDocument // of docs; made when a scan asks
	asked   []proto.Message
	now     int // writes under way
	most    int // at once
	unready error
	report  health.Report
	failing error // of Report
}

type repeatable struct {
	digest [32]byte
	answer *nodev1.WriteResponse
}

func newTwin(shards int) *twin {
	w := &twin{
		clock: themis.HLCAt(time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)), seqs: map[themis.ShardID]uint64{},
		docs: map[string]map[position]*nodev1.ScannedDocument{}, ids: map[string]repeatable{},
		report: health.Report{Status: health.Critical, Cluster: "demo", Findings: []health.Finding{}},
	}
	for i := range shards {
		w.shards = append(w.shards, routing.ShardAt(i))
	}
	return w
}

func (w *twin) options() Options {
	return Options{
		Documents: w, Source: w, PlainLoopback: PlainFull,
		Metrics: http.HandlerFunc(func(out http.ResponseWriter, _ *http.Request) { fmt.Fprint(out, "themis_wal_segments_total 3\n") }),
		Cluster: func() string { return "demo" },
		Shards:  func() []themis.ShardID { return w.shards },
	}
}

func (w *twin) shardOf(t themis.Token) themis.ShardID {
	return w.shards[uint64(t)*uint64(len(w.shards))>>32]
}

func placed(shardKey, key string) position {
	return position{routing.TokenOf(cmp.Or(shardKey, key)), key}
}

func (w *twin) call(ctx context.Context, what, key string, req proto.Message) error {
	w.mu.Lock()
	w.asked = append(w.asked, req)
	w.mu.Unlock()
	if w.before == nil {
		return nil
	}
	return w.before(ctx, what, key)
}

// Write implements Documents.
func (w *twin) Write(ctx context.Context, req *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	w.mu.Lock()
	w.now++
	w.most = max(w.most, w.now)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.now--
		w.mu.Unlock()
	}()
	o := req.GetOperations()[0]
	if err := w.call(ctx, "write", o.GetKey(), req); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	digest := sha256.Sum256([]byte(req.GetCollection() + "\x00" + o.String()))
	if before, ok := w.ids[req.GetRequestId()]; ok && req.GetRequestId() != "" {
		if before.digest != digest {
			return nil, themis.Errorf(themis.RequestIDReused, "request id %q: was used for another request", req.GetRequestId())
		}
		return before.answer, nil
	}
	at := placed(o.GetShardKey(), o.GetKey())
	shard := w.shardOf(at.token)
	old, err := w.check(req.GetCollection(), at, shard, o)
	if err != nil {
		return nil, err
	}
	w.clock++
	w.seqs[shard]++
	w.order = nil
	version := w.clock.String()
	if w.docs[req.GetCollection()] == nil {
		w.docs[req.GetCollection()] = map[position]*nodev1.ScannedDocument{}
	}
	w.docs[req.GetCollection()][at] = &nodev1.ScannedDocument{Key: at.key, Value: o.GetValue(), Version: version, Token: uint32(at.token)}
	if o.GetDelete() {
		delete(w.docs[req.GetCollection()], at)
	}
	answer := &nodev1.WriteResponse{
		ShardId: string(shard), Seq: w.seqs[shard], Hlc: version, SessionToken: fmt.Sprintf("%s@%d", shard, w.seqs[shard]),
		WriteConcern: cmp.Or(req.GetWriteConcern(), "quorum"), Results: []*nodev1.OperationResult{{Version: version, Existed: old != nil}},
	}
	w.ids[req.GetRequestId()] = repeatable{digest, answer}
	return answer, nil
}

func (w *twin) check(collection string, at position, shard themis.ShardID, o *nodev1.Operation) (*nodev1.ScannedDocument, error) {
	old := w.docs[collection][at]
	switch {
	case o.GetDelete() && old == nil:
		return nil, themis.Errorf(themis.NotFound, "no document %q in collection %q", at.key, collection).In(shard)
	case o.GetIfNoneMatch() && old != nil:
		return nil, themis.Errorf(themis.VersionMismatch, "document %q exists, at version %s", at.key, old.GetVersion()).In(shard)
	case o.GetIfMatch() != "" && o.GetIfMatch() != old.GetVersion():
		return nil, themis.Errorf(themis.VersionMismatch, "document %q is at version %q, not %s", at.key, old.GetVersion(), o.GetIfMatch()).In(shard)
	}
	return old, nil
}

// Read implements Documents.
func (w *twin) Read(ctx context.Context, req *nodev1.ReadRequest) (*nodev1.ReadResponse, error) {
	if err := w.call(ctx, "read", req.GetKey(), req); err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	at := placed(req.GetShardKey(), req.GetKey())
	shard := w.shardOf(at.token)
	d := w.docs[req.GetCollection()][at]
	if d == nil {
		return nil, themis.Errorf(themis.NotFound, "no document %q in collection %q", at.key, req.GetCollection()).In(shard)
	}
	return &nodev1.ReadResponse{Value: d.GetValue(), Version: d.GetVersion(), ShardId: string(shard), SessionToken: fmt.Sprintf("%s@%d", shard, w.seqs[shard])}, nil
}

// Scan implements Documents.
func (w *twin) Scan(ctx context.Context, req *nodev1.ScanRequest, yield func(*nodev1.ScannedDocument) error) error {
	if err := w.call(ctx, "scan", req.GetShardId(), req); err != nil {
		return err
	}
	from := position{themis.Token(req.GetFromToken()), req.GetAfterKey()}
	for _, d := range w.sorted(req.GetCollection()) {
		if w.shardOf(themis.Token(d.GetToken())) != themis.ShardID(req.GetShardId()) || placeOf(d).compare(from) <= 0 {
			continue
		}
		if err := w.call(ctx, "row", d.GetKey(), nil); err != nil {
			return err
		}
		if err := yield(d); err != nil {
			return err
		}
	}
	return nil
}

// sorted are all documents of a collection as a listing should show them.
func (w *twin) sorted(collection string) []*nodev1.ScannedDocument {
	w.mu.Lock()
	defer w.mu.Unlock()
	if out, ok := w.order[collection]; ok {
		return out
	}
	out := slices.SortedFunc(maps.Values(w.docs[collection]), func(a, b *nodev1.ScannedDocument) int { return placeOf(a).compare(placeOf(b)) })
	if w.order == nil {
		w.order = map[string][]*nodev1.ScannedDocument{}
	}
	w.order[collection] = out
	return out
}

// last is the newest request of that kind.
func last[T proto.Message](w *twin) (out T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.asked {
		if r, ok := m.(T); ok {
			out = r
		}
	}
	return out
}

// Report implements Source.
func (w *twin) Report(context.Context) (health.Report, error) { return w.report, w.failing }

// Ready implements Source.
func (w *twin) Ready() error { return w.unready }

var errElsewhere = errors.New("disk on fire")
