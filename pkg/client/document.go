package client

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"

	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Doc is one document.
type Doc struct {
	Collection string
	Key        string
	Value      []byte // as it was sent
	Version    string // opaque; never used twice for a key
	Shard      themis.ShardID
	Token      themis.Token
	Session    string // says how far this client has seen the shard
}

// Op is one change of one document.
type Op struct {
	Delete      bool
	Key         string
	ShardKey    string // empty: the key
	Value       []byte // JSON; not for a delete
	IfMatch     string // only at this version; empty: any
	IfNoneMatch bool   // only if there is no such document
}

// Result is what became of one operation.
type Result struct {
	Version string
	Existed bool // there was a document before
}

// Written is what became of a write.
type Written struct {
	Shard     themis.ShardID
	Seq       themis.Seq
	HLC       string // opaque
	Session   string
	Concern   themis.WriteConcern // the effective one
	RequestID string
	Results   []Result // one for each operation
}

// WriteOption is a rare wish about one write.
type WriteOption func(*write)

type write struct {
	id      string
	concern themis.WriteConcern
	op      Op // for Put and Delete
}

// RequestID makes the write repeatable under a name of the caller's: at most 64 bytes. By default each write gets a random one.
func RequestID(id string) WriteOption { return func(w *write) { w.id = id } }

// Concern asks for more than the shard's mode.
func Concern(c themis.WriteConcern) WriteOption { return func(w *write) { w.concern = c } }

// IfMatch does a Put or Delete only if the document is at that version; otherwise VERSION_MISMATCH.
func IfMatch(version string) WriteOption { return func(w *write) { w.op.IfMatch = version } }

// IfNoneMatch does a Put only if there is no such document; otherwise VERSION_MISMATCH.
func IfNoneMatch() WriteOption { return func(w *write) { w.op.IfNoneMatch = true } }

// ShardKey places the document of a Put or Delete by another text than its key.
func ShardKey(s string) WriteOption { return func(w *write) { w.op.ShardKey = s } }

// NewRequestID is a random request id.
func NewRequestID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // never fails: the process ends where there is no randomness
	return hex.EncodeToString(b[:])
}

// Put stores a document.
func (c *Client) Put(ctx context.Context, collection, key string, value []byte, opts ...WriteOption) (Written, error) {
	return c.single(ctx, collection, Op{Key: key, Value: value}, opts)
}

// Delete removes a document; NOT_FOUND if there is none.
func (c *Client) Delete(ctx context.Context, collection, key string, opts ...WriteOption) (Written, error) {
	return c.single(ctx, collection, Op{Delete: true, Key: key}, opts)
}

func (c *Client) single(ctx context.Context, collection string, op Op, opts []WriteOption) (Written, error) {
	w := write{op: op}
	for _, o := range opts {
		o(&w)
	}
	return c.write(ctx, collection, []Op{w.op}, w)
}

// Write changes documents of one shard as one entry: all of them or none. Documents of several shards are INVALID_ARGUMENT.
func (c *Client) Write(ctx context.Context, collection string, ops []Op, opts ...WriteOption) (Written, error) {
	var w write
	for _, o := range opts {
		o(&w)
	}
	return c.write(ctx, collection, ops, w)
}

func (c *Client) write(ctx context.Context, collection string, ops []Op, w write) (Written, error) {
	if w.id == "" {
		w.id = NewRequestID()
	}
	wire, err := wireOps(collection, ops)
	if err != nil {
		return Written{}, err
	}
	var got *nodev1.WriteResponse
	err = c.try(ctx, true, func(m *Map) (themis.ShardID, error) { return oneShard(m, ops) },
		func(ctx context.Context, r route, d nodev1.DocumentServiceClient) (err error) {
			got, err = d.Write(ctx, &nodev1.WriteRequest{
				Collection: collection, Operations: wire, RequestId: w.id, WriteConcern: string(w.concern), RoutingVersion: r.version(), ShardId: r.target(),
			})
			return err
		})
	if err != nil {
		return Written{RequestID: w.id}, err
	}
	return written(got, w.id), nil
}

