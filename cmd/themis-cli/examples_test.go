package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/themisdb/themis/pkg/playground"
)

const (
	examplesDir     = "../../docs/examples"
	examplePatience = time.Minute
)

// example runs the scripts of docs/examples as an operator would, with the program as users have it.
type example struct {
	dir      string
	env      []string
	patience time.Duration
}

func newExample(t *testing.T) *example {
	t.Helper()
	self := built(t)
	dir := t.TempDir()
	x := &example{dir: dir, patience: examplePatience}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "THEMIS") {
			x.env = append(x.env, v)
		}
	}
	x.env = append(x.env, "CLI="+self, "HOME="+dir, "XDG_CONFIG_HOME=", "XDG_CACHE_HOME=")
	return x
}

// run runs a script and answers its exit code, stdout and stderr. Its nodes outlive it, so its output goes to files, which end by themselves.
func (x *example) run(t *testing.T, stdin, script string, args ...string) (exit int, out, errOut string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), x.patience)
	defer cancel()
	path, err := filepath.Abs(filepath.Join(examplesDir, script))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.WaitDelay = x.env, x.dir, strings.NewReader(stdin), time.Second
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err = cmd.Run()
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		return exited.ExitCode(), o.String(), e.String()
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", script, strings.Join(args, " "), err, o.String(), e.String())
	}
	return 0, o.String(), e.String()
}

// exits runs a script that must exit with that code and say those things.
func (x *example) exits(t *testing.T, want int, stdin, script string, args []string, says ...string) string {
	t.Helper()
	exit, out, errOut := x.run(t, stdin, script, args...)
	if exit != want {
		t.Fatalf("%s %s: exit %d, want %d\n%s\n%s", script, strings.Join(args, " "), exit, want, out, errOut)
	}
	for _, s := range says {
		if !strings.Contains(out+errOut, s) {
			t.Fatalf("%s %s: %q is not in:\n%s\n%s", script, strings.Join(args, " "), s, out, errOut)
		}
	}
	return out
}

// endDeployed kills what deploy.sh left, by the process ids that it wrote.
func endDeployed(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "pid"))
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Error(err)
			continue
		}
		args, err := exec.Command("ps", "-ww", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
		if err == nil && strings.Contains(string(args), dir) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if t.Failed() {
		logs, _ := filepath.Glob(filepath.Join(dir, "*", "themisd.log"))
		for _, f := range logs {
			b, _ := os.ReadFile(f)
			t.Logf("%s:\n%s", f, b[max(0, len(b)-4000):])
		}
	}
}

