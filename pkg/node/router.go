package node

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/internal/guard"
	"github.com/themisdb/themis/pkg/replication"
	"github.com/themisdb/themis/pkg/routing"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/store"
	"github.com/themisdb/themis/pkg/themis"
)

// router answers for any document: from the copy here, or by asking the node that leads its shard. Within a request's time it
// waits out elections and stale maps, as long as it is sure that nothing was done yet, or the request carries an id.
type router struct{ n *Node }

const (
	defaultTimeout = 10 * time.Second
	retryPause     = 50 * time.Millisecond
	answerTime     = 200 * time.Millisecond // at most, for the way of an answer
)

// withTimeout gives a request that brought no deadline the default one. One that did is given up a little earlier, by a tenth at
// most: a refusal that comes in time says that nothing was done, where silence would leave a write's outcome open.
func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return context.WithTimeout(ctx, defaultTimeout)
	}
	return context.WithDeadline(ctx, end.Add(-min(answerTime, max(0, time.Until(end)/10))))
}

// checkWrite says what is wrong with a request before anything is done, or nil.
func checkWrite(req *nodev1.WriteRequest) error {
	if !guard.On(guard.WriteChecked) {
		return nil
	}
	if err := themis.CheckCollection(req.GetCollection()); err != nil {
		return err
	}
	if len(req.GetOperations()) == 0 {
		return themis.Errorf(themis.InvalidArgument, "operations: none")
	}
	if len(req.GetRequestId()) > themis.MaxRequestIDBytes {
		return themis.Errorf(themis.InvalidArgument, "Idempotency-Key: %d bytes; at most %d", len(req.GetRequestId()), themis.MaxRequestIDBytes)
	}
	if _, err := themis.ParseWriteConcern(req.GetWriteConcern()); err != nil {
		return err
	}
	for _, o := range req.GetOperations() {
		if err := themis.CheckKey(o.GetKey()); err != nil {
			return err
		}
		switch {
		case len(o.GetValue()) > themis.MaxDocumentBytes:
			return themis.Errorf(themis.TooLarge, "document %q: %d bytes; at most %d (16 MiB)", o.GetKey(), len(o.GetValue()), themis.MaxDocumentBytes)
		case !o.GetDelete() && (!json.Valid(o.GetValue()) || !utf8.Valid(o.GetValue())):
			return themis.Errorf(themis.InvalidArgument, "document %q: not valid JSON", o.GetKey())
		case o.GetDelete() && len(o.GetValue()) > 0:
			return themis.Errorf(themis.InvalidArgument, "document %q: a delete carries no value", o.GetKey())
		}
	}
	return nil
}

// placed says whether a document of the collection may be placed by a shard key, or lacks the one that it needs, before anything is made or
// asked. Only a collection that is recorded with a rule places its documents by something else than their keys: elsewhere a document stored under
// a shard key would not be found by its key, and one key could have two documents.
func (r *router) placed(ctx context.Context, collection, shardKey, key string) error {
	v, _ := r.n.latest()
	c, _ := v.Collection(collection)
	if c.CheckShardKey(collection, shardKey, key) == nil {
		return nil
	}
	m := r.n.m.Load()
	if m == nil {
		return r.n.noMap()
	}
	now, err := m.View(ctx) // the map here may be older than a rule
	if err != nil {
		return notYet(ctx, err, "whether collection %q has a rule is not known", collection)
	}
	c, _ = now.Collection(collection)
	return c.CheckShardKey(collection, shardKey, key)
}

func placement(shardKey, key string) themis.Token {
	if shardKey != "" {
		return routing.TokenOf(shardKey)
	}
	return routing.TokenOf(key)
}

// Write implements web.Documents.
func (r *router) Write(ctx context.Context, req *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	if err := checkWrite(req); err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	for _, o := range req.GetOperations() {
		if err := r.placed(ctx, req.GetCollection(), o.GetShardKey(), o.GetKey()); err != nil {
			return nil, err
		}
	}
	col, err := r.collection(ctx, req)
	if err != nil {
		return nil, toList(req.GetCollection(), err)
	}
	repeatable := req.GetRequestId() != ""
	var out *nodev1.WriteResponse
	err = r.try(ctx, repeatable, senderOf(req), func(v cluster.View) (err error) {
		shard, err := r.shardOf(v, req)
		if err != nil {
			return err
		}
		leader := v.Shards[shard].Primary.Node
		switch {
		case leader == r.n.id.Node:
			out, err = r.writeHere(ctx, v, shard, col, req)
			err = toList(req.GetCollection(), of(shard, err))
		case req.GetForwarded():
			err = noPrimary(v, shard)
		case leader == "":
			err = noPrimary(v, shard)
		default:
			out, err = r.writeThere(ctx, v, shard, leader, req)
		}
		return err
	})
	return out, err
}

