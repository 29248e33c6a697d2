package faults

import (
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
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
		text += h.metrics(n)
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

// A follower that is paused shows in the figures of the primary that waits for it, and no other does; once it goes on they are as before.
func TestMetricsOfAPausedFollower(t *testing.T) {
	h := newHosts(t, setup{shards: 1, rf: 3, k: 2})
	primary := string(h.until("shard-1 is led", rto, func(r health.Report) bool { return r.Shards[0].Primary != "" }).Shards[0].Primary)
	others := slices.DeleteFunc(slices.Clone(h.names), func(n string) bool { return n == primary })
	paused, well := others[0], others[1]
	wait := func(what string, serves float64, lags func(seconds, bytes float64) bool) {
		t.Helper()
		for deadline := time.Now().Add(heal); ; <-time.After(50 * time.Millisecond) {
			text := h.metrics(primary)
			lag := func(node, unit string) float64 {
				return sample(t, text, "themis_wal_replication_lag_"+unit+`{replica="`+node+`",shard_id="shard-1"}`)
			}
			if sample(t, text, `themis_shard_health{shard="shard-1"}`) == serves && lags(lag(paused, "seconds"), lag(paused, "bytes")) &&
				lag(well, "seconds") == 0 && lag(well, "bytes") == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: the figures of %s:\n%s", what, primary, text)
			}
		}
	}
	none := func(seconds, bytes float64) bool { return seconds == 0 && bytes == 0 }
	wait("all have all", 1, none)
	w := h.work(6) // at every moment some writes are on their way to the followers
	w.more(t, 50, rto)
	h.pause(paused)
	wait(paused+" lacks writes", 0, func(seconds, bytes float64) bool {
		return seconds >= 1 && seconds <= heal.Seconds() && bytes > 0 && bytes < 64<<10
	})
	h.resume(paused)
	w.more(t, 50, rto)
	w.end(t, 100)
	wait("all have all again", 1, none)
}

// A node that is paused was heard just before, also where nobody had asked for the health of the cluster for a while.
func TestHeartbeatOfAPausedNode(t *testing.T) {
	h := newHosts(t, setup{})
	now := h.until("there is a controller", rto, func(r health.Report) bool { return r.Control.Controller != "" })
	victim := h.names[slices.IndexFunc(h.names, func(n string) bool { return n != string(now.Control.Controller) })]
	<-time.After(6 * time.Second)
	h.pause(victim)
	paused := time.Now()
	<-time.After(time.Second)
	r, err := h.report()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range r.Nodes {
		if most := time.Since(paused) + 2*time.Second; string(n.ID) == victim && (n.LastHeartbeat == nil || *n.LastHeartbeat < 900 || *n.LastHeartbeat > most.Milliseconds()) {
			t.Errorf("%s after a pause of %s: %+v", victim, time.Since(paused), n)
		}
	}
}

func (h *hosts) metrics(node string) string {
	h.t.Helper()
	resp, err := http.Get("http://" + h.addr[node]["metrics"] + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %s, %v", node, resp.Status, err)
	}
	return string(body)
}

// sample is the value of a series that must be there.
func sample(t *testing.T, text, series string) float64 {
	t.Helper()
	_, rest, found := strings.Cut("\n"+text, "\n"+series+" ")
	value, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(value, 64)
	if !found || err != nil {
		t.Fatalf("%s: %q, %v", series, value, err)
	}
	return v
}
