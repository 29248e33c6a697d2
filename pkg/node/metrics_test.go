package node

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/themisdb/themis/pkg/loopback"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// The environment says whether themisd serves metrics, and at which port.
func TestMetricsByTheEnvironment(t *testing.T) {
	f := newFleetWith(t, nil, "node-1")
	files := pki.FilesIn(f.path("pki"), "node-1")
	_, port, err := net.SplitHostPort(loopback.Addr(t))
	if err != nil {
		t.Fatal(err)
	}
	served := func(environ ...string) (addr string, status int, body string) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		told, out := io.Pipe()
		ended := make(chan int, 1)
		go func() {
			ended <- Main(ctx, "themisd", []string{
				"--id", "node-1", "--data-dir", f.path("node-1"), "--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0",
				"--control-peer-listen", f.peer["node-1/peer"], "--control-client-listen", f.peer["node-1/client"],
				"--pki-cert", files.Cert, "--pki-key", files.Key, "--pki-ca", files.CA,
			}, environ, out, io.Discard)
			_ = out.Close()
		}()
		defer func() {
			stop()
			if code := <-ended; code != themis.ExitOK {
				t.Errorf("it ended with %d", code)
			}
		}()
		line, err := bufio.NewReader(told).ReadBytes('\n')
		var bound struct {
			Metrics string `json:"metrics_addr"`
		}
		if err == nil {
			err = json.Unmarshal(line, &bound)
		}
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%s/metrics", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return bound.Metrics, 0, ""
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Error(err)
		}
		return bound.Metrics, resp.StatusCode, string(b)
	}
	addr, status, body := served("THEMIS_METRICS_PORT=" + port)
	if !strings.HasSuffix(addr, ":"+port) || status != http.StatusOK || !strings.Contains(body, "# TYPE themis_wal_size_bytes gauge\n") {
		t.Errorf("at port %s: %q bound, %d, %.300s", port, addr, status, body)
	}
	if addr, status, _ := served("THEMIS_METRICS_ENABLED=false", "THEMIS_METRICS_PORT="+port); addr != "" || status != 0 {
		t.Errorf("switched off: %q bound, answered with %d", addr, status)
	}
}
