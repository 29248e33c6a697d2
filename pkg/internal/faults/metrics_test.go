package faults

import (
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A cluster at work shows every metric of Annex C by its name, type and labels; those of spares come with the spares.
func TestMetricsOfAnnexC(t *testing.T) {
	h := newHosts(t, setup{})
	w := h.work(6)
	w.more(t, 200, rto)
	w.end(t, 200)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url(h.names[0], "/api/v1/collections/things/documents?limit=3"), nil)
	if err != nil {
		t.Fatal(err)
	}
	listing, err := h.http.Do(req)
	if err == nil {
		err = listing.Body.Close()
	}
	if err != nil || listing.StatusCode != http.StatusOK {
		t.Fatalf("a listing of all shards: %+v, %v", listing, err)
	}
	text := ""
	for _, n := range h.names {
		resp, err := http.Get("http://" + h.addr[n]["metrics"] + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", n, resp.Status, err)
		}
		text += string(body)
	}
	for _, want := range []struct{ name, kind, labels string }{
		{"rpc_shard_requests_total", "counter", "protocol operation status"},
		{"rpc_shard_request_duration_seconds", "histogram", "protocol operation"},
		{"rpc_shard_active_connections", "gauge", "protocol target_shard"},
		{"rpc_shard_bytes_sent_total", "counter", "protocol"},
		{"rpc_shard_bytes_received_total", "counter", "protocol"},
		{"rpc_shard_certificate_verification_failures_total", "counter", ""},
		{"rpc_shard_tls_handshake_duration_seconds", "histogram", ""},
		{"themis_shard_size_bytes", "gauge", "shard_id"},
		{"themis_shard_ops_total", "counter", "shard_id"},
		{"themis_cross_shard_queries", "counter", ""},
		{"themis_shard_health", "gauge", "shard"},
		{"themis_wal_replication_lag_seconds", "gauge", "replica"},
		{"themis_wal_replication_lag_bytes", "gauge", "replica"},
		{"themis_wal_segments_total", "gauge", ""},
		{"themis_wal_size_bytes", "gauge", ""},
		{"themis_wal_sync_operations_total", "counter", ""},
		{"themis_wal_sync_duration_seconds", "histogram", ""},
	} {
		if !strings.Contains(text, "# TYPE "+want.name+" "+want.kind+"\n") {
			t.Errorf("no %s %s", want.kind, want.name)
			continue
		}
		sample := want.name
		if want.kind == "histogram" {
			sample += "_count"
		}
		m := regexp.MustCompile(`(?m)^` + sample + `(\{([^}]*)\})? `).FindStringSubmatch(text)
		if m == nil {
			t.Errorf("%s has no sample", sample)
			continue
		}
		var have []string
		for _, l := range regexp.MustCompile(`(\w+)="`).FindAllStringSubmatch(m[2], -1) {
			have = append(have, l[1])
		}
		for _, l := range strings.Fields(want.labels) {
			if !slices.Contains(have, l) {
				t.Errorf("%s has the labels %v, not %s", sample, have, l)
			}
		}
	}
	for _, moved := range []string{"themis_wal_sync_operations_total", "themis_wal_size_bytes", "themis_cross_shard_queries", "themis_wal_segments_total",
		"themis_shard_ops_total", "themis_shard_size_bytes", "rpc_shard_requests_total", "rpc_shard_bytes_sent_total", "rpc_shard_bytes_received_total", "rpc_shard_active_connections",
		"themis_wal_sync_duration_seconds_count", "rpc_shard_request_duration_seconds_count", "rpc_shard_tls_handshake_duration_seconds_count"} {
		if regexp.MustCompile(`(?m)^`+moved+`(\{[^}]*\})? [1-9]`).FindString(text) == "" {
			t.Errorf("%s stayed at 0 under writes", moved)
		}
	}
}
