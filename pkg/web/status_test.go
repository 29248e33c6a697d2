package web

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
)

func TestStatusRows(t *testing.T) {
	onBoth(t, func(t *testing.T, f *face, c *http.Client, base string) {
		for _, path := range []string{"/cluster/status", "/cluster/health"} {
			got := ask(t, c, "GET", base+path, "")
			var report health.Report
			if err := json.Unmarshal([]byte(got.body), &report); err != nil || got.status != 200 || report.Status != health.Critical || report.Cluster != "demo" ||
				got.header.Get("Content-Type") != "application/json" || got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s: %d %s %v", path, got.status, got.body, got.header)
			}
		}
		ask(t, c, "GET", base+"/healthz", "").want(t, 200, "ok\n")
		ask(t, c, "GET", base+"/readyz", "").want(t, 200, "ok\n")
		ask(t, c, "GET", base+"/metrics", "").want(t, 200, "themis_wal_segments_total 3\n")
		got := ask(t, c, "GET", base+"/", "")
		for _, want := range []string{"demo", documentsPath, "/cluster/health", "/healthz", "/readyz", "/metrics"} {
			if got.status != 200 || !strings.Contains(got.body, want) {
				t.Errorf("GET /: %d, no %s in\n%s", got.status, want, got.body)
			}
		}
	})
}

func TestNotReady(t *testing.T) {
	f := startFace(t, nil)
	c := plainClient(t)
	for _, err := range []error{
		themis.Errorf(themis.NoPrimary, "this node belongs to no cluster yet"),
		themis.Errorf(themis.ReadOnly, "the copy of shard-1 is out").In("shard-1"),
		themis.Errorf(themis.Corrupt, "a code whose status is another"),
	} {
		f.twin.unready = err
		ask(t, c, "GET", f.plain()+"/readyz", "").problemWith(t, themis.CodeOf(err), 503, err.Error())
		ask(t, c, "GET", f.plain()+"/healthz", "").want(t, 200, "ok\n")
	}
	f.twin.failing = themis.Errorf(themis.NoPrimary, "no map")
	ask(t, c, "GET", f.plain()+"/cluster/health", "").problem(t, themis.NoPrimary, "no map")
}

func TestNoMetrics(t *testing.T) {
	f := startFace(t, func(o *Options) { o.Metrics = nil })
	ask(t, plainClient(t), "GET", f.plain()+"/metrics", "").problem(t, themis.NotFound, "/metrics")
}

// A panic is one line of the log and one answer; the node lives on, and says nothing of what it can't know.
func TestPanics(t *testing.T) {
	var log strings.Builder
	f := startFace(t, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	c := plainClient(t)
	f.twin.before = func(_ context.Context, what, _ string) error {
		if what == "row" {
			return nil
		}
		panic("index out of range: " + what)
	}
	ask(t, c, "GET", f.plain()+docs+"/a", "").problem(t, themis.Internal, "a fault of ours")
	ask(t, c, "PUT", f.plain()+docs+"/a", "1").problem(t, themis.OutcomeUnknown, "a fault of ours")
	ask(t, c, "GET", f.plain()+docs, "").problem(t, themis.Internal, "a fault of ours")
	got := ask(t, c, "POST", f.plain()+docs, `{"_key":"a"}`)
	if !strings.Contains(got.body, `"failed":1`) || !strings.Contains(got.body, `"OUTCOME_UNKNOWN"`) {
		t.Errorf("load: %s", got.body)
	}
	ask(t, c, "GET", f.plain()+"/healthz", "").want(t, 200, "ok\n")
	f.stop()
	<-f.done
	for _, what := range []string{"read", "write", "scan"} {
		if n := strings.Count(log.String(), "err=\"index out of range: "+what); n != map[string]int{"read": 1, "write": 2, "scan": 1}[what] {
			t.Errorf("%d lines of %s in\n%s", n, what, log.String())
		}
	}
	if !strings.Contains(log.String(), "twin_test.go") && !strings.Contains(log.String(), "status_test.go") {
		t.Errorf("no stack in %s", log.String())
	}
}

// The page names all that there is.
func TestReferencePage(t *testing.T) {
	b := must(os.ReadFile("../../docs/reference/http.md"))(t)
	page := string(b)
	want := []string{
		documentsPath + "/{key}", documentsPath + "`", "/cluster/status", "/cluster/health", "/healthz", "/readyz", "/metrics",
		"write_concern", "timeout_ms", "shard_key", "session_token", "consistency", "key_field", "limit", "after",
		"If-Match", "If-None-Match", "Idempotency-Key", "X-Themis-Session", "X-Themis-Shard", "X-Themis-Next", "ETag", "Allow", "plain_loopback",
		fmt.Sprintf("%d", maxLimit), fmt.Sprintf("%d", defaultLimit), fmt.Sprintf("%d", maxWrites), fmt.Sprintf("%d loads", maxLoads), fmt.Sprintf("%d listings", maxListings),
	}
	for _, info := range themis.Codes() {
		if info.Code != themis.Unreachable {
			want = append(want, fmt.Sprintf("| `%s` | %d |", info.Code, info.Status))
		}
	}
	for _, text := range want {
		if !strings.Contains(page, text) {
			t.Errorf("docs/reference/http.md does not tell of %s", text)
		}
	}
}
