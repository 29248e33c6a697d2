package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/bench"
	"github.com/themisdb/themis/pkg/health"
	"github.com/themisdb/themis/pkg/themis"
	"github.com/themisdb/themis/pkg/workload"
)

// ground is a playground and the program as users have it.
type ground struct {
	t   *testing.T
	dir string
	env []string
}

func newGround(t *testing.T, args ...string) *ground {
	t.Helper()
	g := &ground{t: t, dir: t.TempDir()}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "THEMIS") {
			g.env = append(g.env, v)
		}
	}
	pg := filepath.Join(g.dir, "pg")
	g.env = append(g.env, "HOME="+g.dir, "XDG_CONFIG_HOME=", "XDG_CACHE_HOME=", "THEMIS_PLAYGROUND="+pg)
	t.Cleanup(func() { endPlaygrounds(t, g.dir) })
	g.says(0, append([]string{"playground", "--data-dir", pg, "--detach", "--no-load"}, args...), "HEALTHY")
	return g
}

func (g *ground) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(g.t.Context(), built(g.t), args...)
	cmd.Env, cmd.Dir, cmd.WaitDelay = g.env, g.dir, time.Second
	return cmd
}

// says runs a command that must end with that exit code and say those things, on whichever stream. It answers stdout.
func (g *ground) says(want int, args []string, texts ...string) string {
	g.t.Helper()
	cmd := g.command(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err, exit := cmd.Run(), 0
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		exit = exited.ExitCode()
	} else if err != nil {
		g.t.Fatal(err)
	}
	all := out.String() + errOut.String()
	if exit != want {
		g.t.Fatalf("themis-cli %s: exit %d, want %d\n%s", strings.Join(args, " "), exit, want, all)
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			g.t.Fatalf("themis-cli %s: %q is not in:\n%s", strings.Join(args, " "), text, all)
		}
	}
	return out.String()
}

// answers runs a command with -o json that must end with that exit code.
func (g *ground) answers(want int, into any, args ...string) {
	g.t.Helper()
	if out := g.says(want, append(args, "-o", "json")); json.Unmarshal([]byte(out), into) != nil {
		g.t.Fatalf("themis-cli %s: %s", strings.Join(args, " "), out)
	}
}

// TestWorkload: D-09 and D-10 as an operator types them, in small.
func TestWorkload(t *testing.T) {
	t.Parallel()
	g := newGround(t)
	for _, story := range []struct {
		name string
		tell func(*ground)
	}{{"load", storyDataset}, {"killed", storyLoadKilled}, {"refused", storyLoadRefused}, {"bench", storyBench}} {
		t.Run(story.name, func(t *testing.T) { g.t = t; story.tell(g) })
	}
	g.t = t
}

const router = "docs/examples/config/sharding/shard-router.yaml"

func storyDataset(g *ground) {
	file, err := filepath.Abs(filepath.Join("../..", router))
	if err != nil {
		g.t.Fatal(err)
	}
	g.says(0, []string{"cluster", "apply-config", file})
	d09 := []string{"load", "--config", file, "--dataset", "oltp", "--rows", "3000", "--workers", "32"}
	g.says(0, d09, "3000 of 3000 documents written to oltp")
	if got, want := g.says(0, []string{"doc", "get", "oltp", "order-000000002999"}), string(workload.OLTP.Row(1, 2999)); got != want {
		g.t.Errorf("stored: %s\nwant: %s", got, want)
	}
	var out loadAnswer
	g.answers(0, &out, append(d09, "--verify")...)
	if *out.Present != 3000 || out.Written != 0 || *out.Verified != 3000 || *out.Seed != 1 || out.Dataset != "oltp" {
		g.t.Errorf("repeated: %+v", out)
	}
	g.answers(0, &out, append(d09, "--again")...)
	if *out.Present != 0 || out.Written != 3000 {
		g.t.Errorf("again: %+v", out)
	}
	g.says(0, []string{"load", "--dataset", "vectors", "--rows", "60", "--verify"}, "60 of 60", "60 documents read back and equal, 0 different")

	// One row of another hand, one that is gone: they are written anew, nothing else is.
	g.says(0, []string{"doc", "put", "oltp", "order-000000002000", `{"a":1}`})
	g.says(0, []string{"doc", "delete", "oltp", "order-000000002500"})
	g.says(1, append(d09, "--verify-only"), "2998 documents read back and equal, 2 different", "row 2000: order-000000002000: 7 bytes in the cluster", "row 2500: order-000000002500: not there")
	g.answers(0, &out, append(d09, "--verify")...)
	if *out.Present != 2998 || out.Written != 2 || *out.Different != 0 {
		g.t.Errorf("mended: %+v", out)
	}
}

