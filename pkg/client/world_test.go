package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/themisdb/themis/pkg/cluster"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/routing"
	"github.com/themisdb/themis/pkg/rpc"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const within = 15 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx
}

// world is a second, small implementation of a cluster: real servers with real certificates, one memory for all documents. It checks
// what a node checks: who leads, who owns, conditions, request ids.
type world struct {
	t  *testing.T
	ca *pki.CA

	mu       sync.Mutex
	table    *routing.Table
	revision themis.Revision
	shards   map[themis.ShardID]cluster.Shard
	docs     map[string]map[string]stored // collection, key
	seen     map[string]memory            // by request id
	clock    uint64
	effects  map[string]int // by key: writes that changed something
	events   []cluster.Event
	nodes    []*fakeNode
}

type stored struct {
	value   []byte
	version uint64
	token   themis.Token
}

type memory struct {
	digest uint64
	answer *nodev1.WriteResponse
}

// fakeNode is one server of the world.
type fakeNode struct {
	nodev1.UnimplementedDocumentServiceServer
	nodev1.UnimplementedAdminServiceServer
	w    *world
	id   themis.NodeID
	addr string
	src  *pki.Source
	stop func()

	mu       sync.Mutex
	old      *view         // what it believes instead of the truth
	hang     chan struct{} // requests wait for this to be closed
	after    func()        // called when a write was done and not yet answered
	passedOn int           // requests that it gave to the primary
	writes   int           // requests that it led
	unjoined bool
	scanned  int // documents after which a scan breaks; 0: never
	acts     int
}

// view is the map as a node sees it.
type view struct {
	table  *routing.Table
	shards map[themis.ShardID]cluster.Shard
}

func issue(t *testing.T, ca *pki.CA, r pki.Request) *pki.Source {
	t.Helper()
	issued, err := ca.Issue(r)
	if err != nil {
		t.Fatal(err)
	}
	f := pki.FilesIn(t.TempDir(), string(r.Node)+r.Client)
	if err := issued.Save(f); err != nil {
		t.Fatal(err)
	}
	s, err := pki.Open(f, pki.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newCA(t *testing.T) *pki.CA {
	t.Helper()
	ca, err := pki.NewCA(pki.CAOptions{Cluster: "demo"})
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// newWorld starts three nodes that share four shards.
func newWorld(t *testing.T) *world {
	t.Helper()
	table, err := routing.First(4, 20)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, ca: newCA(t), table: table, revision: 1, shards: map[themis.ShardID]cluster.Shard{}, docs: map[string]map[string]stored{},
		seen: map[string]memory{}, effects: map[string]int{},
	}
	for i := range 3 {
		n := &fakeNode{w: w, id: themis.NodeID(fmt.Sprintf("node-%d", i+1))}
		n.src = issue(t, w.ca, pki.Request{Node: n.id, Datacenter: "dc1", Loopback: true, Capabilities: []string{pki.Read, pki.Write, pki.Admin}})
		w.nodes = append(w.nodes, n)
		n.start()
	}
	t.Cleanup(func() {
		for _, n := range w.nodes {
			n.kill()
		}
	})
	for i, id := range table.Shards() {
		w.shards[id] = cluster.Shard{ID: id, Epoch: 1, Primary: cluster.Member{Node: w.nodes[i%3].id, Storage: "s"}}
	}
	return w
}

// start serves at the address that the node had before, or at a new one.
func (n *fakeNode) start() {
	n.w.t.Helper()
	at := n.addr
	if at == "" {
		at = "127.0.0.1:0"
	}
	lis, err := rpc.Listen(at)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.addr = lis.Addr().String()
	s, err := rpc.NewServer(rpc.ServerOptions{Source: n.src, Cluster: "demo", Grace: time.Millisecond})
	if err != nil {
		n.w.t.Fatal(err)
	}
	nodev1.RegisterDocumentServiceServer(s, n)
	nodev1.RegisterAdminServiceServer(s, n)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, lis) }()
	n.stop = func() {
		cancel()
		n.release()
		<-done
	}
}

func (n *fakeNode) kill() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

func (n *fakeNode) set(f func()) { n.mu.Lock(); defer n.mu.Unlock(); f() }

// halt lets every request wait until release, as SIGSTOP would.
func (n *fakeNode) halt() { n.set(func() { n.hang = make(chan struct{}) }) }

func (n *fakeNode) release() {
	n.set(func() {
		if n.hang != nil {
			close(n.hang)
			n.hang = nil
		}
	})
}