func noPrimary(v cluster.View, shard themis.ShardID) error {
	s := v.Shards[shard]
	if s.Primary.IsZero() {
		return themis.Errorf(themis.NoPrimary, "%s has no primary", shard).In(shard)
	}
	return themis.Errorf(themis.NoPrimary, "%s is led by %s in epoch %d, not by this node", shard, s.Primary, s.Epoch).In(shard)
}

// shardOf is the one shard of all the operations.
func (r *router) shardOf(v cluster.View, req *nodev1.WriteRequest) (shard themis.ShardID, err error) {
	for i, o := range req.GetOperations() {
		t := placement(o.GetShardKey(), o.GetKey())
		if want := req.GetShardId(); want != "" {
			if err := v.Routing.CheckOwner(t, themis.ShardID(want), req.GetRoutingVersion()); err != nil {
				return "", err
			}
		}
		s := v.Routing.Shard(t)
		if i > 0 && s != shard {
			return "", themis.Errorf(themis.InvalidArgument, "operations: %q belongs to %s, %q to %s; one request changes documents of one shard", req.GetOperations()[0].GetKey(), shard, o.GetKey(), s)
		}
		shard = s
	}
	return shard, nil
}

// late is from when on a request is not sent again: no answer would come in time, and a write's outcome be open.
func late(ctx context.Context) time.Time {
	end, limited := ctx.Deadline()
	if !limited {
		return time.Now().Add(defaultTimeout)
	}
	return end.Add(-min(answerTime, time.Until(end)/5))
}

// sender is what tells who asks.
type sender struct {
	forwarded bool // another node: it repeats what is not done
	direct    bool // a client that goes by a map of its own, and can ask other nodes
}

func senderOf(req interface {
	GetForwarded() bool
	GetShardId() string
}) sender {
	return sender{forwarded: req.GetForwarded(), direct: req.GetShardId() != ""}
}

// try repeats what surely was not done, or may be repeated, until it is done, refused, or time runs out. Once the outcome of one attempt
// is unknown, only success says what became of the whole. A node that is cut off from the control plane learns of no other primary:
// who can ask elsewhere is told so at once.
func (r *router) try(ctx context.Context, repeatable bool, from sender, do func(cluster.View) error) error {
	late, unknown := late(ctx), false
	verdict := func(err error) error {
		if !unknown || themis.CodeOf(err) == themis.OutcomeUnknown || !guard.On(guard.UnknownStays) {
			return err
		}
		out := themis.Errorf(themis.OutcomeUnknown, "an attempt had no answer, and a repetition ended with: %w", err)
		if e, ok := errors.AsType[*themis.Error](err); ok {
			out.Shard = e.Shard
		}
		return out
	}
	for {
		changed := r.n.changed.next()
		v, ok := r.n.latest()
		err := error(r.n.noMap())
		if ok {
			err = do(v)
		}
		if err == nil {
			return nil
		}
		unknown = unknown || themis.CodeOf(err) == themis.OutcomeUnknown
		if from.forwarded || from.direct && !r.n.reigns(time.Now()) && guard.On(guard.CutSaysSo) || !again(err, repeatable) {
			return verdict(err)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(retryPause):
		}
		if ctx.Err() != nil || time.Now().After(late) {
			return verdict(unanswered(err))
		}
	}
}

// unanswered is what a client is told when its time is over: that another node could not be reached is this cluster's business.
func unanswered(err error) error {
	e, ok := errors.AsType[*themis.Error](err)
	if !ok || e.Code != themis.Unreachable {
		return err
	}
	if e.Shard == "" {
		return themis.Errorf(themis.NoPrimary, "the shard's primary can't be reached: %w", err)
	}
	return themis.Errorf(themis.NoPrimary, "the primary of %s can't be reached: %w", e.Shard, err).In(e.Shard)
}

// of names the shard in an error that names none.
func of(shard themis.ShardID, err error) error {
	e, ok := errors.AsType[*themis.Error](err)
	if !ok || e.Shard != "" {
		return err
	}
	return &themis.Error{Code: e.Code, Detail: err.Error(), Shard: shard, Fix: e.Fix, Err: err} // requests that wait for one write share its error
}

