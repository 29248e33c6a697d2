package web

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// written is the answer to a write.
type written struct {
	Collection   string `json:"collection"`
	Key          string `json:"key"`
	Version      string `json:"version"`
	Seq          uint64 `json:"seq"`
	HLC          string `json:"hlc"`
	Shard        string `json:"shard"`
	SessionToken string `json:"session_token"`
	WriteConcern string `json:"write_concern"` // the effective one
}

func (s *server) put(w http.ResponseWriter, r *http.Request) { s.change(w, r, s.body) }

func (s *server) remove(w http.ResponseWriter, r *http.Request) {
	s.change(w, r, func(_ context.Context, _ http.ResponseWriter, _ *http.Request, op *nodev1.Operation) (func(), error) {
		op.Delete = true
		return func() {}, nil
	})
}

// change runs one operation; fill completes it and says how to give back what it holds.
func (s *server) change(w http.ResponseWriter, r *http.Request, fill func(context.Context, http.ResponseWriter, *http.Request, *nodev1.Operation) (func(), error)) {
	req, p, err := writeOf(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	ctx, cancel, err := p.within(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer cancel()
	op := req.GetOperations()[0]
	give, err := fill(ctx, w, r, op)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer give()
	out, err := s.write(ctx, req)
	if err != nil {
		s.fail(w, err)
		return
	}
	if len(out.GetResults()) != 1 {
		s.fail(w, themis.Errorf(themis.OutcomeUnknown, "document %q: %d results for one operation", op.GetKey(), len(out.GetResults())))
		return
	}
	version := out.GetResults()[0].GetVersion()
	if !op.GetDelete() {
		setETag(w.Header(), version)
	}
	w.Header().Set("X-Themis-Shard", out.GetShardId())
	w.Header().Set("X-Themis-Session", out.GetSessionToken())
	s.writeJSON(w, written{
		Collection: req.GetCollection(), Key: op.GetKey(), Version: version, Seq: out.GetSeq(), HLC: out.GetHlc(),
		Shard: out.GetShardId(), SessionToken: out.GetSessionToken(), WriteConcern: out.GetWriteConcern(),
	})
}

// setETag spells the header as everybody does; Go would write Etag.
func setETag(h http.Header, version string) { h["ETag"] = []string{strconv.Quote(version)} }

// writeOf reads all of a write but the body.
func writeOf(r *http.Request) (*nodev1.WriteRequest, params, error) {
	collection, key, err := place(r)
	if err != nil {
		return nil, nil, err
	}
	p, err := query(r, "write_concern", "timeout_ms", "shard_key")
	if err != nil {
		return nil, nil, err
	}
	concern, err := p.concern()
	if err != nil {
		return nil, nil, err
	}
	shardKey, err := p.shardKey()
	if err != nil {
		return nil, nil, err
	}
	ifMatch, ifNone, err := condition(r)
	if err != nil {
		return nil, nil, err
	}
	id, err := requestID(r)
	if err != nil {
		return nil, nil, err
	}
	op := &nodev1.Operation{Key: key, ShardKey: shardKey, IfMatch: ifMatch, IfNoneMatch: ifNone}
	return &nodev1.WriteRequest{Collection: collection, Operations: []*nodev1.Operation{op}, RequestId: id, WriteConcern: concern}, p, nil
}

// body reads the document of a PUT and checks it. It must be there within the request's time.
func (s *server) body(ctx context.Context, w http.ResponseWriter, r *http.Request, op *nodev1.Operation) (give func(), err error) {
	if r.ContentLength > themis.MaxDocumentBytes {
		return nil, tooLarge(op.GetKey(), r.ContentLength)
	}
	if until, ok := ctx.Deadline(); ok {
		if err := http.NewResponseController(w).SetReadDeadline(until); err != nil {
			return nil, err
		}
	}
	value, held, err := s.readAll(r.Body, op.GetKey(), r.ContentLength)
	give = func() { s.bodies.give(held) }
	if err == nil {
		err = checkDocument(value)
	}
	if err != nil {
		give()
		return nil, err
	}
	op.Value = value
	return give, nil
}

func tooLarge(key string, size int64) error {
	if size <= 0 {
		return themis.Errorf(themis.TooLarge, "document %q: more than %d bytes (16 MiB)", key, themis.MaxDocumentBytes)
	}
	return themis.Errorf(themis.TooLarge, "document %q: %d bytes; at most %d (16 MiB)", key, size, themis.MaxDocumentBytes)
}

const firstRead = 32 << 10

// readAll reads a body of at most one document. held is what it took of s.bodies; memory follows what has come, not what was
// announced.
func (s *server) readAll(body io.Reader, key string, announced int64) (value []byte, held int64, err error) {
	size := int64(firstRead)
	if announced >= 0 {
		size = min(size, announced+1) // one more, to see the end
	}
	for {
		if size > held {
			if !s.bodies.take(size - held) {
				return nil, held, themis.Errorf(themis.Overloaded, "document %q: the bodies of all requests to this node take more than %d bytes", key, s.bodies.max)
			}
			held = size
			value = append(make([]byte, 0, size), value...)
		}
		n, err := body.Read(value[len(value):cap(value)])
		value = value[:len(value)+n]
		switch {
		case len(value) > themis.MaxDocumentBytes:
			return nil, held, tooLarge(key, -1)
		case errors.Is(err, io.EOF):
			return value, held, nil
		case err != nil:
			return nil, held, broken(err)
		}
		if len(value) == cap(value) {
			size = min(2*size, themis.MaxDocumentBytes+1)
		}
	}
}

// broken says why a body could not be read to its end. Nothing of it was written.
func broken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return themis.Errorf(themis.Deadline, "the body did not come in time, nothing was written: %w", err).Do("send faster, or raise timeout_ms")
	}
	return themis.Errorf(themis.InvalidArgument, "the body broke off, nothing was written: %w", err)
}

func (s *server) get(w http.ResponseWriter, r *http.Request) {
	req, p, err := readOf(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	ctx, cancel, err := p.within(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer cancel()
	out, err := s.Documents.Read(ctx, req)
	if err != nil {
		s.fail(w, err)
		return
	}
	if size := int64(len(out.GetValue())); size > pieceBytes {
		if !s.answers.take(size) {
			s.fail(w, themis.Errorf(themis.Overloaded, "document %q: %d bytes, and answers that their clients have not taken yet hold %d of %d already", req.GetKey(), size, s.answers.held.Load(), s.answers.max))
			return
		}
		defer s.answers.give(size)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	setETag(h, out.GetVersion())
	h.Set("X-Themis-Shard", out.GetShardId())
	h.Set("X-Themis-Session", out.GetSessionToken())
	writeBody(w, http.StatusOK, out.GetValue())
}

func readOf(r *http.Request) (*nodev1.ReadRequest, params, error) {
	collection, key, err := place(r)
	if err != nil {
		return nil, nil, err
	}
	p, err := query(r, "consistency", "timeout_ms", "shard_key", "session_token")
	if err != nil {
		return nil, nil, err
	}
	level, err := p.consistency()
	if err != nil {
		return nil, nil, err
	}
	shardKey, err := p.shardKey()
	if err != nil {
		return nil, nil, err
	}
	token, err := p.session(r)
	if err != nil {
		return nil, nil, err
	}
	if err := unconditional(r, "If-Match"); err != nil {
		return nil, nil, err
	}
	return &nodev1.ReadRequest{Collection: collection, Key: key, ShardKey: shardKey, Consistency: string(level), SessionToken: token}, p, nil
}