func (n *fakeNode) gate(ctx context.Context) error {
	n.mu.Lock()
	hang := n.hang
	n.mu.Unlock()
	if hang == nil {
		return nil
	}
	select {
	case <-hang:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// crown makes another node the primary of a shard.
func (w *world) crown(shard themis.ShardID, node int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.shards[shard]
	s.Epoch++
	s.Primary.Node = w.nodes[node].id
	w.shards[shard] = s
	w.revision++
}

// dethrone leaves a shard without a primary.
func (w *world) dethrone(shard themis.ShardID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.shards[shard]
	s.Primary = cluster.Member{}
	w.shards[shard] = s
	w.revision++
}

func (w *world) truth() *view {
	w.mu.Lock()
	defer w.mu.Unlock()
	shards := map[themis.ShardID]cluster.Shard{}
	for id, s := range w.shards {
		shards[id] = s
	}
	return &view{w.table, shards}
}

func (w *world) primary(shard themis.ShardID) *fakeNode {
	return w.node(w.truth().shards[shard].Primary.Node)
}

func (w *world) node(id themis.NodeID) *fakeNode {
	if i := slices.IndexFunc(w.nodes, func(n *fakeNode) bool { return n.id == id }); i >= 0 {
		return w.nodes[i]
	}
	return nil
}

func (n *fakeNode) view() *view {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.old != nil {
		return n.old
	}
	return n.w.truth()
}

func (n *fakeNode) Describe(ctx context.Context, _ *nodev1.DescribeRequest) (*nodev1.DescribeResponse, error) {
	if err := n.gate(ctx); err != nil {
		return nil, err
	}
	return &nodev1.DescribeResponse{NodeId: string(n.id), ClusterId: "c1", ClusterName: "demo", GrpcAddr: n.addr}, nil
}

func (n *fakeNode) GetMap(ctx context.Context, r *nodev1.GetMapRequest) (*nodev1.GetMapResponse, error) {
	if err := n.gate(ctx); err != nil {
		return nil, err
	}
	n.mu.Lock()
	unjoined := n.unjoined
	n.mu.Unlock()
	if unjoined {
		return nil, themis.Errorf(themis.NoPrimary, "this node belongs to no cluster yet")
	}
	n.mu.Lock()
	old := n.old != nil
	n.mu.Unlock()
	if old && r.GetKnownRevision() > 0 {
		return &nodev1.GetMapResponse{Revision: 1}, nil // it has nothing newer
	}
	w := n.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if themis.Revision(r.GetKnownRevision()) >= w.revision { //nolint:gosec // small
		return &nodev1.GetMapResponse{Revision: uint64(w.revision)}, nil //nolint:gosec // small
	}
	table, err := w.table.Encode()
	if err != nil {
		return nil, err
	}
	m := wireMap{Revision: w.revision, Cluster: "demo", ClusterID: "c1", Routing: table}
	for _, id := range w.table.Shards() {
		m.Shards = append(m.Shards, w.shards[id])
	}
	for _, x := range w.nodes {
		m.Members = append(m.Members, cluster.Node{ID: x.id, GRPC: x.addr})
	}
	b, err := json.Marshal(m)
	return &nodev1.GetMapResponse{Revision: uint64(w.revision), MapJson: b}, err //nolint:gosec // small
}

// lead finds the node that does the work: this one, or where it passes the request on.
func (n *fakeNode) lead(v *view, shard themis.ShardID) (*fakeNode, error) {
	p := v.shards[shard].Primary.Node
	switch {
	case p == "":
		return nil, themis.Errorf(themis.NoPrimary, "%s has no primary", shard).In(shard)
	case p == n.id && n.w.truth().shards[shard].Primary.Node != n.id:
		return nil, themis.Errorf(themis.NoPrimary, "%s on %s does not lead", shard, n.id).In(shard)
	case p == n.id:
		return n, nil
	}
	other := n.w.node(p)
	if other.stop == nil {
		return nil, themis.Errorf(themis.NoPrimary, "%s: %s can't be reached", shard, p).In(shard)
	}
	n.set(func() { n.passedOn++ })
	return other, nil
}

func (n *fakeNode) Write(ctx context.Context, r *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	if err := n.gate(ctx); err != nil {
		return nil, themis.Errorf(themis.Deadline, "halted: %w", err)
	}
	v := n.view()
	var shard themis.ShardID
	for i, o := range r.GetOperations() {
		t := token(o.GetShardKey(), o.GetKey())
		if r.GetShardId() != "" {
			if err := v.table.CheckOwner(t, themis.ShardID(r.GetShardId()), r.GetRoutingVersion()); err != nil {
				return nil, err
			}
		}
		if s := v.table.Shard(t); i > 0 && s != shard {
			return nil, themis.Errorf(themis.InvalidArgument, "two shards")
		}
		shard = v.table.Shard(t)
		if !o.GetDelete() && !json.Valid(o.GetValue()) {
			return nil, themis.Errorf(themis.InvalidArgument, "document %q: not valid JSON", o.GetKey())
		}
	}
	lead, err := n.lead(v, shard)
	if err != nil {
		return nil, err
	}
	lead.set(func() { lead.writes++ })
	out, err := n.w.apply(shard, r)
	if err != nil {
		return nil, err
	}
	lead.mu.Lock()
	after := lead.after
	lead.mu.Unlock()
	if after != nil {
		after()
	}
	return out, ctx.Err()
}

func digest(r *nodev1.WriteRequest) uint64 {
	h := fnv.New64a()
	for _, o := range r.GetOperations() {
		b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(o) //nolint:errcheck // a plain message
		_, _ = h.Write(b)
	}
	return h.Sum64()
}

func (w *world) apply(shard themis.ShardID, r *nodev1.WriteRequest) (*nodev1.WriteResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if m, ok := w.seen[r.GetRequestId()]; ok && r.GetRequestId() != "" {
		if m.digest != digest(r) {
			return nil, themis.Errorf(themis.RequestIDReused, "another request")
		}
		again := proto.CloneOf(m.answer)
		again.Id = r.GetId()
		return again, nil
	}
	col := w.docs[r.GetCollection()]
	if col == nil {
		col = map[string]stored{}
		w.docs[r.GetCollection()] = col
	}
	out := &nodev1.WriteResponse{Id: r.GetId(), ShardId: string(shard), WriteConcern: "all", SessionToken: "t"}
	for _, o := range r.GetOperations() { // all or nothing: first look
		d, there := col[o.GetKey()]
		switch {
		case o.GetDelete() && !there:
			return nil, themis.Errorf(themis.NotFound, "no document %q", o.GetKey())
		case o.GetIfNoneMatch() && there, o.GetIfMatch() != "" && (!there || themis.HLC(d.version).String() != o.GetIfMatch()):
			return nil, themis.Errorf(themis.VersionMismatch, "document %q", o.GetKey())
		}
	}
	for _, o := range r.GetOperations() {
		_, there := col[o.GetKey()]
		w.clock++
		if o.GetDelete() {
			delete(col, o.GetKey())
		} else {
			col[o.GetKey()] = stored{slices.Clone(o.GetValue()), w.clock, token(o.GetShardKey(), o.GetKey())}
		}
		w.effects[o.GetKey()]++
		out.Results = append(out.Results, &nodev1.OperationResult{Version: themis.HLC(w.clock).String(), Existed: there})
	}
	out.Seq, out.Hlc = w.clock, themis.HLC(w.clock).String()
	if r.GetRequestId() != "" {
		w.seen[r.GetRequestId()] = memory{digest(r), proto.CloneOf(out)}
	}
	return out, nil
}

func (n *fakeNode) WriteStream(s grpc.BidiStreamingServer[nodev1.WriteRequest, nodev1.WriteResponse]) error {
	var mu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(s.Context(), time.Duration(r.GetTimeoutMs())*time.Millisecond) //nolint:gosec // small
			defer cancel()
			out, err := n.Write(ctx, r)
			if err != nil {
				out = &nodev1.WriteResponse{Id: r.GetId(), Problem: rpc.ProblemOf(err, "demo").JSON()}
			}
			mu.Lock()
			defer mu.Unlock()
			_ = s.Send(out) //nolint:errcheck // then Recv fails too
		})
	}
}