// toList is the next command where a document is missing.
func toList(collection string, err error) error {
	e, ok := errors.AsType[*themis.Error](err)
	if !ok || e.Code != themis.NotFound || e.Fix != "" {
		return err
	}
	return &themis.Error{Code: e.Code, Detail: err.Error(), Shard: e.Shard, Fix: "themis-cli doc scan " + collection + " --limit 10", Err: err}
}

func again(err error, repeatable bool) bool {
	switch themis.CodeOf(err) {
	case themis.NoPrimary, themis.StaleRoute, themis.Unreachable:
		return true
	case themis.OutcomeUnknown:
		return repeatable
	}
	return false
}

// collection finds the collection of a write, and makes it with the first one that stores a document.
func (r *router) collection(ctx context.Context, req *nodev1.WriteRequest) (themis.CollectionID, error) {
	name := req.GetCollection()
	v, _ := r.n.latest()
	if c, ok := v.Collection(name); ok {
		return c.ID, nil
	}
	m := r.n.m.Load()
	if m == nil {
		return 0, r.n.noMap()
	}
	if !slices.ContainsFunc(req.GetOperations(), func(o *nodev1.Operation) bool { return !o.GetDelete() }) {
		c, ok, err := m.Collection(ctx, name)
		switch {
		case err != nil:
			return 0, notYet(ctx, err, "whether collection %q is there is not known", name)
		case !ok:
			return 0, r.nothingToDelete(v, req)
		}
		return c.ID, nil
	}
	c, err := m.EnsureCollection(ctx, name)
	if err != nil {
		return 0, notYet(ctx, err, "collection %q can't be made", name)
	}
	return c.ID, nil
}

// nothingToDelete is what a shard answers to deletes of documents that are not there.
func (r *router) nothingToDelete(v cluster.View, req *nodev1.WriteRequest) error {
	var shard themis.ShardID
	if v.Routing != nil {
		var err error
		if shard, err = r.shardOf(v, req); err != nil {
			return err
		}
	}
	o := req.GetOperations()[0]
	if o.GetIfMatch() != "" {
		return themis.Errorf(themis.VersionMismatch, "document %q does not exist; If-Match asked for version %.80s", o.GetKey(), o.GetIfMatch()).In(shard)
	}
	return themis.Errorf(themis.NotFound, "document %q does not exist", o.GetKey()).In(shard)
}

// notYet is why the control plane gave no answer that a write needs before anything of it is done.
func notYet(ctx context.Context, err error, format string, args ...any) error {
	code := themis.NoPrimary
	switch {
	case ctx.Err() != nil:
		code = themis.Deadline
	case themis.CodeOf(err) == themis.Corrupt:
		code = themis.Corrupt
	}
	return themis.Errorf(code, format+": %w", append(args, err)...)
}

// existing finds a collection without making it. The map here may be older than one that was just made elsewhere, in which documents
// were acknowledged since: asked for after a view of the store was taken, it answers for that view.
func (r *router) existing(ctx context.Context, v cluster.View, name string) (cluster.Collection, bool, error) {
	if c, ok := v.Collection(name); ok || !guard.On(guard.CollectionNow) {
		return c, ok, nil
	}
	m := r.n.m.Load()
	if m == nil {
		return cluster.Collection{}, false, r.n.noMap()
	}
	return m.Collection(ctx, name)
}

func (r *router) writeHere(ctx context.Context, v cluster.View, shard themis.ShardID, col themis.CollectionID, req *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	rep, err := r.n.shards.get(shard)
	if err != nil {
		return nil, err
	}
	concern, _ := themis.ParseWriteConcern(req.GetWriteConcern())
	if concern == themis.ConcernDefault {
		concern = r.n.conf().Replication.Concern()
	}
	w := replication.Write{RequestID: req.GetRequestId(), Concern: concern}
	for _, o := range req.GetOperations() {
		c := replication.Change{Op: themis.Op{
			Code: themis.OpPut, Type: themis.TypeDocument, Collection: col, Placement: placement(o.GetShardKey(), o.GetKey()).Placement(), Key: o.GetKey(), Value: o.GetValue(),
		}, IfAbsent: o.GetIfNoneMatch()}
		if o.GetDelete() {
			c.Code, c.Value, c.MustExist = themis.OpDelete, nil, true
		}
		if o.GetIfMatch() != "" {
			if c.IfVersion, err = themis.ParseHLC(o.GetIfMatch()); err != nil || c.IfVersion == 0 {
				return nil, themis.Errorf(themis.VersionMismatch, "If-Match: no document ever has version %.80q", o.GetIfMatch()).In(shard)
			}
		}
		w.Changes = append(w.Changes, c)
	}
	done, err := rep.Write(ctx, w)
	if err != nil {
		return nil, err
	}
	r.n.metrics.shardOps.WithLabelValues(string(shard)).Inc()
	var client session
	client.saw(shard, done.Seq)
	out := &nodev1.WriteResponse{
		Id: req.GetId(), ShardId: string(shard), Seq: uint64(done.Seq), Hlc: done.HLC.String(), WriteConcern: string(done.Concern), SessionToken: client.token(v, r.n.cfg.Node.Region, time.Now()),
	}
	for _, o := range done.Ops {
		out.Results = append(out.Results, &nodev1.OperationResult{Version: o.Version.String(), Existed: o.Existed})
	}
	return out, nil
}

