package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/themisdb/themis/pkg/pki"
)

// Peer is who is on the other side of a call, as its verified certificate says. A handler that runs has one, except Join's.
func Peer(ctx context.Context) (pki.Info, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return pki.Info{}, false
	}
	a, ok := p.AuthInfo.(authInfo)
	if !ok || a.who == nil {
		return pki.Info{}, false
	}
	return *a.who, true
}

// authInfo is what a handshake found out; it is worked out once for each connection.
type authInfo struct {
	credentials.TLSInfo
	who *pki.Info // nil: no certificate was presented
}

// lingerTime and lingerBytes bound how long a server listens on after it has refused a certificate. Closed at once, with what the
// client has sent meanwhile unread, the connection would be reset, and the alert that says why would be lost.
const (
	lingerTime  = 250 * time.Millisecond
	lingerBytes = 64 << 10
)

// transport is the TLS of one server or one target, with counters and a list of what is open.
type transport struct {
	config  *tls.Config // of a pki.Source: each handshake uses the certificates of its moment
	metrics *Metrics
	open    *connections
	onShake func(error)                 // told how each handshake ended, and of an alert that came after it
	onOpen  func(pki.Info) (end func()) // told of each connection; end is called when it is closed
}

func (t *transport) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (t *transport) Clone() credentials.TransportCredentials { c := *t; return &c }

// OverrideServerName is part of the interface; the name that counts is that of the dialled host.
func (t *transport) OverrideServerName(string) error {
	return errors.New("the server name is the dialled host's")
}

func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	held := &heldConn{Conn: raw}
	conn, info, err := t.shake(held, func(c credentials.TransportCredentials, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
		return c.ServerHandshake(raw)
	})
	if err != nil && badCertificate(err) {
		linger(raw)
	}
	held.released.Store(true)
	return conn, info, err
}

func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return t.shake(raw, func(c credentials.TransportCredentials, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
		return c.ClientHandshake(ctx, authority, raw)
	})
}

// shake runs a handshake with the certificates of this moment.
func (t *transport) shake(raw net.Conn, run func(credentials.TransportCredentials, net.Conn) (net.Conn, credentials.AuthInfo, error)) (net.Conn, credentials.AuthInfo, error) {
	fail := func(err error) (net.Conn, credentials.AuthInfo, error) {
		if badCertificate(err) {
			t.metrics.badCerts.Inc()
		}
		t.onShake(err)
		return nil, nil, err
	}
	began := time.Now()
	conn, info, err := run(credentials.NewTLS(t.config), countedConn{raw, t.metrics})
	if err != nil {
		return fail(err)
	}
	found, ok := info.(credentials.TLSInfo)
	if !ok {
		return fail(fmt.Errorf("handshake: %T is no TLS", info))
	}
	auth, name := authInfo{TLSInfo: found}, pki.Info{}
	if len(found.State.PeerCertificates) > 0 {
		who, err := pki.PeerInfo(found.State)
		if err != nil {
			conn.Close() //nolint:errcheck,gosec // the refusal is what counts
			return fail(err)
		}
		auth.who, name = &who, who
	}
	t.metrics.handshakes.Observe(time.Since(began).Seconds())
	t.onShake(nil)
	return t.open.add(conn, found.State, t.onShake, t.onOpen(name)), auth, nil
}

// badCertificate answers whether this side refused the other's certificate.
func badCertificate(err error) bool {
	_, refused := errors.AsType[*pki.Refusal](err)
	return refused || errors.Is(err, pki.ErrExtension)
}

// heldConn stays open until it is released; gRPC closes what is below it when the handshake fails.
type heldConn struct {
	net.Conn
	released atomic.Bool
}

func (h *heldConn) Close() error {
	if !h.released.Load() {
		return nil
	}
	return h.Conn.Close()
}

// linger says that no more will come, and reads until the client, having read why, hangs up.
func linger(raw net.Conn) {
	half, ok := raw.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || raw.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	io.CopyN(io.Discard, raw, lingerBytes) //nolint:errcheck,gosec // whatever ends it, the connection is closed next
}