func (n *fakeNode) Read(ctx context.Context, r *nodev1.ReadRequest) (*nodev1.ReadResponse, error) {
	if err := n.gate(ctx); err != nil {
		return nil, err
	}
	v := n.view()
	t := token(r.GetShardKey(), r.GetKey())
	if r.GetShardId() != "" {
		if err := v.table.CheckOwner(t, themis.ShardID(r.GetShardId()), r.GetRoutingVersion()); err != nil {
			return nil, err
		}
	}
	shard := v.table.Shard(t)
	if _, err := n.lead(v, shard); err != nil {
		return nil, err
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	d, ok := n.w.docs[r.GetCollection()][r.GetKey()]
	if !ok {
		return nil, themis.Errorf(themis.NotFound, "no document %q", r.GetKey()).In(shard)
	}
	return &nodev1.ReadResponse{Value: d.value, Version: themis.HLC(d.version).String(), ShardId: string(shard)}, nil
}

func (n *fakeNode) Scan(r *nodev1.ScanRequest, s grpc.ServerStreamingServer[nodev1.ScanResponse]) error {
	if err := n.gate(s.Context()); err != nil {
		return err
	}
	v := n.view()
	shard := themis.ShardID(r.GetShardId())
	if _, err := n.lead(v, shard); err != nil {
		return err
	}
	n.w.mu.Lock()
	var all []*nodev1.ScannedDocument
	for key, d := range n.w.docs[r.GetCollection()] {
		behind := d.token > themis.Token(r.GetFromToken()) || uint32(d.token) == r.GetFromToken() && key > r.GetAfterKey()
		if v.table.Shard(d.token) == shard && behind {
			all = append(all, &nodev1.ScannedDocument{Key: key, Value: d.value, Version: themis.HLC(d.version).String(), Token: uint32(d.token)})
		}
	}
	n.w.mu.Unlock()
	slices.SortFunc(all, func(a, b *nodev1.ScannedDocument) int {
		if a.GetToken() != b.GetToken() {
			return int(int64(a.GetToken()) - int64(b.GetToken()))
		}
		return strings.Compare(a.GetKey(), b.GetKey())
	})
	if l := int(r.GetLimit()); l > 0 && len(all) > l { //nolint:gosec // small
		all = all[:l]
	}
	n.mu.Lock()
	breaks := n.scanned
	n.mu.Unlock()
	for i, d := range all {
		if breaks > 0 && i == breaks {
			return themis.Errorf(themis.Overloaded, "the scan of %s was interrupted", shard)
		}
		if err := s.Send(&nodev1.ScanResponse{Documents: []*nodev1.ScannedDocument{d}}); err != nil {
			return err
		}
	}
	return nil
}

func (n *fakeNode) frame() (*nodev1.StateFrame, error) {
	b, err := json.Marshal(health.Report{Cluster: "demo", Status: health.Healthy})
	return &nodev1.StateFrame{Hlc: themis.HLCAt(time.Now()).String(), ReportJson: b, ObservedAtMs: map[string]uint64{string(n.id): 5}}, err
}

func (n *fakeNode) GetState(ctx context.Context, _ *nodev1.GetStateRequest) (*nodev1.StateFrame, error) {
	if err := n.gate(ctx); err != nil {
		return nil, err
	}
	return n.frame()
}

func (n *fakeNode) WatchState(r *nodev1.WatchStateRequest, s grpc.ServerStreamingServer[nodev1.StateFrame]) error {
	from, _ := themis.ParseHLC(r.GetFromHlc()) //nolint:errcheck // none: 0
	told := map[string]bool{}
	n.w.mu.Lock()
	for _, e := range n.w.events {
		told[e.ID] = from == 0 || e.HLC <= from
	}
	n.w.mu.Unlock()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := n.frame()
		if err != nil {
			return err
		}
		n.w.mu.Lock()
		for _, e := range n.w.events {
			if !told[e.ID] {
				b, _ := json.Marshal(e) //nolint:errcheck // plain values
				f.EventsJson = append(f.EventsJson, b)
				told[e.ID] = true
			}
		}
		n.w.mu.Unlock()
		if err := s.Send(f); err != nil {
			return err
		}
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case <-tick.C:
		}
	}
}