func (r *router) writeThere(ctx context.Context, v cluster.View, shard themis.ShardID, leader themis.NodeID, req *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	c, err := r.n.pool.Documents(ctx, v.Nodes[leader].GRPC, leader)
	if err != nil {
		return nil, err
	}
	out, err := c.Write(ctx, &nodev1.WriteRequest{
		Collection: req.GetCollection(), Operations: req.GetOperations(), RequestId: req.GetRequestId(), WriteConcern: req.GetWriteConcern(),
		RoutingVersion: v.Routing.Version(), ShardId: string(shard), Id: req.GetId(), Forwarded: true,
	})
	return out, of(shard, err)
}

// Read implements web.Documents.
func (r *router) Read(ctx context.Context, req *nodev1.ReadRequest) (*nodev1.ReadResponse, error) {
	if err := themis.CheckCollection(req.GetCollection()); err != nil {
		return nil, err
	}
	if err := themis.CheckKey(req.GetKey()); err != nil {
		return nil, err
	}
	level, err := themis.ParseConsistency(req.GetConsistency())
	if err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	if err := r.placed(ctx, req.GetCollection(), req.GetShardKey(), req.GetKey()); err != nil {
		return nil, err
	}
	t := placement(req.GetShardKey(), req.GetKey())
	var out *nodev1.ReadResponse
	err = r.try(ctx, true, senderOf(req), func(v cluster.View) (err error) {
		shard := v.Routing.Shard(t)
		if want := req.GetShardId(); want != "" {
			if err := v.Routing.CheckOwner(t, themis.ShardID(want), req.GetRoutingVersion()); err != nil {
				return err
			}
		}
		leader := v.Shards[shard].Primary.Node
		switch {
		case leader == r.n.id.Node, (level == themis.Eventual || level == themis.Session) && r.whole(v, shard):
			out, err = r.readHere(ctx, v, shard, level, t, req)
		case req.GetForwarded() || leader == "":
			err = noPrimary(v, shard)
		default:
			out, err = r.readThere(ctx, v, shard, leader, req)
		}
		return err
	})
	return out, err
}

// whole says whether this node's copy of the shard holds all that it ever acknowledged: one that is only joining, or blank,
// would say "not found" of documents that exist.
func (r *router) whole(v cluster.View, shard themis.ShardID) bool {
	c, ok := v.Shards[shard].Replica(r.n.id.Node)
	if !ok || c.Class != cluster.Voter {
		return false
	}
	rep, err := r.n.shards.get(shard)
	return err == nil && rep.Unfit() == ""
}

func (r *router) readHere(ctx context.Context, v cluster.View, shard themis.ShardID, level themis.Consistency, t themis.Token, req *nodev1.ReadRequest) (*nodev1.ReadResponse, error) {
	absent := themis.Errorf(themis.NotFound, "no document %q in collection %q", req.GetKey(), req.GetCollection()).In(shard).Do("themis-cli doc scan %s --limit 10", req.GetCollection())
	rep, err := r.n.shards.get(shard)
	if err != nil {
		return nil, err
	}
	client, err := openSession(v, req.GetSessionToken(), time.Now())
	if err != nil {
		return nil, err
	}
	view, err := rep.Read(ctx, level, client.seq(shard))
	if err != nil {
		return nil, err
	}
	r.n.metrics.shardOps.WithLabelValues(string(shard)).Inc()
	col, ok, err := r.existing(ctx, v, req.GetCollection())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, absent
	}
	d, ok, err := view.Get(col.ID, t.Placement(), req.GetKey())
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, absent
	}
	client.saw(shard, view.Seq)
	return &nodev1.ReadResponse{Value: d.Value, Version: d.Version.String(), ShardId: string(shard), Seq: uint64(d.Seq), SessionToken: client.token(v, r.n.cfg.Node.Region, time.Now())}, nil
}

