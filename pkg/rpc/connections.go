package rpc

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
)

// connections lists the open connections with what their handshakes found.
type connections struct {
	mu   sync.Mutex
	open map[*openConn]struct{}
}

// openConn is one of them.
type openConn struct {
	net.Conn
	list    *connections
	state   tls.ConnectionState
	onShake func(error)
	onClose func()
	once    sync.Once
}

func newConnections() *connections { return &connections{open: map[*openConn]struct{}{}} }

func (l *connections) add(c net.Conn, state tls.ConnectionState, onShake func(error), onClose func()) *openConn {
	o := &openConn{Conn: c, list: l, state: state, onShake: onShake, onClose: onClose}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[o] = struct{}{}
	return o
}

// recheck closes the connections whose other side is no longer believed and counts them.
func (l *connections) recheck(check func(tls.ConnectionState) error) int {
	l.mu.Lock()
	var gone []*openConn
	for o := range l.open {
		if len(o.state.PeerCertificates) > 0 && check(o.state) != nil {
			gone = append(gone, o)
		}
	}
	l.mu.Unlock()
	for _, o := range gone {
		o.Close() //nolint:errcheck,gosec // gRPC reports the loss to every call on it
	}
	return len(gone)
}

// Read passes on what the other side says when it refuses our certificate: under TLS 1.3 that comes after the handshake.
func (o *openConn) Read(b []byte) (int, error) {
	n, err := o.Conn.Read(b)
	if err != nil && remoteAlert(err) {
		o.onShake(err)
	}
	return n, err
}

func (o *openConn) Close() error {
	o.once.Do(func() {
		o.list.mu.Lock()
		delete(o.list.open, o)
		o.list.mu.Unlock()
		o.onClose()
	})
	return o.Conn.Close()
}

// remoteAlert answers whether err is a TLS alert of the other side.
func remoteAlert(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}
