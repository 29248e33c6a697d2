package rpc

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/themisdb/themis/pkg/themis"
)

// protocol is the value of the label of the same name. The HTTP face counts under its own.
const protocol = "grpc"

// Metrics counts what goes over the wire. One is shared by a node's Server and Pool.
type Metrics struct {
	requests    *prometheus.CounterVec   // protocol, operation, status; counted where they are served
	duration    *prometheus.HistogramVec // protocol, operation; unary calls and streams that end by themselves
	connections *prometheus.GaugeVec     // protocol, target_shard; the Pool's, established
	sent        prometheus.Counter       // bytes on the socket, TLS included, both roles
	received    prometheus.Counter
	badCerts    prometheus.Counter // both roles
	handshakes  prometheus.Histogram
	fallbacks   *prometheus.CounterVec // operation
}

// NewMetrics makes the metrics and registers them; with a nil registerer they count unseen.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	bytes := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"protocol"})
	}
	sent := bytes("rpc_shard_bytes_sent_total", "Bytes written to sockets, TLS included.")
	received := bytes("rpc_shard_bytes_received_total", "Bytes read from sockets, TLS included.")
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rpc_shard_requests_total", Help: "Requests served, by operation and outcome: success, canceled, or an error code in lower case.",
		}, []string{"protocol", "operation", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rpc_shard_request_duration_seconds", Help: "Time to serve a request; streams without an end of their own are left out.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 14), // 100 µs to 15 s
		}, []string{"protocol", "operation"}),
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rpc_shard_active_connections", Help: "Established connections to other nodes, by the shard that the peer's certificate is bound to, else by its node.",
		}, []string{"protocol", "target_shard"}),
		sent: sent.WithLabelValues(protocol), received: received.WithLabelValues(protocol),
		badCerts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rpc_shard_certificate_verification_failures_total", Help: "Handshakes refused by this side because of the other side's certificate.",
		}),
		handshakes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rpc_shard_tls_handshake_duration_seconds", Help: "Time of TLS handshakes that succeeded.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14), // 0.5 ms to 4 s
		}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rpc_shard_fallbacks_total", Help: "Calls that went over HTTP because gRPC could not be reached.",
		}, []string{"operation"}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.duration, m.connections, sent, received, m.badCerts, m.handshakes, m.fallbacks)
	}
	return m
}

// Fallback counts a call that was made over HTTP instead, after MayFallBack had allowed it.
func (m *Metrics) Fallback(operation string) { m.fallbacks.WithLabelValues(operation).Inc() }

// served counts one request.
func (m *Metrics) served(ctx context.Context, row Method, began time.Time, err error) {
	m.requests.WithLabelValues(protocol, row.Operation, outcome(ctx, row, err)).Inc()
	if !row.Long {
		m.duration.WithLabelValues(protocol, row.Operation).Observe(time.Since(began).Seconds())
	}
}

func outcome(ctx context.Context, row Method, err error) string {
	if err == nil {
		return "success"
	}
	if _, ours := errors.AsType[*themis.Error](err); !ours && errors.Is(ctx.Err(), context.Canceled) {
		return "canceled" // the caller went away
	}
	return strings.ToLower(string(asError(err, row.Changes).Code))
}

// countedConn counts what passes a socket below TLS.
type countedConn struct {
	net.Conn
	m *Metrics
}

func (c countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.m.received.Add(float64(n))
	return n, err
}

func (c countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.m.sent.Add(float64(n))
	return n, err
}
