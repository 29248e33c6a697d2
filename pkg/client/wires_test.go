package client

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/pki"
)

// wires are the connections of a client, so that a test can cut them or forbid them.
type wires struct {
	mu     sync.Mutex
	open   map[string][]net.Conn
	barred map[string]bool
}

func (x *wires) dial(ctx context.Context, addr string) (net.Conn, error) {
	x.mu.Lock()
	barred := x.barred[addr]
	x.mu.Unlock()
	if barred {
		return nil, fmt.Errorf("dial %s: no route to host", addr)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.open[addr] = append(x.open[addr], conn)
	return conn, nil
}

// cut closes the connections to an address.
func (x *wires) cut(addr string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.open[addr] {
		_ = c.Close()
	}
	delete(x.open, addr)
}

func (x *wires) bar(addr string) {
	x.mu.Lock()
	x.barred[addr] = true
	x.mu.Unlock()
	x.cut(addr)
}

// client is a client of the world and its wires.
func (w *world) client(change ...func(*Options)) (*Client, *wires) {
	w.t.Helper()
	x := &wires{open: map[string][]net.Conn{}, barred: map[string]bool{}}
	o := Options{Source: issue(w.t, w.ca, pki.Request{Client: "tester", Capabilities: []string{pki.Read, pki.Write, pki.Admin}}), Refresh: 20 * time.Millisecond, Dial: x.dial}
	for _, n := range w.nodes {
		o.Endpoints = append(o.Endpoints, n.addr)
	}
	for _, f := range change {
		f(&o)
	}
	c, err := New(testContext(w.t), o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c, x
}
