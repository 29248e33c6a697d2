// Package web is the HTTP face of a node: documents, the state of the cluster, and whether the node is alive. The requests, their
// answers and all limits stand in docs/reference/http.md.
//
//	                       ┌─ 0x16 ─► TLS, certificate asked for ─┐
//	listener ─ first byte ─┤                                      ├─► who may ask ─► routes ─► Documents, Source
//	                       └─ else ─► plain HTTP, loopback only ──┘
//
// Over TLS every request needs a certificate of the cluster: with read for GET and HEAD, with write for everything else. Plain
// HTTP is served to loopback alone, as far as Options.PlainLoopback says. A request that a browser was lured into by a foreign
// page is refused on both.
//
// Every error is a Problem of pkg/rpc with the status of its code. A write that may have been done is never answered as
// anything but OUTCOME_UNKNOWN. Nothing is read or kept without a bound: connections that have not spoken yet, headers, bodies,
// the bodies of all requests together, answers that nobody takes, writes under way, pages of a listing.
//
// Serve is the room's only door. It may be called for several listeners at once.
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	nodev1 "github.com/themisdb/themis/pkg/rpc/proto/themis/node/v1"
	"github.com/themisdb/themis/pkg/themis"
)

// Documents is where requests for documents go: any node's router. Its errors are *themis.Error; the context's own errors are
// taken as "it may have been done" for writes. Its methods are called by many goroutines at once and end when ctx does.
type Documents interface {
	Write(ctx context.Context, req *nodev1.WriteRequest) (*nodev1.WriteResponse, error)
	Read(ctx context.Context, req *nodev1.ReadRequest) (*nodev1.ReadResponse, error)
	// Scan yields the documents of req.Collection on the one shard req.ShardId, from req.FromToken on, behind req.AfterKey at
	// that token, in order of (token, key). An error of yield ends it and is its error.
	Scan(ctx context.Context, req *nodev1.ScanRequest, yield func(*nodev1.ScannedDocument) error) error
}

// Source is what the node tells of itself and the cluster.
type Source interface {
	Report(ctx context.Context) (health.Report, error)
	Ready() error // nil: it serves its shards
}

// The values of Options.PlainLoopback.
const (
	PlainOff    = "off"    // no plain HTTP
	PlainStatus = "status" // GET of /cluster/*, /healthz, /readyz and /metrics
	PlainFull   = "full"   // everything, for every local user
)

// Options is what Serve works with. Documents, Source, Cluster and Shards are required.
type Options struct {
	Documents     Documents
	Source        Source
	Metrics       http.Handler            // of GET /metrics; nil: there are none here
	TLS           *tls.Config             // must verify the certificates it is shown; nil: no TLS
	PlainLoopback string                  // off, status or full; empty is status
	Cluster       func() string           // the cluster's name; empty before the node joins
	Shards        func() []themis.ShardID // all shards of the cluster
	Logger        *slog.Logger            // nil: nothing is logged
	CrossShard    func()                  // called for each request that needs more than one shard; nil: nobody counts them

	// CheckPeer verifies the certificate of an open TLS connection again, asked at most once a second for each: it may have been
	// revoked since the handshake. nil: only its end is looked at.
	CheckPeer func(tls.ConnectionState) error

	// CheckBearer verifies the bearer token of a request and says whose it is. nil: none is taken.
	CheckBearer func(token string) (pki.Info, error)
}

const (
	headerTimeout  = 10 * time.Second // for the first byte, for the handshake, and for the header of a request
	idleTimeout    = 2 * time.Minute  // between two requests of a connection
	stallTimeout   = 30 * time.Second // a body or an answer makes some way in this time, or the connection ends
	lingerTimeout  = 5 * time.Second  // for a body that nobody wants, before the answer goes out
	shutdownGrace  = 5 * time.Second  // for requests that are under way when Serve is to end
	maxHeaderBytes = 32 << 10
	maxStreams     = 250       // requests at once on one connection of HTTP/2
	maxUnspoken    = 1024      // connections that have not sent their first byte
	maxBodies      = 512 << 20 // bytes of the bodies of single documents, of all requests together
	maxAnswers     = 512 << 20 // bytes of single documents of more than pieceBytes that clients have not taken yet
	maxLoads       = 16        // bulk loads at once
	maxListings    = 32        // listings at once
)

// server is one Serve.
type server struct {
	Options
	log      *slog.Logger
	bodies   budget // bytes
	answers  budget // bytes
	loads    budget
	listings budget
	handlers sync.WaitGroup
}

func newServer(o Options) (*server, error) {
	switch o.PlainLoopback {
	case PlainOff, PlainStatus, PlainFull:
	case "":
		o.PlainLoopback = PlainStatus
	default:
		return nil, themis.Errorf(themis.InvalidArgument, "http.plain_loopback %q: want off, status or full", o.PlainLoopback)
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &server{Options: o, log: log}
	s.bodies.max, s.answers.max, s.loads.max, s.listings.max = maxBodies, maxAnswers, maxLoads, maxListings
	return s, nil
}

// Serve answers on l until ctx ends, then gives the requests that are under way a few seconds, and returns ctx.Err(). It returns
// earlier only when l breaks. It closes l; nothing that it started outlives it.
func Serve(ctx context.Context, l net.Listener, o Options) error {
	s, err := newServer(o)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	// Requests that are under way when ctx ends go on during the grace.
	requests, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	srv := &http.Server{
		Handler:           s.counted(s.routes()),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       stallTimeout, // handlers of longer bodies and answers move it
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, WriteByteTimeout: stallTimeout},
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext:       func(ctx context.Context, _ net.Conn) context.Context { return withPeer(ctx) },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug), // clients that break off; pki reports refused certificates
	}
	d := newDoor(l, o.TLS, s.log)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(d) }()
	broken := d.run(ctx)

	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := srv.Shutdown(grace); err != nil { // some requests take longer
		abandon()
		_ = srv.Close() // what it could say, Shutdown said
	}
	<-served
	d.wait()
	s.handlers.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("serve HTTP on %s: %w", l.Addr(), broken)
}

// counted lets Serve wait for the handlers.
func (s *server) counted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.Add(1)
		defer s.handlers.Done()
		h.ServeHTTP(w, r)
	})
}