// TestExampleDeploy: a cluster out of nothing, the drill on it, and everything again.
func TestExampleDeploy(t *testing.T) {
	t.Parallel()
	x := newExample(t)
	dir := filepath.Join(x.dir, "it's a cluster") // a blank and a quote are nothing special
	t.Cleanup(func() { endDeployed(t, dir) })

	settings := filepath.Join(x.dir, "settings.yaml")
	if err := os.WriteFile(settings, []byte("rebalance:\n  skew_threshold: 0.2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	x.exits(t, 0, "", "deploy.sh", []string{"--shards", "3", "--settings", settings, dir},
		"node-3 started (pid ", "cluster demo is made", "applied as configuration version 1", "HEALTHY: 3 nodes")
	again := x.exits(t, 0, "", "deploy.sh", []string{dir}, "nothing was changed", "HEALTHY: 3 nodes")
	if strings.Contains(again, "started") {
		t.Errorf("the second time:\n%s", again)
	}
	x.exits(t, 2, "", "deploy.sh", []string{"--nodes", "4", dir}, "has 3 nodes; nothing was changed")
	x.exits(t, 8, "", "deploy.sh", []string{"--shards", "4", dir}, "exists with 3 nodes, 3 shards")

	report := x.exits(t, 0, "", "failover-drill.sh", []string{"--shard", "shard-2", "--documents", "200", dir},
		"killed", "reads again after", "writes again after", "400 equal", "HEALTHY again")
	t.Log(report)

	x.exits(t, 0, "", "deploy.sh", []string{"--stop", dir}, "node-1 stopped", "node-3 stopped")
	stopped := x.exits(t, 0, "", "deploy.sh", []string{"--stop", dir})
	if stopped != "" {
		t.Errorf("stopped again:\n%s", stopped)
	}
	x.exits(t, 5, "", "failover-drill.sh", []string{dir}, "not HEALTHY; a drill would do harm")
}

// TestExampleLoadVerify: real documents, a package list, every process killed, and a difference that must be found.
func TestExampleLoadVerify(t *testing.T) {
	t.Parallel()
	x := newExample(t)
	pg := filepath.Join(x.dir, "pg")
	t.Cleanup(func() { endPlaygrounds(t, x.dir) })
	cli := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), built(t), args...)
		cmd.Env, cmd.Dir, cmd.WaitDelay = x.env, x.dir, time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("themis-cli %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	cli("playground", "--data-dir", pg, "--detach", "--no-load")
	file, err := filepath.Abs(airports)
	if err != nil {
		t.Fatal(err)
	}
	x.exits(t, 0, packageList, "load-verify.sh", []string{"--debian", "--collection", "packages", pg, "-"}, "after the load: 2 documents equal")
	cmd := exec.CommandContext(t.Context(), built(t), "--playground", pg, "doc", "get", "packages", "a_1_all")
	cmd.Env = x.env
	out, err := cmd.Output()
	if want := `{"_key":"a_1_all","Package":"a","Version":"1","Architecture":"all","Description":"a \"b\" \\ c\nd\te"}`; err != nil || string(out) != want {
		t.Errorf("%s, %v; want %s", out, err, want)
	}

	report := x.exits(t, 0, "", "load-verify.sh", []string{"--kill-all", pg, file},
		"loaded: 5210 documents", "after the load: 5210 documents equal", "killed: node-1 node-2 node-3", "started: HEALTHY", "after the crash: 5210 documents equal")
	t.Log(report)
	cli("--playground", pg, "doc", "put", "airports", "of-another", `{"_key":"of-another"}`)
	x.exits(t, 1, "", "load-verify.sh", []string{pg, file}, "only in the file: 0 lines", "only in airports: 1 documents", "of-another")
	x.exits(t, 7, `{"_key":"a"}`+"\n{\n", "load-verify.sh", []string{pg, "-"}, `"line": 2`)
}

const packageList = `Package: a
Version: 1
Architecture: all
Description: a "b" \ c
 d	e

Package: b
Version: 2
Architecture: all

Package: b
Version: 2
Architecture: all
`

// TestExamplesRefuse: what can't be is refused with the contract's exit codes, before anything is made.
func TestExamplesRefuse(t *testing.T) {
	x := newExample(t)
	if err := os.WriteFile(filepath.Join(x.dir, "wrong.yaml"), []byte("rebalance:\n  skew_treshold: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		exit int
		line string
		says string
	}{
		{0, "deploy.sh --help", "usage: deploy.sh"},
		{2, "deploy.sh", "which directory?"},
		{2, "deploy.sh --node 3 d", "unknown flag --node"},
		{2, "deploy.sh --nodes three d", "want a number from 1 to 99"},
		{2, "deploy.sh --nodes", "needs a value"},
		{2, "deploy.sh a b", "one directory"},
		{2, "deploy.sh --cluster My_Cluster d", "want a DNS label"},
		{2, "deploy.sh --settings none.yaml d", "not there"},
		{2, "deploy.sh --settings wrong.yaml d", "rebalance.skew_threshold"},
		{2, "deploy.sh --stop d", "nothing was deployed here"},
		{0, "failover-drill.sh --help", "usage: failover-drill.sh"},
		{2, "failover-drill.sh", "which directory?"},
		{2, "failover-drill.sh --shard 1 d", "want shard-N"},
		{2, "failover-drill.sh d", "no such directory"},
		{2, "failover-drill.sh .", "neither a playground nor a directory of deploy.sh"},
		{0, "load-verify.sh --help", "usage: load-verify.sh"},
		{2, "load-verify.sh d", "got 1 arguments"},
		{2, "load-verify.sh --collection 1st . f", "want a letter"},
		{2, "load-verify.sh . none.ndjson", "not there or not readable"},
	} {
		script, rest, _ := strings.Cut(c.line, " ")
		x.exits(t, c.exit, "", script, strings.Fields(rest), c.says)
	}
	if _, err := os.Stat(filepath.Join(x.dir, "d")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused deployment left something behind: %v", err)
	}
	if _, err := playground.Open(x.dir, playground.Host{}); err == nil {
		t.Error("a playground was made")
	}
}
