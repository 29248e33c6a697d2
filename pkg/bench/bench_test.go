package bench

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/node"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
)

// Set for the processes that these tests start.
const (
	beWorker = "BENCH_TEST_WORKER"
	beNode   = "BENCH_TEST_NODE"
)

func TestMain(m *testing.M) {
	if os.Getenv(beWorker) != "" {
		if err := Work(context.Background(), os.Stdin, os.Stdout); err != nil {
			_, _ = os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(beNode) != "" { // its arguments begin with node-run
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(node.Main(ctx, "node", os.Args[2:], os.Environ(), os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func testHost(t testing.TB) Host {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Host{Binary: self, Environ: append(os.Environ(), beWorker+"=1")}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		t     *Target
		ratio float64
		want  Verdict
	}{
		{&Target{0.5, 0.7}, 0.7, Goal}, {&Target{0.5, 0.7}, 0.69, AtFloor}, {&Target{0.5, 0.7}, 0.5, AtFloor},
		{&Target{0.5, 0.7}, 0.49, Below}, {nil, 0, NotJudged},
	} {
		if got := c.t.Judge(c.ratio); got != c.want {
			t.Errorf("%v at %.2f: %s; want %s", c.t, c.ratio, got, c.want)
		}
	}
}

// The best of each side counts, also of different rounds: what disturbed one round is nobody's merit.
func TestRowTakesTheBestOfEach(t *testing.T) {
	r := newRow("write", 16, []Round{{Ours: 50, Base: 200}, {Ours: 100, Base: 100}, {Ours: 90, Base: 80}}, &Target{0.5, 0.7})
	if r.Ours != 100 || r.Base != 200 || r.Ratio != 0.5 || r.Verdict != AtFloor {
		t.Fatalf("%+v", r)
	}
	if c := (Comparison{Rows: []Row{r}}); !c.Met() {
		t.Error("a row at its floor is met")
	}
	if c := (Comparison{Rows: []Row{r, newRow("write", 1, []Round{{1, 3}}, &Target{0.5, 0.7})}}); c.Met() {
		t.Error("a row below its floor is not met")
	}
}

func TestQuantile(t *testing.T) {
	var list []time.Duration
	for i := range 100 {
		list = append(list, time.Duration(i+1))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 50, 0.99: 99, 1: 100} {
		if got := quantile(list, q); got != want {
			t.Errorf("quantile %.2f of 1…100: %d; want %d", q, got, want)
		}
	}
	if quantile(nil, 0.5) != 0 || quantile(list[:1], 0.99) != 1 {
		t.Error("of none and of one")
	}
}

func TestDocumentsAreAsLongAsAsked(t *testing.T) {
	for _, n := range []int{1, 10, 11, 12, 1024, 1 << 20} {
		if got := document(3, 4, n); len(got) != n {
			t.Errorf("%d bytes; want %d", len(got), n)
		}
	}
	if slices.Equal(document(1, 1, 100), document(1, 2, 100)) {
		t.Error("documents don't differ")
	}
}

func TestOptionsThatCantBe(t *testing.T) {
	for _, o := range []Options{{Writers: []int{0}}, {Rounds: -1}, {Each: 1}, {EntryBytes: 2 << 20}} {
		if _, err := WAL(t.Context(), o); themis.CodeOf(err) != themis.InvalidArgument {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func TestWAL(t *testing.T) {
	dir := t.TempDir()
	c, err := WAL(t.Context(), Options{Dir: dir, Writers: []int{1, 4}, Rounds: 2, Each: 5 * time.Millisecond, EntryBytes: 100})
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, c, []int{1, 4}, 2)
	empty(t, dir)
}

// Three real processes: SYNC writes reach all three stores (settle fails where one lacks them), and nothing stays behind.
func TestReplication(t *testing.T) {
	dir, profiles := t.TempDir(), t.TempDir()
	c, err := Replication(t.Context(), testHost(t), Options{Dir: dir, Writers: []int{1, 4}, Rounds: 2, Each: 30 * time.Millisecond, EntryBytes: 100, Profile: profiles})
	if err != nil {
		t.Fatal(err)
	}
	checkRows(t, c, []int{1, 4, 1, 4}, 2)
	for i, r := range c.Rows {
		if want := []string{"replicate", "replicate", "write", "write"}[i]; r.Op != want {
			t.Errorf("row %d is %q, want %q", i, r.Op, want)
		}
		if r.P50 <= 0 || r.P99 < r.P50 {
			t.Errorf("p50 %v, p99 %v", r.P50, r.P99)
		}
	}
	if files, err := os.ReadDir(profiles); err != nil || len(files) != 12 {
		t.Errorf("profiles: %v, %v; want 4 cases of 3 processes", files, err)
	}
	empty(t, dir)
}

func checkRows(t *testing.T, c Comparison, writers []int, rounds int) {
	t.Helper()
	for i, r := range c.Rows {
		if r.AtOnce != writers[i] || len(r.Rounds) != rounds || r.Ours <= 0 || r.Base <= 0 || r.Ratio <= 0 {
			t.Errorf("%+v", r)
		}
	}
	if len(c.Rows) != len(writers) {
		t.Errorf("%d cases; want %d", len(c.Rows), len(writers))
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Fatalf("left behind: %v, %v", left, err)
	}
}

// A worker that dies is an error that says what it said.
func TestWorkerDies(t *testing.T) {
	p, err := testHost(t).start(t.Context(), "node-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ask("fly", nil, nil); err == nil || !strings.Contains(err.Error(), "unknown request") {
		t.Errorf("an unknown request: %v", err)
	}
	if err := p.kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.ask("settle", settleArgs{}, nil); err == nil || !strings.Contains(err.Error(), "the process ended") {
		t.Errorf("after its death: %v", err)
	}
}

// The benchmarks of `themis-cli bench` with one round each: ratios, not times an operation.
func BenchmarkWAL(b *testing.B) {
	ratios(b, func() (Comparison, error) { return WAL(b.Context(), Options{Dir: b.TempDir(), Rounds: 1}) })
}

func BenchmarkReplication(b *testing.B) {
	ratios(b, func() (Comparison, error) {
		return Replication(b.Context(), testHost(b), Options{Dir: b.TempDir(), Rounds: 1})
	})
}

func BenchmarkClient(b *testing.B) {
	nodes := playground.Host{Environ: append(os.Environ(), beNode+"=1")}
	ratios(b, func() (Comparison, error) {
		return Client(b.Context(), nodes, testHost(b), Options{Dir: b.TempDir(), Rounds: 1})
	})
}

func ratios(b *testing.B, run func() (Comparison, error)) {
	for b.Loop() {
		c, err := run()
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range c.Rows {
			b.ReportMetric(r.Ratio, fmt.Sprint(r.Op, "-ratio@", r.AtOnce))
		}
	}
}

func BenchmarkRestart(b *testing.B) {
	for b.Loop() {
		r, err := Restarts(b.Context(), testHost(b), RestartOptions{Dir: b.TempDir(), Rounds: 1})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(r.Rows[0].ServingMs, "ms-to-serve")
	}
}