func (r *router) readThere(ctx context.Context, v cluster.View, shard themis.ShardID, leader themis.NodeID, req *nodev1.ReadRequest) (*nodev1.ReadResponse, error) {
	c, err := r.n.pool.Documents(ctx, v.Nodes[leader].GRPC, leader)
	if err != nil {
		return nil, err
	}
	out, err := c.Read(ctx, &nodev1.ReadRequest{
		Collection: req.GetCollection(), Key: req.GetKey(), ShardKey: req.GetShardKey(), Consistency: req.GetConsistency(), SessionToken: req.GetSessionToken(),
		RoutingVersion: v.Routing.Version(), ShardId: string(shard), Forwarded: true,
	})
	return out, of(shard, err)
}

// Scan yields the documents of a collection on one shard, from a token on, in order of token and key.
func (r *router) Scan(ctx context.Context, req *nodev1.ScanRequest, yield func(*nodev1.ScannedDocument) error) error {
	if err := themis.CheckCollection(req.GetCollection()); err != nil {
		return err
	}
	level, err := themis.ParseConsistency(req.GetConsistency())
	if err != nil {
		return err
	}
	ctx, still, cancel := withStandstill(ctx)
	defer cancel()
	sent := false
	return r.try(ctx, true, senderOf(req), func(v cluster.View) error {
		shard := themis.ShardID(req.GetShardId())
		record, ok := v.Shards[shard]
		if !ok {
			return themis.Errorf(themis.NotFound, "no shard %q", shard)
		}
		once := func(d *nodev1.ScannedDocument) error {
			sent = true
			return still.pass(func() error { return yield(d) })
		}
		var err error
		switch leader := record.Primary.Node; {
		case leader == r.n.id.Node:
			err = r.scanHere(ctx, v, shard, level, req, once)
		case req.GetForwarded() || leader == "":
			err = noPrimary(v, shard)
		default:
			err = r.scanThere(ctx, v, shard, leader, req, once)
		}
		if err != nil && sent && again(err, true) { // a part was passed on already: the caller goes on behind it
			return themis.Errorf(themis.Overloaded, "the scan of %s was interrupted: %w", shard, err).In(shard)
		}
		return err
	})
}

func (r *router) scanHere(ctx context.Context, v cluster.View, shard themis.ShardID, level themis.Consistency, req *nodev1.ScanRequest, yield func(*nodev1.ScannedDocument) error) error {
	rep, err := r.n.shards.get(shard)
	if err != nil {
		return err
	}
	view, err := rep.Read(ctx, level, 0)
	if err != nil {
		return err
	}
	col, ok, err := r.existing(ctx, v, req.GetCollection())
	if err != nil || !ok {
		return err
	}
	from := themis.Token(req.GetFromToken())
	o := store.ScanOptions{From: from.Placement(), Limit: int(req.GetLimit())} //nolint:gosec // a count of documents
	if to := themis.Token(req.GetToToken()); to != 0 && to != routing.MaxToken {
		o.To = (to + 1).Placement()
	}
	if req.GetAfterKey() != "" {
		o.After = &store.Cursor{Placement: from.Placement(), Key: req.GetAfterKey()}
	}
	for d, err := range view.Scan(col.ID, o) {
		if err != nil {
			return err
		}
		t := themis.Token(binary.BigEndian.Uint32(d.Placement))
		if v.Routing.Shard(t) != shard {
			continue // not (any more) this shard's to show
		}
		if err := yield(&nodev1.ScannedDocument{Key: d.Key, Value: d.Value, Version: d.Version.String(), Token: uint32(t)}); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return themis.Errorf(themis.Deadline, "the scan of %s ran out of time", shard).In(shard)
		}
	}
	return nil
}

func (r *router) scanThere(ctx context.Context, v cluster.View, shard themis.ShardID, leader themis.NodeID, req *nodev1.ScanRequest, yield func(*nodev1.ScannedDocument) error) error {
	c, err := r.n.pool.Documents(ctx, v.Nodes[leader].GRPC, leader)
	if err != nil {
		return err
	}
	s, err := c.Scan(ctx, &nodev1.ScanRequest{
		Collection: req.GetCollection(), ShardId: req.GetShardId(), FromToken: req.GetFromToken(), ToToken: req.GetToToken(), AfterKey: req.GetAfterKey(),
		Limit: req.GetLimit(), RoutingVersion: v.Routing.Version(), Consistency: req.GetConsistency(), Forwarded: true,
	})
	if err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, d := range m.GetDocuments() {
			if err := yield(d); err != nil {
				return err
			}
		}
	}
}
