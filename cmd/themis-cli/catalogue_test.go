package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// catalogueReport is what .ci/statuscheck reads, and what the script said.
type catalogueReport struct {
	Command   string    `json:"command"`
	Commit    string    `json:"commit"`
	Seed      int64     `json:"seed"` // nothing is drawn
	Date      time.Time `json:"date"`
	Tests     []string  `json:"tests"`
	Took      string    `json:"took"`
	Documents int       `json:"documents"`
	Bytes     int       `json:"bytes"`
	Said      []string  `json:"said"` // by docs/examples/load-verify.sh
}

// example runs the scripts of docs/examples as an operator would, with the program as users have it.
type example struct {
	dir string
	env []string
}

func newExample(t *testing.T) *example {
	t.Helper()
	self := built(t)
	dir := t.TempDir()
	x := &example{dir: dir}
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
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	path, err := filepath.Abs(filepath.Join("../../docs/examples", script))
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

// TestDebianCatalogue loads every package that this machine's Debian or Ubuntu knows of, kills every process with kill -9, starts them,
// and compares every document byte for byte, with the script that operators have. A run takes a minute or two:
//
//	THEMIS_LONG=1 go test -v -count=1 -run TestDebianCatalogue ./cmd/themis-cli
//
// On a tree without uncommitted changes it leaves its report in docs/reports. Package lists that are empty are filled by apt-get update.
func TestDebianCatalogue(t *testing.T) {
	if os.Getenv("THEMIS_LONG") == "" {
		t.Skip("takes minutes: THEMIS_LONG=1")
	}
	x := newExample(t)
	pg := filepath.Join(x.dir, "pg")
	t.Cleanup(func() { endPlaygrounds(t, x.dir) })
	list, err := exec.CommandContext(t.Context(), "apt-cache", "dumpavail").Output()
	if err != nil || len(list) < 1<<20 {
		t.Fatalf("apt-cache dumpavail: %v, %d bytes; fill the package lists with apt-get update", err, len(list))
	}
	made := exec.CommandContext(t.Context(), built(t), "playground", "--data-dir", pg, "--detach", "--no-load")
	made.Env, made.Dir, made.WaitDelay = x.env, x.dir, time.Second
	if out, err := made.CombinedOutput(); err != nil {
		t.Fatalf("playground: %v\n%s", err, out)
	}
	r := catalogueReport{
		Command: "THEMIS_LONG=1 go test -v -count=1 -run TestDebianCatalogue ./cmd/themis-cli",
		Tests:   []string{"cmd/themis-cli.TestDebianCatalogue"}, Date: time.Now().UTC(),
	}
	out := x.exits(t, 0, string(list), "load-verify.sh", []string{"--debian", "--collection", "packages", "--kill-all", pg, "-"},
		"documents equal, byte for byte", "killed: node-1 node-2 node-3", "started: HEALTHY")
	r.Took, r.Said = time.Since(r.Date).Round(time.Second).String(), strings.Split(strings.TrimSpace(out), "\n")
	found := regexp.MustCompile(`loaded: (\d+) documents, (\d+) bytes`).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no count in:\n%s", out)
	}
	r.Documents, _ = strconv.Atoi(found[1])
	r.Bytes, _ = strconv.Atoi(found[2])
	equal := "after the crash: " + found[1] + " documents equal, byte for byte"
	if r.Documents < 10_000 || !strings.Contains(out, equal) {
		t.Fatalf("want %q of at least 10000 in:\n%s", equal, out)
	}
	t.Log(out)
	r.write(t)
}

func (r catalogueReport) write(t *testing.T) {
	t.Helper()
	git := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "git", args...).Output() //nolint:gosec // local
		if err != nil {
			t.Fatalf("git %s: %v", strings.Join(args, " "), err)
		}
		return strings.TrimSpace(string(out))
	}
	if changed := git("status", "--porcelain", "--untracked-files=no"); changed != "" {
		t.Logf("no report: the tree has changes that are not committed:\n%s", changed)
		return
	}
	r.Commit = git("rev-parse", "HEAD")
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("..", "..", "docs", "reports", "catalogue-"+r.Date.Format("2006-01-02")+".json")
	if err := os.WriteFile(name, append(b, '\n'), 0o644); err != nil { //nolint:gosec // a report
		t.Fatal(err)
	}
	t.Logf("report: %s", name)
}
