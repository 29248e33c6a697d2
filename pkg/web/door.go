package web

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"
)

// tlsRecord is the first byte of every TLS connection; no HTTP method begins with it.
const tlsRecord = 0x16

// door sorts the connections of one listener by their first byte. It is the net.Listener of an http.Server, which gets a
// connection only once it has spoken: a silent one holds up nobody and ends after headerTimeout.
type door struct {
	inner  net.Listener
	config *tls.Config // nil: every handshake fails
	log    *slog.Logger

	sorted chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	unspoken map[net.Conn]bool // at most maxUnspoken
	ending   bool

	sorters sync.WaitGroup // one for each of unspoken
	conns   sync.WaitGroup // one for each connection that is not closed
}

func newDoor(l net.Listener, config *tls.Config, log *slog.Logger) *door {
	return &door{
		inner: l, config: config, log: log,
		sorted: make(chan net.Conn), closed: make(chan struct{}), unspoken: map[net.Conn]bool{},
	}
}

// run accepts until ctx ends or the listener breaks; then the listener and all unspoken connections are closed. It returns why.
func (d *door) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = d.inner.Close() })
	defer stop()
	defer d.dismiss()
	pause := time.Duration(0)
	for {
		conn, err := d.inner.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return ctx.Err()
		case err == nil:
			pause = 0
			d.admit(conn)
			continue
		case errors.Is(err, net.ErrClosed):
			return err
		}
		if pause == 0 { // out of file descriptors, most likely; it passes
			d.log.WarnContext(ctx, "accept HTTP connection", "err", err)
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// admit begins to sort a connection; one too many is closed.
func (d *door) admit(raw net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.unspoken) >= maxUnspoken {
		_ = raw.Close()
		return
	}
	d.conns.Add(1)
	conn := &spoken{Conn: raw, done: d.conns.Done}
	d.unspoken[conn] = true
	d.sorters.Go(func() { d.sort(conn) })
}

// sort hands the connection on once its first byte is there.
func (d *door) sort(conn *spoken) {
	err := conn.SetReadDeadline(time.Now().Add(headerTimeout))
	if err == nil {
		_, err = conn.Conn.Read(conn.first[:])
	}
	d.mu.Lock()
	delete(d.unspoken, conn)
	ending := d.ending
	d.mu.Unlock()
	if err != nil || ending {
		_ = conn.Close()
		return
	}
	var out net.Conn = conn // the server sets deadlines of its own
	if conn.first[0] == tlsRecord {
		out = tls.Server(conn, d.config)
	}
	select {
	case d.sorted <- out:
	case <-d.closed:
		_ = conn.Close()
	}
}

// dismiss closes what has not spoken.
func (d *door) dismiss() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ending = true
	for conn := range d.unspoken {
		_ = conn.Close()
	}
	_ = d.inner.Close()
}

// wait returns when every connection is closed.
func (d *door) wait() {
	d.sorters.Wait()
	d.conns.Wait()
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	select {
	case conn := <-d.sorted:
		return conn, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.inner.Close()
}

// Addr implements net.Listener.
func (d *door) Addr() net.Addr { return d.inner.Addr() }

// spoken is a connection whose first byte was read already.
type spoken struct {
	net.Conn
	first [1]byte
	given bool // first was passed on; only the reader touches it
	once  sync.Once
	done  func()
}

// Read passes on the first byte, then the rest.
func (c *spoken) Read(b []byte) (int, error) {
	if c.given || len(b) == 0 {
		return c.Conn.Read(b)
	}
	b[0], c.given = c.first[0], true
	return 1, nil
}

// Close implements net.Conn.
func (c *spoken) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.done)
	return err
}

// CloseWrite lets an answer reach a client that is still sending.
func (c *spoken) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
