package node

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/themisdb/themis/pkg/control"
)

// metrics are the node's figures, named as Annex C of the requirements has them.
type metrics struct {
	n        *Node
	registry *prometheus.Registry

	shardOps      *prometheus.CounterVec
	votesRejected *prometheus.CounterVec
	walSyncs      prometheus.Counter
	walSync       prometheus.Histogram
	eventsDropped prometheus.Counter
	crossShard    prometheus.Counter
	doubles       prometheus.Counter

	streamsRefused *prometheus.CounterVec
	beatsRefused   *prometheus.CounterVec
	peersRefused   *prometheus.CounterVec
}

var (
	descSize     = prometheus.NewDesc("themis_shard_size_bytes", "Bytes of the documents of a shard, as its copy here has them.", []string{"shard_id"}, nil)
	descHealth   = prometheus.NewDesc("themis_shard_health", "1 where this node leads the shard and serves reads and writes, 0 where it leads and does not.", []string{"shard"}, nil)
	descLag      = prometheus.NewDesc("themis_wal_replication_lag_seconds", "How long a replica has lacked its oldest missing entry, as its primary sees it.", []string{"replica", "shard_id"}, nil)
	descLagBytes = prometheus.NewDesc("themis_wal_replication_lag_bytes", "Log bytes that a replica lacks, as its primary sees it.", []string{"replica", "shard_id"}, nil)
	descSegments = prometheus.NewDesc("themis_wal_segments_total", "Segment files of all logs on this node.", nil, nil)
	descWAL      = prometheus.NewDesc("themis_wal_size_bytes", "Bytes of all logs on this node.", nil, nil)
)

func newMetrics(n *Node) *metrics {
	m := &metrics{
		n: n, registry: prometheus.NewRegistry(),
		shardOps:       prometheus.NewCounterVec(prometheus.CounterOpts{Name: "themis_shard_ops_total", Help: "Reads and writes served by a shard's copy on this node."}, []string{"shard_id"}),
		votesRejected:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "themis_votes_rejected_total", Help: "Ballots not given or not counted."}, []string{"reason"}),
		walSyncs:       prometheus.NewCounter(prometheus.CounterOpts{Name: "themis_wal_sync_operations_total", Help: "Fsyncs of logs."}),
		walSync:        prometheus.NewHistogram(prometheus.HistogramOpts{Name: "themis_wal_sync_duration_seconds", Help: "Time of one write and fsync of a log.", Buckets: prometheus.ExponentialBuckets(50e-6, 2, 16)}),
		eventsDropped:  prometheus.NewCounter(prometheus.CounterOpts{Name: "themis_events_dropped_total", Help: "Events that did not reach the audit trail because the control plane was away too long."}),
		crossShard:     prometheus.NewCounter(prometheus.CounterOpts{Name: "themis_cross_shard_queries", Help: "Requests over HTTP that needed more than one shard."}),
		streamsRefused: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "themis_streams_refused_total", Help: "Streams of primaries that were not taken."}, []string{"reason"}),
		beatsRefused:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "themis_controller_heartbeats_refused_total", Help: "Heartbeats of those who are not the controller."}, []string{"reason"}),
		peersRefused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "themis_peers_refused_total", Help: "Handshakes refused on either side, on every port, because of the other side's certificate.",
		}, []string{"port", "side", "reason"}),
		doubles: prometheus.NewCounter(prometheus.CounterOpts{Name: "themis_second_processes_total", Help: "Processes that asked under this node's own identity."}),
	}
	m.registry.MustRegister(m, m.shardOps, m.votesRejected, m.walSyncs, m.walSync, m.eventsDropped, m.crossShard, m.doubles, m.streamsRefused, m.beatsRefused, m.peersRefused)
	return m
}

func (m *metrics) synced(took time.Duration, _, _ int) {
	m.walSyncs.Inc()
	m.walSync.Observe(took.Seconds())
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSize, descHealth, descLag, descLagBytes, descSegments, descWAL} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	segments, bytes := 0, 0.0
	for id, r := range m.n.shards.all() {
		st := r.Status()
		segments += st.Segments
		bytes += float64(st.LogBytes)
		gauge(descSize, float64(st.Store.Bytes), string(id))
		if st.Reign == nil {
			continue
		}
		ok := 0.0
		if st.Reign.NotServing == "" && st.Reign.NotWriting == "" {
			ok = 1
		}
		gauge(descHealth, ok, string(id))
		for _, c := range st.Reign.Copies {
			gauge(descLag, c.Missing.Seconds(), string(c.Member.Node), string(id))
			gauge(descLagBytes, float64(c.LagBytes), string(c.Member.Node), string(id))
		}
	}
	gauge(descSegments, float64(segments))
	gauge(descWAL, bytes)
}

func (m *metrics) handler() http.Handler {
	mux := http.NewServeMux()
	both := prometheus.Gatherers{m.registry, control.Gatherer()}
	mux.Handle("GET /metrics", promhttp.HandlerFor(both, promhttp.HandlerOpts{}))
	return mux
}
