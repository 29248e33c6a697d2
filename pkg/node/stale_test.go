package node

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/themisdb/themis/pkg/control"
	"github.com/themisdb/themis/pkg/routing"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// cable is a way to an address that can be cut.
type cable struct {
	l  net.Listener
	to string

	mu    sync.Mutex
	cut   bool
	ends  map[net.Conn]bool
	tasks sync.WaitGroup
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{l: l, to: to, ends: map[net.Conn]bool{}}
	c.tasks.Go(func() {
		for conn, err := l.Accept(); err == nil; conn, err = l.Accept() {
			c.tasks.Go(func() { c.carry(conn) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); c.set(true); c.tasks.Wait() })
	return c
}

func (c *cable) carry(near net.Conn) {
	far, err := net.Dial("tcp", c.to)
	if err != nil {
		_ = near.Close()
		return
	}
	defer func() { _, _ = near.Close(), far.Close() }()
	c.mu.Lock()
	cut := c.cut
	c.ends[near], c.ends[far] = true, true
	c.mu.Unlock()
	if cut {
		return
	}
	c.tasks.Go(func() { _, _ = io.Copy(far, near); _ = far.Close() })
	_, _ = io.Copy(near, far)
}

// set cuts it, with all that goes through it, or mends it.
func (c *cable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
	for conn := range c.ends {
		_ = conn.Close()
		delete(c.ends, conn)
	}
}

// exchange asks a node over HTTP.
func (f *fleet) exchange(via, method, path, body string) string {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, "http://"+f.nodes[via].addr.HTTP+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return fmt.Sprintf("%s\n%s\n%s", res.Status, res.Header.Get("Content-Type"), strings.TrimSpace(string(b)))
}

// A range passes to another shard while a node is cut off from the control plane. What that node sends on by its old table, and what is
// sent to it by the new one, has no effect and ends as STALE_ROUTE, over HTTP too; so does a client's own request by an old table.
func TestStaleRoute(t *testing.T) {
	t.Parallel()
	e := newUserEtcd(t, 1, "")
	way := newCable(t, strings.TrimPrefix(e.specs[0].Client, "http://"))
	f := newFleetWith(t, map[string]string{"control.mode": "external", "control.endpoints": e.endpoints()}, "node-1", "node-2")
	f.start("node-1")
	if err := f.tryStart("node-2", map[string]string{"control.endpoints": "http://" + way.l.Addr().String()}); err != nil {
		t.Fatal(err)
	}
	if err := f.tryInit(initArgs{Name: "demo", Shards: 2, RF: 1, Redundancy: "NONE", Mode: themis.Async}); err != nil {
		t.Fatal(err)
	}
	f.until("node-1", "HEALTHY", isHealthy)
	kv, err := control.Connect(t.Context(), control.Dial{Endpoints: []string{e.specs[0].Client}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = kv.Close() }()
	m, err := control.NewMap(kv, f.clusterID("node-1"), control.Options{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := m.View(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var from, to themis.ShardID
	for id, s := range v.Shards {
		if s.Primary.Node == "node-1" {
			from = id
		} else {
			to = id
		}
	}
	var keys []string // of the shard that node-1 leads
	for i := 0; len(keys) < 2; i++ {
		if k := fmt.Sprint("k", i); v.Routing.Shard(routing.TokenOf(k)) == from {
			keys = append(keys, k)
		}
	}
	if err := f.put("node-2", keys[1], "0"); err != nil { // the collection is made, and node-2 has its connection to node-1
		t.Fatal(err)
	}
	key := keys[0]
	token := routing.TokenOf(key)
	path := "/api/v1/collections/things/documents/" + key + "?timeout_ms=600"

	way.set(true)
	next, err := v.Routing.With(routing.Range{From: token, To: token, Shard: to})
	if err == nil {
		err = m.ChangeRouting(t.Context(), v.Controller, next)
	}
	if err != nil {
		t.Fatal(err)
	}
	old := &nodev1.WriteRequest{Collection: "things", ShardId: string(from), RoutingVersion: 1, Forwarded: true, RequestId: "old", Operations: []*nodev1.Operation{{Key: key, Value: []byte("0")}}}
	f.eventually("node-1 has the new table, and refuses a client that has not", func() bool {
		_, err := f.documents("node-1").Write(t.Context(), old)
		return themis.CodeOf(err) == themis.StaleRoute && strings.Contains(err.Error(), fmt.Sprintf("token %d: %s owns it since routing version 2", token, to))
	})
	problem := func(detail string) string {
		return "421 Misdirected Request\napplication/problem+json\n" +
			fmt.Sprintf(`{"code":"STALE_ROUTE","status":421,"title":"The routing table that was used is old","detail":"token %d: %s","retryable":true,"cluster":"demo","shard":"%s",`, token, detail, to) +
			`"fix":"nothing: clients refresh their table and ask again"}`
	}
	for _, c := range []struct{ via, method, detail string }{
		{"node-2", http.MethodPut, fmt.Sprintf("%s owns it since routing version 2 or before, not %s (the sender's version is 1)", to, from)},
		{"node-2", http.MethodGet, fmt.Sprintf("%s owns it since routing version 2 or before, not %s (the sender's version is 1)", to, from)},
		{"node-1", http.MethodPut, "the sender's routing version is 2, this node's is 1"},
	} {
		if got, want := f.exchange(c.via, c.method, path, "1"), problem(c.detail); got != want {
			t.Errorf("%s through %s: got\n%s\nwant\n%s", c.method, c.via, got, want)
		}
	}

	way.set(false)
	f.eventually("node-2 has the new table", func() bool {
		return strings.HasPrefix(f.exchange("node-2", http.MethodGet, path, ""), "404 ")
	})
	f.eventually("the shard's new owner takes the write", func() bool {
		return strings.HasPrefix(f.exchange("node-1", http.MethodPut, path, "2"), "200 ")
	})
	if got := f.exchange("node-2", http.MethodGet, path, ""); !strings.HasSuffix(got, "\n2") {
		t.Error(got)
	}
}

func (f *fleet) clusterID(via string) themis.ClusterID {
	f.t.Helper()
	got, err := f.admin(via).GetMap(f.t.Context(), &nodev1.GetMapRequest{})
	var m ClientMap
	if err == nil {
		err = json.Unmarshal(got.GetMapJson(), &m)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return m.ClusterID
}
