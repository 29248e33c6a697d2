package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/themisdb/themis/pkg/client"
	"github.com/themisdb/themis/pkg/playground"
	"github.com/themisdb/themis/pkg/themis"
)

// The stories of testdata/playground start real clusters of this binary.
func TestPlaygroundScripts(t *testing.T) {
	t.Parallel()
	script(t, "testdata/playground", func(e *testscript.Env) error {
		e.Defer(func() { endPlaygrounds(t, e.WorkDir) })
		return nil
	})
}

const playgroundPatience = 40 * time.Second

// endPlaygrounds leaves no process behind, whatever became of a story.
func endPlaygrounds(t *testing.T, dir string) {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != client.PlaygroundFile {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), playgroundPatience)
		defer cancel()
		p, err := playground.Open(filepath.Dir(path), playground.Host{})
		if err != nil {
			return err
		}
		info, err := p.Info()
		for _, n := range info.Nodes {
			_, killErr := p.Kill(ctx, n.ID)
			err = errors.Join(err, killErr)
		}
		return err
	})
	if err != nil {
		t.Errorf("end what was left: %v", err)
	}
}

// TestPlaygroundStays: without --detach it shows what happens until it is interrupted, then it stops the cluster. Interrupted while the
// cluster comes up again it stops it too.
func TestPlaygroundStays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pg := filepath.Join(dir, "pg")
	t.Cleanup(func() { endPlaygrounds(t, dir) })
	ctx, cancel := context.WithTimeout(t.Context(), playgroundPatience)
	defer cancel()
	answer, said, exit := interrupted(ctx, t, dir, "until you press Ctrl-C", "playground", "--data-dir", pg, "--no-load", "--nodes", "1", "--replication-factor", "1")
	if exit != themis.ExitOK {
		t.Fatalf("exit code %d\n%s", exit, said)
	}
	if !strings.Contains(answer, "HEALTHY: 1 node, 4 shards, 1 copy of each") {
		t.Errorf("answer:\n%s", answer)
	}
	stopped(t, pg, said)

	answer, said, exit = interrupted(ctx, t, dir, "processes started", "playground", "--data-dir", pg)
	if exit != themis.ExitInterrupted || answer != "" {
		t.Errorf("exit code %d\n%s%s", exit, said, answer)
	}
	stopped(t, pg, said)
}

// TestPlaygroundFoundingInterrupted: it is told that there is no playground, whatever was under way, and no process is left.
func TestPlaygroundFoundingInterrupted(t *testing.T) {
	t.Parallel()
	for _, word := range []string{"processes started", "cluster founded"} {
		dir := t.TempDir()
		pg := filepath.Join(dir, "pg")
		ctx, cancel := context.WithTimeout(t.Context(), playgroundPatience)
		defer cancel()
		_, said, exit := interrupted(ctx, t, dir, word, "playground", "--data-dir", pg, "--nodes", "1", "--replication-factor", "1")
		if last := "\ninterrupted: no playground was founded in " + pg + ", and its processes have ended: context canceled\n"; exit != themis.ExitInterrupted || !strings.HasSuffix(said, last) {
			t.Errorf("after %q: exit code %d\n%s", word, exit, said)
		}
		p, err := playground.OpenAny(pg, playground.Host{})
		if err != nil {
			t.Fatal(err)
		}
		if info, err := p.Info(); err != nil || info.Running != 0 {
			t.Errorf("%d processes run, %v", info.Running, err)
		}
	}
}

// TestPlaygroundTwice: of two commands that make a playground in one directory at the same time one makes it, and the other one finds what it
// asked for, or says what is there instead.
func TestPlaygroundTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pg := filepath.Join(dir, "pg")
	t.Cleanup(func() { endPlaygrounds(t, dir) })
	ctx, cancel := context.WithTimeout(t.Context(), playgroundPatience)
	defer cancel()
	var said [3]string
	var exit [3]int
	var wg sync.WaitGroup
	for i, shards := range []string{"2", "2", "3"} {
		wg.Go(func() {
			_, said[i], exit[i] = interrupted(ctx, t, dir, "never", "playground", "--data-dir", pg, "--detach", "--no-load", "--nodes", "1", "--replication-factor", "1", "--shards", shards)
		})
	}
	wg.Wait()
	made, found, other := 0, 0, 0
	for i := range said {
		switch {
		case exit[i] == themis.ExitOK && strings.Contains(said[i], "cluster founded"):
			made++
		case exit[i] == themis.ExitOK && strings.Contains(said[i], "runs already; this command only looks at it"):
			found++
		case exit[i] == themis.ExitUsage && strings.Contains(said[i], "there is a playground in "+pg+" already, and it was made with other settings"):
			other++
		}
	}
	if made != 1 || found+other != 2 || other == 0 {
		t.Errorf("%v\n%s", exit, strings.Join(said[:], "\n"))
	}
}