func written(m *nodev1.WriteResponse, id string) Written {
	out := Written{
		Shard: themis.ShardID(m.GetShardId()), Seq: themis.Seq(m.GetSeq()), HLC: m.GetHlc(), Session: m.GetSessionToken(),
		Concern: themis.WriteConcern(m.GetWriteConcern()), RequestID: id,
	}
	for _, r := range m.GetResults() {
		out.Results = append(out.Results, Result{r.GetVersion(), r.GetExisted()})
	}
	return out
}

// wireOps checks what can be checked here and makes the messages.
func wireOps(collection string, ops []Op) ([]*nodev1.Operation, error) {
	if err := themis.CheckCollection(collection); err != nil {
		return nil, err
	}
	if len(ops) == 0 {
		return nil, themis.Errorf(themis.InvalidArgument, "operations: none")
	}
	out := make([]*nodev1.Operation, len(ops))
	for i, o := range ops {
		if err := themis.CheckKey(o.Key); err != nil {
			return nil, err
		}
		if len(o.Value) > themis.MaxDocumentBytes {
			return nil, themis.Errorf(themis.TooLarge, "document %q: %d bytes; at most %d (16 MiB)", o.Key, len(o.Value), themis.MaxDocumentBytes)
		}
		out[i] = &nodev1.Operation{Delete: o.Delete, Key: o.Key, ShardKey: o.ShardKey, Value: o.Value, IfMatch: o.IfMatch, IfNoneMatch: o.IfNoneMatch}
	}
	return out, nil
}

// oneShard is the shard of all the operations.
func oneShard(m *Map, ops []Op) (themis.ShardID, error) {
	shard := m.Routing.Shard(token(ops[0].ShardKey, ops[0].Key))
	for _, o := range ops[1:] {
		if s := m.Routing.Shard(token(o.ShardKey, o.Key)); s != shard {
			return "", themis.Errorf(themis.InvalidArgument, "operations: %q belongs to %s, %q to %s; one request changes documents of one shard", ops[0].Key, shard, o.Key, s)
		}
	}
	return shard, nil
}

// ReadOption is a rare wish about one read.
type ReadOption func(*nodev1.ReadRequest)

// Consistency asks for less than the newest committed state.
func Consistency(level themis.Consistency) ReadOption {
	return func(r *nodev1.ReadRequest) { r.Consistency = string(level) }
}

// InSession reads no older state than the one that gave the token.
func InSession(token string) ReadOption {
	return func(r *nodev1.ReadRequest) { r.SessionToken = token }
}

// ReadShardKey finds a document that was placed by another text than its key.
func ReadShardKey(s string) ReadOption { return func(r *nodev1.ReadRequest) { r.ShardKey = s } }

// Get reads a document; NOT_FOUND if there is none.
func (c *Client) Get(ctx context.Context, collection, key string, opts ...ReadOption) (Doc, error) {
	if err := errors.Join(themis.CheckCollection(collection), themis.CheckKey(key)); err != nil {
		return Doc{}, err
	}
	ask := &nodev1.ReadRequest{Collection: collection, Key: key}
	for _, o := range opts {
		o(ask)
	}
	t := token(ask.GetShardKey(), key)
	var got *nodev1.ReadResponse
	err := c.try(ctx, false, func(m *Map) (themis.ShardID, error) { return m.Routing.Shard(t), nil },
		func(ctx context.Context, r route, d nodev1.DocumentServiceClient) (err error) {
			got, err = d.Read(ctx, &nodev1.ReadRequest{
				Collection: collection, Key: key, ShardKey: ask.GetShardKey(), Consistency: ask.GetConsistency(), SessionToken: ask.GetSessionToken(),
				RoutingVersion: r.version(), ShardId: r.target(),
			})
			return err
		})
	if err != nil {
		return Doc{}, err
	}
	return Doc{
		Collection: collection, Key: key, Value: got.GetValue(), Version: got.GetVersion(), Shard: themis.ShardID(got.GetShardId()), Token: t, Session: got.GetSessionToken(),
	}, nil
}

func asError(err error) (*themis.Error, bool) { return errors.AsType[*themis.Error](err) }