// storyLoadKilled: the loader is killed with kill -9 again and again; the command, repeated, goes on, and in the end all is there.
func storyLoadKilled(g *ground) {
	const rows = 24_000
	d09 := []string{"load", "--dataset", "oltp", "--rows", fmt.Sprint(rows), "--workers", "64", "--collection", "killed", "--seed", "9"}
	for _, reach := range []int64{6000, 12_000} {
		cmd := g.command(d09...)
		if err := cmd.Start(); err != nil {
			g.t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); g.command("doc", "get", "killed", workload.OLTP.Key(reach)).Run() != nil; {
			if time.Now().After(deadline) {
				g.t.Fatalf("row %d was not written in a minute", reach)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			g.t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	var out loadAnswer
	g.answers(0, &out, append(d09, "--verify")...)
	if *out.Present < 12_000-workload.WindowRows || out.Written+*out.Present != rows || *out.Verified != rows || *out.Different != 0 {
		g.t.Errorf("present %d, written %d, verified %d of %d", *out.Present, out.Written, *out.Verified, rows)
	}
}

func storyLoadRefused(g *ground) {
	g.says(8, []string{"load", "--dataset", "oltp", "--rows", "900000000000", "--collection", "large"}, "can't hold it: 18", "is free. --force loads all the same")
	g.says(1, []string{"doc", "get", "large", "order-000000000000"})
	other := filepath.Join(g.dir, "other.yaml")
	if err := os.WriteFile(other, []byte("rebalance:\n  skew_threshold: 0.22\n"), 0o600); err != nil {
		g.t.Fatal(err)
	}
	g.says(8, []string{"load", "--config", other, "--dataset", "oltp", "--rows", "5", "--collection", "other"}, "differs from", "rebalance.skew_threshold", "next: themis-cli cluster apply-config")
	g.says(0, []string{"load", "--config", other, "--dataset", "oltp", "--rows", "5", "--collection", "other", "--force"}, "5 of 5")
}

// storyBench: D-10, shorter; another mix at a rate; wrong numbers of shards; a document of another hand is found.
func storyBench(g *ground) {
	d10 := []string{"bench", "--shards", "4", "--mix", "B", "--duration", "2", "--threads", "64", "--warm-up", "1", "--rows", "2000"}
	table := g.says(0, d10, "mix B (50 % reads, 50 % writes, 10 % cross-shard) on 2000 rows of oltp, 64 threads, as fast as it goes", "0 failed", "operations=")
	if !regexp.MustCompile(`(?m)^OP +SHARDS +COUNT +OPS/S +P50 +P95 +P99 +P99.9 +MAX\n(read|write) +one +[1-9]`).MatchString(table) {
		g.t.Errorf("table:\n%s", table)
	}
	g.says(1, []string{"doc", "get", "bench", "order-000000000000"}) // what it stored is gone
	g.says(2, []string{"bench", "--shards", "5", "--mix", "B", "--duration", "2"}, "has 4", "next: themis-cli bench --mix B --shards 4")

	var r bench.WorkloadResult
	g.answers(0, &r, "bench", "--mix", "reads=100,cross=50", "--rate", "200", "--duration", "2s", "--warm-up", "0", "--collection", "oltp", "--rows", "3000", "--seed", "4")
	if r.Operations < 390 || r.Operations > 401 || r.Failed != 0 || r.Cross < 0.4 || r.Cross > 0.6 || r.Shards != 4 || r.Rate != 200 || len(r.Latency) != 3 {
		g.t.Errorf("at a rate: %+v", r)
	}
	g.says(0, []string{"load", "--dataset", "oltp", "--rows", "3000", "--verify-only"}, "3000 documents read back and equal, 0 different")

	once := filepath.Join(g.dir, "once.json")
	g.answers(0, &r, "bench", "--mix", "A", "--duration", "500ms", "--warm-up", "0", "--rows", "500")
	b, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(once, b, 0o600)
	}
	if err != nil {
		g.t.Fatal(err)
	}
	g.says(0, []string{"bench", "--mix", "C", "--duration", "500ms", "--warm-up", "0", "--rows", "500", "--baseline", once}, "scaling efficiency ")

	// Row 100 of another hand lies too far behind the end to be looked at before; of the first operations one reads it.
	const rows, strange = 6000, 100
	seed := uint64(1)
	for n, found := int64(0), false; !found; n = (n + 1) % 200 {
		if n == 0 {
			seed++
		}
		found = workload.Generator{Mix: workload.Mix{Reads: 100}, Seed: seed, Rows: rows}.Op(n).Rows[0] == strange
	}
	judged := []string{"--dataset", "oltp", "--rows", fmt.Sprint(rows), "--collection", "judged"}
	g.says(0, append([]string{"load"}, judged...))
	g.says(0, []string{"doc", "put", "judged", workload.OLTP.Key(strange), `{"of":"another"}`})
	g.says(1, append([]string{"bench", "--mix", "reads=100", "--duration", "1", "--warm-up", "0", "--seed", fmt.Sprint(seed)}, judged...),
		"times CORRUPT, the first: judged/order-000000000100: wrong document: 16 bytes")
}

func TestRoomFor(t *testing.T) {
	share, free := 0.5, func(b themis.Bytes) *themis.Bytes { return &b }
	shard := func(nodes ...themis.NodeID) (s health.ShardReport) {
		s.TokenShare = &share
		for _, n := range nodes {
			s.Replicas = append(s.Replicas, health.ReplicaReport{Node: n})
		}
		return s
	}
	node := func(id themis.NodeID, host, disk string, b *themis.Bytes) health.NodeReport {
		return health.NodeReport{ID: id, GRPC: host + ":1", Disk: disk, DiskFree: b}
	}
	r := health.Report{Shards: []health.ShardReport{shard("a", "b"), shard("a", "b")}}
	for name, c := range map[string]struct {
		nodes []health.NodeReport
		ok    bool
	}{
		"a disk each":                      {[]health.NodeReport{node("a", "x", "1", free(1000)), node("b", "y", "1", free(1000))}, true},
		"one disk too small":               {[]health.NodeReport{node("a", "x", "1", free(1000)), node("b", "y", "1", free(999))}, false},
		"one disk for both":                {[]health.NodeReport{node("a", "x", "1", free(1999)), node("b", "x", "1", free(1999))}, false},
		"one disk for both, large":         {[]health.NodeReport{node("a", "x", "1", free(2000)), node("b", "x", "1", free(2000))}, true},
		"disks without names are apart":    {[]health.NodeReport{node("a", "x", "", free(1000)), node("b", "x", "", free(1000))}, true},
		"what is not known refuses nobody": {[]health.NodeReport{node("a", "x", "1", nil), node("b", "y", "1", free(1000))}, true},
	} {
		r.Nodes = c.nodes
		err := roomFor(r, 40, 100) // 4000 bytes, packed 1000, in two copies
		if c.ok != (err == nil) || err != nil && themis.CodeOf(err) != themis.RefusedUnsafe {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStep(t *testing.T) {
	for want, s := range map[string]step{
		"[#####...............]  25% 50 written, 1 failed, 5 a second, ETA 00:00:30":    {"written", 50, 1, 0.25, 10 * time.Second},
		"[....................]   0% 0 written, 0 failed, 0 a second":                   {"written", 0, 0, 0, 10 * time.Second},
		"[###################.]  99% 9900 verified, 0 failed, 1 a second, ETA 00:01:40": {"verified", 9900, 0, 0.99, 9900 * time.Second},
		"7 written, 0 failed, 7 a second":                                               {"written", 7, 0, -1, time.Second},
	} {
		if got := s.text(); got != want {
			t.Errorf("%q; want %q", got, want)
		}
	}
	if got, want := (step{"written", 50, 1, 0.25, 10 * time.Second}).fields(), "written=50 failed=1 rate=5 elapsed_ms=10000 percent=25.0 eta_ms=30000"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
	if got := clock(100*time.Hour + 61*time.Second); got != "100:01:01" {
		t.Error(got)
	}
}