// TestPlaygroundLoadInterrupted: what was not loaded to its end is told, and loaded by the next start or the same command again, but not after that.
func TestPlaygroundLoadInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pg, file := filepath.Join(dir, "pg"), filepath.Join(dir, "planets.ndjson")
	t.Cleanup(func() { endPlaygrounds(t, dir) })
	ctx, cancel := context.WithTimeout(t.Context(), 2*playgroundPatience)
	defer cancel()
	has := func(text string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("no %q in:\n%s", w, text)
			}
		}
	}
	_, said, exit := interrupted(ctx, t, dir, "HEALTHY", "playground", "--data-dir", pg, "--detach", "--nodes", "1", "--replication-factor", "1")
	if exit != themis.ExitInterrupted || strings.Contains(said, "documents loaded") {
		t.Fatalf("exit code %d\n%s", exit, said)
	}
	has(said, "next: themis-cli playground start --data-dir "+pg)
	answer, _, _ := interrupted(ctx, t, dir, "never", "playground", "status", "--data-dir", pg)
	has(answer, "not loaded  airports, or not to its end; themis-cli playground start --data-dir "+pg)
	_, said, _ = interrupted(ctx, t, dir, "never", "playground", "start", "--data-dir", pg)
	has(said, "airports was not loaded to its end: once more", "5210 documents loaded into airports")
	answer, said, _ = interrupted(ctx, t, dir, "never", "playground", "--data-dir", pg, "--detach")
	if strings.Contains(said+answer, "loaded") {
		t.Errorf("loaded once more:\n%s%s", said, answer)
	}

	if err := os.WriteFile(file, []byte(strings.Repeat(`{"_key":"mars"}`+"\n", 20_000)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, said, exit = interrupted(ctx, t, dir, "runs already", "playground", "--data-dir", pg, "--detach", "--load", file)
	if exit != themis.ExitInterrupted {
		t.Fatalf("exit code %d\n%s", exit, said)
	}
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	_, said, exit = interrupted(ctx, t, dir, "never", "playground", "--data-dir", pg)
	has(said, "planets was not loaded to its end, and can't be now", "next: themis-cli playground --data-dir "+pg+" --detach --load FILE")
	if exit != themis.ExitOK {
		t.Errorf("exit code %d", exit)
	}
	if err := os.WriteFile(file, []byte(`{"_key":"mars"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, said, _ = interrupted(ctx, t, dir, "never", "playground", "--data-dir", pg)
	has(said, "planets was not loaded to its end: once more", "1 documents loaded into planets")
}

// interrupted runs a command and interrupts it when it says the word on stderr.
func interrupted(ctx context.Context, t *testing.T, home, word string, args ...string) (answer, said string, exit int) {
	t.Helper()
	cmd := exec.CommandContext(ctx, built(t), args...)
	cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME=", "XDG_CACHE_HOME=")
	var out, all strings.Builder
	cmd.Stdout = &out
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		_, _ = fmt.Fprintln(&all, lines.Text())
		if strings.Contains(lines.Text(), word) {
			if err := cmd.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() //nolint:errcheck // the exit code tells
	return out.String(), all.String(), cmd.ProcessState.ExitCode()
}

// stopped: the last word was how to start it again, and no process is left.
func stopped(t *testing.T, pg, said string) {
	t.Helper()
	if !strings.Contains(said, "stopped. To start it again, with all its data: ") || !strings.HasSuffix(strings.TrimSpace(said), " playground start") {
		t.Errorf("said:\n%s", said)
	}
	p, err := playground.Open(pg, playground.Host{})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := p.Info(); err != nil || info.Running != 0 {
		t.Errorf("%d processes run, %v", info.Running, err)
	}
}
