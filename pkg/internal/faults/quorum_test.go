package faults

import (
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/pki"
	"github.com/themisdb/themis/pkg/themis"
)

// Row 18: two of three members of the control plane are gone; primaries and copies run on. Reads and writes stop with the leases,
// reads at eventual go on, every face says what has happened, and nobody who belongs to the cluster is told to make another. With
// one of the two back all goes on, and nothing that was acknowledged is lost.
func TestControlPlaneMajorityGone(t *testing.T) {
	built := buildCLI(t)
	h := newHosts(t, setup{
		names: []string{"node-1", "node-2", "witness-1", "witness-2", "witness-3"}, control: 3, shards: 2, args: shortLease,
		roles: map[string]string{"witness-1": "controller", "witness-2": "controller", "witness-3": "controller"},
	})
	cli := cli{h, built()}
	w := h.workNear(5, "k")
	w.more(t, 100, rto)
	before := h.epochs(t)
	h.kill("witness-1", "witness-2")
	began := time.Now()
	for _, n := range []string{"node-1", "node-2"} { // whichever leads, all it can do ends with the leases
		h.refuses(t, n, began.Add(6*time.Second))
	}
	r := h.until("health says so", rto, func(r health.Report) bool {
		return finds(r, health.ControlNoQuorum, "control") && !slices.ContainsFunc(r.Shards, func(s health.ShardReport) bool { return s.Readable == nil || *s.Readable || *s.Writable })
	})
	if r.Status != health.Critical || r.Control.Quorum == nil || *r.Control.Quorum {
		t.Errorf("%s, quorum %v", r.Status, r.Control.Quorum)
	}
	var told sync.WaitGroup
	for _, c := range []struct {
		exit int
		args []string
		want []string
	}{
		{1, []string{"cluster", "health"}, []string{"CONTROL_NO_QUORUM", "1 of 3 voting control members answer, 2 are needed", "next: themis-cli node list"}},
		{themis.ExitGaveUp, []string{"node", "remove", "witness-1"}, []string{"the control plane has no quorum", "next: themis-cli cluster health"}},
		{themis.ExitGaveUp, []string{"cluster", "events"}, []string{"the control plane has no quorum", "next: themis-cli cluster health"}},
		{0, []string{"doc", "scan", "things", "--consistency", "eventual", "-o", "ndjson"}, []string{`"k1"`}},
	} {
		told.Go(func() { cli.says(t, c.exit, c.args, c.want...) })
	}
	told.Wait()

	h.kill("node-2")
	h.start("node-2")
	h.ask = []string{"node-2"}
	if _, err := h.report(); err == nil || !strings.Contains(err.Error(), "belongs to demo, whose control plane has not answered") || strings.Contains(err.Error(), "cluster init") {
		t.Errorf("a member that was restarted: %v", err)
	}
	h.ask = nil
	h.start("witness-1")
	w.more(t, 50, rto)
	h.start("witness-2")
	h.until("all is whole again", heal, healthy)
	h.reigned(t, before, 1)
	w.end(t, 150)
}

// refuses waits until a node refuses writes and strong reads, and shows that reads at eventual go on.
func (h *hosts) refuses(t *testing.T, node string, by time.Time) {
	t.Helper()
	for {
		status, answer := h.request(http.MethodPut, node, "k1?timeout_ms=1000", `{"v":-1}`, "If-Match", `"0190f3c2a4b10000"`) // would change nothing
		if status == http.StatusServiceUnavailable {
			break
		}
		if time.Now().After(by) {
			t.Fatalf("%s takes writes without a control plane: %d %s", node, status, answer)
		}
		<-time.After(50 * time.Millisecond)
	}
	status, answer := h.request(http.MethodGet, node, "k1?timeout_ms=1000", "")
	if status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout {
		t.Errorf("a strong read at %s: %d %s", node, status, answer)
	}
	if status, answer := h.request(http.MethodGet, node, "k1?consistency=eventual", ""); status != http.StatusOK {
		t.Errorf("a read at eventual at %s: %d %s", node, status, answer)
	}
}

// cli is the command line tool, as the operator of a cluster has it.
type cli struct {
	h   *hosts
	bin string
}

// buildCLI builds it while the test goes on; the returned function waits for that and tells where it is.
func buildCLI(t *testing.T) (built func() string) {
	t.Helper()
	bin, done := filepath.Join(t.TempDir(), "themis-cli"), make(chan error, 1)
	go func() {
		out, err := exec.Command("go", "build", "-o", bin, "../../../cmd/themis-cli").CombinedOutput() //nolint:gosec,noctx // our own
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		done <- err
	}()
	wait := sync.OnceValue(func() error { return <-done })
	t.Cleanup(func() { _ = wait() })
	return func() string { must(t, wait()); return bin }
}

// says runs a command and checks its exit code and words. No answer may take longer than it would take to ask again.
func (c cli) says(t *testing.T, exit int, args []string, want ...string) {
	files := pki.FilesIn(filepath.Join(c.h.dir, "pki"), "operator")
	var at []string
	for _, n := range c.h.running() {
		at = append(at, c.h.addr[n]["grpc"])
	}
	cmd := exec.CommandContext(t.Context(), c.bin, append([]string{"--endpoint", strings.Join(at, ","), "--cacert", files.CA, "--cert", files.Cert, "--key", files.Key}, args...)...) //nolint:gosec // our own binary
	began := time.Now()
	out, _ := cmd.CombinedOutput()
	if took := time.Since(began); took > rto {
		t.Errorf("%s: an answer after %s", strings.Join(args, " "), took)
	}
	missing := slices.DeleteFunc(want, func(s string) bool { return strings.Contains(strings.Join(strings.Fields(string(out)), " "), s) })
	if got := cmd.ProcessState.ExitCode(); got != exit || len(missing) > 0 {
		t.Errorf("%s: exit %d, want %d; without %q:\n%s", strings.Join(args, " "), got, exit, missing, out)
	}
}
