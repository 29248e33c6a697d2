package control

import "github.com/prometheus/client_golang/prometheus"

// Gatherer is where an embedded etcd's metrics are: etcd registers about 120 families on prometheus.DefaultRegisterer and
// nowhere else. Serve it beside the node's own registry (prometheus.Gatherers); never register etcd's collectors again.
func Gatherer() prometheus.Gatherer { return prometheus.DefaultGatherer }