func (n *fakeNode) ListEvents(_ context.Context, r *nodev1.ListEventsRequest) (*nodev1.ListEventsResponse, error) {
	from, _ := themis.ParseHLC(r.GetFromHlc()) //nolint:errcheck // none: 0
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	out := &nodev1.ListEventsResponse{}
	for _, e := range n.w.events {
		if e.HLC >= from {
			b, _ := json.Marshal(e) //nolint:errcheck // plain values
			out.EventsJson = append(out.EventsJson, b)
		}
	}
	return out, nil
}

func (n *fakeNode) Act(_ context.Context, r *nodev1.ActRequest) (*nodev1.ActResponse, error) {
	n.mu.Lock()
	n.acts++
	after := n.after
	n.mu.Unlock()
	if after != nil {
		after()
	}
	return &nodev1.ActResponse{ResultJson: r.GetArgsJson()}, nil
}

func (n *fakeNode) ApplyConfig(_ context.Context, r *nodev1.ApplyConfigRequest) (*nodev1.ApplyConfigResponse, error) {
	return &nodev1.ApplyConfigResponse{Version: 7, ChangesJson: []byte(`[{"key":"a"}]`), Applied: !r.GetDryRun()}, nil
}

// keysOf makes n keys that belong to a shard.
func (w *world) keysOf(shard themis.ShardID, n int) []string {
	var out []string
	for i := 0; len(out) < n; i++ {
		if k := fmt.Sprintf("key-%d", i); w.truth().table.ShardOfKey(k) == shard {
			out = append(out, k)
		}
	}
	return out
}

func (w *world) effect(key string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.effects[key]
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come about", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func wantCode(t *testing.T, err error, want themis.Code) {
	t.Helper()
	if got := themis.CodeOf(err); got != want {
		t.Fatalf("%q is %s; want %s", err, got, want)
	}
}
